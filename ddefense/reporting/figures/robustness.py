"""Robustness against temperature (the paper's Fig. 10)."""

from matplotlib.figure import Figure

from ddefense import records
from ddefense.reporting import lookup
from ddefense.reporting.figures import style


@style.styled
def draw(results: records.Results) -> Figure:
    """Mean minimal distortion: as the paper counts it, without its cap, and the cap itself.

    Args:
        results: of the run.

    Returns:
        The figure.
    """
    figure = style.figure(4.7)
    axes = figure.subplots()
    attacks = [a for a in ("jsma_f", "jsma_f_exact") if a in lookup.attacks_in(results)]
    shown = attacks or lookup.attacks_in(results)[:1]
    for attack in shown:
        color, marker, _ = style.attack(attack)
        name = lookup.attack_label(attack)
        found = [
            (n.temperature, n.robustness[attack])
            for n in results.distilled()
            if attack in n.robustness
        ]
        t = [temperature for temperature, _ in found]
        axes.plot(
            t,
            [100 * r.capped for _, r in found],
            color=color,
            marker=marker,
            label=f"{name}, capped",
        )
        reached = [(t_, 100 * r.uncapped) for t_, r in found if r.uncapped is not None]
        axes.plot(
            [t_ for t_, _ in reached],
            [value for _, value in reached],
            color=color,
            marker=marker,
            markerfacecolor="white",
            linestyle=":",
            label=f"{name}, reached samples only",
        )
        before = results.baseline().robustness.get(attack)
        if before is not None:
            axes.axhline(100 * before.capped, color=color, linestyle=(0, (4, 3)), linewidth=1)
    caps = [r.cap for n in results.networks for r in n.robustness.values()]
    if caps:
        axes.axhline(100 * max(caps), color=style.INK, linewidth=1.2)
        axes.annotate(
            f"ceiling: the budget, {100 * max(caps):.2f} % of the features",
            (0.0, 100 * max(caps)),
            xycoords=("axes fraction", "data"),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=8.5,
        )
        axes.set_ylim(0, 112 * max(caps))
    axes.plot([], [], color=style.INK, linestyle=(0, (4, 3)), linewidth=1, label="undistilled")
    style.temperature_axis(axes, lookup.temperatures(results))
    axes.set_ylabel("mean minimal distortion, % of features")
    axes.set_title(f"Robustness on {results.dataset.name}, by distillation temperature")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
