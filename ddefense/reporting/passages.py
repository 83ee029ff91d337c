"""The passages of prose in the report that depend on the run."""

from collections.abc import Callable, Iterable

from ddefense import evidence, markdown, records
from ddefense.attack_catalog import ATTACKS, JSMA_ATTACKS, PAPER
from ddefense.reporting import lookup, outcomes, published
from ddefense.reporting.runs import Runs

LOWER_BOUNDS = (
    "Carlini and Wagner's attacks by optimisation, transfer between networks and other "
    "attacks that need no softmax gradients are not measured by this run: success rates here "
    "are lower bounds of what an attacker can do."
)
"""What a run that measured JSMA alone must say."""


def lower_bounds(*runs: records.Results) -> str:
    """That no list of attacks is complete, and which telling ones a run did not measure."""
    found = set(outcomes.attacks_in(n for run in runs for n in run.networks))
    if found <= set(JSMA_ATTACKS):
        return LOWER_BOUNDS
    text = (
        "Success rates are lower bounds of what an attacker can do: no list of attacks is complete."
    )
    missing = [
        spec.missed_as for name, spec in ATTACKS.items() if spec.missed_as and name not in found
    ]
    return f"{text} Not measured by this run: {', '.join(missing)}." if missing else text


def verdict(results: records.Results) -> str:
    """The verdict in words, and its two answers; empty for results without one."""
    found = results.verdict
    if found is None:
        return ""
    return (
        f"{markdown.text(found.sentence)}\n\n"
        f"Does the defence mask gradients? **{_answer(found.masks_gradients)}.** Does it stop an "
        f"attacker who knows it? **{_stops(found)}.**"
    )


def verdict_of_seeds(runs: Runs) -> str:
    """The verdict of each seed; empty where no seed has one."""
    lines = [
        f"- seed {seed}: {markdown.text(results.verdict.sentence)} Masks gradients: "
        f"{_answer(results.verdict.masks_gradients).lower()}; stops an attacker who knows it: "
        f"{_stops(results.verdict).lower()}."
        for seed, results in runs.by_seed.items()
        if results.verdict is not None
    ]
    return "\n".join(lines)


def _answer(value: bool | None) -> str:
    if value is None:
        return "This run cannot tell"
    return "Yes" if value else "No"


def _stops(found: records.VerdictRecord) -> str:
    """The answer with the loss of accuracy, where it is yes at a high one."""
    if found.stops_adaptive_attacker is None:
        return _answer(None)
    return lookup.stops(found).capitalize()


_WARNING = (
    "**Do not rely on this defence.** Defensive distillation has been broken since 2016: "
    "adaptive attacks succeed against it (Carlini and Wagner 2016, 2017). It masks gradients "
    "rather than removing adversarial samples: the logits of a distilled network are so large "
    "that its softmax saturates at T = 1, and float32 gradients of the output vanish."
)


_OUTLIER_WARNING = (
    "**Do not rely on this defence.** Extended defensive distillation refuses images like those "
    "that its first network was uncertain about. An attacker who knows of the outlier class aims "
    "past it; this run's table says how often that succeeds. The formula that was trained with is "
    "unverified."
)


def warning(results: records.Results) -> str:
    """That the defence is broken, with this run's own numbers where it has them."""
    if any(network.outliers is not None for network in results.networks):
        return _OUTLIER_WARNING
    network = next((n for n in reversed(results.distilled()) if lookup.usable(results, n)), None)
    if network is None:
        return _WARNING
    return _with_numbers(
        f"In this run, at T = {network.temperature:g}{at_loss(lookup.lost(results, network))}, the "
        "attack reaches its target in",
        lambda attack: lookup.success_percent(network, attack),
    )


def warning_of_seeds(runs: Runs) -> str:
    """The same with means over the seeds at which the highest temperature learnt."""
    names = [n.name for n in runs.networks().values() if n.defense == "distillation"]
    name = next((name for name in reversed(names) if runs.learnt(name)), None)
    if name is None:
        return _WARNING
    learnt, count = len(runs.learnt(name)), len(runs.by_seed)
    which = f"{count} seeds" if learnt == count else f"{learnt} of {count} seeds that learnt"

    def mean(attack: str) -> float | None:
        found = runs.spread(name, lambda _, network: lookup.success_percent(network, attack))
        return None if found is None else found.mean

    lost = runs.spread(name, lambda results, network: lookup.lost(results, network))
    loss = "" if lost is None else at_loss(lost.mean)
    return _with_numbers(
        f"At T = {runs.networks()[name].temperature:g}{loss}, in the mean over {which}, the attack "
        "reaches its target in",
        mean,
    )


def at_loss(lost: float | None) -> str:
    """A loss of accuracy as a clause that goes on; empty where nothing was lost."""
    loss = evidence.loss_in_words(lost)
    return f", at {loss}" if loss else ""


