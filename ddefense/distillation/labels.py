"""The labels that the initial and the distilled network learn from."""

import keras
import numpy as np
import numpy.typing as npt

from ddefense import networks


def hard_labels(labels: npt.NDArray[np.integer], num_classes: int) -> npt.NDArray[np.float32]:
    """One-hot rows, float32, shape [N, num_classes]."""
    return np.eye(num_classes, dtype=np.float32)[labels]


def soft_labels(
    initial: keras.Model, images: npt.NDArray[np.float32], temperature: float
) -> npt.NDArray[np.float32]:
    """The initial network's probabilities at its training temperature (the paper, section IV-A).

    Args:
        initial: trained at `temperature`; evaluated in inference mode, dropout off.
        images: the training images, shape [N, H, W, C].
        temperature: T > 0.

    Returns:
        Rows that sum to 1, in the order of `images`, shape [N, classes].
    """
    return networks.predict(networks.with_temperature(initial, temperature), images)
