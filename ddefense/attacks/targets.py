"""Which classes an attack aims at."""

import numpy as np
import numpy.typing as npt


def every_wrong_class(
    labels: npt.NDArray[np.integer], num_classes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All (sample, target) pairs with a target other than the label, as in the paper.

    Args:
        labels: true classes, shape [N].
        num_classes: number of classes.

    Returns:
        Sample indices and target classes, both int64, shape [N * (num_classes - 1)], ordered by
        sample and then by class.
    """
    sample, target = np.nonzero(np.arange(num_classes) != np.asarray(labels)[:, None])
    return sample, target
