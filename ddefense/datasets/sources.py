"""Data of the user's own, wherever it comes from: `open_data((images, labels))`."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import tensorflow as tf

from ddefense import datasets
from ddefense.datasets import arrays, folders, labelling, pipelines, splitting
from ddefense.datasets.checking import Declared, ImageShape, check_shape
from ddefense.datasets.dataset import Dataset
from ddefense.datasets.examples import Examples, Split
from ddefense.datasets.fingerprints import digest
from ddefense.datasets.streaming import STREAM_BYTES, Source, float_bytes, load, survey
from ddefense.maths.ranges import from_unit, to_unit
from ddefense.settings import ConfigError

_SPLIT_SEED = 0  # of no run: every run keeps the same images apart
_FORMS = (
    "(images, labels), ((images, labels), (test_images, test_labels)), a tf.data.Dataset of pairs, "
    "an image folder, an .npz file or the name of a dataset"
)


@dataclasses.dataclass(frozen=True)
class UserData:
    """Images to train on, and images to test with.

    Attributes:
        name: of the folder, file or dataset; `arrays` or `tf.data` of what has none.
        train: training images in `value_range`; none if all were asked for as test images. Labels
            that are probabilities stand in `labelling.label_rows(train)`.
        test: test images; None if there are none.
        class_names: one per class.
        value_range: smallest and largest value of a feature.
        digest: of shapes, images and labels: the identity of the data.
    """

    name: str
    train: Examples
    test: Examples | None
    class_names: tuple[str, ...]
    value_range: tuple[float, float]
    digest: str

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> ImageShape:
        """(height, width, channels)."""
        return self.train.image_shape


class _Found(NamedTuple):
    """Data that was found and not read yet, and what is declared of it by now."""

    name: str
    declared: Declared
    train: Source | arrays.Pair | None
    test: Source | arrays.Pair | None = None
    streamed: bool = False


def open_data(
    data: Any,
    *,
    image_shape: ImageShape | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    test_share: float = 0.2,
    stream: bool | None = None,
    data_dir: pathlib.Path | None = None,
) -> UserData:
    """Reads and checks labelled images.

    Args:
        data: one of these.

            - `(images, labels)`: numbers of shape [N, H, W, C] in `value_range`, and class indices
              [N] or rows of probabilities [N, classes]; or a second such pair for testing, as the
              datasets of Keras have it.
            - a finite `tf.data.Dataset` of such pairs, in batches or not, the same in every pass;
              or two of them. It is streamed.
            - an image folder: a folder of PNG, JPEG, BMP or GIF files per class, or `train` and
              `test` (or `val`) of that form.
            - an .npz file with `images` and `labels`, or `x_train` and `y_train`, and perhaps
              `test_images` and `test_labels`, or `x_test` and `y_test`; and `class_names`.
            - one of `datasets.NAMES`, or the name of an image classification dataset of TFDS.
        image_shape: (height, width, channels) of the network's input. Images of a folder and of
            TFDS are resized to it, others must have it. None for that of the images.
        value_range: smallest and largest value of a feature, as the network takes it. Images of a
            folder, of TFDS and of `datasets.NAMES` are scaled to it, others must lie in it.
        class_names: one per class; by default those of the data, else 0, 1, 2...
        num_classes: of the network; None if there is none yet.
        test_share: of the images that are kept for testing where the data has none for it; always
            the same ones. 0 keeps none. 1 is for data that nothing is trained on: all of it, or
            what it has for testing, is `test`, classes without an image are no error, and `train`
            is empty.
        stream: whether to read the images in every pass anew instead of keeping them in memory;
            by default those of a `tf.data.Dataset`, and any that would take over 2 GiB.
        data_dir: folder of prepared TFDS data; by default `TFDS_DATA_DIR`, else TFDS's own.

    Returns:
        The data; the same for the same arguments.

    Raises:
        ConfigError: if the data is not what it should be; the message begins with `data`,
            `images`, `labels` or the name of an argument.
        RunError: if data of TFDS is neither prepared nor reachable.
        StoppedError: if the run was asked to stop.
    """
    if not 0 <= test_share <= 1:
        raise ConfigError("test_share", f"expected a number in [0, 1]; received {test_share}.")
    declared = Declared(
        image_shape=None if image_shape is None else cast(ImageShape, tuple(image_shape)),
        value_range=(float(value_range[0]), float(value_range[1])),
        class_names=None if class_names is None else tuple(class_names),
        num_classes=num_classes,
    )
    found = _find(data, declared, test_share, data_dir)
    if test_share == 1:
        found = found._replace(train=None, test=found.train if found.test is None else found.test)
    return _read(found, test_share, stream)


def _find(
    data: Any, declared: Declared, test_share: float, data_dir: pathlib.Path | None
) -> _Found:
    """Tells what form the data has."""
    if isinstance(data, str | pathlib.Path):
        return _named(data, declared, test_share, data_dir)
    if isinstance(data, Dataset):
        return _dataset(data, declared)
    if isinstance(data, tf.data.Dataset):
        data = (data, None)
    if not isinstance(data, tuple | list) or len(data) not in (2, 4):
        size = f" of {len(data)}" if isinstance(data, tuple | list) else ""
        raise ConfigError("data", f"expected {_FORMS}; received {type(data).__name__}{size}.")
    if isinstance(data[0], tf.data.Dataset):
        train, test = data
        tested = None if test is None else pipelines.source_of(test, name="test_data")
        return _Found("tf.data", declared, pipelines.source_of(train), tested, streamed=True)
    if len(data) == 2 and all(_is_pair(part) for part in data):
        data = (*data[0], *data[1])
    train = arrays.as_images(data[0]), data[1]
    if len(data) == 2:
        return _Found("arrays", declared, train)
    return _Found(
        "arrays", declared, train, (arrays.as_images(data[2], name="test_images"), data[3])
    )


def _is_pair(data: Any) -> bool:
    """Whether it is images and labels, and not images alone, or labels alone."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    images = data[0]
    is_list = isinstance(images, tuple | list) and len(images) > 0
    return len(np.shape(images[0])) >= 2 if is_list else len(np.shape(images)) >= 3


