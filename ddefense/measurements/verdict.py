"""The verdict on the defence: from the numbers of one run alone, to words."""

import dataclasses
from collections.abc import Sequence

from ddefense import evidence
from ddefense.attack_catalog import ATTACKS, DECISIVE, PAPER, by_role
from ddefense.evidence import FARTHER_LIMIT, TELLING_LIMIT
from ddefense.measurements.controls import counted, percent
from ddefense.records import (
    ComparisonRecord,
    ControlRecord,
    DatasetRecord,
    NetworkRecord,
    VerdictRecord,
    comparison_of,
)

FALL_LIMIT = 0.10
"""From this fall of jsma_f's success rate on, gradients may be called masked."""
REACHED_LIMIT = 0.9
"""An attack reaches a network if it succeeds this often, relative to the undistilled one."""
ENOUGH_SAMPLES = 20
"""On fewer samples than this the failure of an attack confirms nothing."""

ADAPTIVE_ATTACKS = by_role("decisive", "adaptive")
"""Attacks that refute the defence."""
SUPPORTING_ATTACKS = by_role("supporting", "transfer")
"""Attacks that are named beside those, and do not decide alone."""

# Of the controls, those that show masked gradients on the distilled network itself;
# `random_restarts` concerns the attack.
_SIGNS = ("zero_gradients", "iterative_beats_one_step", "unbounded_reaches_all")
# It attacks the undistilled network, so that it explains a sign and is none.
_EXPLANATION = "scaled_logits"
# Differences and products of rates are exact up to here.
_ROUNDING = 1e-9
_TOO_LITTLE = "too little was measured on it."


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Comparison:
    """One attack on the distilled network and on the undistilled one.

    Attributes:
        attack: its name.
        rate: success rate on the distilled network, a share.
        undistilled: the same on the undistilled network.
        number: attempts, the same on both.
        noun: what was attacked: `target`, for each class aimed at, or `image`.
        samples: attacked images.
        distances: mean distances on the two, in that order; None where they say nothing.
    """

    attack: str
    rate: float
    undistilled: float
    number: int
    noun: str
    samples: int
    distances: tuple[float, float] | None = None

    @property
    def telling(self) -> bool:
        """Whether the attack works at all."""
        return self.undistilled >= TELLING_LIMIT - _ROUNDING

    @property
    def succeeds(self) -> bool:
        """Whether it succeeds about as often as on the undistilled network, however far away."""
        return self.telling and self.rate >= REACHED_LIMIT * self.undistilled - _ROUNDING

    @property
    def reaches(self) -> bool:
        """Whether it succeeds as often and, if it has no bound, about as near."""
        # Success alone says nothing of an attack without a bound; the smallest distance that it
        # found says how near the boundary is.
        bounded = not ATTACKS[self.attack].minimises
        near = self.ratio is not None and self.ratio <= FARTHER_LIMIT + _ROUNDING
        return self.succeeds and (bounded or near)

    @property
    def ratio(self) -> float | None:
        """Mean distance as a multiple of the undistilled network's; None if unknown."""
        return None if self.distances is None else self.distances[0] / self.distances[1]

    def rates(self) -> str:
        """Both rates with the number of attempts, the distilled network's first."""
        return (
            f"{percent(self.rate)} of {counted(self.number, self.noun)} against "
            f"{percent(self.undistilled)}"
        )

    def brief(self) -> str:
        """The attack with its rates and, where it says something, the ratio of distances."""
        if self.ratio is None:
            return f"{self.attack} ({self.rates()})"
        return f"{self.attack} ({self.rates()}, at {self.ratio:.2f} times the distance)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Evidence:
    """What was measured on one distilled network and on the undistilled one.

    Attributes:
        temperature: T of the distilled network.
        accuracy: what it lost in accuracy, in words that go on after what it is about; empty if
            nothing.
        accuracy_lost: the same as a share of the test images.
        outlier_class: whether it has a class by which it refuses images.
        paper: the paper's attack; None unless measured on both.
        controls: checks of the distilled network for masked gradients, but for those of `shared`.
        shared: names of the checks that it and the undistilled network fail, which tell nothing.
        explanations: failed checks that explain those of `controls` that failed, if an attack that
            undoes the scale of the logits succeeds on the network itself.
        adaptive: attacks made to get round masked gradients, measured on both.
    """

    temperature: float
    accuracy: str
    accuracy_lost: float
    outlier_class: bool
    paper: _Comparison | None
    controls: list[ControlRecord]
    shared: list[str]
    explanations: list[ControlRecord]
    adaptive: list[_Comparison]

    @classmethod
    def of(
        cls,
        network: NetworkRecord,
        undistilled: NetworkRecord,
        comparisons: Sequence[ComparisonRecord],
        controls: Sequence[ControlRecord],
    ) -> "_Evidence":
        """Gathers it."""

        def compared(attack: str) -> _Comparison | None:
            found = comparison_of(comparisons, attack, network.name, undistilled.name)
            return None if found is None else _comparison(found)

        measured = map(compared, (*ADAPTIVE_ATTACKS, *SUPPORTING_ATTACKS))
        adaptive = [comparison for comparison in measured if comparison is not None]
        undone = any(c.succeeds for c in adaptive if c.attack in ADAPTIVE_ATTACKS)
        ours = [c for c in controls if c.network == network.name]
        lost = {c.name for c in controls if c.network == undistilled.name and not c.passed}
        signs = [c for c in ours if c.name in _SIGNS]
        lost_accuracy = undistilled.test_accuracy - network.test_accuracy
        return cls(
            temperature=network.temperature,
            accuracy=_accuracy(network, undistilled, lost_accuracy),
            accuracy_lost=lost_accuracy,
            outlier_class=network.outliers is not None,
            paper=compared(PAPER),
            controls=[c for c in signs if c.passed or c.name not in lost],
            shared=[c.name for c in signs if not c.passed and c.name in lost],
            explanations=[c for c in ours if c.name == _EXPLANATION and not c.passed and undone],
            adaptive=adaptive,
        )

    def failures(self) -> str:
        """What the failed checks found, and what explains them; empty if none failed."""
        failed = [c for c in self.controls if not c.passed]
        found = [*failed, *self.explanations] if failed else []
        return _joined([_failure(c, self.temperature) for c in found]) if found else ""

    def answers(self) -> int:
        """How many of the two questions it bears on."""
        adaptive = any(c.attack in ADAPTIVE_ATTACKS for c in self.adaptive)
        return (self.paper is not None and bool(self.controls)) + adaptive


