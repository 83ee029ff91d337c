"""Stages on a Ray cluster: Ray schedules, this hands it tasks and looks after them.

Imports Ray, which is an extra of this package.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import io
import logging as standard_logging
import os
import pathlib
import pickle
import platform
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from absl import logging
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ddefense import files, interruption
from ddefense.datasets import Dataset
from ddefense.experiments.executing import Kind, Pending, Task
from ddefense.experiments.storage import Storage
from ddefense.records import RunError
from ddefense.settings import ConfigError

_COMPARED = ("ddefense", "tensorflow", "keras", "numpy", "scipy", "scikit-learn", "ray")
# Tasks that Ray may hold at a time: enough that none waits for another chain's training.
_MOST_SUBMITTED = 1000
_POLL_SECONDS = 0.5
_LOG_SECONDS = 15.0
_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 120.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a task takes of the cluster, which is that of the environment variable RAY_ADDRESS.

    RAY_ADDRESS is `auto` for the one that this machine belongs to, or `<host>:<port>`. Without it
    there is one of this machine alone, which ends with the run.

    Attributes:
        num_cpus: CPUs that a task takes, as many as it has threads.
        num_gpus: GPUs that a task takes; a fraction lets several tasks share one.
        devices: GPUs that a training takes at least, if tasks take any.
        max_concurrent: most tasks that are handed to Ray at a time; None for as many as useful.
        task_retries: how often a task is tried again after its worker or node was lost.
    """

    num_cpus: int = 1
    num_gpus: float = 0.0
    devices: int = 1
    max_concurrent: int | None = None
    task_retries: int = 10

    @property
    def gpus_of_training(self) -> float:
        """GPUs that a training takes."""
        return (
            max(self.num_gpus, self.devices)
            if self.num_gpus and self.devices > 1
            else self.num_gpus
        )


@contextlib.contextmanager
def connected(
    cluster: Cluster,
    prepare: Callable[[], None],
    workdir: pathlib.Path,
    storage: Storage | None = None,
) -> Iterator["OnRay"]:
    """Connects to a cluster, checks its nodes, and disconnects when the block ends.

    Args:
        cluster: what a task takes.
        prepare: called once in every worker, before anything else.
        workdir: the run directory.
        storage: where finished stages go; None for the run directory, which all nodes must see.

    Yields:
        The executor.

    Raises:
        ConfigError: if the cluster cannot be reached, has not what a task takes, or its nodes
            cannot do the work: naming the node and why.
    """
    if storage is not None and storage.of_one_process:
        raise ConfigError(
            "storage",
            f"expected one that other processes see, with --executor=ray; received {storage.url}.",
        )
    address = os.environ.get("RAY_ADDRESS")
    _check_reachable(address)
    settings: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
    try:
        ray.init(
            **settings,
            configure_logging=False,
            logging_level=standard_logging.ERROR,
            log_to_driver=False,
        )
    except Exception as error:  # of many classes, private ones among them
        cause = f"{files.reason(error)}."
        raise ConfigError(
            "ray_address",
            f"expected the address of a Ray cluster, received {address}: {cause} "
            "Start one with: ray start --head"
            if address
            else f"executor: Ray did not start on this machine: {cause} Use --executor=local.",
        ) from error
    try:
        nodes = _nodes()
        _check_resources(cluster, nodes)
        nodes = [node for node in nodes if _can_run(cluster, node)]
        _check_nodes(nodes, workdir, storage)
        cpus = sum(node["Resources"].get("CPU", 0.0) for node in nodes)
        logging.info("cluster: %d nodes, %g CPUs", len(nodes), cpus)
        executor = OnRay(cluster, prepare, nodes)
        try:
            yield executor
        finally:
            executor.cancel()
            if storage is not None:
                _remove_copies(storage)
    finally:
        ray.shutdown()


