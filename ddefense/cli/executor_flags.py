"""The flags that say where a run's work is done, and the executor that they make."""

import contextlib
import dataclasses
import functools
import importlib.util
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any

from absl import flags

from ddefense import interruption
from ddefense.cli import program
from ddefense.config import Config
from ddefense.experiments.executing import Executor, Here
from ddefense.experiments.storage import Storage
from ddefense.settings import LARGEST_INTEGER, ConfigError, is_number

_FLAGS = flags.FLAGS
_EXECUTORS = ("local", "ray")
_OF_RAY = ("ray_address", "num_gpus", "max_concurrent", "task_retries")


def define() -> None:
    """Registers the flags."""
    flags.DEFINE_enum(
        "executor",
        "local",
        _EXECUTORS,
        "Where the work is done: local, in this process; ray, on a Ray cluster, which needs the "
        "extra ray.",
    )
    flags.DEFINE_string(
        "ray_address",
        None,
        "With --executor=ray: the cluster, auto for the one that this machine belongs to, or "
        "<host>:<port>. Default: RAY_ADDRESS, else one of this machine alone, for this run.",
    )
    flags.DEFINE_float(
        "num_gpus",
        None,
        "With --executor=ray: GPUs that each task takes; a fraction lets several tasks share one, "
        "and a training takes at least --devices. Default: 0, for CPUs alone. Each task takes "
        "--threads CPUs beside them.",
        lower_bound=0.0,
    )
    flags.DEFINE_integer(
        "max_concurrent",
        None,
        "With --executor=ray: most tasks that are handed to the cluster at a time. Default: as "
        "many as it has room for.",
        lower_bound=1,
        upper_bound=LARGEST_INTEGER,
    )
    flags.DEFINE_integer(
        "task_retries",
        None,
        "With --executor=ray: how often a task is tried again after its worker or node was lost. "
        "Default: 10.",
        lower_bound=0,
        upper_bound=LARGEST_INTEGER,
    )
    flags.DEFINE_string(
        "storage",
        None,
        "Where finished stages go beside --workdir, for machines that do not share it and for "
        "later runs: a URL that fsspec knows, such as s3://bucket/sweep. Default: --workdir alone.",
    )


def with_threads(config: Config) -> Config:
    """On a cluster, whose nodes differ in cores, one thread where nobody asked for more."""
    if _FLAGS.executor == "ray" and _FLAGS.threads is None:
        return dataclasses.replace(config, threads=1)
    return config


def check(config: Config) -> None:
    """Refuses flags that cannot be, before any work.

    Args:
        config: that the other flags ask for.

    Raises:
        ConfigError: if a flag needs another, or something that is not installed.
    """
    if _FLAGS.num_gpus is not None and not is_number(_FLAGS.num_gpus):
        raise ConfigError("num_gpus", f"expected a number >= 0; received {_FLAGS.num_gpus}.")
    if _FLAGS.executor == "ray":
        if _FLAGS.threads == 0:
            raise ConfigError(
                "threads",
                "expected at least 1 with --executor=ray, because nodes differ in cores; "
                "received 0.",
            )
        if config.devices > 1 and not _FLAGS.num_gpus:
            raise ConfigError(
                "devices",
                "expected --num_gpus with it on a cluster, where several devices are "
                f"GPUs; received --devices={config.devices} without it.",
            )
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(
                "executor",
                "ray expects the extra ray, which is not installed. Install it with: "
                "pip install 'ddefense[ray]'",
            )
    for name in _OF_RAY:
        if _FLAGS.executor != "ray" and _FLAGS[name].value is not None:
            raise ConfigError(
                name,
                f"expected with --executor=ray alone; received {_FLAGS[name].value} "
                "without it. Add it, or drop this flag.",
            )
    storage()


def storage() -> Storage | None:
    """`--storage`, if given."""
    return Storage(_FLAGS.storage) if _FLAGS.storage else None


def check_devices(config: Config) -> None:
    """Refuses more devices than this machine has, if it does the work. TensorFlow has started.

    Raises:
        ConfigError: saying how many there are.
    """
    if _FLAGS.executor == "local" and config.devices > 1:
        from ddefense import training

        training.check_devices(config.devices)


@contextlib.contextmanager
def executor(config: Config, workdir: pathlib.Path) -> Iterator[Executor]:
    """What does the work while the block runs.

    Args:
        config: of the run.
        workdir: the run directory.

    Raises:
        ConfigError: if the cluster cannot do it.
    """
    if _FLAGS.executor == "local":
        yield Here()
        return
    given: dict[str, Any] = {
        name: _FLAGS[name].value for name in _OF_RAY if _FLAGS[name].value is not None
    }
    if address := given.pop("ray_address", None):
        os.environ["RAY_ADDRESS"] = address
    if not os.environ.get("RAY_ADDRESS"):
        _close_to_others()
    from ddefense.experiments import on_ray

    cluster = on_ray.Cluster(num_cpus=config.threads, devices=config.devices, **given)
    # What a run has beside the seed is the same for all seeds.
    prepare = functools.partial(program.start_tensorflow, config)
    with on_ray.connected(cluster, prepare, workdir, storage()) as found:
        interruption.listen()  # Ray listens too, and would end at once
        yield found


def _close_to_others() -> None:
    """Has the cluster of this machine listen on loopback alone, and ask for a token of this run.

    Ray reads the variables when it is imported. The first one says, on Linux too, whether a machine
    can belong to a larger cluster.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
