"""The passages of prose in the report that depend on the run."""

from collections.abc import Callable, Iterable

from ddefense import config as config_lib
from ddefense import evidence, markdown, records
from ddefense.reporting import lookup, outcomes, published
from ddefense.reporting.runs import Runs

READINGS = {
    "jsma_f": "The forward derivative of the softmax output F_t of the target class at T = 1, in "
    "float32; the two largest entries are changed if their sum is above 0. No product is formed, "
    "so it underflows only where the derivative itself does.",
    "jsma_f_theta_1": "As jsma_f, with theta = 1 where another theta was frozen for the dataset: a "
    "feature goes to its bound in one step. The unit of the paper's theta is unknown where the "
    "input is standardised, so both are shown.",
    "jsma_f_literal": "The equations taken literally: alpha and beta are summed from the float32 "
    "Jacobian of F, and the pair with the largest -alpha * beta is searched exactly. The product "
    "underflows long before the derivative does, so this reading fails first.",
    "jsma_f_exact": "The same quantity computed in the log domain, where nothing underflows. Its "
    "distance to the other two is what the defence owes to floating-point arithmetic.",
    "jsma_f_temperature": "F with the logits divided by the training temperature, after "
    "Carlini and Wagner (2016), whose attack also changes single pixels in either direction. It "
    "undoes the scaling that distillation left in the logits.",
    "jsma_z": "Feature pairs are chosen on the logits instead of the softmax output. It needs no "
    "softmax, but weighs all other classes alike, so large logits of irrelevant classes can veto "
    "a pair.",
}
"""What each reading of JSMA is, in two sentences."""

_TARGETED = "As the attack of the same name, towards every wrong class."
NORM_ATTACKS = {
    "fgsm": "One step of size epsilon by the sign of the gradient of the loss through the softmax "
    "at T = 1 (Goodfellow et al. 2015), away from the label. Where float32 saturates that gradient "
    "is exactly 0 and the image does not move.",
    "fgsm_temperature": "As fgsm, with the loss of the logits divided by the training temperature. "
    "That undoes the scaling that distillation left in the logits.",
    "fgsm_targeted": f"{_TARGETED} A success is the target class alone.",
    "fgsm_temperature_targeted": f"{_TARGETED} A success is the target class alone.",
    "pgd_linf": "As fgsm, in many small steps from a random start within epsilon (Madry et al. "
    "2018). It sees the same gradients, and is blinded in the same way.",
    "pgd_linf_temperature": "As pgd_linf, with the loss of the logits divided by the training "
    "temperature. That undoes the scaling that distillation left in the logits.",
    "pgd_linf_targeted": f"{_TARGETED} A success is the target class alone.",
    "pgd_linf_temperature_targeted": f"{_TARGETED} A success is the target class alone.",
    "cw_l2": "Optimisation for the smallest L2 distance at which the target's logit exceeds all "
    "others (Carlini and Wagner 2017). No softmax is in it, so nothing can saturate.",
    "cw_l0": "The same for the number of changed features. Those that matter least are put back, "
    "a few at a time, until the attack fails.",
    "cw_linf": "The same for the largest change of a feature. What is allowed shrinks until the "
    "attack fails.",
    "transfer_cw_l2": "Samples that cw_l2 made, with confidence kappa, on an undistilled "
    "substitute of another seed. The attacked network is shown them and nothing else, so it has "
    "no gradient to mask.",
    "labels_only": "A search along the decision boundary that is shown predicted classes alone "
    "(HopSkipJump, Chen et al. 2020). It uses no gradient, so none can be masked.",
}
"""What each of the other attacks is, in two sentences."""

LOWER_BOUNDS = (
    "Carlini and Wagner's attacks by optimisation, transfer between networks and other "
    "attacks that need no softmax gradients are not measured by this run: success rates here "
    "are lower bounds of what an attacker can do."
)
"""What a run that measured JSMA alone must say."""
_NEEDED = {
    "pgd_linf_temperature": "PGD on the logits / T",
    "cw_l2": "Carlini and Wagner's L2 attack",
    "transfer_cw_l2": "transfer between networks",
    "labels_only": "an attack that sees labels alone",
}


def lower_bounds(*runs: records.Results) -> str:
    """That no list of attacks is complete, and which telling ones a run did not measure."""
    found = set(outcomes.attacks_in(n for run in runs for n in run.networks))
    if found <= set(config_lib.JSMA_ATTACKS):
        return LOWER_BOUNDS
    text = (
        "Success rates are lower bounds of what an attacker can do: no list of attacks is complete."
    )
    missing = [name for attack, name in _NEEDED.items() if attack not in found]
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
    naive = rate("jsma_f")
    if naive is None:
        return _WARNING
    others = {
        "jsma_f_exact": "computed in the log domain, where nothing underflows, it reaches",
        "jsma_f_temperature": "with the logits divided by T it reaches",
        "jsma_z": "on the logits it reaches",
    }
    parts = [
        f"{text} {lookup.percent(value)}"
        for attack, text in others.items()
        if (value := rate(attack)) is not None and value > naive
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
    return "\n".join(
        f"- `{attack}` ({lookup.attack_label(attack)}): {READINGS[attack]}"
        for attack in attacks
        if attack in READINGS
    )


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
    return "\n".join(
        f"- `{attack}` ({lookup.attack_label(attack)}): {NORM_ATTACKS[attack]}"
        for attack in outcomes.attacks_in(networks)
        if attack in NORM_ATTACKS
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
