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
    style.temperature_axis(axes, lookup.temperatures(results) or list(paper.percent))
    axes.set_ylim(-3, 103)
    axes.set_ylabel("adversarial success rate, %")
    axes.set_title(f"Targeted attacks on {results.dataset.name}, by distillation temperature")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _draw_attack(axes: Axes, results: records.Results, attack: str) -> None:
    color, marker, line = style.attack(attack)
    networks = [n for n in results.distilled() if attack in n.attacks]
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
    for network, record in zip(networks, found, strict=True):
        if not lookup.usable(results, network):
            axes.plot(
                network.temperature,
                100 * record.success_rate,
                marker="x",
                color=style.INK,
                markersize=9,
                zorder=4,
            )
    undistilled = lookup.success_percent(results.baseline(), attack)
    if undistilled is not None:
        axes.axhline(undistilled, color=color, linestyle=(0, (4, 3)), linewidth=1)
