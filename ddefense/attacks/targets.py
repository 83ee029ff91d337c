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

    Raises:
        ValueError: if a label is not a class.
    """
    labels = np.asarray(labels)
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"labels: expected classes in 0..{num_classes - 1}, received "
            f"{labels.min()}..{labels.max()}."
        )
    sample, target = np.nonzero(np.arange(num_classes) != labels[:, None])
    return sample, target


def one_wrong_class(
    labels: npt.NDArray[np.integer], num_classes: int, seed: int
) -> npt.NDArray[np.int64]:
    """One random target other than the label for each sample, every wrong class equally likely.

    Args:
        labels: true classes, shape [N].
        num_classes: number of classes, >= 2.
        seed: of the choice. Fewer labels of the same list get the same targets.

    Returns:
        Target classes, int64, shape [N].
    """
    offsets = [
        np.random.default_rng([seed, row]).integers(1, num_classes) for row in range(len(labels))
    ]
    return (np.asarray(labels) + np.array(offsets, np.int64)) % num_classes
