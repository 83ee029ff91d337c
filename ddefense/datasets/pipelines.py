"""`tf.data.Dataset` pipelines of users, and those made here, as sources of windows."""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from ddefense import files
from ddefense.datasets.checking import ImageShape, check_shape
from ddefense.datasets.streaming import ReadingError, Source, Window, window_size
from ddefense.settings import ConfigError

_MOST_CHANNELS = 4


def source_of(dataset: tf.data.Dataset, *, name: str = "data", window: int | None = None) -> Source:
    """A pipeline as a source of windows.

    Args:
        dataset: finite, of (image, label) pairs, in batches or not; the same in every pass.
        name: of the argument, for messages.
        window: images per window; chosen from the size of an image if None.

    Returns:
        The source. Nothing is read, but for the first element where the pipeline does not tell the
        shape of its images.

    Raises:
        ConfigError: if it is not such a pipeline.
    """
    images, labels = _pair(dataset, name)
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ConfigError(
            name,
            "expected a dataset that ends; received one that repeats for ever. Drop "
            ".repeat(): the number of passes is `epochs`.",
        )
    if not (images.dtype.is_floating or images.dtype.is_integer):
        raise ConfigError(
            name,
            f"expected images of numbers; received {images.dtype.name}. Decode files with "
            ".map and tf.io.decode_image before.",
        )
    if images.shape.rank is None or not images.shape[-3:].is_fully_defined():
        images, labels = _first(dataset, name)
    batched = images.shape.rank == 4 or _batch_of_grey(images.shape, labels.shape)
    shape = tuple(images.shape[1:] if batched else images.shape)
    check_shape(shape, None)
    height, width, channels = shape
    image_shape = height, width, channels
    size = window or window_size(image_shape)
    count = int(dataset.cardinality())
    return Source(
        read=lambda first: _windows(_checked(dataset, image_shape, batched), size, first, batched),
        window=size,
        image_shape=image_shape,
        count=None if batched or count < 0 else count,
    )


def _windows(dataset: tf.data.Dataset, window: int, first: int, batched: bool) -> Iterator[Window]:
    rest = (
        dataset.rebatch(window).skip(first)
        if batched
        else dataset.skip(first * window).batch(window)
    )
    number = first
    iterator = iter(rest.prefetch(1).as_numpy_iterator())
    while True:
        with reading(f"images {number * window} to {(number + 1) * window - 1}"):
            found = next(iterator, None)
        if found is None:
            return
        yield found
        number += 1


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turns an error of a pipeline into one that says what was being read.

    Raises:
        ReadingError: instead of TensorFlow's own errors.
    """
    try:
        yield
    except tf.errors.OpError as error:
        raise ReadingError(
            f"images: expected a dataset that can be read to its end, of images of one shape; "
            f"received an error at {what}: {files.reason(error)}."
        ) from error


def _checked(dataset: tf.data.Dataset, image_shape: ImageShape, batched: bool) -> tf.data.Dataset:
    """The pipeline with shapes that the graph knows, and numbers that NumPy knows."""
    shape = [None, *image_shape] if batched else image_shape

    def check(image: Any, label: Any) -> tuple[Any, Any]:
        image = tf.ensure_shape(image, shape)
        return (tf.cast(image, tf.float32) if image.dtype == tf.bfloat16 else image), label

    known = dataset.element_spec[0].shape.is_compatible_with(shape)
    exact = known and dataset.element_spec[0].shape[-3:].is_fully_defined()
    if exact and dataset.element_spec[0].dtype != tf.bfloat16:
        return dataset
    return dataset.map(check, num_parallel_calls=tf.data.AUTOTUNE)


def _batch_of_grey(images: tf.TensorShape, labels: tf.TensorShape) -> bool:
    """Whether it is not (height, width, channels) but (images, height, width)."""
    return (
        images.rank == 3
        and images[-1] > _MOST_CHANNELS
        and labels.rank is not None
        and labels.rank >= 1
        and labels[0] == images[0]
    )


def _pair(dataset: tf.data.Dataset, name: str) -> tuple[tf.TensorSpec, tf.TensorSpec]:
    spec = dataset.element_spec
    if (
        isinstance(spec, tuple)
        and len(spec) == 2
        and all(isinstance(part, tf.TensorSpec) for part in spec)
    ):
        return spec
    raise ConfigError(
        name,
        f"expected a dataset of pairs (image, label); received elements {spec}. Bring them "
        "to pairs with .map.",
    )


def _first(dataset: tf.data.Dataset, name: str) -> tuple[tf.Tensor, tf.Tensor]:
    try:
        with reading("the first image"):
            found = next(iter(dataset.take(1)), None)
    except ReadingError as error:
        raise ConfigError(f"{error}") from error
    if found is None:
        raise ConfigError(name, "expected at least one image; received an empty dataset.")
    return found
