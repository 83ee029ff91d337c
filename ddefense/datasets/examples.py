"""Labelled images in one fixed order, whether they fit into memory or not."""

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Examples(Protocol):
    """Labelled images that are read in windows: one window if they are in memory.

    A window is what is held in memory at a time, and the unit of resuming. Reading the images
    twice gives the same images in the same order: soft labels rely on it.
    """

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class indices, shape [N]; in memory whatever the images are."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""

    @property
    def window(self) -> int:
        """Images in every window but the last, >= 1."""

    def __len__(self) -> int:
        """Number of images."""

    def windows(self, first: int = 0) -> Iterator[npt.NDArray[np.float32]]:
        """Reads the images, shape [window, H, W, C], from window number `first` on.

        Raises:
            RunError: if they are no longer what they were when they were first read, naming the
                image.
        """


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and their hard labels in memory: examples of one window.

    Attributes:
        images: float32, shape [N, H, W, C], in the dataset's value range.
        labels: int64 class indices, shape [N].
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def window(self) -> int:
        """All images."""
        return len(self)

    def windows(self, first: int = 0) -> Iterator[npt.NDArray[np.float32]]:
        """All images at once."""
        if first == 0:
            yield self.images
