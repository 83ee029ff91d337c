"""What a result depends on beside its configuration: versions, device, threads."""

import dataclasses
import functools
import importlib.metadata
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import tensorflow as tf
from absl import logging
from tensorflow.python.framework import config as tf_config  # the public one cannot be asked

from ddefense.pipeline.stages import StageRecord
from ddefense.version import __version__

_PACKAGES = ("keras", "numpy", "scipy", "tensorflow-datasets", "scikit-learn")


def describe() -> dict[str, Any]:
    """Versions, hardware and settings of this process, as JSON values."""
    return {
        "ddefense": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        **{package: importlib.metadata.version(package) for package in _PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        "devices": [device.device_type for device in tf.config.list_physical_devices()],
        "gpus": [_gpu(device) for device in tf.config.list_physical_devices("GPU")],
        "placement": _placement(),
        "op_determinism": tf_config.is_op_determinism_enabled(),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS"),
    }


@functools.cache
def rounds_to_1() -> bool:
    """Whether the softmax of a class that is certain is exactly 1, as IEEE arithmetic has it."""
    certain = tf.nn.softmax(1e4 * tf.eye(8))
    return bool(tf.reduce_all(tf.linalg.diag_part(certain) == 1.0))


@functools.cache
def provenance() -> dict[str, str]:
    """The code and machine that make a stage, as kept with it."""
    found = describe()
    keys = (
        *("ddefense", "commit", "tensorflow", "keras", "numpy"),
        *("cpu", "cores", "intra_op_threads", "gpus", "placement", "onednn"),
    )
    return {key: str(found[key]) for key in keys}


@dataclasses.dataclass(frozen=True)
class Process:
    """This process, from the moment at which its run began.

    Attributes:
        command: that was given.
        start: on the clock of `time.monotonic`.
        started: date and time.
    """

    command: str
    start: float = dataclasses.field(default_factory=time.monotonic)
    started: datetime = dataclasses.field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        """Warns where the numbers are not those of other machines."""
        if not rounds_to_1():
            logging.warning(
                "TensorFlow rounds the softmax of a certain class to less than 1 here, so "
                "gradients that are exactly 0 elsewhere are rounding errors. Import ddefense "
                "before TensorFlow and Keras, or start Python with TF_ENABLE_ONEDNN_OPTS=1."
            )

    def environment(self, done: Sequence[StageRecord] = ()) -> dict[str, Any]:
        """The environment of a record.

        Args:
            done: the stages of the run, of which earlier processes may have made some.
        """
        found = {
            **describe(),
            "command": self.command,
            "started": self.started.isoformat(timespec="seconds"),
            "peak_memory_bytes": _peak_memory_bytes(),
        }
        if done:
            found["resumed_stages"] = sum(record.starts - 1 for record in done)
            found["stages_made_by"] = _distinct([record.made_by for record in done])
        return found

    def timings(self, done: Sequence[StageRecord] = ()) -> dict[str, float]:
        """Seconds of each stage, and of this process until now."""
        seconds = {record.name: round(record.seconds, 3) for record in done}
        return {**seconds, "this_process": self.seconds()}

    def seconds(self) -> float:
        """Seconds until now."""
        return round(time.monotonic() - self.start, 3)


def _distinct(makers: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Which code and machine made the stages: more than one entry if a run was continued."""
    return [maker for i, maker in enumerate(makers) if maker not in makers[:i]]


def _peak_memory_bytes() -> int:
    """Most memory this process has held at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _gpu(device: Any) -> str:
    details = tf.config.experimental.get_device_details(device)
    return str(details.get("device_name", device.name))


def _placement() -> str:
    """Where TensorFlow puts a computation that names no device, as none of ours does."""
    device = tf.linalg.matmul(tf.ones([2, 2]), tf.ones([2, 2])).device
    return device.rsplit("device:", 1)[-1]


def _cpu() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    root = pathlib.Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    found = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None
