"""Claims about accuracy and about the attack that the paper ran: C1 to C9."""

from ddefense import config as config_lib
from ddefense import records
from ddefense.attack_catalog import PAPER
from ddefense.reporting import lookup, published
from ddefense.reporting.answers.answer import (
    Answer,
    Check,
    inconclusive,
    joined,
    left_out,
    same_attempts,
    started,
    theta,
    theta_1,
    unless,
    unusable,
    yes_or_no,
)


def baseline_accuracy(low: float, high: float) -> Check:
    """C1, C2: accuracy of the undistilled network within [low, high] percent."""

    def check(results: records.Results) -> Answer:
        baseline = results.baseline()
        paper = published.ACCURACY[published.reference(results.dataset.name)]
        value = 100 * baseline.test_accuracy
        return Answer(
            holds=yes_or_no(low <= value <= high),
            ours=lookup.percent(value),
            difference=lookup.points(value - paper.value),
            note="" if lookup.usable(results, baseline) else "the network did not learn",
            value=value,
        )

    return check


def accuracy_change(results: records.Results) -> Answer:
    """C3: largest accuracy change of a distilled network against the undistilled one.

    A network that did not learn fails the claim, whatever its accuracy. The claim is answered even
    if the undistilled network did not learn.
    """
    baseline, distilled = results.baseline(), results.distilled()
    if not distilled:
        return inconclusive("no distilled network in the run")
    changes = {n.temperature: 100 * (n.test_accuracy - baseline.test_accuracy) for n in distilled}
    worst = max(changes, key=lambda t: abs(changes[t]))
    bound = published.ACCURACY_CHANGE.value
    size = abs(changes[worst])
    notes = []
    failed = [n for n in [baseline, *distilled] if not lookup.usable(results, n)]
    learnt = {n.temperature: changes[n.temperature] for n in distilled if n not in failed}
    if failed:
        text = f"did not learn: {', '.join(lookup.network_label(n) for n in failed)}"
        if len(learnt) not in (0, len(distilled)):
            best = max(learnt, key=lambda t: abs(learnt[t]))
            text += f"; without them {lookup.points(learnt[best])} at T = {best:g}"
        notes.append(text)
    if results.dataset.name == "mnist":
        notes.append("within 0.5 points as expected" if size <= 0.5 else "more than 0.5 points")
    return Answer(
        holds=yes_or_no(size < bound and not failed),
        ours=f"{lookup.points(changes[worst])} at T = {worst:g}",
        difference=f"{size - bound:+.2f} points against the bound",
        note=joined(*notes),
        value=size,
    )


def baseline_success(low: float, high: float) -> Check:
    """C4, C5: success of jsma_f on the undistilled network within [low, high] percent."""

    def check(results: records.Results) -> Answer:
        baseline = results.baseline()
        value = lookup.success_percent(baseline, PAPER)
        if value is None:
            return inconclusive(f"{PAPER} was not run on the undistilled network")
        attack = baseline.attacks[PAPER]
        paper = published.SUCCESS[published.reference(results.dataset.name)].undistilled
        return unless(
            unusable(results, baseline),
            Answer(
                holds=yes_or_no(low <= value <= high),
                ours=f"{lookup.percent(value)} ({attack.successes}/{attack.attempts})",
                difference=lookup.points(value - paper),
                note=joined(
                    theta(baseline),
                    theta_1(baseline),
                    _calibrated(results, attack),
                    started(attack),
                ),
                value=value,
            ),
        )

    return check


def _calibrated(results: records.Results, attack: records.AttackRecord) -> str:
    """That the rate is no finding where theta was chosen by it, as any frozen theta but 1 was."""
    frozen = config_lib.frozen_theta(results.dataset.name)
    if frozen == 1 or attack.settings["theta"] != frozen:
        return ""
    return "theta was chosen by this rate at seed 0, so this is no independent check"


