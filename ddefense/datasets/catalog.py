"""Any image classification dataset of TFDS, by its name, as sources of windows."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from ddefense import datasets
from ddefense.datasets import pipelines, prepared
from ddefense.datasets.checking import Declared, ImageShape
from ddefense.datasets.decoding import decodable, resized, scaled
from ddefense.datasets.streaming import Source, Window
from ddefense.maths.ranges import from_unit
from ddefense.settings import ConfigError

_TRAIN, _TESTS = "train", ("test", "validation")


@dataclasses.dataclass(frozen=True)
class Catalogued:
    """A dataset of TFDS.

    Attributes:
        declared: what was, with the names of the classes.
        train: the training images.
        test: those of its `test` split, else of its `validation` split; None without either.
    """

    declared: Declared
    train: Source
    test: Source | None


def find(name: str, declared: Declared, data_dir: pathlib.Path | None) -> Catalogued:
    """Prepares a dataset of TFDS and reads its description.

    Args:
        name: of a dataset with the features `image` and `label`, see `prepared.prepare`.
        declared: the shape to resize the images to, where that is not theirs; and the range to
            bring pixels 0 to 255 to.
        data_dir: folder of prepared data; `TFDS_DATA_DIR` or TFDS's default if None.

    Returns:
        The dataset, in TFDS's own fixed order.

    Raises:
        ConfigError: if TFDS has no such dataset, or it is no image classification dataset, or its
            images have several shapes and none is declared.
        RunError: if the data is not prepared and its host cannot be reached.
    """
    try:
        builder = prepared.prepare(name, data_dir)
    except ValueError as error:  # no such dataset, configuration or version
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            "data",
            "expected an image folder, an .npz file, one of "
            f"{', '.join(datasets.NAMES)}, or the name of another dataset of TFDS; received "
            f"{name!r}: {reason}",
        ) from error
    own_shape, class_names = _features(builder)
    splits = builder.info.splits
    if _TRAIN not in splits:
        raise ConfigError(
            "data",
            f"expected a dataset with a split named {_TRAIN!r}; received {name} with "
            f"{', '.join(splits)}.",
        )
    declared = declared.with_classes(class_names, name)
    test = next((split for split in _TESTS if split in splits), None)
    return Catalogued(
        declared,
        _source(builder, _TRAIN, own_shape, declared),
        None if test is None else _source(builder, test, own_shape, declared),
    )


def _features(
    builder: tfds.core.DatasetBuilder,
) -> tuple[tuple[int | None, int | None, int], tuple[str, ...]]:
    """The shape of the images, as far as it is fixed, and the names of the classes."""
    features = builder.info.features
    described = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = described.get("image"), described.get("label")
    if (
        isinstance(image, tfds.features.Image)
        and np.dtype(image.np_dtype) == np.uint8
        and decodable(image.shape[-1])
        and isinstance(label, tfds.features.ClassLabel)
        and label.num_classes is not None
    ):
        return image.shape, tuple(label.names)
    raise ConfigError(
        "data",
        "expected an image classification dataset, with the features `image` (grey or RGB, 8 "
        f"bits) and `label` (a class); received {builder.name} with "
        f"{', '.join(described) or features}.",
    )


def _source(
    builder: tfds.core.DatasetBuilder,
    split: str,
    own_shape: tuple[int | None, int | None, int],
    declared: Declared,
) -> Source:
    image_shape = declared.image_shape or _fixed(own_shape, builder.name)
    as_they_are = image_shape == own_shape

    def features(example: Any) -> tuple[Any, Any]:
        image = example["image"]
        unit = scaled(image) if as_they_are else resized(image, image_shape)
        return from_unit(unit, declared.value_range), example["label"]

    dataset = builder.as_dataset(split=split, shuffle_files=False).map(
        features, num_parallel_calls=tf.data.AUTOTUNE
    )
    source = pipelines.source_of(dataset)

    def read(first: int) -> Iterator[Window]:
        with prepared.reading(builder):
            yield from source.read(first)

    count = builder.info.splits[split].num_examples
    return dataclasses.replace(source, read=read, count=count)


def _fixed(shape: tuple[int | None, int | None, int], name: str) -> ImageShape:
    height, width, channels = shape
    if height is None or width is None:
        raise ConfigError(
            "image_shape",
            f"expected the shape to bring the images of {name} to, which have many; "
            "received none. Give image_shape, or a network for one.",
        )
    return height, width, channels
