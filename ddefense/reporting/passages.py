"""The passages of prose in the report that depend on the run."""

from ddefense import records
from ddefense.reporting import lookup

READINGS = {
    "jsma_f": "The forward derivative of the softmax output F_t of the target class at T = 1, in "
    "float32; the two largest entries are changed if their sum is above 0. No product is formed, "
    "so it fails only when the derivative itself underflows.",
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
"""What each attack is, in two sentences."""


def warning(results: records.Results) -> str:
    """That the defence is broken, with this run's own numbers where it has them."""
    text = (
        "**Do not rely on this defence.** Defensive distillation has been broken since 2016: "
        "adaptive attacks succeed against it (Carlini and Wagner 2016, 2017). It masks gradients "
        "rather than removing adversarial samples: the logits of a distilled network are so large "
        "that its softmax saturates at T = 1, and float32 gradients of the output vanish."
    )
    own = _own_numbers(results)
    return f"{text} {own}" if own else text


def _own_numbers(results: records.Results) -> str:
    """The same attack with and without underflow at the highest temperature that learnt."""
    network = next((n for n in reversed(results.distilled()) if lookup.usable(results, n)), None)
    naive = lookup.success_percent(network, "jsma_f")
    if network is None or naive is None:
        return ""
    others = {
        "jsma_f_exact": "computed in the log domain, where nothing underflows, it reaches",
        "jsma_f_temperature": "with the logits divided by T it reaches",
        "jsma_z": "on the logits it reaches",
    }
    parts = [
        f"{text} {lookup.percent(rate)}"
        for attack, text in others.items()
        if (rate := lookup.success_percent(network, attack)) is not None
    ]
    if not parts:
        return ""
    return (
        f"In this run, at T = {network.temperature:g}, the attack reaches its target in "
        f"{lookup.percent(naive)} of the attempts when it sees float32 gradients; "
        f"{'; '.join(parts)}."
    )


def readings(results: records.Results) -> str:
    """What each attack of the run is, and that the authors' own reading is unknown."""
    attacks = lookup.attacks_in(results)
    known = [attack for attack in attacks if attack in READINGS]
    lines = [
        f"- `{attack}` ({lookup.attack_label(attack)}): {READINGS[attack]}" for attack in known
    ]
    intro = (
        "The paper attacks with the saliency maps of Papernot et al. (JSMA) and does not say how "
        "they were computed. Which of the readings of JSMA-F (`jsma_f`, `jsma_f_literal`, "
        "`jsma_f_exact`) its authors ran is unknown, so the run measures them side by side."
    )
    return "\n".join([intro, "", *lines])


def stalled(results: records.Results) -> str:
    """Which networks did not learn, or learnt late."""
    lost: list[str] = []
    late: list[str] = []
    for network in results.networks:
        stages = [("", network.training, network.test_accuracy)]
        if network.initial is not None:
            first = network.initial
            stages = [
                ("initial network, ", first.training, first.test_accuracy),
                ("distilled network, ", network.training, network.test_accuracy),
            ]
        for stage, training, accuracy in stages:
            if training.stalled:
                name = f"{stage}{lookup.network_label(network)}"
                text = f"{name} (test accuracy {lookup.percent(100 * accuracy)})"
                (late if lookup.learnt(results, training) else lost).append(text)
    if not lost and not late:
        return "Every network learnt."
    parts = []
    if lost:
        parts.append(
            f"These networks **did not learn**: {'; '.join(lost)}. Their loss ended within 1 % of "
            "guessing. They are shown, not dropped. At high "
            "T training starts slowly, because one step changes z / T by about 1 / T ** 2 as "
            "much; more steps or a warm start (some steps at T = 1) help."
        )
    if late:
        parts.append(f"These learnt late, after 3,000 steps near guessing: {'; '.join(late)}.")
    return "\n\n".join(parts)