def verdict(
    networks: Sequence[NetworkRecord],
    comparisons: Sequence[ComparisonRecord],
    controls: Sequence[ControlRecord],
    dataset: DatasetRecord,
) -> VerdictRecord:
    """Says whether the defence masks gradients, and whether an adaptive attacker is stopped.

    It is about the distilled network of the highest temperature on which what both need was
    measured, else what one of them needs, else the highest. Networks that did not learn, by
    `evidence.network_learnt`, are left out and named. What the network lost in accuracy comes
    first.

    Gradients are masked if `jsma_f`, the paper's attack, succeeds at least `FALL_LIMIT` less often
    than on the undistilled network and the distilled one fails a control that the undistilled one
    does not: `zero_gradients`, `iterative_beats_one_step` or `unbounded_reaches_all`. If it falls
    by less, nothing is masked, provided that it works on the undistilled network in the first
    place (`TELLING_LIMIT`).

    An attack reaches a network if it succeeds at least `REACHED_LIMIT` as often as on the
    undistilled one, where that is at least `TELLING_LIMIT`, and, if it has no bound, is known to
    need at most `FARTHER_LIMIT` times the distance. An adaptive attacker is not stopped if one of
    `ADAPTIVE_ATTACKS` reaches the network; is stopped if none of them or of `SUPPORTING_ATTACKS`
    succeeds that often at any distance, and `cw_l2` is strong enough to tell and was run on
    `ENOUGH_SAMPLES`. Otherwise there is no answer.

    Args:
        networks: of one run.
        comparisons: of one run; rates and distances are taken from them.
        controls: of one run.
        dataset: of the run: by its classes and test images networks are said to have learnt.

    Returns:
        The verdict; the same records give the same words.
    """
    undistilled = next((n for n in networks if n.defense == "none"), None)
    distilled = sorted(
        (n for n in networks if n.defense == "distillation"), key=lambda n: n.temperature
    )
    lost = [n for n in networks if not evidence.network_learnt(n, networks, dataset)]
    learnt = [n for n in distilled if n not in lost]
    if undistilled is None:
        reason = "the run has no undistilled network to compare with"
        return _no_verdict(f"{reason}, and {_names(lost)} did not learn" if lost else reason)
    if not distilled:
        return _no_verdict("the run has no distilled network")
    if undistilled in lost:
        return _no_verdict(f"{_names([undistilled])} did not learn")
    if not learnt:
        each = "; ".join(f"{_name(n)}: {_accuracies(n)}" for n in distilled)
        return _no_verdict(f"no distilled network learnt ({each})")
    found = [_Evidence.of(n, undistilled, comparisons, controls) for n in learnt]
    chosen = max(found, key=lambda e: (e.answers(), e.temperature))
    masks, first = _masking(chosen)
    start, defence = f"At T = {chosen.temperature:g}", "Defensive distillation"
    if chosen.outlier_class:
        start, defence = "With an outlier class", "Extended defensive distillation"
    stops, second = _adaptive(chosen.adaptive, defence)
    left_out = [
        f" {_capital(_name(n))} is left out: "
        + (f"it did not learn ({_accuracies(n)})." if n in lost else _TOO_LITTLE)
        for n in (*distilled, *(n for n in lost if n not in distilled))
        if n in lost or n.temperature > chosen.temperature
    ]
    return VerdictRecord(
        masks_gradients=masks,
        stops_adaptive_attacker=stops,
        sentence=f"{start}{chosen.accuracy} {first} {second}{''.join(left_out)}",
        accuracy_lost=chosen.accuracy_lost,
    )


