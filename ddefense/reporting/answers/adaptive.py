"""Claims about attacks that know the defence or need no softmax of it: C17 to C19."""

from collections.abc import Collection

from ddefense import evidence, records
from ddefense.attack_catalog import DECISIVE, TRANSFER
from ddefense.reporting import lookup, published
from ddefense.reporting.answers.answer import (
    Answer,
    inconclusive,
    joined,
    left_out,
    same_attempts,
    too_low,
    unless,
    unusable,
    yes_or_no,
)

_FEWEST_TEMPERATURES = 4
# Percent: success of cw_l2, and misclassified transferred samples.
_SUCCESS = 99.0
_MISCLASSIFIED = 90.0
# Of the mean distances.
_NEAREST = 0.8


def carlini_wagner(results: records.Results) -> Answer:
    """C17: cw_l2 reaches the distilled network, at about the undistilled one's distance."""
    network, baseline = lookup.highest(results), results.baseline()
    attack = None if network is None else network.attacks.get(DECISIVE)
    compared = None if network is None else results.comparison(DECISIVE, network, baseline)
    if network is None or attack is None or compared is None:
        return inconclusive(
            f"needs {DECISIVE} on the undistilled and on the highest-temperature network"
        )
    before, after = compared.reference_mean_distance, compared.mean_distance
    rate, undistilled = 100 * compared.success_rate, 100 * compared.reference_success_rate
    ratio = after / before if before and after is not None else None
    if ratio is None and rate >= _SUCCESS:
        return inconclusive(
            f"needs a mean distance above 0 of {DECISIVE} on the undistilled network"
        )
    settings = results.config
    return unless(
        unusable(results, network, baseline)
        or too_low(network.temperature)
        or _too_weak(rate, undistilled),
        Answer(
            holds=yes_or_no(
                rate >= _SUCCESS
                and ratio is not None
                and _NEAREST <= ratio <= evidence.FARTHER_LIMIT
            ),
            ours=f"{lookup.percent(rate)} of {compared.attempts} attempts at "
            f"T = {network.temperature:g}; {_mean_distances(before, after)}",
            difference=f"{lookup.points(rate - published.CARLINI_WAGNER_SUCCESS.value)}; "
            + _against_theirs(results, ratio),
            note=joined(
                f"{compared.samples} images"
                if ratio is None
                else f"the means are over one random target of each of {compared.samples} images, "
                "where both networks are reached",
                same_attempts(compared, attack),
                f"at most {settings.cw_steps} steps at each of {settings.cw_search_steps} "
                f"constants, learning rate {settings.cw_learning_rate:g} "
                "(theirs: 10,000 at 9, 0.01)",
            ),
            value=ratio,
            lost=lookup.lost(results, network),
        ),
    )


def _mean_distances(before: float | None, after: float | None) -> str:
    """Both mean distances with their ratio, as far as there are any."""
    if not before or after is None:
        return "no mean L2 to compare"
    return f"mean L2 {after:.2f} against {before:.2f} undistilled, x {after / before:.2f}"


def average_distance(network: records.NetworkRecord | None) -> float | None:
    """Mean L2 distance of cw_l2 in the average case, one random target per image; else None."""
    case = _average_case(network)
    return None if case is None else case.mean_distance


def average_interval(network: records.NetworkRecord) -> tuple[float, float] | None:
    """The 95 % interval of `average_distance`."""
    case = _average_case(network)
    return None if case is None else case.distance_interval


def _average_case(network: records.NetworkRecord | None) -> records.CaseRecord | None:
    attack = None if network is None else network.attacks.get(DECISIVE)
    return None if attack is None else attack.average


def _too_weak(rate: float, undistilled: float) -> str:
    """That failures are the attack's own, because it fails without a defence too, as a note."""
    if rate >= _SUCCESS or undistilled >= _SUCCESS:
        return ""
    return f"the attack reaches {lookup.percent(undistilled)} undistilled: too few steps to tell"


def _against_theirs(results: records.Results, ratio: float | None) -> str:
    if ratio is None:
        return "no ratio"
    undistilled, distilled = published.CARLINI_WAGNER[published.reference(results.dataset.name)][
        DECISIVE
    ]
    theirs = distilled.best.value / undistilled.best.value
    return f"ratio {ratio / theirs:.2f} of theirs (best case, x {theirs:.2f})"


