"""What the plots of a page show: plain numbers and words, for its script."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from ddefense import records
from ddefense.reporting import lookup, outcomes, passages
from ddefense.reporting.figures import adaptive, style
from ddefense.reporting.tables.table import Part


def plots(results: records.Results) -> dict[str, Any]:
    """The numbers behind every plot, networks in the order of the figures.

    Args:
        results: of the run.

    Returns:
        What JSON can hold. Rows name their network by its place in `networks`; rates are in
        percent, amplitudes are base-10 logarithms.
    """
    networks = style.all_networks(results)
    attacks = outcomes.attacks_in(networks)
    first = [attack for attack in attacks if attack in (*adaptive.NAIVE, *adaptive.ADAPTIVE)]
    return {
        "classes": _class_names(results, networks),
        "networks": [
            {
                "name": network.name,
                "label": lookup.row_label(results, network),
                "distilled": network.defense == "distillation",
                "learnt": lookup.usable(results, network),
            }
            for network in networks
        ],
        "attacks": [
            {
                "name": attack,
                "label": outcomes.label(networks, attack),
                "softmax": attack in outcomes.THROUGH_SOFTMAX,
                "color": style.attack(attack)[0],
                "norm": outcomes.norm(networks, attack),
                # With more lines than these nobody sees any of them.
                "shown": attack in (first or attacks),
            }
            for attack in attacks
        ],
        "success": [
            {
                "network": place,
                "attack": attack,
                "percent": found.percent,
                "low": found.low,
                "high": found.high,
                "distance": found.distance,
                "attempts": found.attempts,
                "started": found.started,
            }
            for attack in attacks
            for place, network in enumerate(networks)
            if (found := outcomes.outcome(network, attack)) is not None
        ],
        "accuracy": [
            {"network": place, "which": which, "percent": 100 * accuracy}
            for place, network in enumerate(networks)
            for which, accuracy in _accuracies(network)
        ],
        "amplitude": [
            {"network": place, "which": which, **_amplitude(gradient)}
            for place, network in enumerate(networks)
            for which, gradient in _gradients(network)
        ],
        "robustness": [
            {
                "network": place,
                "attack": attack,
                "percent": 100 * network.robustness[attack].capped,
                "cap": 100 * network.robustness[attack].cap,
            }
            for attack in attacks
            for place, network in enumerate(networks)
            if attack in network.robustness
        ],
        "confidence": [
            {"network": place, "percent": 100 * network.confidence}
            for place, network in enumerate(networks)
        ],
        "training": [
            {
                "network": place,
                "which": which,
                "loss": training.loss,
                "accuracy": [100 * share for share in training.accuracy],
            }
            for place, network in enumerate(networks)
            for which, training in _trainings(network)
        ],
    }


def _class_names(results: records.Results, networks: Sequence[records.NetworkRecord]) -> list[str]:
    names = list(results.dataset.class_names)
    return [*names, "outlier"] if any(n.outliers is not None for n in networks) else names


def _accuracies(network: records.NetworkRecord) -> list[tuple[str, float]]:
    found = [("deployed at T = 1", network.test_accuracy)]
    if network.initial is not None:
        found.insert(0, ("initial network, at T", network.initial.test_accuracy))
    return found


def _gradients(network: records.NetworkRecord) -> list[tuple[str, records.GradientRecord]]:
    if network.gradients is None:
        return []
    found = [("deployed at T = 1", network.gradients.deployed)]
    if network.temperature != 1:
        found.append(("at the training temperature", network.gradients.training))
    return found


def _amplitude(gradient: records.GradientRecord) -> dict[str, Any]:
    low, lower, upper, high = gradient.quantiles_log10
    return {
        "low": low,
        "lower": lower,
        "median": gradient.median_log10,
        "upper": upper,
        "high": high,
        "zero": 100 * gradient.float32_zero_samples,
    }


def _trainings(network: records.NetworkRecord) -> list[tuple[str, records.TrainingRecord]]:
    found = []
    if network.initial is not None:
        found.append(("initial network", network.initial.training))
    if network.training is not None:
        which = "distilled network" if network.defense == "distillation" else "network"
        found.append((which, network.training))
    return found


def curves(results: records.Results) -> list[Part]:
    """Loss and accuracy of each training by epoch, as two tables."""
    found = [
        (f"{lookup.row_label(results, network)}, {which}", training)
        for network in style.all_networks(results)
        for which, training in _trainings(network)
    ]
    measures: tuple[tuple[str, Callable[[records.TrainingRecord], list[str]]], ...] = (
        ("Training loss, nats", lambda training: [f"{loss:.4f}" for loss in training.loss]),
        (
            "Training accuracy, %",
            lambda training: [f"{100 * share:.2f}" for share in training.accuracy],
        ),
    )
    return [
        Part(
            caption,
            ["epoch", *(name for name, _ in found)],
            [True, *(False for _ in found)],
            [
                [str(epoch), *values]
                for epoch, values in enumerate(
                    itertools.zip_longest(
                        *(columns(training) for _, training in found), fillvalue="-"
                    ),
                    start=1,
                )
            ],
        )
        for caption, columns in measures
    ]


@dataclasses.dataclass(frozen=True)
class Tile:
    """One number that a reader should take away.

    Attributes:
        heading: what it is.
        value: of the defended network.
        beside: what it is compared with.
    """

    heading: str
    value: str
    beside: str


def tiles(results: records.Results) -> list[Tile]:
    """Accuracy, the paper's attack and the strongest adaptive one, on the last network that learnt.

    That is the one of the highest temperature, or the one that an evaluation is about.
    """
    network = next(
        (n for n in reversed(_defended(results)) if lookup.usable(results, n)),
        None,
    )
    if network is None:
        return []
    baseline = lookup.undistilled(results)
    compared = None
    if baseline is not None and baseline.name != network.name and lookup.usable(results, baseline):
        compared = baseline
    label = lookup.network_label(network)

    def beside(value: float | None) -> str:
        return "" if value is None else f"undistilled {lookup.percent(value, 1)}"

    accuracy = None if compared is None else 100 * compared.test_accuracy
    found = [
        Tile(
            f"Accuracy, {label}",
            lookup.percent(100 * network.test_accuracy, 1),
            f"{beside(accuracy)}{passages.at_loss(lookup.lost(results, network))}",
        )
    ]
    measured = {
        attack: outcome
        for attack in outcomes.attacks_in([network])
        if (outcome := outcomes.outcome(network, attack)) is not None
    }
    naive = next((a for a in measured if a in outcomes.THROUGH_SOFTMAX), None)
    others = [attack for attack in measured if attack not in outcomes.THROUGH_SOFTMAX]
    strongest = max(others, key=lambda attack: measured[attack].percent, default=None)
    kinds = (("Through the softmax", naive), ("Round it, the strongest", strongest))
    for kind, attack in kinds:
        if attack is None:
            continue
        before = None if compared is None else outcomes.outcome(compared, attack)
        found.append(
            Tile(
                f"{kind}: {lookup.attack_label(attack)}",
                f"{lookup.percent(measured[attack].percent, 1)} succeed",
                beside(None if before is None else before.percent),
            )
        )
    return found


def _defended(results: records.Results) -> list[records.NetworkRecord]:
    return results.networks if results.is_evaluation else results.distilled()
