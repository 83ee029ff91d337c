"""What a dataset is to the rest of the package."""

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from ddefense.datasets.examples import Split

Statistics = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset in memory.

    Attributes:
        name: its name.
        network: name of the network that the paper's experiment trains on it, see
            `ddefense.networks`.
        train: training split.
        test: test split.
        class_names: one name per class.
        value_range: smallest and largest value of a feature: the box of every attack.
        standardized: whether its network standardises every feature before the first layer, with
            `feature_statistics`. The images themselves stay in `value_range`.
    """

    name: str
    network: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    value_range: tuple[float, float] = (0.0, 1.0)
    standardized: bool = False

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.train.image_shape

    def feature_statistics(self) -> Statistics | None:
        """Mean and variance of every feature over the training images; None if not standardised.

        Returns:
            Two float32 arrays of the image's shape, computed in float64.
        """
        return self._statistics

    @functools.cached_property
    def _statistics(self) -> Statistics | None:
        if not self.standardized:
            return None
        images = self.train.images
        return (
            images.mean(axis=0, dtype=np.float64).astype(np.float32),
            images.var(axis=0, dtype=np.float64).astype(np.float32),
        )
