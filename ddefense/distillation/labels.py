"""The labels that the initial and the distilled network learn from."""

import keras
import numpy as np
import numpy.typing as npt

from ddefense import networks

SUM_TOLERANCE = 1e-4
"""By how much the sum of a row of soft labels may be off 1; float32 rounds to much less than that,
in which the softmax is computed whatever a network was trained in."""


def hard_labels(labels: npt.NDArray[np.integer], num_classes: int) -> npt.NDArray[np.float32]:
    """One-hot rows, float32, shape [N, num_classes]."""
    return np.eye(num_classes, dtype=np.float32)[labels]


def soft_labels(
    initial: keras.Model, images: npt.NDArray[np.float32], temperature: float
) -> npt.NDArray[np.float32]:
    """The initial network's probabilities at its training temperature (the paper, section IV-A).

    Args:
        initial: trained at `temperature`; evaluated in inference mode, dropout off. If it ends in a
            softmax at `temperature`, it is compiled once for any number of calls.
        images: the training images, shape [N, H, W, C].
        temperature: T > 0.

    Returns:
        Rows that sum to 1, in the order of `images`, shape [N, classes].
    """
    if networks.temperature_of(initial) != temperature:
        initial = networks.with_temperature(initial, temperature)
    return networks.predict(initial, images)


def check_soft_labels(
    rows: npt.NDArray[np.floating], num_images: int, num_classes: int, part: slice = slice(None)
) -> npt.NDArray[np.float32]:
    """Soft labels that were read, if they can be what a network learns from.

    Args:
        rows: as read, or a file of them that is mapped into memory.
        num_images: that they are of.
        num_classes: of the network that made them.
        part: the rows that are looked at, so that no more of a large file is in memory.

    Returns:
        These rows.

    Raises:
        ValueError: if there are not as many rows, or one of the part is not finite, not in [0, 1],
            or does not sum to 1 within `SUM_TOLERANCE`.
    """
    if rows.shape != (num_images, num_classes) or rows.dtype != np.float32:
        raise ValueError(
            f"expected float32 soft labels of shape {(num_images, num_classes)}; received "
            f"{rows.dtype} of shape {rows.shape}."
        )
    first, rows = part.start or 0, np.asarray(rows[part])
    good = np.all((rows >= 0) & (rows <= 1 + SUM_TOLERANCE), axis=1)  # false for NaN too
    sums = rows.sum(axis=1, dtype=np.float64)
    good &= np.abs(sums - 1) <= SUM_TOLERANCE
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"expected probabilities that sum to 1 within {SUM_TOLERANCE:g}; received "
            f"{rows[row].min():g} to {rows[row].max():g}, which sum to {sums[row]:g}, for image "
            f"{first + row}."
        )
    return rows
