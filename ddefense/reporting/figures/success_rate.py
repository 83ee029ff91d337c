"""Adversarial success rate against temperature (the paper's Fig. 7)."""

import dataclasses
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddefense import records
from ddefense.reporting import lookup, outcomes, published
from ddefense.reporting.figures import style
from ddefense.reporting.runs import Runs
from ddefense.reporting.spread import Spread


@dataclasses.dataclass(frozen=True)
class _Curve:
    """What is drawn of one attack, in percent.

    Attributes:
        attack: its name.
        points: (temperature, rate, lower end, upper end) of the networks that learnt.
        lost: (temperature, rate) of each that did not.
        undistilled: rate on the undistilled network, if it was measured there and learnt.
    """

    attack: str
    points: Sequence[tuple[float, float, float, float]]
    lost: Sequence[tuple[float, float]]
    undistilled: float | None


@style.styled
def draw(results: records.Results) -> Figure:
    """One line per reading of JSMA with its interval, undistilled dashed, the paper's in grey.

    Args:
        results: of the run.

    Returns:
        The figure. The label of each line is the attack's name.
    """
    name = published.dataset_name(results.dataset.name)
    return _draw(
        results.dataset.name,
        f"Targeted attacks on {name}, by distillation temperature",
        lookup.temperatures(results),
        [_curve(results, attack) for attack in lookup.attacks_in(results)],
    )


@style.styled
def draw_seeds(runs: Runs) -> Figure:
    """The same with the mean over seeds as a line and their range as a band.

    Args:
        runs: of the seeds.

    Returns:
        The figure. The label of each line is the attack's name.
    """
    dataset, count = runs.first.dataset.name, len(runs.by_seed)
    seeds = f"mean and range of {count} seeds" if count > 1 else "one seed"
    return _draw(
        dataset,
        f"Targeted attacks on {published.dataset_name(dataset)}, {seeds}",
        runs.temperatures(),
        [_curve_of_seeds(runs, attack) for attack in runs.attacks()],
    )


def _curve(results: records.Results, attack: str) -> _Curve:
    points, lost = [], []
    for network in results.distilled():
        found = outcomes.outcome(network, attack)
        if found is not None and lookup.usable(results, network):
            points.append((network.temperature, found.percent, found.low, found.high))
        elif found is not None:
            lost.append((network.temperature, found.percent))
    baseline = results.baseline()
    good = lookup.usable(results, baseline)
    return _Curve(attack, points, lost, lookup.success_percent(baseline, attack) if good else None)


def _curve_of_seeds(runs: Runs, attack: str) -> _Curve:
    def spread(name: str) -> Spread | None:
        return runs.spread(name, lambda _, network: lookup.success_percent(network, attack))

    points, lost, undistilled = [], [], None
    for name, network in runs.networks().items():
        found = spread(name)
        if network.defense == "none":
            undistilled = None if found is None else found.mean
        if network.defense != "distillation":
            continue
        if found is not None:
            points.append((network.temperature, found.mean, found.low, found.high))
        for pair in runs.pairs(name):
            rate = lookup.success_percent(pair[1], attack)
            if rate is not None and not lookup.usable(*pair):
                lost.append((network.temperature, rate))
    return _Curve(attack, points, lost, undistilled)


def _draw(
    dataset: str, title: str, temperatures: Sequence[float], curves: Sequence[_Curve]
) -> Figure:
    figure = style.figure(4.9)
    axes = figure.subplots()
    paper = published.SUCCESS[published.reference(dataset)]
    axes.axhline(paper.undistilled, color=style.PAPER, linestyle=(0, (4, 3)), linewidth=1)
    axes.plot(
        list(paper.percent),
        list(paper.percent.values()),
        color=style.PAPER,
        linewidth=1.2,
        marker=".",
        label=published.label(dataset),
    )
    for curve in curves:
        _draw_curve(axes, curve)
    axes.plot([], [], color=style.INK, linestyle=(0, (4, 3)), linewidth=1, label="undistilled")
    if any(curve.lost for curve in curves):
        axes.plot([], [], color=style.INK, marker="x", linestyle="", label="did not learn")
    style.temperature_axis(axes, temperatures)
    axes.set_ylim(-3, 103)
    axes.set_ylabel("adversarial success rate, %")
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _draw_curve(axes: Axes, curve: _Curve) -> None:
    color, marker, line = style.attack(curve.attack)
    t = [point[0] for point in curve.points]
    low, high = [point[2] for point in curve.points], [point[3] for point in curve.points]
    if len(t) == 1:  # a band has no width here
        axes.vlines(t, low, high, color=color, alpha=0.5, linewidth=1.4)
    else:
        axes.fill_between(t, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(
        t,
        [point[1] for point in curve.points],
        color=color,
        marker=marker,
        linestyle=line,
        label=lookup.attack_label(curve.attack),
    )
    for temperature, rate in curve.lost:
        axes.plot(temperature, rate, marker="x", color=color, markersize=7, linestyle="")
    if curve.undistilled is not None:
        axes.axhline(curve.undistilled, color=color, linestyle=(0, (4, 3)), linewidth=1)
