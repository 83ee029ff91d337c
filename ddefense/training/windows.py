"""Images and what to learn from them, window by window, as tensors."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense.datasets import Examples, Split

Labels = Callable[[int], npt.NDArray[np.float32]]
"""Number of a window -> what to learn from its images: rows that sum to 1, [window, classes]."""


@dataclasses.dataclass(frozen=True)
class Window:
    """The images that are held at a time.

    Attributes:
        images: float32, shape [n, H, W, C].
        labels: what to learn from them, float32, shape [n, classes].
        classes: their true classes, int32, shape [n].
    """

    images: tf.Tensor
    labels: tf.Tensor
    classes: tf.Tensor


class Windows:
    """Examples with labels.

    Images of one window are read once and stay; else every pass reads them again, and one window
    is held at a time, beside what the examples themselves read ahead.

    Args:
        examples: images; an array of shape [N, H, W, C] is examples in memory.
        labels: what to learn from; an array has a row for each of the images.
        num_classes: probabilities in each row.

    Raises:
        ValueError: if there are no images.
    """

    def __init__(
        self,
        examples: Examples | npt.NDArray[np.float32],
        labels: Labels | npt.NDArray[np.float32],
        num_classes: int,
    ) -> None:
        """Reads nothing yet."""
        if isinstance(examples, np.ndarray):
            # The true classes of images that come with nothing but labels.
            rows = labels(0) if callable(labels) else labels
            examples = Split(examples, np.argmax(rows, axis=1))
        if not len(examples):
            raise ValueError("images: expected at least one; received none.")
        self._examples, self._num_classes = examples, num_classes
        self._labels = labels if callable(labels) else _in_windows(labels, examples)
        self._kept: Window | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self._examples)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self._examples.image_shape

    @property
    def sizes(self) -> list[int]:
        """Images in each window."""
        size, rest = self._examples.window, len(self)
        return [min(size, rest - start) for start in range(0, rest, size)]

    def read(self, first: int = 0) -> Iterator[Window]:
        """Reads window number `first` and all later ones.

        Raises:
            ValueError: if the labels of a window do not fit its images.
            RunError: if the images are no longer what they were.
        """
        if self._kept is not None:
            if first == 0:
                yield self._kept
            return
        keep = len(self) <= self._examples.window
        number = first
        for images in self._examples.windows(first):
            window = self._window(number, images)
            if keep:
                self._kept = window
            # Nothing holds on to a window while the next one is read; `enumerate` would.
            del images
            yield window
            del window
            number += 1

    def _window(self, number: int, images: npt.NDArray[np.float32]) -> Window:
        labels = self._labels(number)
        expected = (len(images), self._num_classes)
        if labels.shape != expected:
            raise ValueError(
                f"labels: expected a row of {expected[1]} probabilities for each of the "
                f"{expected[0]} images of window {number}; received the shape {labels.shape}."
            )
        start = number * self._examples.window
        classes = self._examples.labels[start : start + len(images)]
        return Window(
            tf.constant(images), tf.constant(labels, tf.float32), tf.constant(classes, tf.int32)
        )


def _in_windows(rows: npt.NDArray[Any], examples: Examples) -> Labels:
    """An array of labels, cut as the images are."""
    size = examples.window
    return lambda number: rows[number * size : (number + 1) * size]
