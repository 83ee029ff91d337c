"""Soft labels on disk: one TFRecord file per window of images, in their order."""

import json
import pathlib
from collections.abc import Iterable

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense import files, networks
from ddefense.datasets import Examples
from ddefense.distillation.labels import check_soft_labels
from ddefense.progress import Progress
from ddefense.records import RunError

_INDEX, _PROBABILITIES = "index", "probabilities"
_READ_TOGETHER = 1024
_DIGESTS = "soft_labels.json"


class SoftLabelFiles:
    """The soft labels of a set of images that may be larger than memory.

    Every window of images has a file `soft_labels_<window>.tfrecord` of `tf.train.Example`s, one
    per image, in order: `index` (int64, of the image in the set) and `probabilities` (float32, one
    per class). `soft_labels.json` holds the SHA-256 of each file, compared when it is read.
    Called with the number of a window it gives its rows.

    Args:
        directory: of the files.
        examples: whose soft labels they are.
        num_classes: probabilities per image.
    """

    def __init__(self, directory: pathlib.Path, examples: Examples, num_classes: int) -> None:
        """Reads and writes nothing yet."""
        self._directory, self._examples, self._num_classes = directory, examples, num_classes

    def write(self, initial: keras.Model, temperature: float, label: str = "soft labels") -> None:
        """Evaluates the initial network window by window; windows that are there are skipped.

        Args:
            initial: trained at `temperature`; evaluated in inference mode, dropout off.
            temperature: T > 0.
            label: what progress calls it.

        Raises:
            RunError: if the images are no longer what they were, or the digests are damaged.
            StoppedError: if the run was asked to stop; whole windows are kept.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        network = networks.with_temperature(initial, temperature)
        first = self._next_window()
        done = min(first * self._examples.window, len(self._examples))
        with Progress(label, len(self._examples), "image", done=done) as progress:
            for window, images in enumerate(self._examples.windows(first), start=first):
                rows = networks.predict(network, images)
                path = self._path(window)
                with files.atomic_file(path) as temporary:
                    _write(temporary, rows, window * self._examples.window)
                self._note(path)
                progress.update(len(rows))

    def __call__(self, window: int) -> npt.NDArray[np.float32]:
        """The rows of one window, in the order of its images, shape [window, classes].

        Raises:
            RunError: if its file is missing, damaged, not of these images, or not what was written.
        """
        path, start = self._path(window), window * self._examples.window
        expected = np.arange(start, min(start + self._examples.window, len(self._examples)))
        try:
            index, rows = _read(path, self._num_classes)
        except tf.errors.OpError as error:
            raise RunError(
                f"Expected soft labels at {path}, but they cannot be read: {files.reason(error)}. "
                "Delete that file to make them again."
            ) from error
        if not np.array_equal(index, expected):
            raise RunError(
                f"Expected the soft labels of images {expected[0]} to {expected[-1]} at {path}; "
                f"received {len(index)} rows"
                + (f", of images {index[0]} to {index[-1]}" if len(index) else "")
                + ". Delete that file to make them again."
            )
        if files.sha256(path) != self._digests().get(path.name):
            raise RunError(
                f"Expected the soft labels at {path} as they were written; the file has another "
                "SHA-256. Delete that file to make them again."
            )
        try:
            return check_soft_labels(rows, len(expected), self._num_classes)
        except ValueError as error:
            raise RunError(f"{path}: {error} Delete that file to make them again.") from error

    def _next_window(self) -> int:
        """The first window without a file, or with one that was not finished with a digest."""
        window, digests = 0, self._digests()
        while window * self._examples.window < len(self._examples):
            path = self._path(window)
            if not path.exists() or path.name not in digests:
                break
            window += 1
        return window

    def _digests(self) -> dict[str, str]:
        """The SHA-256 of each file that was written, by name."""
        path = self._directory / _DIGESTS
        if not path.exists():
            return {}
        try:
            found = json.loads(path.read_text())
            return {str(name): str(digest) for name, digest in found.items()}
        except (OSError, ValueError, AttributeError) as error:
            raise RunError(
                f"Expected the digests of soft labels at {path}, but they cannot be read: {error}. "
                "Delete that file to make them again."
            ) from error

    def _note(self, written: pathlib.Path) -> None:
        digests = self._digests() | {written.name: files.sha256(written)}
        with files.atomic_file(self._directory / _DIGESTS) as temporary:
            temporary.write_text(json.dumps(digests, indent=1) + "\n")

    def _path(self, window: int) -> pathlib.Path:
        return self._directory / f"soft_labels_{window:06d}.tfrecord"


def _write(path: pathlib.Path, rows: npt.NDArray[np.float32], start: int) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in _serialized(rows, start):
            writer.write(record)


def _serialized(rows: npt.NDArray[np.float32], start: int) -> Iterable[bytes]:
    # One message is filled again and again: making one for every image takes twice as long.
    example = tf.train.Example()
    index = example.features.feature[_INDEX].int64_list.value
    probabilities = example.features.feature[_PROBABILITIES].float_list.value
    for i, row in enumerate(rows.tolist(), start=start):
        index[:] = [i]
        probabilities[:] = row
        yield example.SerializeToString()


def _read(
    path: pathlib.Path, num_classes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    features = {
        _INDEX: tf.io.FixedLenFeature([], tf.int64),
        _PROBABILITIES: tf.io.FixedLenFeature([num_classes], tf.float32),
    }
    batches = tf.data.TFRecordDataset(str(path)).batch(_READ_TOGETHER)
    parsed = [
        (found[_INDEX].numpy(), found[_PROBABILITIES].numpy())
        for found in (tf.io.parse_example(batch, features) for batch in batches)
    ]
    if not parsed:
        return np.zeros(0, np.int64), np.zeros((0, num_classes), np.float32)
    indices, rows = zip(*parsed, strict=True)
    return np.concatenate(indices), np.concatenate(rows)
