"""Counting successes: over the attempts that do not start where they aim at."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ddefense import networks
from ddefense.attack_catalog import PAPER
from ddefense.maths import statistics
from ddefense.records import AttackOutcome, Attempts, ComparisonRecord, NetworkRecord
from ddefense.records.samples import UNTARGETED

Classes = npt.NDArray[np.integer]
Flags = npt.NDArray[np.bool_]


def aimed_at(
    predicted: Classes,
    labels: Classes | None,
    targets: Classes | None,
    outlier_class: int | None = None,
) -> Flags:
    """Whether images are where attempts aim at.

    Args:
        predicted: classes that the network gives the images, shape [P].
        labels: true classes, shape [P]; None where all have targets.
        targets: classes to reach, shape [P]; None for any class but the label and the outlier
            class.
        outlier_class: by which the network refuses an image; None without one.
    """
    if targets is not None:
        return np.asarray(predicted == targets)
    answered = (predicted != outlier_class) & (predicted != networks.NO_CLASS)
    return np.asarray((predicted != labels) & answered)


def success_counts(success: Flags, started: Flags, sample: Classes, seed: int) -> dict[str, Any]:
    r"""The fields of a `SuccessRecord`.

    $$\text{rate} = \frac{\text{successes}}{\text{attempts}}, \quad
      \text{attempts} = \text{all} - \text{started}$$

    Args:
        success: which attempts end where they aim at, shape [P].
        started: which start there, shape [P].
        sample: the image of each, any number that tells it apart, shape [P].
        seed: of the bootstrap over samples.
    """
    _, row = np.unique(sample, return_inverse=True)
    counted = ~started
    attempts = np.bincount(row, weights=counted).astype(np.int64)
    reached = np.asarray(np.bincount(row, weights=success & counted), np.float64)
    total = int(attempts.sum())
    return {
        "samples": len(attempts),
        "attempts": total,
        "started": int(started.sum()),
        "successes": int(reached.sum()),
        "success_rate": float(success[counted].mean()) if total else None,
        "success_interval": statistics.ratio_interval(reached, attempts, seed) if total else None,
        "success_rate_over_all": float(success.mean()),
    }


def comparisons(
    networks: Sequence[NetworkRecord],
    outcomes: Mapping[tuple[str, str], AttackOutcome],
    attempts: Mapping[tuple[str, str], Attempts],
    max_features: int,
    num_features: int,
) -> list[ComparisonRecord]:
    """Every network against the undistilled one, over the attempts that start there on neither.

    The distilled ones are compared with each other under the paper's attack too.

    Args:
        networks: of a run.
        outcomes: what JSMA did, by (network name, attack).
        attempts: what attacks measured by a norm did, likewise.
        max_features: budget of JSMA.
        num_features: features of an image.

    Returns:
        The comparisons, without those for which no attempt is left.
    """
    every = {key: outcome.attempts() for key, outcome in outcomes.items()} | dict(attempts)
    cap = max_features / num_features

    def compare(attack: str, network: str, reference: str) -> ComparisonRecord | None:
        ours, theirs = every[network, attack], every[reference, attack]
        limit = cap if (network, attack) in outcomes else None
        return compared(
            attack, network, ours, reference, theirs, cap=limit, num_features=num_features
        )

    undistilled = [network for network in networks if network.defense == "none"][:1]
    distilled = [network for network in networks if network.defense == "distillation"]
    pairs = [(n, u, a) for u in undistilled for n in networks for _, a in every if n is not u]
    pairs += [
        (n, lower, PAPER)
        for n in distilled
        for lower in distilled
        if lower.temperature < n.temperature
    ]
    names = dict.fromkeys((attack, n.name, reference.name) for n, reference, attack in pairs)
    found = [
        compare(attack, name, reference)
        for attack, name, reference in names
        if (name, attack) in every and (reference, attack) in every
    ]
    return [comparison for comparison in found if comparison is not None]


def compared(
    attack: str,
    network: str,
    attempts: Attempts,
    reference: str,
    reference_attempts: Attempts,
    cap: float | None = None,
    num_features: int = 1,
) -> ComparisonRecord | None:
    """What one attack did to two networks, over the attempts that start there on neither.

    Args:
        attack: its name.
        network: name of one network.
        attempts: on it.
        reference: name of the other one.
        reference_attempts: on that.
        cap: of the robustness, a share of the features; None of an attack without one.
        num_features: of an image.

    Returns:
        The comparison; None if no attempt was made on both and starts on neither where it aims at.
    """
    _, ours, theirs = np.intersect1d(
        _keys(attempts), _keys(reference_attempts), return_indices=True
    )
    both = ~attempts.started[ours] & ~reference_attempts.started[theirs]
    ours, theirs = ours[both], theirs[both]
    if not len(ours):
        return None
    success, reference_success = attempts.success[ours], reference_attempts.success[theirs]
    paired = success & reference_success & attempts.chosen[ours] & reference_attempts.chosen[theirs]
    _, row = np.unique(attempts.sample[ours], return_inverse=True)

    def mean(distance: npt.NDArray[np.float64]) -> float | None:
        return float(distance[paired].mean()) if paired.any() else None

    def robustness(distance: npt.NDArray[np.float64], reached: Flags) -> float | None:
        if cap is None:
            return None
        return statistics.robustness(distance / num_features, reached, row, cap)[0]

    distance, reference_distance = attempts.distance[ours], reference_attempts.distance[theirs]
    return ComparisonRecord(
        attack=attack,
        network=network,
        reference=reference,
        targets="untargeted" if np.all(attempts.target == UNTARGETED) else "targeted",
        samples=int(row.max()) + 1,
        attempts=len(ours),
        success_rate=float(success.mean()),
        reference_success_rate=float(reference_success.mean()),
        mean_distance=mean(distance),
        reference_mean_distance=mean(reference_distance),
        robustness=robustness(distance, success),
        reference_robustness=robustness(reference_distance, reference_success),
    )


def _keys(attempts: Attempts) -> npt.NDArray[np.int64]:
    """A number for each (sample, target)."""
    return attempts.sample.astype(np.int64) << 32 | (attempts.target.astype(np.int64) + 1)
