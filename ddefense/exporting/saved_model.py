"""Writing a self-contained, versioned SavedModel, verified before it is seen."""

import dataclasses
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense import files, interruption, networks
from ddefense.records import RunError

_TOLERANCE = 1e-6
_REFERENCE_IMAGES = 8
_BISECTIONS = 30
_NOTES = "assets.extra"
_READER = pathlib.Path(__file__).with_name("reload.py")


class ExportError(RunError):
    """An export that does not give the network's own answers when reloaded."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """A verified SavedModel.

    Attributes:
        path: its version directory, `<base>/<version>`.
        max_difference: largest abs difference between its probabilities, reloaded in a process
            that knows neither Keras nor this package, and the network's.
    """

    path: pathlib.Path
    max_difference: float


def export_for_serving(
    network: keras.Model, base: pathlib.Path, *, notes: Mapping[str, str] | None = None
) -> Exported:
    """Exports a deployed network as the next version below `base`.

    The signature `serving_default` takes `images` (float32 in the network's value range, shape
    [N, H, W, C], any N) and returns `probabilities` at T = 1, shape [N, classes]. Logits are not
    exposed. A server that watches `base` never sees half a model: the directory is written under a
    hidden name, verified there in a fresh process, and renamed.

    Args:
        network: ends in `TemperatureSoftmax` at T = 1; see `networks.with_temperature`.
        base: the model's directory; its children with integer names are versions.
        notes: texts for `assets.extra/`, by file name; servers ignore them, people find them.

    Returns:
        The new version.

    Raises:
        ValueError: if the network's temperature is not 1.
        ExportError: if the reloaded model disagrees with the network.
        StoppedError: if the run was asked to stop.
    """
    temperature = networks.temperature_of(network)
    if temperature != 1.0:
        raise ValueError(
            f"Expected a network at temperature 1, as deployed; received temperature "
            f"{temperature:g}. Use `networks.with_temperature(network, 1.0)`."
        )
    images = _reference_images(network)
    version = 1 + max((int(child.name) for child in _versions(base)), default=0)
    path = base / str(version)
    with files.atomic_directory(path) as temporary:
        _write(network, temporary)
        for name, text in (notes or {}).items():
            (temporary / _NOTES).mkdir(exist_ok=True)
            (temporary / _NOTES / name).write_text(text)
        difference = _verify(network, temporary, images)
    return Exported(path, difference)


def _reference_images(network: keras.Model) -> npt.NDArray[np.float32]:
    """Images to compare on, the last of which lies on a decision boundary if one is found.

    A network distilled at a high temperature is certain of almost every image at T = 1. Only next
    to a boundary would a wrong temperature or slightly wrong weights show in its probabilities.
    """
    shape = (_REFERENCE_IMAGES, *network.input_shape[1:])
    scales = np.linspace(0, 1, _REFERENCE_IMAGES).reshape(-1, *[1] * (len(shape) - 1))
    images = (np.random.default_rng(0).uniform(size=shape) * scales).astype(np.float32)
    classes = networks.predict(network, images).argmax(axis=1)
    others = np.flatnonzero(classes != classes[0])
    if not len(others):
        return images
    near, far = images[0], images[others[0]]
    for _ in range(_BISECTIONS):
        middle = (near + far) / 2
        if int(np.argmax(network(middle[None], training=False))) == classes[0]:
            near = middle
        else:
            far = middle
    return np.concatenate([images, far[None]])


def _versions(base: pathlib.Path) -> list[pathlib.Path]:
    return [child for child in base.glob("*") if child.name.isdecimal()]


def _write(network: keras.Model, directory: pathlib.Path) -> None:
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.cast(network(images, training=False), tf.float32)}

    shape = [None, *network.input_shape[1:]]
    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.add_endpoint(
        "serving_default", serve, [tf.TensorSpec(shape, tf.float32, name="images")]
    )
    archive.write_out(str(directory), verbose=False)


def _verify(
    network: keras.Model, directory: pathlib.Path, images: npt.NDArray[np.float32]
) -> float:
    """Reloads the export in a fresh process and compares, at two batch sizes."""
    # Rounding depends on the batch size, so like is compared with like.
    batch = networks.predict(network, images)
    single = networks.predict(network, images[-1:])
    with tempfile.TemporaryDirectory() as scratch:
        source, answers = pathlib.Path(scratch, "images.npy"), pathlib.Path(scratch, "answers.npz")
        np.save(source, images)
        # -P keeps the reader's own folder, which is this package's, off the module path.
        command = [sys.executable, "-P", str(_READER), str(directory), str(source), str(answers)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            interruption.check()  # who stops a job may signal its children too
            raise ExportError(
                f"Expected {directory} to load in a fresh process, but that process failed "
                f"(exit code {process.returncode}): {process.stderr.strip()[-2000:]}"
            )
        with np.load(answers) as found:
            difference = max(
                float(np.abs(found["batch"] - batch).max()),
                float(np.abs(found["single"] - single).max()),
            )
    if not difference <= _TOLERANCE:  # also catches NaN
        raise ExportError(
            f"Expected the reloaded SavedModel to give the network's probabilities within "
            f"{_TOLERANCE:g}, but they differ by {difference:g}."
        )
    return difference
