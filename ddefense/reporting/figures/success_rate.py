"""Adversarial success rate against temperature (the paper's Fig. 7)."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddefense import records
from ddefense.reporting import lookup, published
from ddefense.reporting.figures import style


@style.styled
def draw(results: records.Results) -> Figure:
    """One line per reading of JSMA with its interval, undistilled dashed, the paper's in grey.

    Args:
        results: of the run.

    Returns:
        The figure. The label of each line is the attack's name.
    """
    figure = style.figure(4.9)
    axes = figure.subplots()
    paper = published.SUCCESS[published.reference(results.dataset.name)]
    label = published.label(results.dataset.name)
    axes.axhline(paper.undistilled, color=style.PAPER, linestyle=(0, (4, 3)), linewidth=1)
    axes.plot(
        list(paper.percent),
        list(paper.percent.values()),
        color=style.PAPER,
        linewidth=1.2,
        marker=".",
        label=label,
    )
    for attack in lookup.attacks_in(results):
        _draw_attack(axes, results, attack)
    axes.plot([], [], color=style.INK, linestyle=(0, (4, 3)), linewidth=1, label="undistilled")
    if not all(lookup.usable(results, n) for n in results.distilled()):
        axes.plot([], [], color=style.INK, marker="x", linestyle="", label="did not learn")
    style.temperature_axis(axes, lookup.temperatures(results))
    axes.set_ylim(-3, 103)
    axes.set_ylabel("adversarial success rate, %")
    name = published.dataset_name(results.dataset.name)
    axes.set_title(f"Targeted attacks on {name}, by distillation temperature")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _draw_attack(axes: Axes, results: records.Results, attack: str) -> None:
    color, marker, line = style.attack(attack)
    networks = [n for n in results.distilled() if attack in n.attacks and lookup.usable(results, n)]
    found = [n.attacks[attack] for n in networks]
    t = [n.temperature for n in networks]
    axes.fill_between(
        t,
        [100 * a.success_interval[0] for a in found],
        [100 * a.success_interval[1] for a in found],
        color=color,
        alpha=0.15,
        linewidth=0,
    )
    axes.plot(
        t,
        [100 * a.success_rate for a in found],
        color=color,
        marker=marker,
        linestyle=line,
        label=lookup.attack_label(attack),
    )
    for lost in results.distilled():
        rate = lookup.success_percent(lost, attack)
        if rate is not None and not lookup.usable(results, lost):
            axes.plot(lost.temperature, rate, marker="x", color=color, markersize=7, linestyle="")
    undistilled = lookup.success_percent(results.baseline(), attack)
    if undistilled is not None:
        axes.axhline(undistilled, color=color, linestyle=(0, (4, 3)), linewidth=1)