def masked_success(high: float) -> Check:
    """C6, C7: success of jsma_f at T = 100 of at most `high` percent."""

    def check(results: records.Results) -> Answer:
        network = lookup.network_at(results, 100.0)
        if network is None:
            return inconclusive("T = 100 is not in the run")
        value = lookup.success_percent(network, PAPER)
        if value is None:
            return inconclusive(f"{PAPER} was not run at T = 100")
        attack = network.attacks[PAPER]
        paper = published.SUCCESS[published.reference(results.dataset.name)].percent[100.0]
        return unless(
            unusable(results, network),
            Answer(
                holds=yes_or_no(value <= high),
                ours=f"{lookup.percent(value)} ({attack.successes}/{attack.attempts})",
                difference=lookup.points(value - paper),
                note=joined(
                    theta(network),
                    theta_1(network),
                    started(attack),
                    f"{attack.details['zero_maps']} failures met an all-zero forward derivative",
                ),
                value=value,
                lost=lookup.lost(results, network),
            ),
        )

    return check


def shape(results: records.Results) -> Answer:
    """C8: success falls to a quarter from T = 2 to T = 20, and falls with T throughout."""
    rates = {
        n.temperature: lookup.success_percent(n, PAPER)
        for n in results.distilled()
        if lookup.usable(results, n)
    }
    known = {t: rate for t, rate in rates.items() if rate is not None}
    # A stand-in must not make the claim easier to meet: success falls with T.
    low = min((t for t in known if 2 <= t <= 5), default=None)
    high = max((t for t in known if 10 <= t <= 20), default=None)
    if low is None or high is None or len(known) < 3:
        missing = [
            "a T from 2 to 5" if low is None else "",
            "a T from 10 to 20" if high is None else "",
            f"enough temperatures ({len(known)} of 3)" if len(known) < 3 else "",
        ]
        return inconclusive(
            joined(
                f"needs {PAPER} at three temperatures or more, one from 2 to 5 and one "
                "from 10 to 20",
                f"missing: {', '.join(part for part in missing if part)}",
                left_out(results),
            )
        )
    correlation = lookup.spearman(list(known), list(known.values()))
    compared = _between(results, high, low)
    if compared is None:
        return inconclusive("no attempt starts in its target at neither temperature")
    after, before = 100 * compared.success_rate, 100 * compared.reference_success_rate
    ratio = after / before if before > 0 else None
    notes = []
    if (low, high) != (2.0, 20.0):
        notes.append(
            f"T = {low:g} and T = {high:g} stand in for T = 2 and T = 20, which makes it harder"
        )
    if len(known) < len(results.distilled()):
        notes.append(f"networks that did not learn, or without {PAPER}, are left out")
    text = "undefined" if correlation is None else f"{correlation:+.2f}"
    falls = ratio is not None and ratio <= 0.25
    return Answer(
        holds=yes_or_no(falls and correlation is not None and correlation <= -0.8),
        ours=f"{lookup.percent(before)} at T = {low:g}, {lookup.percent(after)} at "
        f"T = {high:g}; Spearman {text}",
        difference="-" if ratio is None else f"ratio {ratio:.2f} against 0.25",
        note="; ".join(notes),
        value=ratio,
        lost=lookup.lost(results, *(n for n in results.distilled() if n.temperature in known)),
    )


def _between(
    results: records.Results, temperature: float, lower: float
) -> records.ComparisonRecord | None:
    """The paper's attack on the networks of two temperatures."""
    network, reference = (lookup.network_at(results, t) for t in (temperature, lower))
    if network is None or reference is None:
        return None
    return results.comparison(PAPER, network, reference)


def no_op_at_one(results: records.Results) -> Answer:
    """C9: distillation at T = 1 is close to no distillation under jsma_f."""
    network, baseline = lookup.network_at(results, 1.0), results.baseline()
    compared = None if network is None else results.comparison(PAPER, network, baseline)
    if network is None or compared is None:
        return inconclusive(f"needs {PAPER} at T = 1 and on the undistilled network")
    table = published.SUCCESS[published.reference(results.dataset.name)]
    distilled, undistilled = 100 * compared.success_rate, 100 * compared.reference_success_rate
    change = distilled - undistilled
    return unless(
        unusable(results, network, baseline),
        Answer(
            holds=yes_or_no(abs(change) <= 8),
            ours=f"{lookup.percent(distilled)} at T = 1, {lookup.percent(undistilled)} undistilled",
            difference=f"{lookup.points(change)} (paper "
            f"{lookup.points(table.percent[1.0] - table.undistilled)})",
            note=same_attempts(compared, network.attacks[PAPER]),
            value=change,
            lost=lookup.lost(results, network),
        ),
    )
