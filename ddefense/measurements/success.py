"""Judging attacks, outside of them."""

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np
import numpy.typing as npt
from scipy import special

from ddefense import networks
from ddefense.attack_catalog import Norm, Targets
from ddefense.maths import statistics
from ddefense.measurements.counting import aimed_at, success_counts
from ddefense.records import (
    AttackRecord,
    CaseRecord,
    RobustnessRecord,
    TransferRecord,
)

# Rounding of a float32 feature must not count as leaving the box or the ball.
_TOLERANCE = 1e-6
_NORMS = ("l0", "l2", "linf")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an attack did to P images, judged afresh.

    Attributes:
        start: class that the network gives the original, shape [P].
        predicted: class that it gives the adversarial image, shape [P]; -1 where its answer is NaN
            or infinite.
        started: whether the original already is where the attempt aims at, shape [P]: no success of
            the attack, and no failure.
        reached: whether the adversarial image is, within the bounds and the attack's budget, shape
            [P].
        distance: from the original in the attack's norm, of failures too, float64, shape [P]:
            changed features for `l0`, units of the images for `l2` and `linf`.
        probabilities: what the network gives the adversarial image, shape [P, classes]; 0 where it
            gives no class.
    """

    start: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    started: npt.NDArray[np.bool_]
    reached: npt.NDArray[np.bool_]
    distance: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float32]

    @property
    def success(self) -> npt.NDArray[np.bool_]:
        """Whether the attack took the image where it aims at, shape [P]."""
        return self.reached & ~self.started


# Flat: each is a fact about the attempts that only the caller knows.
def judge(  # noqa: PLR0913
    network: keras.Model,
    originals: npt.NDArray[np.float32],
    made: npt.NDArray[np.float32],
    *,
    labels: npt.NDArray[np.integer],
    targets: npt.NDArray[np.integer] | None,
    bounds: tuple[float, float],
    norm: Norm,
    budget: float | None = None,
    outlier_class: int | None = None,
    gives_probabilities: bool = False,
) -> Outcome:
    """Decides afresh which adversarial images succeeded, and how far they are.

    An attempt reaches its aim if the network gives the target class, or without targets any class
    but the label and the outlier class, the image lies within `bounds` and, where the attack has a
    budget, no further than it from the original. It succeeds if the original was not there already.
    What the attack believes is ignored.

    Args:
        network: a model images -> logits or probabilities of the deployed (T = 1) network.
        originals: the image of each attempt, shape [P, H, W, C].
        made: what the attack returned, same shape.
        labels: true classes, shape [P].
        targets: classes to reach, shape [P]; None for an untargeted attack.
        bounds: smallest and largest value of a feature.
        norm: in which to measure: `l0` (features that differ, channels apart), `l2` or `linf`.
        budget: largest distance of a success; None without one.
        outlier_class: by which the network refuses an image; None without one.
        gives_probabilities: whether the network gives probabilities rather than logits.

    Returns:
        The outcome.

    Raises:
        ValueError: if shapes do not fit each other, or the norm is unknown.
        StoppedError: if the run was asked to stop.
    """
    if norm not in _NORMS:
        raise ValueError(f"norm: expected one of {list(_NORMS)}, received {norm!r}.")
    if made.shape != originals.shape or len(made) == 0:
        raise ValueError(
            f"made: expected one or more images of the originals' shape {originals.shape}, "
            f"received {made.shape}."
        )
    for name, classes in (("labels", labels), ("targets", targets)):
        if classes is not None:
            _expect_rows(name, classes, len(made))
    outputs = networks.predict(network, made)
    predicted = networks.predicted_classes(outputs)
    start = networks.predicted_classes(networks.predict(network, originals))
    change = made.reshape(len(made), -1).astype(np.float64) - originals.reshape(len(made), -1)
    # Rounding depends on what shares a batch, and an unchanged image ends where it starts.
    start = np.where((change == 0).all(axis=1), predicted, start)
    distance = _distance(change, norm)
    inside = (made >= bounds[0] - _TOLERANCE) & (made <= bounds[1] + _TOLERANCE)
    reached = aimed_at(predicted, labels, targets, outlier_class)
    reached &= inside.reshape(len(made), -1).all(axis=1)
    if budget is not None:
        reached &= distance <= budget + _TOLERANCE
    answered = predicted != networks.NO_CLASS
    probabilities = outputs if gives_probabilities else probabilities_of(outputs)
    return Outcome(
        start,
        predicted,
        aimed_at(start, labels, targets, outlier_class),
        reached,
        distance,
        np.where(answered[:, None], probabilities, np.float32(0)),
    )


def _distance(change: npt.NDArray[np.float64], norm: Norm) -> npt.NDArray[np.float64]:
    if norm == "l0":
        return (change != 0).sum(axis=1).astype(np.float64)
    if norm == "l2":
        return np.sqrt((change**2).sum(axis=1))
    return np.asarray(np.abs(change).max(axis=1))


def probabilities_of(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Softmax at T = 1, for people to look at: attacks and measurements need more than float32.

    Args:
        logits: shape [N, classes].

    Returns:
        Probabilities, same shape.
    """
    found: npt.NDArray[np.float32] = special.softmax(logits.astype(np.float64), axis=1).astype(
        np.float32
    )
    return found