def _with_numbers(start: str, rate: Callable[[str], float | None]) -> str:
    """The warning, and the same attack with and without underflow where the latter does better."""
    naive = rate(PAPER)
    if naive is None:
        return _WARNING
    parts = [
        f"{spec.unmasked} it reaches {lookup.percent(value)}"
        for attack, spec in ATTACKS.items()
        if spec.unmasked and (value := rate(attack)) is not None and value > naive
    ]
    if not parts:
        return _WARNING
    return (
        f"{_WARNING} {start} {lookup.percent(naive)} of the attempts when it sees float32 "
        f"gradients; {'; '.join(parts)}."
    )


def orientation(dataset: str) -> str:
    """That the paper did not use the dataset; empty where it did."""
    if dataset in published.SUCCESS:
        return ""
    return (
        f"The paper did not use {markdown.text(dataset)}. The claims about MNIST are answered "
        "**for orientation** only, and so labelled."
    )


def described_readings(attacks: list[str]) -> str:
    """What each of the attacks is, if it is a reading of JSMA."""
    return _described(attack for attack in attacks if attack in JSMA_ATTACKS)


def readings(attacks: list[str]) -> str:
    """The same, and that the authors' own reading is unknown."""
    intro = (
        "The paper attacks with the saliency maps of Papernot et al. (JSMA) and does not say how "
        "they were computed. Which of the readings of JSMA-F (`jsma_f`, `jsma_f_literal`, "
        "`jsma_f_exact`) its authors ran is unknown, so the run measures them side by side."
    )
    return f"{intro}\n\n{described_readings(attacks)}"


def norm_attacks(networks: Iterable[records.NetworkRecord]) -> str:
    """What each of the attacks measured by a norm is; empty without any."""
    names = outcomes.attacks_in(networks)
    return _described(name for name in names if name in ATTACKS and name not in JSMA_ATTACKS)


def _described(attacks: Iterable[str]) -> str:
    return "\n".join(
        f"- `{name}` ({ATTACKS[name].label}): {ATTACKS[name].text}" for name in attacks
    )


def learnt(results: records.Results) -> str:
    """Which networks did not learn, or learnt late."""
    lost, late = _lost_and_late(results)
    if not lost and not late:
        return "Every network learnt."
    parts = []
    if lost:
        parts.append(f"These networks **did not learn**: {'; '.join(lost)}. {_why_lost(results)}")
    if late:
        parts.append(f"{_LATE}: {'; '.join(late)}.")
    return "\n\n".join(parts)


def learnt_of_seeds(runs: Runs) -> str:
    """Which networks did not learn, or learnt late, by seed."""
    found = {seed: _lost_and_late(results) for seed, results in runs.by_seed.items()}
    lost = [f"- seed {seed}: {'; '.join(names)}" for seed, (names, _) in found.items() if names]
    late = [f"- seed {seed}: {'; '.join(names)}" for seed, (_, names) in found.items() if names]
    if not lost and not late:
        return "Every network learnt, at every seed."
    parts = []
    if lost:
        parts += ["These networks **did not learn**:", "\n".join(lost)]
        parts.append(f"{_why_lost(*runs.by_seed.values())} No mean counts them.")
    if late:
        parts += [f"{_LATE}:", "\n".join(late)]
    return "\n\n".join(parts)


def _why_lost(*runs: records.Results) -> str:
    """What is made of networks that did not learn, and the reason where their training tells it."""
    networks = [(results, network) for results in runs for network in results.networks]
    compared = any(network.defense == "none" for _, network in networks)
    half = "below half of the undistilled network's, or " if compared else ""
    text = (
        f"Their test accuracy is {half}not above that of guessing, so they are no evidence: they "
        "are shown, and counted nowhere."
    )
    if not any(
        network.training is not None
        and network.temperature > 1
        and not lookup.usable(results, network)
        for results, network in networks
    ):
        return text
    return (
        f"{text} At high T training starts slowly, because one step changes z / T by about "
        "1 / T ** 2 as much; more steps or a warm start (some steps at T = 1) help."
    )


_LATE = "These learnt late, after 3,000 steps near guessing"


def _lost_and_late(results: records.Results) -> tuple[list[str], list[str]]:
    """Names and accuracies of the networks that did not learn, and of those that learnt late."""
    lost: list[str] = []
    late: list[str] = []
    for network in results.networks:
        stages: list[tuple[str, records.TrainingRecord | None, float]] = [
            ("", network.training, network.test_accuracy)
        ]
        if network.initial is not None:
            first = network.initial
            stages = [
                ("initial network, ", first.training, first.test_accuracy),
                ("distilled network, ", network.training, network.test_accuracy),
            ]
        for stage, training, accuracy in stages:
            stalled = training is not None and training.stalled
            text = f"test accuracy {lookup.percent(100 * accuracy)}"
            name = f"{stage}{markdown.text(lookup.network_label(network))}"
            if not lookup.learnt_at(results, accuracy):
                cause = "; its training loss stayed near that of guessing" if stalled else ""
                lost.append(f"{name} ({text}{cause})")
            elif stalled:
                late.append(f"{name} ({text})")
    return lost, late