def _no_verdict(reason: str) -> VerdictRecord:
    return VerdictRecord(
        masks_gradients=None,
        stops_adaptive_attacker=None,
        sentence=f"There is no verdict: {reason}.",
    )


def _names(networks: Sequence[NetworkRecord]) -> str:
    """Names networks with their accuracy, by which they did not learn."""
    return _joined([f"{_name(n)} ({_accuracies(n)})" for n in networks])


def _name(network: NetworkRecord) -> str:
    if network.training is None:
        return network.name
    if network.defense == "distillation":
        return f"T = {network.temperature:g}"
    adversarial = network.defense == "adversarial_training"
    return "the adversarially trained network" if adversarial else "the undistilled network"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _accuracies(network: NetworkRecord) -> str:
    """Test accuracy, and that of the network that it was distilled from."""
    own = f"{percent(network.test_accuracy)} of the test images right"
    first = network.initial
    return own if first is None else f"{own}, initial network {percent(first.test_accuracy)}"


def _accuracy(network: NetworkRecord, undistilled: NetworkRecord, lost: float) -> str:
    """What the network lost in accuracy, in a clause; empty if nothing."""
    loss = evidence.loss_in_words(lost)
    if not loss:
        return ""
    shares = f"{percent(network.test_accuracy)} against {percent(undistilled.test_accuracy)}"
    return f", at {loss} ({shares} undistilled),"


def _masking(evidence: _Evidence) -> tuple[bool | None, str]:
    """Whether gradients are masked, and a sentence that goes on after what it is about."""
    paper, controls, shared = evidence.paper, evidence.controls, ", ".join(evidence.shared)
    failures = evidence.failures()
    though = f", although {failures}" if failures else ""
    if paper is None:
        return None, (
            f"the paper's attack ({PAPER}) was not measured beside the undistilled network, "
            f"so this run does not tell whether the defence masks gradients{though}."
        )
    rates = f"the paper's attack ({PAPER}) reaches {paper.rates()} undistilled"
    if not controls:
        made = f"made that does not fail undistilled too ({shared})" if shared else "made"
        return None, (
            f"{rates}, but no check for masked gradients was {made}, so this run does not tell "
            "whether the defence masks them."
        )
    if paper.undistilled - paper.rate < FALL_LIMIT - _ROUNDING:
        if not paper.telling:
            return None, (
                f"{rates}: the attack works too rarely there to tell whether masked gradients "
                f"protect anything{though}."
            )
        return False, (
            f"{rates}: its success does not fall by {100 * FALL_LIMIT:g} points, so masked "
            f"gradients protect nothing here{though}."
        )
    if not failures:
        names = ", ".join(c.name for c in controls)
        apart = f", apart from those that fail undistilled too ({shared})" if shared else ""
        return False, f"{rates}, and no check for masked gradients failed ({names}){apart}."
    return True, f"{rates}, but {failures}: the gradients are masked."


def _failure(control: ControlRecord, temperature: float) -> str:
    """What a failed control found."""
    value, limit = percent(control.value), percent(control.limit)
    if control.name == "zero_gradients":
        images = counted(control.samples, "test image")
        return f"{value} of {images} have an all-zero float32 gradient"
    images = counted(control.samples, "image")
    if control.name == "scaled_logits":
        return (
            f"multiplying the logits of the undistilled network by {temperature:g} alone lowers "
            f"its success there to {value} ({images})"
        )
    if control.name == "iterative_beats_one_step":
        return f"PGD reaches {value} of {images}, fewer than the {limit} of one step to epsilon"
    return f"PGD without a bound reaches only {value} of {images}"


