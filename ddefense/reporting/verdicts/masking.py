"""Claims about gradients, robustness, confidence and what adaptive attacks show: C10 to C16."""

import itertools

from ddefense import records
from ddefense.attack_catalog import EXACT, PAPER, TEMPERATURE
from ddefense.reporting import lookup, published
from ddefense.reporting.verdicts.verdict import (
    Check,
    Verdict,
    cannot_be_told,
    joined,
    left_out,
    same_attempts,
    theta,
    too_low,
    unless,
    unusable,
    yes_or_no,
)


def amplitude(results: records.Results) -> Verdict:
    """C10: median log10 amplitude at T = 1 minus that at T = 100, both deployed."""
    low, high = lookup.network_at(results, 1.0), lookup.network_at(results, 100.0)
    if low is None or high is None:
        return cannot_be_told("needs T = 1 and T = 100 in the run")
    before, after = low.gradients.deployed, high.gradients.deployed
    drop = before.median_log10 - after.median_log10
    return unless(
        unusable(results, low, high),
        Verdict(
            holds=yes_or_no(drop >= 20),
            ours=f"{drop:.1f} decades",
            difference=f"{drop - published.AMPLITUDE_REDUCTION.value:+.1f} decades against the "
            f"paper's best case, {drop - 20:+.1f} against the bound",
            note=f"float32 sees exactly 0 everywhere for "
            f"{lookup.percent(100 * after.float32_zero_samples, 1)} of the images at T = 100 and "
            f"{lookup.percent(100 * before.float32_zero_samples, 1)} at T = 1",
            value=drop,
            lost=lookup.lost(results, low, high),
        ),
    )


def robustness_gain(low: float, high: float) -> Check:
    """C11, C12: gain of capped robustness at the best T within [low, high] percent."""

    def check(results: records.Results) -> Verdict:
        baseline = results.baseline()
        learnt = [
            (compared, n)
            for n in results.distilled()
            if lookup.usable(results, n)
            and (compared := results.comparison(PAPER, n, baseline)) is not None
        ]
        if not learnt:
            return cannot_be_told(
                joined(
                    f"needs {PAPER} on the undistilled and on a distilled network",
                    left_out(results),
                )
            )
        gains = [
            (gain, compared, n)
            for compared, n in learnt
            if (gain := lookup.robustness_gain(compared)) is not None
        ]
        if not gains:
            return cannot_be_told("the undistilled network has robustness 0")
        gain, compared, best = max(gains, key=lambda found: found[0])
        cap = best.robustness[PAPER].cap
        ceiling = 100 * (cap / (compared.reference_robustness or cap) - 1)
        paper = published.ROBUSTNESS_GAIN[published.reference(results.dataset.name)].value
        note = joined(
            theta(baseline),
            f"the cap of {lookup.percent(100 * cap)} allows {ceiling:+.0f} % at most",
            same_attempts(compared, best.attacks[PAPER]),
            left_out(results),
        )
        return unless(
            unusable(results, baseline),
            Verdict(
                holds=yes_or_no(low <= gain <= high),
                ours=f"{gain:+.0f} % at T = {best.temperature:g}",
                difference=lookup.points(gain - paper),
                note=note,
                value=gain,
                lost=lookup.lost(results, best),
            ),
        )

    return check


def confidence_rises(results: records.Results) -> Verdict:
    """C13: confidence never falls, and ends higher, as T grows."""
    networks = [n for n in results.distilled() if lookup.usable(results, n)]
    if len(networks) < 2:
        return cannot_be_told(joined("needs two distilled networks that learnt", left_out(results)))
    values = [100 * n.confidence for n in networks]
    falls = [before - after for before, after in itertools.pairwise(values)]
    rise = values[-1] - values[0]
    fall = "" if max(falls) <= 0 else f"largest fall between neighbours {max(falls):.2f} points"
    first, last = networks[0], networks[-1]
    return Verdict(
        holds=yes_or_no(max(falls) <= 0 < rise),
        ours=f"{lookup.percent(values[0])} at T = {first.temperature:g}, "
        f"{lookup.percent(values[-1])} at T = {last.temperature:g}",
        difference=f"{lookup.points(rise)} from the lowest to the highest T",
        note=joined(fall, left_out(results)),
        value=rise,
        lost=lookup.lost(results, *networks),
    )


def logit_scale(results: records.Results) -> Verdict:
    """C14: mean abs(z) at the highest T over the undistilled network's, 30 to 150 at T = 100."""
    network, baseline = lookup.highest(results), results.baseline()
    if network is None:
        return cannot_be_told("no distilled network in the run")
    if baseline.logits.mean_abs <= 0:
        return cannot_be_told("the undistilled network's logits are all 0")
    ratio = network.logits.mean_abs / baseline.logits.mean_abs
    before, after = published.LOGIT_SCALE
    problem = unusable(results, network, baseline)
    if not problem and network.temperature != 100.0:
        problem = f"the bounds are for T = 100, the run ends at T = {network.temperature:g}"
    return unless(
        problem,
        Verdict(
            holds=yes_or_no(30 <= ratio <= 150),
            ours=f"{baseline.logits.mean_abs:.1f} -> {network.logits.mean_abs:.1f}, "
            f"x {ratio:.1f} at T = {network.temperature:g}",
            difference=f"factor {ratio / (after.value / before.value):.2f} of theirs",
            value=ratio,
            lost=lookup.lost(results, network),
        ),
    )


def logits_over_temperature(results: records.Results) -> Verdict:
    """C15: jsma_f_temperature works as well on the distilled as on the undistilled network."""
    network, baseline = lookup.highest(results), results.baseline()
    compared = None if network is None else results.comparison(TEMPERATURE, network, baseline)
    if network is None or compared is None:
        return cannot_be_told(f"needs {TEMPERATURE} on a distilled network")
    distilled, undistilled = 100 * compared.success_rate, 100 * compared.reference_success_rate
    gap = distilled - undistilled
    return unless(
        unusable(results, network, baseline) or too_low(network.temperature),
        Verdict(
            holds=yes_or_no(gap >= -10),
            ours=f"{lookup.percent(distilled)} at T = {network.temperature:g}, "
            f"{lookup.percent(undistilled)} undistilled",
            difference=f"{lookup.points(gap)} against undistilled, "
            f"{lookup.points(distilled - published.LOGITS_OVER_T_SUCCESS.value)} against theirs",
            note=joined(
                "theirs changes single pixels in either direction",
                same_attempts(compared, network.attacks[TEMPERATURE]),
            ),
            value=gap,
            lost=lookup.lost(results, network),
        ),
    )


def masking_is_numerical(results: records.Results) -> Verdict:
    """C16: jsma_f_exact at least 30 points above jsma_f at the highest T."""
    network = lookup.highest(results)
    exact = lookup.success_percent(network, EXACT)
    naive = lookup.success_percent(network, PAPER)
    if network is None or exact is None or naive is None:
        return cannot_be_told(f"needs {PAPER} and {EXACT} on a distilled network")
    gap = exact - naive
    not_stopped = f"{PAPER} is not stopped there, so nothing is masked" if naive > 70 else ""
    return unless(
        unusable(results, network) or too_low(network.temperature) or not_stopped,
        Verdict(
            holds=yes_or_no(gap >= 30),
            ours=f"{lookup.percent(exact)} exact, {lookup.percent(naive)} float32 at "
            f"T = {network.temperature:g}",
            difference=f"{lookup.points(gap)}, {gap - 30:+.2f} against the bound",
            value=gap,
            lost=lookup.lost(results, network),
        ),
    )