def distance_by_temperature(results: records.Results) -> Answer:
    """C18: the mean distance of cw_l2 is not correlated with T."""
    found = distances(results)
    without = joined(_rarely_reached(results), left_out(results))
    if len(found) < _FEWEST_TEMPERATURES:
        return inconclusive(
            joined(
                f"needs {DECISIVE} at {_FEWEST_TEMPERATURES} temperatures or more, "
                f"has {len(found)}",
                without,
            )
        )
    correlation = lookup.pearson(list(found), list(found.values()))
    if correlation is None:
        return inconclusive("every mean distance is the same, so there is no correlation")
    few = len(found) < len(published.SUCCESS["mnist"].percent)
    return Answer(
        holds=yes_or_no(abs(correlation) < 0.5),
        ours=f"rho = {correlation:+.2f} over {len(found)} temperatures",
        difference=f"{correlation - published.DISTANCE_CORRELATION.value:+.2f}",
        note=joined(
            f"over {len(found)} temperatures, {_samples(results, found)} at each, one random "
            "target each",
            f"mean L2 {min(found.values()):.2f} to {max(found.values()):.2f}",
            "theirs is over 9 temperatures: over fewer, chance often makes abs(rho) large"
            if few
            else "",
            without,
        ),
        value=correlation,
        lost=lookup.lost(results, *(n for n in results.distilled() if n.temperature in found)),
    )


def distances(results: records.Results) -> dict[float, float]:
    """Mean L2 distance of cw_l2 (average case) by temperature, of the networks that learnt.

    Left out are networks reached in less than 99 % of the images: their means are over the pairs
    that are easy to reach, and do not compare.
    """
    return {
        network.temperature: distance
        for network in results.distilled()
        if lookup.usable(results, network)
        and (case := _average_case(network)) is not None
        and case.success_rate is not None
        and 100 * case.success_rate >= _SUCCESS
        and (distance := case.mean_distance) is not None
    }


def _rarely_reached(results: records.Results) -> str:
    """Names the temperatures that `distances` leaves out for their success, as a note."""
    names = [
        f"{lookup.network_label(network)} ({lookup.percent(100 * (case.success_rate or 0.0))})"
        for network in results.distilled()
        if lookup.usable(results, network)
        and (case := _average_case(network)) is not None
        and case.success_rate is not None
        and 100 * case.success_rate < _SUCCESS
    ]
    if not names:
        return ""
    return f"left out because {DECISIVE} reaches less than {_SUCCESS:g} % there: {', '.join(names)}"


def _samples(results: records.Results, temperatures: Collection[float]) -> str:
    """Images attacked by cw_l2 at each of the temperatures, as `20 images`."""
    numbers = [
        network.attacks[DECISIVE].samples
        for network in results.distilled()
        if network.temperature in temperatures
    ]
    few, many = min(numbers), max(numbers)
    range_of = f"{few}" if few == many else f"{few} to {many}"
    return f"{range_of} image{'' if many == 1 else 's'}"


def transfer(results: records.Results) -> Answer:
    """C19: samples of an undistilled substitute, at kappa = 40, fool the distilled network."""
    network, baseline = lookup.highest(results), results.baseline()
    kappa = published.TRANSFER_KAPPA.value
    enough = [] if network is None else [r for r in network.transfer if r.kappa >= kappa]
    if network is None or not enough:
        return inconclusive(f"needs {TRANSFER} with kappa = {kappa:g} or more")
    record = min(enough, key=lambda r: r.kappa)
    if record.misclassified is None or record.misclassified_interval is None:
        return inconclusive("the network gets every image wrong unchanged")
    rate, reached = 100 * record.misclassified, 100 * (record.reached or 0.0)
    low, high = record.misclassified_interval
    undistilled = next((r for r in baseline.transfer if r.kappa == record.kappa), None)
    crafted = 100 * record.crafted
    few = f"only {lookup.percent(crafted)} fool the substitute itself: too few to tell"
    return unless(
        unusable(results, network)
        or too_low(network.temperature)
        or (few if max(rate, crafted) < _MISCLASSIFIED else ""),
        Answer(
            holds=yes_or_no(rate >= _MISCLASSIFIED),
            ours=f"{lookup.percent(rate)} misclassified at T = {network.temperature:g}, "
            f"kappa = {record.kappa:g}",
            difference=f"{lookup.points(rate - 100)} against about 100 %",
            note=joined(
                f"of {record.samples - record.started} images, [{100 * low:.1f}, {100 * high:.1f}]",
                f"{lookup.percent(reached)} reach the target",
                f"{lookup.percent(crafted)} fool the substitute",
                ""
                if undistilled is None or undistilled.misclassified is None
                else f"{lookup.percent(100 * undistilled.misclassified)} misclassified undistilled",
            ),
            value=rate,
            lost=lookup.lost(results, network),
        ),
    )
