"""Finding things in the records of a run, and turning numbers into text."""

import math
from collections.abc import Mapping, Sequence

from ddefense import evidence, records
from ddefense.attack_catalog import ATTACKS, JSMA_ATTACKS


def attack_label(attack: str) -> str:
    """The readable name of an attack; an unknown one keeps its own."""
    spec = ATTACKS.get(attack)
    return attack if spec is None else spec.label


def told(answer: bool | None) -> str:
    """The answer to a question; None if it is inconclusive."""
    return "inconclusive" if answer is None else "yes" if answer else "no"


def attacks_in(results: records.Results) -> list[str]:
    """Readings of JSMA measured on any network, in the order of the catalogue."""
    found = {attack for network in results.networks for attack in network.readings}
    known = [attack for attack in JSMA_ATTACKS if attack in found]
    return known + sorted(found - set(known))


def network_at(results: records.Results, temperature: float) -> records.NetworkRecord | None:
    """The distilled network of a temperature, if the run has it."""
    return next((n for n in results.distilled() if n.temperature == temperature), None)


def highest(results: records.Results) -> records.NetworkRecord | None:
    """The distilled network of the highest temperature, if there is any."""
    distilled = results.distilled()
    return distilled[-1] if distilled else None


def temperatures(results: records.Results) -> list[float]:
    """Distillation temperatures of the run, rising."""
    return [network.temperature for network in results.distilled()]


def undistilled(results: records.Results) -> records.NetworkRecord | None:
    """The undistilled network, which an evaluation may lack."""
    return next((n for n in results.networks if n.defense == "none"), None)


def network_label(network: records.NetworkRecord) -> str:
    """`undistilled`, the temperature as `T = 20`, or `adversarially trained`.

    A network that was not trained by the run has its name, and the temperature if it is known, or
    that it has an outlier class.
    """
    if network.outliers is not None:
        return f"{network.name} (outlier class)"
    if network.training is None:
        distilled = network.defense == "distillation"
        return f"{network.name} (T = {network.temperature:g})" if distilled else network.name
    if network.defense == "distillation":
        return f"T = {network.temperature:g}"
    return "undistilled" if network.defense == "none" else "adversarially trained"


def checked(results: records.Results, check: records.ControlRecord) -> str:
    """The label of what a check measured; a network that the run does not have keeps its name."""
    network = next((n for n in results.networks if n.name == check.network), None)
    if network is None:
        return check.network
    baseline = undistilled(results)
    if check.name == "scaled_logits" and baseline is not None:
        return f"{row_label(results, baseline)}, logits times {network.temperature:g}"
    return row_label(results, network)


def row_label(results: records.Results, network: records.NetworkRecord) -> str:
    """The network's label; where it did not learn, that goes with it into every table."""
    label = network_label(network)
    return label if usable(results, network) else f"{label} (did not learn)"


def success_percent(network: records.NetworkRecord | None, attack: str) -> float | None:
    """Adversarial success rate in percent; None if the attack was not run on the network.

    None too if every attempt starts in its target.
    """
    found = None if network is None else network.attacks.get(attack)
    if found is None or found.success_rate is None:
        return None
    return 100 * found.success_rate


def robustness_gain(compared: records.ComparisonRecord) -> float | None:
    """Gain in robustness over the other network in percent; None if that has none, or unknown."""
    if compared.robustness is None or not compared.reference_robustness:
        return None
    return 100 * (compared.robustness / compared.reference_robustness - 1)


def learnt_at(results: records.Results, accuracy: float) -> bool:
    """Whether a network of the run learnt that has this test accuracy."""
    return evidence.learnt(
        [accuracy],
        images=results.dataset.num_test,
        classes=len(results.dataset.class_names),
        undistilled=evidence.undistilled_accuracy(results.networks),
    )


def usable(results: records.Results, network: records.NetworkRecord) -> bool:
    """Whether the network, and the one it was distilled from, learnt."""
    return evidence.network_learnt(network, results.networks, results.dataset)


def all_usable(results: records.Results) -> bool:
    """Whether every network of the run learnt."""
    return all(usable(results, network) for network in results.networks)


def lost(results: records.Results, *networks: records.NetworkRecord) -> float | None:
    """The largest loss of accuracy of the networks, a share; None without any to compare."""
    losses = [evidence.accuracy_lost(network, results.networks) for network in networks]
    return max((loss for loss in losses if loss is not None), default=None)


def after_losses(title: str, losses: Mapping[str, float | None]) -> str:
    """A title of success rates, after the high losses of accuracy, by the labels of networks."""
    costly = {label: lost for label, lost in losses.items() if evidence.costly(lost)}
    return "".join(f"{each}: {evidence.loss_in_words(costly[each])}. " for each in costly) + title


def stops(verdict: records.VerdictRecord | None) -> str:
    """Whether an adaptive attacker is stopped, and at which loss of accuracy if at a high one."""
    if verdict is None:
        return told(None)
    answer = told(verdict.stops_adaptive_attacker)
    return (
        f"{answer}, at {evidence.loss_in_words(verdict.accuracy_lost)}"
        if bought(verdict)
        else answer
    )


def bought(verdict: records.VerdictRecord) -> bool:
    """Whether an adaptive attacker is stopped at a high loss of accuracy."""
    return verdict.stops_adaptive_attacker is True and evidence.costly(verdict.accuracy_lost)


def pearson(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation; None if either is constant."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    a, b = _centred(first), _centred(second)
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation with mean ranks for ties; None if either is constant."""
    return pearson(_ranks(first), _ranks(second))


def _centred(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [value - mean for value in values]


def _ranks(values: Sequence[float]) -> list[float]:
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def percent(value: float | None, digits: int = 2) -> str:
    """A number that already is in percent, as `95.89 %`; `-` for None."""
    return "-" if value is None else f"{value:.{digits}f} %"


def points(value: float | None) -> str:
    """A signed difference of percentages, as `+1.20 points`; `-` for None."""
    return "-" if value is None else f"{value:+.2f} points"


def duration(seconds: float) -> str:
    """Seconds as `42 s`, `12 min 5 s` or `3 h 7 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
