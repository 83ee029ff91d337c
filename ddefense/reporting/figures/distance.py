"""Mean distance of Carlini & Wagner's L2 attack against temperature."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddefense import records
from ddefense.attack_catalog import DECISIVE
from ddefense.reporting import lookup, outcomes, published
from ddefense.reporting.figures import style
from ddefense.reporting.verdicts import adaptive


def measured(results: records.Results) -> bool:
    """Whether `cw_l2` has a mean distance on a distilled network that learnt."""
    return bool(adaptive.distances(results))


@style.styled
def draw(results: records.Results) -> Figure:
    """Mean L2 distance in the average case, with its correlation with T; undistilled dashed.

    Args:
        results: of the run.

    Returns:
        The figure. Networks that did not learn are arrows at the lower edge.
    """
    figure = style.figure()
    axes = figure.subplots()
    color, marker, _ = style.attack(DECISIVE)
    found = adaptive.distances(results)
    axes.plot(
        list(found),
        list(found.values()),
        color=color,
        marker=marker,
        label="C&W L2, one random target per image",
    )
    highest = max(found.values())
    for network in results.distilled():
        interval = adaptive.average_interval(network)
        if network.temperature in found and interval is not None:
            axes.vlines(network.temperature, *interval, color=color, alpha=0.5, linewidth=1.5)
            highest = max(highest, interval[1])
    levels = [
        _draw_level(axes, results, results.baseline(), style.BASELINE, "--"),
        _draw_level(axes, results, results.yardstick(), style.GOOD, ":"),
    ]
    style.temperature_axis(axes, lookup.temperatures(results))
    axes.set_ylim(0, 1.15 * max(highest, *levels))
    lost = [n for n in results.distilled() if not lookup.usable(results, n)]
    style.mark_lost(axes, [(n.temperature, color) for n in lost])
    axes.text(0.01, 0.97, _correlation(found), transform=axes.transAxes, va="top", fontsize=8.5)
    axes.set_ylabel("mean L2 distance of the successes")
    name = published.dataset_name(results.dataset.name)
    axes.set_title(f"Distance to an adversarial sample on {name}, by temperature")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _draw_level(
    axes: Axes,
    results: records.Results,
    network: records.NetworkRecord | None,
    color: str,
    line: str,
) -> float:
    """A horizontal line at the distance of a network that was not distilled; its height or 0."""
    distance = adaptive.average_distance(network)
    if network is None or distance is None:
        return 0.0
    label = f"{lookup.row_label(results, network)} ({outcomes.significant(distance)})"
    axes.axhline(distance, color=color, linestyle=line, linewidth=1.2, label=label)
    return distance


def _correlation(found: dict[float, float]) -> str:
    rho = lookup.pearson(list(found), list(found.values()))
    if rho is None or len(found) < 3:
        return "No correlation: too few temperatures, or equal distances"
    return f"Pearson's rho of T with the distance: {rho:+.2f} over {len(found)} temperatures"
