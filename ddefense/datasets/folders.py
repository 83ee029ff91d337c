"""Image folders: one folder of image files per class, or `train` and `test` of that form."""

import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import logging

from ddefense import files as files_lib
from ddefense.datasets.checking import OUTLIER_HINT, Declared, ImageShape
from ddefense.datasets.decoding import (
    GIF,
    JPEG,
    PNG,
    checked,
    decodable,
    decoded,
    most_pixels,
)
from ddefense.datasets.streaming import ReadingError, Source, Window, window_size
from ddefense.files import odd_kind
from ddefense.maths.ranges import from_unit
from ddefense.settings import ConfigError

TRAIN, TESTS = "train", ("test", "val", "validation")
"""Folders of a dataset that is already split; the first of `TESTS` that there is counts."""

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
_OTHER_IMAGES = (".webp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".svg", ".ppm")
_SIGNATURES = (PNG, JPEG, GIF)
_DECODED_TOGETHER = 256
_NAMED = 5
"""Files in a warning, at most."""


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """Image files and their classes, in the order in which they are read.

    Attributes:
        root: the folder.
        names: paths of the files in it, with `/`.
        labels: class indices, shape [N].
    """

    root: pathlib.Path
    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Number of files."""
        return len(self.names)

    def take(self, indices: Sequence[int]) -> "ImageFiles":
        """Some of the files."""
        names = tuple(self.names[i] for i in indices)
        return ImageFiles(self.root, names, self.labels[np.array(indices, np.int64)])


@dataclasses.dataclass(frozen=True)
class Folder:
    """What an image folder holds.

    Attributes:
        class_names: one per class.
        train: files outside a folder for testing.
        test: those in one; None without such a folder.
    """

    class_names: tuple[str, ...]
    train: ImageFiles
    test: ImageFiles | None


def find(root: pathlib.Path, declared: Declared) -> Folder:
    """Finds the images of a folder, and opens none.

    Args:
        root: a folder with one folder per class, whose name is that of the class; or with `train`
            and `test` (or `val`) of that form. Class folders may have folders of their own; hidden
            files, and those that are no images, are left out.
        declared: class names that are the folders' names, in whatever order, number the classes;
            others rename the folders in their order.

    Returns:
        Its files, in an order that is the same everywhere, follows from each file's name alone, and
        mixes the classes.

    Raises:
        ConfigError: if it has no such form, naming what is wrong.
    """
    if not root.is_dir():
        raise ConfigError("data", f"expected a folder of images; received {root}, which is none.")
    train_root, test_root = _split_roots(root)
    folders = _class_folders(train_root)
    if train_root != root:
        _warn_of(_besides(root, (TRAIN, *TESTS)), root)
    _warn_of(_besides(train_root, [folder.name for folder in folders]), train_root)
    class_names, order = _numbered([folder.name for folder in folders], declared, train_root)
    classes = dict(zip((folder.name for folder in folders), order, strict=True))
    train = _image_files(train_root, classes)
    if test_root is None:
        return Folder(class_names, train, None)
    tested = [folder.name for folder in _class_folders(test_root)]
    _warn_of(_besides(test_root, tested), test_root)
    if unknown := [name for name in tested if name not in classes]:
        raise ConfigError(
            "data",
            f"expected only classes in {test_root} that {train_root} has; received "
            f"{_listed(unknown)}.",
        )
    test = _image_files(test_root, {name: classes[name] for name in tested})
    return Folder(class_names, train, test)


def hold_out(files: ImageFiles, share: float) -> tuple[ImageFiles, ImageFiles]:
    """Keeps about a share of every class apart, chosen by the names of the files alone.

    A file is on the side where its name puts it, whatever others there are: photos that are added
    later move no old one to the other side. Only where that would leave a class without any image
    on one side, the image nearest to it goes there.

    Args:
        files: at least two of each class, in the order in which `find` gives them.
        share: of the images that are kept apart, in (0, 1).

    Returns:
        The rest, and what was kept apart.

    Raises:
        ConfigError: if a class has one image only.
    """
    apart = np.zeros(len(files), bool)
    for label in np.unique(files.labels):
        (members,) = np.nonzero(files.labels == label)
        if len(members) < 2:
            raise ConfigError(
                "data",
                f"expected at least two images of every class, one to train on and one to "
                f"test with; received one of {files.names[members[0]].split('/')[0]}.",
            )
        below = sum(_place(files.names[i]) < share for i in members)
        apart[members[: min(max(below, 1), len(members) - 1)]] = True
    return files.take(np.flatnonzero(~apart).tolist()), files.take(np.flatnonzero(apart).tolist())


def source_of(
    files: ImageFiles, image_shape: ImageShape, value_range: tuple[float, float]
) -> Source:
    """The images of a folder as a source of windows, decoded and resized as serving does it.

    Args:
        files: to be read.
        image_shape: (height, width, channels) to bring them to.
        value_range: of a feature; pixels 0 and 255 become its ends.

    Returns:
        The source; its images are float32.

    Raises:
        ConfigError: if image files have no such number of channels.
    """
    if not decodable(image_shape[-1]):
        raise ConfigError(
            "image_shape",
            f"expected 1 or 3 channels, as image files have; received {image_shape[-1]}.",
        )

    def decode(image_bytes: Any) -> Any:
        whole = checked(image_bytes, most_pixels(image_shape))
        return from_unit(decoded(whole, image_shape), value_range)

    window = window_size(image_shape)

    def read(first: int) -> Iterator[Window]:
        position = first * window
        batches = _decoded_windows(files, position, window, decode)
        for images in batches:
            yield images, files.labels[position : position + len(images)]
            position += len(images)

    return Source(read, window, image_shape, len(files))


def common_shape(files: ImageFiles) -> ImageShape:
    """The shape of all images, which are decoded for that.

    Returns:
        (height, width, channels): 1 channel if all are grey, else 3.

    Raises:
        ConfigError: if two have different heights or widths, naming them; or one is damaged.
    """

    def decode(image_bytes: Any) -> Any:
        whole = checked(image_bytes, most_pixels(None))
        return tf.shape(tf.io.decode_image(whole, expand_animations=False))

    shapes: list[npt.NDArray[np.int32]] = []
    try:
        shapes.extend(_decoded_windows(files, 0, _DECODED_TOGETHER, decode))
    except ReadingError as error:
        raise ConfigError(f"{error}") from error
    found = np.concatenate(shapes)
    other = np.any(found[:, :2] != found[0, :2], axis=1)
    if other.any():
        at = int(np.argmax(other))
        raise ConfigError(
            "data",
            "expected images of one size; received "
            f"{files.names[0]} of {found[0, 0]}x{found[0, 1]} and {files.names[at]} of "
            f"{found[at, 0]}x{found[at, 1]} (height x width). Give the size to bring them to: "
            "image_shape, or a network for it.",
        )
    return int(found[0, 0]), int(found[0, 1]), 1 if found[:, 2].max() <= 2 else 3


def _decoded_windows(
    files: ImageFiles, start: int, window: int, decode: Any
) -> Iterator[npt.NDArray[Any]]:
    """What `decode` makes of the bytes of each file from number `start` on."""
    if start >= len(files):
        return
    # As bytes: not every name of a file is text.
    paths = [os.fsencode(files.root / name) for name in files.names[start:]]
    dataset = (
        tf.data.Dataset.from_tensor_slices(paths)
        .map(lambda path: decode(tf.io.read_file(path)), num_parallel_calls=tf.data.AUTOTUNE)
        .batch(window)
        .prefetch(1)
    )
    iterator = iter(dataset.as_numpy_iterator())
    for begin in range(start, len(files), window):
        try:
            yield next(iterator)
        except tf.errors.OpError as error:
            # Of the files read at the same time, TensorFlow does not say which.
            raise _first_damaged(files, begin, begin + window, decode) or ReadingError(
                f"data: expected images in {files.root} that can be read: {files_lib.reason(error)}"
            ) from error


def _first_damaged(files: ImageFiles, start: int, stop: int, decode: Any) -> ReadingError | None:
    """Reads files one after another, and so knows which one is damaged; None if none is."""
    paths = [files.root / name for name in files.names[start:stop]]
    whole = 0
    try:
        read = tf.data.Dataset.from_tensor_slices([os.fsencode(path) for path in paths])
        for _ in read.map(lambda path: decode(tf.io.read_file(path))):
            whole += 1
    except tf.errors.OpError as error:
        return ReadingError(
            f"data: expected an image that can be decoded (PNG, JPEG, BMP or GIF); received "
            f"{paths[whole]}: {files_lib.reason(error)}. Repair that file, or take it away."
        )
    return None


def _split_roots(root: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path | None]:
    """Folders of the images for training and for testing."""
    train = root / TRAIN
    if not train.is_dir() or not any(_folders(train)):
        return root, None
    there = [root / name for name in TESTS if (root / name).is_dir()]
    if len(there) > 1:
        logging.warning("%s is not read: %s is the test set.", there[1], there[0])
    return train, there[0] if there else None


def _folders(root: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _class_folders(root: pathlib.Path) -> list[pathlib.Path]:
    folders = _folders(root)
    if folders:
        return folders
    files = [path for path in root.iterdir() if path.is_file()]
    raise ConfigError(
        "data",
        f"expected one folder of images per class in {root}; received "
        + (f"{len(files)} files and no folder." if files else "an empty folder.")
        + " Put the images of each class into a folder that has the name of the class.",
    )


def _numbered(
    folders: list[str], declared: Declared, root: pathlib.Path
) -> tuple[tuple[str, ...], list[int]]:
    """Names of the classes, and the class of every folder."""
    names = declared.class_names
    if names is not None and set(folders) <= set(names):
        return names, [names.index(folder) for folder in folders]
    wanted = declared.known_classes
    if names is not None and (set(folders) & set(names) or len(folders) != len(names)):
        raise ConfigError(
            "class_names",
            f"expected the names of the folders in {root}, or one new name for each; "
            f"received {_listed(names)} for {_listed(folders)}.",
        )
    if wanted is not None and len(folders) != wanted:
        hint = f" {OUTLIER_HINT}" if wanted == len(folders) + 1 else ""
        raise ConfigError(
            "data",
            f"expected {wanted} class folders in {root}, one per class of the network; "
            f"received {len(folders)}: {_listed(folders)}. If classes are missing, name all of "
            f"them with class_names.{hint}",
        )
    return names or tuple(folders), list(range(len(folders)))


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _image_files(root: pathlib.Path, classes: dict[str, int]) -> ImageFiles:
    """The images of some class folders."""
    names: list[str] = []
    labels: list[int] = []
    strange: list[str] = []
    for folder, label in classes.items():
        found: list[str] = []
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            if any(part.startswith(".") for part in name.split("/")):
                continue
            if path.is_file():
                (found if _is_image(path) else strange).append(name)
            elif kind := odd_kind(path):  # never opened
                strange.append(f"{name}, {kind}")
        if not found:
            raise ConfigError(
                "data",
                f"expected PNG, JPEG, BMP or GIF images in the class folder {root / folder}; "
                "received none. Add some, or remove the folder.",
            )
        names.extend(found)
        labels.extend([label] * len(found))
    _warn_of(strange, root)
    order = sorted(range(len(names)), key=lambda i: _hash(names[i]))
    return ImageFiles(root, tuple(names), np.array(labels, np.int64)).take(order)


def _warn_of(strange: Sequence[str], root: pathlib.Path) -> None:
    if strange:
        logging.warning(
            "%d files in %s are no images of a class and are left out: %s.",
            *(len(strange), root, "; ".join(strange[:_NAMED])),
        )


def _besides(root: pathlib.Path, used: Sequence[str]) -> list[str]:
    """What lies in a folder and is not read, hidden files apart."""
    names = (path.name for path in root.iterdir() if not path.name.startswith("."))
    return [
        f"{name}, {kind}" if (kind := odd_kind(root / name)) else name
        for name in sorted(set(names) - set(used))
    ]


def _is_image(path: pathlib.Path) -> bool:
    """By its ending; a file with another one, or none, by how it begins."""
    ending = path.suffix.lower()
    if ending in _IMAGES:
        return True
    if ending in _OTHER_IMAGES:
        raise ConfigError(
            "data",
            f"expected PNG, JPEG, BMP or GIF images; received {path}. Convert it, or take it away.",
        )
    with path.open("rb") as file:
        return file.read(max(map(len, _SIGNATURES))).startswith(_SIGNATURES)


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def _place(name: str) -> float:
    """Where the hash of a file's name stands among all hashes, in [0, 1]."""
    return math.ldexp(int.from_bytes(_hash(name)[:8], "big"), -64)
