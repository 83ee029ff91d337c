"""Judging attacks, outside of them."""

import keras
import numpy as np
import numpy.typing as npt
from scipy import special

from ddefense import networks
from ddefense.attacks import AdversarialSamples, Stop
from ddefense.maths import statistics
from ddefense.measurements.counting import success_counts
from ddefense.records import AttackOutcome, AttackRecord, RobustnessRecord

# Rounding of the bounds of a float32 feature must not count as leaving the box.
_TOLERANCE = 1e-6


def judge(
    network: keras.Model,
    originals: npt.NDArray[np.float32],
    made: AdversarialSamples,
    sample: npt.NDArray[np.integer],
    target: npt.NDArray[np.integer],
    *,
    max_features: int,
    bounds: tuple[float, float],
    gives_probabilities: bool = False,
) -> AttackOutcome:
    """Decides afresh which adversarial samples succeeded.

    A pair succeeds if the network gives the target class, which it does not give the original, the
    image lies within `bounds`, and at most `max_features` features differ from the original. What
    the attack believes is ignored.

    Args:
        network: a model images -> logits or probabilities of the deployed (T = 1) network.
        originals: the image of each pair, shape [P, H, W, C].
        made: what the attack returned.
        sample: row of the original among the attacked images, shape [P].
        target: target class, shape [P].
        max_features: the budget.
        bounds: smallest and largest value of a feature.
        gives_probabilities: whether the network gives probabilities rather than logits.

    Returns:
        The outcome, with changed features found by comparing the images.
    """
    outputs = networks.predict(network, made.images)
    predicted = networks.predicted_classes(outputs)
    flat = made.images.reshape(len(originals), -1)
    changed = (flat != originals.reshape(flat.shape)).sum(axis=1)
    inside = (flat >= bounds[0] - _TOLERANCE) & (flat <= bounds[1] + _TOLERANCE)
    start = networks.predicted_classes(networks.predict(network, originals))
    # Rounding depends on what shares a batch, and an unchanged image ends where it starts.
    start = np.where(changed == 0, predicted, start)
    reached = (predicted == target) & (changed <= max_features) & inside.all(axis=1)
    probabilities = outputs if gives_probabilities else probabilities_of(outputs)
    answered = predicted != networks.NO_CLASS
    return AttackOutcome.from_images(
        originals,
        made.images,
        sample,
        target,
        start=start,
        end=predicted,
        success=reached & (start != target),
        probabilities=np.where(answered[:, None], probabilities, np.float32(0)),
    )


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


def success_record(
    outcome: AttackOutcome,
    *,
    stop: npt.NDArray[np.integer],
    steps: int,
    theta: float,
    max_features: int,
    num_features: int,
    seed: int,
) -> AttackRecord:
    """Adversarial success rate and mean distortion of the successes (the paper, section V-B).

    Args:
        outcome: from `judge`.
        stop: why the attack stopped, see `attacks.Stop`, shape [P].
        steps: pairs of features that it changed in all.
        theta: of the attack.
        max_features: the budget.
        num_features: features of an image.
        seed: of the bootstrap over samples.
    """
    success, changed = outcome.success, outcome.num_features
    _, row = np.unique(outcome.sample, return_inverse=True)
    reached = np.bincount(row, weights=success).astype(np.int64)
    totals = np.asarray(np.bincount(row, weights=success * changed), np.float64)
    mean_features = float(changed[success].mean()) if success.any() else None
    return AttackRecord(
        theta=theta,
        max_features=max_features,
        **success_counts(success | outcome.started, outcome.started, outcome.sample, seed),
        mean_distortion=None if mean_features is None else mean_features / num_features,
        mean_features=mean_features,
        features_interval=statistics.ratio_interval(totals, reached, seed)
        if success.any()
        else None,
        no_admissible_pair=int((stop >= Stop.NO_ADMISSIBLE_PAIR).sum()),
        zero_maps=int((stop == Stop.ZERO_MAP).sum()),
        steps=steps,
    )


def robustness(
    outcome: AttackOutcome, *, max_features: int, num_features: int
) -> RobustnessRecord | None:
    """Mean minimal distortion under an attack; see `maths.statistics.robustness`.

    Args:
        outcome: from `judge`.
        max_features: the budget.
        num_features: features of an image.

    Returns:
        The record; None if every pair starts in its target.
    """
    counted = ~outcome.started
    if not counted.any():
        return None
    cap = max_features / num_features
    _, row = np.unique(outcome.sample[counted], return_inverse=True)
    capped, uncapped, unreached = statistics.robustness(
        outcome.num_features[counted] / num_features, outcome.success[counted], row, cap
    )
    return RobustnessRecord(capped=capped, uncapped=uncapped, unreached=unreached, cap=cap)
