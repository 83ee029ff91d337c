"""What counts as evidence for or against a defence, shared by the verdict, claims and reports.

A network that did not learn is no evidence: attacks on it fail, or succeed, for reasons of their
own. One that lost accuracy is evidence at that price, which is named first.
"""

from collections.abc import Iterable, Sequence

from ddefense.maths.proportions import wilson_interval
from ddefense.records import DatasetRecord, NetworkRecord

LEAST_OF_UNDISTILLED = 0.5
"""A network whose accuracy is below this share of the undistilled network's did not learn."""
ACCURACY_LOSS_LIMIT = 0.05
"""Above this loss of accuracy, a share of the test images, a low success rate of an attack is no
protection without naming the loss. The paper allows 0.0137."""
TELLING_LIMIT = 0.5
"""An attack that succeeds less often than this on the undistilled network tells nothing."""
FARTHER_LIMIT = 2.5
"""Without a bound, an attack reaches a network at up to this many times the distance: far enough
away any network gives another class."""

# Differences of shares are exact up to here.
_ROUNDING = 1e-9


def learnt(
    accuracies: Iterable[float], *, images: int, classes: int, undistilled: float | None = None
) -> bool:
    """Whether networks learnt, by their test accuracy alone.

    A network did not learn if its accuracy is below half of the undistilled network's, beyond what
    the number of images leaves open (the upper limit of Wilson's 95 % interval); or if it is not
    shown to be better than guessing one of the classes (the lower limit is not above 1 / classes).

    Args:
        accuracies: on the whole test set, shares, of the network and of all that it came from.
        images: in the test set.
        classes: of the dataset.
        undistilled: accuracy of the undistilled network; None without one, then only guessing
            counts.

    Returns:
        False if any of them did not learn.
    """
    least = 0.0 if undistilled is None else LEAST_OF_UNDISTILLED * undistilled
    limits = [wilson_interval(accuracy, images) for accuracy in accuracies]
    return all(low > 1 / classes and high >= least for low, high in limits)


def network_learnt(
    network: NetworkRecord, networks: Sequence[NetworkRecord], dataset: DatasetRecord
) -> bool:
    """Whether a network of a run, and the one that it was distilled from, learnt.

    Args:
        network: of the run.
        networks: of the run, the undistilled one among them if there is any.
        dataset: of the run.

    Returns:
        False if it is no evidence; see `learnt`.
    """
    initial = network.initial
    return learnt(
        [network.test_accuracy, *(() if initial is None else (initial.test_accuracy,))],
        images=dataset.num_test,
        classes=len(dataset.class_names),
        undistilled=undistilled_accuracy(networks),
    )


def undistilled_accuracy(networks: Iterable[NetworkRecord]) -> float | None:
    """Test accuracy of the undistilled network among them; None without one."""
    return next((n.test_accuracy for n in networks if n.defense == "none"), None)


def accuracy_lost(network: NetworkRecord, networks: Iterable[NetworkRecord]) -> float | None:
    """Share of the test images by which a network is worse than the undistilled one.

    Args:
        network: of the run.
        networks: of the run.

    Returns:
        The loss; negative where the network is better; None of an undistilled network, and
        without one.
    """
    before = None if network.defense == "none" else undistilled_accuracy(networks)
    return None if before is None else before - network.test_accuracy


def costly(lost: float | None) -> bool:
    """Whether so much accuracy was lost that a low success rate alone is no protection."""
    return lost is not None and lost > ACCURACY_LOSS_LIMIT + _ROUNDING


def loss_in_words(lost: float | None) -> str:
    """A loss as `a loss of 12.4 points of accuracy`; empty where nothing was lost."""
    points = 0.0 if lost is None else round(100 * lost, 1)
    return f"a loss of {points:.1f} points of accuracy" if points > 0 else ""
