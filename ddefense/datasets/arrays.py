"""Images and labels that are in memory, or in files mapped into it."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ddefense import files
from ddefense.datasets import labelling
from ddefense.datasets.checking import Declared, check_images, check_shape, warn_of_range
from ddefense.datasets.examples import Split
from ddefense.datasets.streaming import Source, Window, split_of, window_size
from ddefense.settings import ConfigError

Pair = tuple[Any, Any]

_ARCHIVED = (
    ("images", "labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)


def as_images(images: Any, *, name: str = "images") -> npt.NDArray[Any]:
    """Images as one array of numbers, of whatever type they have.

    Args:
        images: an array, or a sequence of arrays of one shape.
        name: of the argument, for messages.

    Raises:
        ConfigError: if they are no numbers, or of several shapes, naming two of them.
    """
    if isinstance(images, Sequence):
        _check_one_shape(images, name)
    array = np.asarray(images)
    if array.dtype.kind not in "biuf":
        raise ConfigError(name, f"expected numbers; received {array.dtype} values.")
    if array.ndim == 0 or not len(array):
        raise ConfigError(name, f"expected at least one image; received {_shape(array)}.")
    check_shape(array.shape[1:], None, name=name)
    return array


def split(pair: Pair, declared: Declared, *, name: str = "images") -> tuple[Split, int]:
    """Checks images and labels, and keeps them in memory as float32.

    Args:
        pair: images of shape [N, H, W, C], and their labels, see `labelling.read`.
        declared: what they should be.
        name: of the images, for messages.

    Returns:
        The images and labels, a `SoftSplit` if the labels are probabilities; and the number of
        classes that the labels tell of.

    Raises:
        ConfigError: if they are not what they should be.
    """
    images = as_images(pair[0], name=name)
    labels = labelling.read(
        pair[1], num_classes=declared.known_classes, name=name.replace("images", "labels")
    )
    _check_lengths(images, len(labels), name)
    found = images.astype(np.float32, copy=False)
    smallest, largest = check_images(found, declared, name=name)
    warn_of_range(smallest, largest, declared.value_range)
    return split_of(found, labels), labels.count_classes()


def source_of(pair: Pair, *, name: str = "images") -> Source:
    """Images and labels as a source of windows, none of them read yet.

    Args:
        pair: as for `split`; the images may be an array that is mapped from a file.
        name: of the images, for messages.

    Raises:
        ConfigError: if they are no arrays of images, or not as many labels.
    """
    images, labels = as_images(pair[0], name=name), np.asarray(pair[1])
    _check_lengths(images, len(labels), name)
    height, width, channels = images.shape[1:]
    window = window_size((height, width, channels))

    def read(first: int) -> Iterator[Window]:
        for start in range(first * window, len(images), window):
            yield images[start : start + window], labels[start : start + window]

    return Source(read, window, (height, width, channels), len(images))


def read_npz(path: pathlib.Path) -> tuple[Pair, Pair | None, tuple[str, ...] | None]:
    """Reads an .npz file.

    Args:
        path: of a file with the arrays `images` and `labels`, and perhaps `test_images` and
            `test_labels`; or with Keras' names for them, `x_train`, `y_train`, `x_test` and
            `y_test`. `class_names` may be there too.

    Returns:
        Images and labels for training, those for testing or None, and the class names or None.

    Raises:
        ConfigError: if it is no such file.
    """
    try:
        with files.read_npz(path) as archive:
            names = set(archive.files)
            wanted = next((keys for keys in _ARCHIVED if names.issuperset(keys[:2])), None)
            arrays = {key: archive[key] for key in (wanted or ()) if key in names}
            class_names = np.asarray(archive["class_names"]) if "class_names" in names else None
    except files.DamagedError as error:
        raise ConfigError("data", f"expected an .npz file; received {path}: {error}.") from error
    if wanted is None:
        raise ConfigError(
            "data",
            f"expected the arrays `images` and `labels` (or `x_train` and `y_train`) in "
            f"{path}; received {', '.join(sorted(names)) or 'none'}.",
        )
    train_images, train_labels, test_images, test_labels = (arrays.get(key) for key in wanted)
    if (test_images is None) != (test_labels is None):
        raise ConfigError(
            "data",
            f"expected both or none of `{wanted[2]}` and `{wanted[3]}` in {path}; received "
            "one of them.",
        )
    return (
        (train_images, train_labels),
        None if test_images is None else (test_images, test_labels),
        None if class_names is None else tuple(str(name) for name in class_names.ravel()),
    )


def _check_one_shape(images: Sequence[Any], name: str) -> None:
    shapes = [np.shape(image) for image in images]
    for at, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ConfigError(
                name,
                f"expected images of one shape; received {shapes[0]} for image 0 and "
                f"{shape} for image {at}. Resize them.",
            )


def _check_lengths(images: npt.NDArray[Any], num_labels: int, name: str) -> None:
    if len(images) != num_labels:
        raise ConfigError(
            f"{name.replace('images', 'labels')}: expected one per image, {len(images)}; received "
            f"{num_labels}."
        )


def _shape(array: npt.NDArray[Any]) -> str:
    return f"an array of shape {list(array.shape)}"