def robustness(
    outcome: Outcome, sample: npt.NDArray[np.integer], *, max_features: int, num_features: int
) -> RobustnessRecord | None:
    """Mean minimal distortion under an attack; see `maths.statistics.robustness`.

    Args:
        outcome: from `judge`, in L0.
        sample: the image that each row attacks, any number that tells it apart, shape [P].
        max_features: the budget.
        num_features: features of an image.

    Returns:
        The record; None if every pair starts in its target.
    """
    counted = ~outcome.started
    if not counted.any():
        return None
    cap = max_features / num_features
    _, row = np.unique(sample[counted], return_inverse=True)
    capped, uncapped, unreached = statistics.robustness(
        outcome.distance[counted] / num_features, outcome.success[counted], row, cap
    )
    return RobustnessRecord(capped=capped, uncapped=uncapped, unreached=unreached, cap=cap)


def success_record(
    outcome: Outcome,
    sample: npt.NDArray[np.integer],
    *,
    norm: Norm,
    settings: dict[str, int | float | str | bool],
    targets: Targets,
    random_target_rows: npt.NDArray[np.bool_] | None,
    seed: int,
    details: Mapping[str, npt.NDArray[np.integer | np.bool_]] | None = None,
) -> AttackRecord:
    """Success rate and distances of an attack, with the cases of Carlini & Wagner (2017).

    Args:
        outcome: from `judge`, rows in any order.
        sample: the image that each row attacks, any number that tells it apart, shape [P].
        norm: of the distances.
        settings: what the attack was run with.
        targets: `untargeted` or `random`, one row per sample, or `all`.
        random_target_rows: which rows aim at the sample's one random target, one of each sample,
            shape [P]; looked at for `all` alone, because with `random` every row does.
        seed: of the bootstraps over samples.
        details: what else the attack tells of each row, by name, shape [P].

    Returns:
        The record, without robustness.

    Raises:
        ValueError: if shapes do not fit, a sample has more rows than its targets allow, or not
            exactly one random target.
    """
    _expect_rows("sample", sample, len(outcome.reached))
    _, row = np.unique(sample, return_inverse=True)
    attempts = np.bincount(row)
    if targets != "all" and np.any(attempts > 1):
        raise ValueError(
            f"sample: expected one row per sample for {targets} targets, received "
            f"{attempts.max()} of one sample. Say targets='all' for all of them."
        )
    success, distance, counted = outcome.success, outcome.distance, ~outcome.started
    attempts = np.bincount(row, weights=counted).astype(np.int64)
    reached = np.bincount(row, weights=success).astype(np.int64)
    totals = np.asarray(np.bincount(row, weights=_counted(success, distance)), np.float64)
    best = average = worst = None
    if targets == "random":
        average = _case(success[counted], distance[counted], seed)
    if targets == "all":
        chosen = _random_rows(random_target_rows, row) & counted
        average = _case(success[chosen], distance[chosen], seed)
        some = attempts > 0
        nearest = _over_samples(np.minimum, np.inf, outcome, row)
        farthest = _over_samples(np.maximum, -np.inf, outcome, row)
        best = _case((reached > 0)[some], nearest[some], seed)
        worst = _case((reached == attempts)[some], farthest[some], seed)
    return AttackRecord(
        norm=norm,
        settings=settings,
        targets=targets,
        **success_counts(outcome.reached, outcome.started, sample, seed),
        mean_distance=float(distance[success].mean()) if success.any() else None,
        distance_interval=_interval(totals, reached, seed),
        median_distance=float(np.median(distance[success])) if success.any() else None,
        best=best,
        average=average,
        worst=worst,
        details={name: int(of_each.sum()) for name, of_each in (details or {}).items()},
    )


