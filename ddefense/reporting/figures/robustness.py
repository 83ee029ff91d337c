"""Robustness against temperature (the paper's Fig. 10)."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddefense import records
from ddefense.attack_catalog import ATTACKS
from ddefense.reporting import lookup, published
from ddefense.reporting.figures import style

_SHOWN = tuple(name for name, spec in ATTACKS.items() if "robustness" in spec.figures)
"""The attack as the paper is thought to have run it, at both thetas, and without underflow."""


@style.styled
def draw(results: records.Results) -> Figure:
    """Mean minimal distortion: as the paper counts it, without its cap, and the cap itself.

    Args:
        results: of the run.

    Returns:
        The figure. Networks that did not learn are crosses, off the lines.
    """
    figure = style.figure(4.7)
    axes = figure.subplots()
    measured = lookup.attacks_in(results)
    for attack in [a for a in _SHOWN if a in measured] or measured[:1]:
        _draw_attack(axes, results, attack)
    _draw_ceiling(axes, results)
    axes.plot([], [], color=style.INK, linestyle=(0, (4, 3)), linewidth=1, label="undistilled")
    if not all(lookup.usable(results, n) for n in results.distilled()):
        axes.plot([], [], color=style.INK, marker="x", linestyle="", label="did not learn")
    style.temperature_axis(axes, lookup.temperatures(results))
    axes.set_ylabel("mean minimal distortion, % of features")
    name = published.dataset_name(results.dataset.name)
    axes.set_title(f"Robustness on {name}, by distillation temperature")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _draw_attack(axes: Axes, results: records.Results, attack: str) -> None:
    color, marker, _ = style.attack(attack)
    name = lookup.attack_label(attack)
    networks = [n for n in results.distilled() if attack in n.robustness]
    learnt = [n for n in networks if lookup.usable(results, n)]
    axes.plot(
        [n.temperature for n in learnt],
        [100 * n.robustness[attack].capped for n in learnt],
        color=color,
        marker=marker,
        label=f"{name}, capped",
    )
    uncapped = [(n.temperature, n.robustness[attack].uncapped) for n in learnt]
    reached = [(t, 100 * value) for t, value in uncapped if value is not None]
    axes.plot(
        [t for t, _ in reached],
        [value for _, value in reached],
        color=color,
        marker=marker,
        markerfacecolor="white",
        linestyle=":",
        label=f"{name}, reached samples only",
    )
    for lost in networks:
        if lost not in learnt:
            capped = 100 * lost.robustness[attack].capped
            axes.plot(lost.temperature, capped, marker="x", color=color, linestyle="")
    before = results.baseline().robustness.get(attack)
    if before is not None:
        axes.axhline(100 * before.capped, color=color, linestyle=(0, (4, 3)), linewidth=1)


def _draw_ceiling(axes: Axes, results: records.Results) -> None:
    caps = [r.cap for n in results.networks for r in n.robustness.values()]
    if caps:
        ceiling = 100 * max(caps)
        axes.axhline(ceiling, color=style.INK, linewidth=1.2)
        axes.annotate(
            f"ceiling: the budget, {ceiling:.2f} % of the features",
            (0.0, ceiling),
            xycoords=("axes fraction", "data"),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=8.5,
        )
        axes.set_ylim(0, 1.12 * ceiling)
