"""Which optimizer steps an epoch has, and which images each takes."""

import math
from collections.abc import Sequence

import numpy as np


class Plan:
    """The steps of a training run: the last one of a window takes what is left of it.

    Args:
        windows: images in each window; all but the last are of one size.
        batch_size: images per step.
        epochs: passes over the windows.
        max_steps: of the whole run; None for as many as the epochs have.

    Attributes:
        sizes: images in each step of a whole epoch, int64, shape [steps].
    """

    def __init__(
        self, windows: Sequence[int], batch_size: int, epochs: int, max_steps: int | None
    ) -> None:
        """Lays out one epoch."""
        self.sizes = np.concatenate([_sizes(images, batch_size) for images in windows])
        self._ends = np.cumsum(self.sizes)
        self._per_window = math.ceil(windows[0] / batch_size)
        steps = epochs * self.per_epoch
        self._steps = steps if max_steps is None else min(steps, max_steps)

    @property
    def per_epoch(self) -> int:
        """Steps of a whole epoch."""
        return len(self.sizes)

    @property
    def epochs(self) -> int:
        """Epochs in all, of which the last may be cut short."""
        return math.ceil(self._steps / self.per_epoch)

    @property
    def images(self) -> int:
        """Images that the run uses in all, each as often as it is used."""
        return self.images_before(*divmod(self._steps, self.per_epoch))

    def images_before(self, epoch: int, step: int) -> int:
        """Images that are used before a step of an epoch, both counted from 0."""
        return epoch * int(self._ends[-1]) + self.images_of(step)

    def images_of(self, steps: int) -> int:
        """Images in the first steps of an epoch."""
        return int(self._ends[steps - 1]) if steps else 0

    def steps_of(self, epoch: int) -> int:
        """Steps of an epoch, counted from 0."""
        return min(self.per_epoch, self._steps - epoch * self.per_epoch)

    def window_of(self, step: int) -> int:
        """Number of the window that a step of an epoch, counted from 0, takes its images of."""
        return step // self._per_window

    def step_in_window(self, step: int) -> int:
        """Which step of its window a step of an epoch is, both counted from 0."""
        return step % self._per_window


def _sizes(images: int, batch_size: int) -> np.ndarray:
    sizes = np.full(math.ceil(images / batch_size), batch_size)
    sizes[-1] = images - (len(sizes) - 1) * batch_size
    return sizes