def _random_rows(
    random_target_rows: npt.NDArray[np.bool_] | None, row: npt.NDArray[np.integer]
) -> npt.NDArray[np.bool_]:
    chosen = np.zeros(0, bool) if random_target_rows is None else random_target_rows
    _expect_rows("random_target_rows", chosen, len(row))
    per_sample = np.bincount(row[chosen], minlength=int(row.max()) + 1)
    if np.any(per_sample != 1):
        raise ValueError(
            "random_target_rows: expected one row of each sample, received "
            f"{per_sample.min()} to {per_sample.max()}."
        )
    return chosen


def _over_samples(
    ufunc: np.ufunc, start: float, outcome: Outcome, row: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    """Smallest or largest distance of each sample's successes."""
    found = np.full(int(row.max()) + 1, start)
    ufunc.at(found, row[outcome.success], outcome.distance[outcome.success])
    return found


def _case(
    success: npt.NDArray[np.bool_], distance: npt.NDArray[np.float64], seed: int
) -> CaseRecord:
    """A case of one row per sample."""
    return CaseRecord(
        success_rate=float(success.mean()) if len(success) else None,
        mean_distance=float(distance[success].mean()) if success.any() else None,
        distance_interval=_interval(_counted(success, distance), success, seed),
    )


def _counted(
    success: npt.NDArray[np.bool_], distance: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    # Where a failure has a distance that is not finite, 0 times it would spoil a sum.
    return np.where(success, distance, 0.0)


def _interval(
    totals: npt.NDArray[np.float64], reached: npt.NDArray[np.integer | np.bool_], seed: int
) -> tuple[float, float] | None:
    if not reached.any():
        return None
    return statistics.ratio_interval(totals, reached.astype(np.int64), seed)


def transfer_record(
    substitute_predicted: npt.NDArray[np.integer],
    outcome: Outcome,
    targets: npt.NDArray[np.integer],
    kappa: float,
    seed: int,
) -> TransferRecord:
    """What adversarial images made on a substitute do to another network.

    An image that the substitute was not fooled with counts as one that did not transfer.

    Args:
        substitute_predicted: classes that the substitute gives the images, shape [S].
        outcome: of the untargeted replay on the network, one row per image; the mean L2 distance is
            over the images that the substitute takes for the target.
        targets: classes the images aim at, shape [S].
        kappa: confidence with which they were made.
        seed: of the bootstrap over samples.

    Returns:
        The record.

    Raises:
        ValueError: if shapes do not fit each other.
    """
    rows = len(outcome.reached)
    _expect_rows("substitute_predicted", substitute_predicted, rows)
    _expect_rows("targets", targets, rows)
    crafted = substitute_predicted == targets
    counts = success_counts(outcome.reached, outcome.started, np.arange(rows), seed)
    counted = ~outcome.started
    return TransferRecord(
        kappa=kappa,
        samples=rows,
        started=counts["started"],
        crafted=float(crafted.mean()),
        misclassified=counts["success_rate"],
        misclassified_interval=counts["success_interval"],
        reached=float((outcome.predicted == targets)[counted].mean()) if counted.any() else None,
        mean_distance=float(outcome.distance[crafted].mean()) if crafted.any() else None,
    )


def _expect_rows(name: str, values: npt.NDArray[np.generic], rows: int) -> None:
    if values.shape != (rows,):
        raise ValueError(f"{name}: expected shape ({rows},), received {values.shape}.")