def _named(
    data: str | pathlib.Path, declared: Declared, test_share: float, data_dir: pathlib.Path | None
) -> _Found:
    """What lies at a path, or has the name of a dataset."""
    if isinstance(data, str) and data in datasets.NAMES:
        return _dataset(datasets.load(data, data_dir=data_dir), declared)
    path = pathlib.Path(data)
    if path.suffix == ".npz":
        train, test, names = arrays.read_npz(path)
        known = declared if names is None else declared.with_classes(names, str(path))
        return _Found(path.stem, known, train, test)
    if path.is_dir():
        return _folder(path, declared, test_share)
    if isinstance(data, pathlib.Path) or path.exists() or path.is_absolute():
        raise ConfigError("data", f"expected an image folder or an .npz file; received {path}.")
    from ddefense.datasets import catalog  # TFDS is slow to import

    found = catalog.find(data, declared, data_dir)
    return _Found(data, found.declared, found.train, found.test)


def _dataset(dataset: Dataset, declared: Declared) -> _Found:
    check_shape(dataset.image_shape, declared.image_shape)
    train, test = (
        (from_unit(to_unit(split.images, dataset.value_range), declared.value_range), split.labels)
        for split in (dataset.train, dataset.test)
    )
    known = declared.with_classes(dataset.class_names, dataset.name)
    return _Found(dataset.name, known, train, test)


def _folder(root: pathlib.Path, declared: Declared, test_share: float) -> _Found:
    folder = folders.find(root, declared)
    train, test = folder.train, folder.test
    if test is None and 0 < test_share < 1:
        train, test = folders.hold_out(train, test_share)
    image_shape = declared.image_shape or folders.common_shape(folder.train)
    known = dataclasses.replace(
        declared, image_shape=image_shape, class_names=folder.class_names, num_classes=None
    )
    trained, tested = (
        None if files is None else folders.source_of(files, image_shape, declared.value_range)
        for files in (train, test)
    )
    return _Found(root.resolve().name, known, trained, tested)


def _read(found: _Found, test_share: float, stream: bool | None) -> UserData:
    """Reads what was found, and checks what can be said of all of it."""
    declared, test = found.declared, None
    if found.train is not None:
        train, declared = _examples(found, found.train, declared, stream, "images")
        if found.test is None and test_share > 0:
            train, test = splitting.hold_out(train, test_share, _SPLIT_SEED)
        labelling.check_classes(train.labels, _names(declared))
    if found.test is not None:
        name = "images" if found.train is None else "test_images"
        test, declared = _examples(found, found.test, declared, stream, name)
    if found.train is None and test is not None:
        train = Split(np.empty((0, *test.image_shape), np.float32), np.empty(0, np.int64))
    return UserData(
        name=found.name,
        train=train,
        test=test,
        class_names=_names(declared),
        value_range=declared.value_range,
        digest=digest(train, test),
    )


def _examples(
    found: _Found, data: Source | arrays.Pair, declared: Declared, stream: bool | None, name: str
) -> tuple[Examples, Declared]:
    """Reads images and labels; afterwards their shape and the number of classes are known."""
    if stream is None:
        stream = found.streamed or _is_large(data)
    examples: Examples
    if stream:
        source = data if isinstance(data, Source) else arrays.source_of(data, name=name)
        examples, num_classes = survey(source, declared, name=name)
    elif isinstance(data, Source):
        examples, num_classes = load(data, declared, name=name)
    else:
        examples, num_classes = arrays.split(data, declared, name=name)
    return examples, dataclasses.replace(
        declared,
        image_shape=examples.image_shape,
        num_classes=declared.known_classes or max(num_classes, 2),
    )


def _is_large(data: Source | arrays.Pair) -> bool:
    if isinstance(data, Source):
        return data.count is not None and float_bytes(data.count, data.image_shape) > STREAM_BYTES
    shape = np.shape(data[0])
    return math.prod(shape) * np.dtype(np.float32).itemsize > STREAM_BYTES


def _names(declared: Declared) -> tuple[str, ...]:
    return declared.class_names or tuple(str(i) for i in range(declared.known_classes or 0))