def _adaptive(compared: Sequence[_Comparison], defence: str) -> tuple[bool | None, str]:
    """Whether an attacker who knows the defence is stopped, and that in sentences."""
    reached = [c for c in compared if c.reaches]
    beyond = [c for c in compared if c.succeeds and not c.reaches]
    refuting = next((c for c in reached if c.attack in ADAPTIVE_ATTACKS), None)
    if refuting is not None:
        others = [c.brief() for c in reached if c is not refuting]
        also = f" The network is also reached by {_joined(others)}." if others else ""
        return False, (
            f"An attacker who {ATTACKS[refuting.attack].attacker} ({refuting.attack}) still "
            f"reaches {refuting.rates()} undistilled{_farther(refuting)}{_few(refuting)}.{also}"
            f"{_beyond(beyond)} {defence} does not stop an adaptive attacker."
        )
    if not compared:
        return None, (
            "No attack made to get round masked gradients was measured beside the undistilled "
            "network, so this run does not tell whether an adaptive attacker is stopped."
        )
    measured = _joined([c.brief() for c in compared])
    numbers = (
        "Attacks made to get round masked gradients, each against its rate undistilled: "
        f"{measured}."
    )
    unclear = _unclear(compared, reached, beyond)
    if unclear:
        none = "" if any(c.rate for c in compared) else " None of them did."
        return None, (
            f"{numbers}{none} That does not tell whether an adaptive attacker is stopped: "
            f"{unclear}."
        )
    return True, (
        f"{numbers} None succeeds {100 * REACHED_LIMIT:g} % as often as undistilled, but that the "
        "attacks measured here fail proves no robustness."
    )


def _unclear(
    compared: Sequence[_Comparison], reached: Sequence[_Comparison], beyond: Sequence[_Comparison]
) -> str:
    """Why attacks of which none refutes the defence do not confirm it either; empty if they do."""
    decisive = next((c for c in compared if c.attack == DECISIVE), None)
    if decisive is None:
        return f"{DECISIVE} was not measured"
    if not decisive.telling:
        return f"{DECISIVE} succeeds too rarely on the undistilled network"
    reasons = [
        f"the distances of {c.attack} do not compare"
        if c.ratio is None
        else f"{c.attack} needs {c.ratio:.2f} times the distance, which makes it harder and proves "
        "no robustness"
        for c in beyond
    ]
    if reached:
        but = "" if decisive.succeeds else f", though not by {DECISIVE}"
        reasons.append(f"the network is reached by {_joined([c.attack for c in reached])}{but}")
    if not reasons and decisive.samples < ENOUGH_SAMPLES:
        reasons.append(
            f"too few samples to say ({decisive.samples} for {DECISIVE}, at least "
            f"{ENOUGH_SAMPLES} are needed)"
        )
    return "; ".join(reasons)


def _beyond(beyond: Sequence[_Comparison]) -> str:
    """Attacks that succeed as often, but not within `FARTHER_LIMIT`, in sentences of their own."""
    known = [c.brief() for c in beyond if c.ratio is not None]
    unknown = [c.brief() for c in beyond if c.ratio is None]
    far = f" Only farther away is the network reached by {_joined(known)}." if known else ""
    if not unknown:
        return far
    return f"{far} At distances that do not compare the network is reached by {_joined(unknown)}."


def _few(comparison: _Comparison) -> str:
    """That the attack was run on few samples; empty if on enough."""
    few = comparison.samples < ENOUGH_SAMPLES
    return f", on few samples ({comparison.samples})" if few else ""


def _farther(comparison: _Comparison) -> str:
    """How much farther the images of `cw_l2` are; empty for attacks that do not say."""
    if comparison.distances is None:
        return ""
    distance, undistilled = comparison.distances
    reached = "random targets" if comparison.noun == "target" else "images"
    return (
        f", at {distance / undistilled:.2f} times the mean L2 distance ({distance:#.3g} against "
        f"{undistilled:#.3g} over the {reached} reached on both)"
    )


def _comparison(found: ComparisonRecord) -> _Comparison:
    return _Comparison(
        attack=found.attack,
        rate=found.success_rate,
        undistilled=found.reference_success_rate,
        number=found.attempts,
        noun="image" if found.targets == "untargeted" else "target",
        samples=found.samples,
        distances=_distances(found) if ATTACKS[found.attack].minimises else None,
    )


def _distances(found: ComparisonRecord) -> tuple[float, float] | None:
    """Mean distances of what succeeds on both, over random targets, or images without targets.

    None where either network is reached less often than `REACHED_LIMIT`: what succeeds on both
    would be the easier part.
    """
    if min(found.success_rate, found.reference_success_rate) < REACHED_LIMIT - _ROUNDING:
        return None
    distance, undistilled = found.mean_distance, found.reference_mean_distance
    return (distance, undistilled) if distance is not None and undistilled else None


def _joined(parts: Sequence[str]) -> str:
    """Parts as `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