class OnRay:
    """Hands tasks to Ray. Made by `connected`."""

    def __init__(
        self, cluster: Cluster, prepare: Callable[[], None], nodes: list[dict[str, Any]]
    ) -> None:
        """Submits nothing yet."""
        fits = [
            int(node["Resources"].get("CPU", 0.0) // cluster.num_cpus)
            if not cluster.num_gpus
            else int(node["Resources"].get("GPU", 0.0) / cluster.num_gpus)
            for node in nodes
        ]
        most = cluster.max_concurrent or _MOST_SUBMITTED
        self.at_once = float(max(1, min(sum(fits), most)))
        self._most = most
        self._running: dict[Any, tuple[str, Callable[[], None]]] = {}
        self._done, self._logged = 0, time.monotonic()
        self._datasets: dict[int, tuple[Dataset, Any]] = {}
        self._prepare = cloudpickle.dumps(prepare)
        resources: dict[str, Any] = {"num_cpus": cluster.num_cpus, "num_gpus": cluster.num_gpus}
        if not cluster.num_gpus:
            # TensorFlow starts once per worker. With GPUs every task needs its own, because
            # TensorFlow keeps to those that it saw when it started.
            resources["max_calls"] = 0
        self._remote = ray.remote(**resources, max_retries=cluster.task_retries)(_perform)
        self._gpus = {"train": cluster.gpus_of_training}
        self._num_gpus = cluster.num_gpus

    def submit(
        self, task: Task, after: Sequence[Pending], when_done: Callable[[], None]
    ) -> Pending | None:
        """Hands a task to Ray, its parts first, once there is room for it."""
        if task.kind == "export":
            for pending in after:
                pending.wait()
            task.work()
            when_done()
            return None
        before = [each.reference for each in after if isinstance(each, _Running)]
        parts = [
            self._hand_over(f"{task.name}, part {i} of {len(task.parts)}", task.kind, part, before)
            for i, part in enumerate(task.parts, 1)
        ]
        reference = self._hand_over(task.name, task.kind, task.work, parts or before, when_done)
        return _Running(self, reference)

    def _hand_over(
        self,
        name: str,
        kind: Kind,
        work: Callable[[], None],
        before: list[Any],
        when_done: Callable[[], None] = lambda: None,
    ) -> Any:
        while len(self._running) >= self._most:
            self.poll()
        pickled, datasets = self._pickled(work)
        num_gpus = self._gpus.get(kind, self._num_gpus)
        remote = self._remote.options(name=f"ddefense: {name}", num_gpus=num_gpus)
        reference = remote.remote(self._prepare, pickled, datasets, num_gpus, *before)
        self._running[reference] = (name, when_done)
        return reference

    def poll(self) -> None:
        """Waits a little for tasks to end, and ends them here.

        Raises:
            RunError: if a task failed, or was lost too often. What it raised itself is raised
                again.
            StoppedError: if the run was asked to stop.
        """
        interruption.check()
        if not self._running:
            return
        waiting = list(self._running)
        ended, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        if not ended:
            ended, _ = ray.wait(waiting, num_returns=1, timeout=_POLL_SECONDS)
        for reference in ended:
            name, when_done = self._running.pop(reference)
            _result(name, reference)
            self._done += 1
            when_done()
        if time.monotonic() - self._logged > _LOG_SECONDS:
            self._logged = time.monotonic()
            logging.info(
                "tasks: %d done, %d given to Ray, up to %g at a time",
                self._done,
                len(self._running),
                self.at_once,
            )

    def is_running(self, reference: Any) -> bool:
        """Whether a task has not been seen to end."""
        return reference in self._running

    def cancel(self) -> None:
        """Gives up whatever is not done; finished parts and stages stay."""
        for reference in self._running:
            with contextlib.suppress(Exception):
                ray.cancel(reference, force=True)
        self._running.clear()

    def _pickled(self, work: Callable[[], None]) -> tuple[bytes, list[Any]]:
        """The work as bytes, without its datasets, and where Ray keeps these."""
        buffer = io.BytesIO()
        pickler = _Pickler(buffer)
        pickler.dump(work)
        return buffer.getvalue(), [self._kept(dataset) for dataset in pickler.datasets]

    def _kept(self, dataset: Dataset) -> Any:
        if id(dataset) not in self._datasets:
            # With the dataset itself, so that no other gets its identity.
            self._datasets[id(dataset)] = (dataset, ray.put(dataset))
        return self._datasets[id(dataset)][1]


@dataclasses.dataclass(frozen=True, eq=False)
class _Running:
    """A task that Ray has."""

    executor: OnRay
    reference: Any

    def wait(self) -> None:
        while self.executor.is_running(self.reference):
            self.executor.poll()


class _Pickler(cloudpickle.Pickler):
    """Leaves datasets out: they are large, and the same in every task."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.datasets: list[Dataset] = []

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, Dataset):
            return None
        self.datasets.append(value)
        return len(self.datasets) - 1


class _Unpickler(pickle.Unpickler):
    """Puts them in again."""

    def __init__(self, file: io.BytesIO, datasets: list[Any]) -> None:
        super().__init__(file)
        self._datasets = datasets

    def persistent_load(self, number: int) -> Dataset:
        return _dataset(self._datasets[number])


@functools.lru_cache(maxsize=2)
def _dataset(reference: Any) -> Dataset:
    dataset: Dataset = ray.get(reference)
    return dataset


@functools.cache
def _prepared(prepare: bytes) -> None:
    cloudpickle.loads(prepare)()


def _perform(
    prepare: bytes, work: bytes, datasets: list[Any], num_gpus: float, *before: None
) -> None:
    """What a worker does; `before` makes Ray wait for other tasks."""
    del before
    _prepared(prepare)
    if num_gpus:
        import tensorflow as tf

        if not tf.config.list_physical_devices("GPU"):
            raise RunError(
                f"Node {platform.node()}: expected TensorFlow to see the GPU that Ray gives a "
                "task, but it sees none. Install ddefense[gpu] there, or use --num_gpus=0."
            )
    _Unpickler(io.BytesIO(work), datasets).load()()


def _result(name: str, reference: Any) -> None:
    """Raises what a task raised."""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        while isinstance(cause, ray.exceptions.RayTaskError):  # of a task before it
            cause = cause.cause
        if isinstance(cause, RunError | ConfigError | OSError | interruption.StoppedError):
            raise cause from None
        raise
    except ray.exceptions.RayError as error:
        raise RunError(
            f"{name}: its worker or node was lost too often ({type(error).__name__}: "
            f"{files.reason(error)}). Finished parts and stages are kept; the same command "
            "resumes. --task_retries says how often to try again."
        ) from error


# --- before work starts ---------------------------------------------------------------------------


def _check_reachable(address: str | None) -> None:
    """Refuses an address at which nobody listens, for which Ray would wait long."""
    if address in (None, "auto", "local"):
        return
    if "://" in address:
        raise ConfigError(
            "ray_address",
            f"expected auto or <host>:<port>, received {address}. Run the command on "
            "a node of the cluster, or submit it as a job of Ray, with --ray_address=auto.",
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(
            "ray_address",
            f"expected auto or <host>:<port>, such as 10.0.0.1:6379; received {address!r}.",
        )
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            "ray_address",
            f"expected the address of a Ray cluster, received {address}, where "
            f"nobody answers: {error}. Is the head node up (ray start --head), and its port open?",
        ) from error


def _check_resources(cluster: Cluster, nodes: list[dict[str, Any]]) -> None:
    """Refuses tasks that no node could run: Ray would wait for ever."""
    for flag, resource, asked, what in (
        ("num_gpus", "GPU", cluster.num_gpus, "GPUs"),
        ("devices", "GPU", cluster.gpus_of_training, "GPUs"),
        ("threads", "CPU", cluster.num_cpus, "CPUs"),
    ):
        most = max((node["Resources"].get(resource, 0.0) for node in nodes), default=0.0)
        if asked > most:
            raise ConfigError(
                flag,
                f"expected at most {most:g}, the {what} that Ray sees on one node of the "
                f"cluster; received {asked:g}. Lower it, or add a node that has them.",
            )


def _can_run(cluster: Cluster, node: dict[str, Any]) -> bool:
    """Whether a node has what a task takes; heads of clusters often have nothing."""
    resources = node["Resources"]
    enough_cpus = resources.get("CPU", 0.0) >= cluster.num_cpus
    return enough_cpus and resources.get("GPU", 0.0) >= cluster.num_gpus


def _check_nodes(
    nodes: list[dict[str, Any]], workdir: pathlib.Path, storage: Storage | None
) -> None:
    """Refuses nodes with other versions, or that do not see where finished stages go."""
    name, ours = f".probe-{uuid.uuid4().hex}", _versions()
    folder = _nearest(workdir.absolute())
    probe = _FolderProbe(folder) if storage is None else _StorageProbe(storage)
    probe.write(name, b"driver")
    try:
        found = _ask(nodes, probe, name)
        for node, answer in found.items():
            _check_versions(node, ours, answer.versions)
            if answer.read != b"driver" or probe.read(f"{name}-{node}") != b"node":
                raise ConfigError(probe.advice(node))
    finally:
        for each in (name, *(f"{name}-{_label(node)}" for node in nodes)):
            probe.delete(each)


@dataclasses.dataclass(frozen=True)
class _Answer:
    """What a node says of itself."""

    versions: dict[str, str]
    read: bytes | None


@dataclasses.dataclass(frozen=True)
class _FolderProbe:
    """Files in a folder that all nodes should share."""

    folder: pathlib.Path

    def write(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)

    def read(self, name: str) -> bytes | None:
        path = self.folder / name
        return path.read_bytes() if path.exists() else None

    def delete(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def advice(self, node: str) -> str:
        return (
            f"workdir: expected a folder that all nodes share; node {node} does not see what this "
            f"machine writes in {self.folder}, or cannot write there. Choose a --workdir on a file "
            "system that all nodes mount at the same path, or --storage=<URL>."
        )


@dataclasses.dataclass(frozen=True)
class _StorageProbe:
    """Objects under a URL."""

    storage: Storage

    def write(self, name: str, content: bytes) -> None:
        self.storage.write(name, content)

    def read(self, name: str) -> bytes | None:
        return self.storage.read(name)

    def delete(self, name: str) -> None:
        self.storage.delete(name)

    def advice(self, node: str) -> str:
        return (
            f"storage: expected one that all nodes share; node {node} does not see what this "
            f"machine writes to {self.storage.url}, or cannot write there."
        )


def _nearest(path: pathlib.Path) -> pathlib.Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _COMPARED if _is_installed(name)},
    }


def _is_installed(name: str) -> bool:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version(name)
        return True
    return False


def _remove_copies(storage: Storage) -> None:
    """Removes what nodes have copied from the storage."""
    asked = []
    for node in _nodes():
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        remote = ray.remote(num_cpus=0, max_retries=0)(_remove_copies_here)
        asked.append(remote.options(scheduling_strategy=there).remote(storage))
    ray.wait(asked, num_returns=len(asked), timeout=_CONNECT_SECONDS)


def _remove_copies_here(storage: Storage) -> None:
    shutil.rmtree(storage.copies(), ignore_errors=True)


def _nodes() -> list[dict[str, Any]]:
    """The nodes that are up, as far as the head knows."""
    return [node for node in ray.nodes() if node["Alive"]]


def _label(node: dict[str, Any]) -> str:
    """What messages call a node: machines may have several."""
    return f"{node['NodeManagerHostname']}-{node['NodeID'][:8]}"


def _ask(nodes: list[dict[str, Any]], probe: Any, name: str) -> dict[str, _Answer]:
    """Has every node look at what this machine wrote, and write an answer."""
    asked: dict[str, tuple[str, Any]] = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        remote = ray.remote(num_cpus=0, max_retries=2)(_answer)
        label = _label(node)
        options = remote.options(name=f"ddefense: probe of {label}", scheduling_strategy=there)
        asked[label] = node["NodeID"], options.remote(probe, name, f"{name}-{label}")
    found = {}
    for label, (node_id, reference) in asked.items():
        try:
            found[label] = ray.get(reference, timeout=_PROBE_SECONDS)
        except ray.exceptions.RayError as error:
            if node_id not in {node["NodeID"] for node in _nodes()}:
                logging.warning("node %s has left the cluster", label)
                continue
            cause = getattr(error, "cause", error)
            raise ConfigError(
                "ray_address",
                f"node {label} cannot do the work of ddefense: {files.reason(cause)}. "
                "Install the same version with the extra ray on every node.",
            ) from error
    return found


def _answer(probe: Any, name: str, answer: str) -> _Answer:
    read = probe.read(name)
    with contextlib.suppress(OSError):
        probe.write(answer, b"node")
    return _Answer(_versions(), read)


def _check_versions(node: str, ours: dict[str, str], theirs: dict[str, str]) -> None:
    differing = [
        f"{name} {theirs.get(name, 'missing')} there, {version} here"
        for name, version in ours.items()
        if theirs.get(name) != version
    ]
    if differing:
        raise ConfigError(
            "ray_address",
            f"expected the same versions on all nodes; node {node} has others: "
            f"{'; '.join(differing)}. Install the same on every node.",
        )
