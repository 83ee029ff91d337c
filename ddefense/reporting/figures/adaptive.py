"""Success against temperature of attacks that see the softmax, and of those that get round it."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddefense import records
from ddefense.attack_catalog import ATTACKS
from ddefense.reporting import lookup, outcomes, published
from ddefense.reporting.figures import style
from ddefense.reporting.outcomes import Outcome

_SHOWN = tuple(name for name, spec in ATTACKS.items() if "adaptive" in spec.figures)
NAIVE = tuple(name for name in _SHOWN if name in outcomes.THROUGH_SOFTMAX)
"""They see float32 gradients through the softmax at T = 1: dashed, in cold colours."""
ADAPTIVE = tuple(name for name in _SHOWN if name not in NAIVE)
"""They know the defence or need no softmax: solid, in warm colours."""

_WIDTH = 0.6
"""How far the attacks on one network spread, as a share of the distance between networks."""

_Point = tuple[records.NetworkRecord, float, Outcome]
"""A network, where it stands on the horizontal axis, and what an attack did to it."""


def measured(results: records.Results) -> bool:
    """Whether a run has more than the readings of JSMA, which have a figure of their own."""
    return any(n.norm_attacks.keys() & {*NAIVE, *ADAPTIVE} for n in results.networks)


@style.styled
def draw(results: records.Results) -> Figure:
    """One line per attack with its intervals; networks that were not distilled are marks beside.

    Args:
        results: of the run.

    Returns:
        The figure. The networks stand at equal distances, and the attacks on one of them side by
        side, so that attacks of equal success stay apart.
    """
    figure = style.figure(5.4)
    axes = figure.subplots()
    networks = style.all_networks(results)
    shown = [a for a in (*NAIVE, *ADAPTIVE) if a in outcomes.attacks_in(networks)]
    for index, attack in enumerate(shown):
        shift = _WIDTH * ((index + 0.5) / len(shown) - 0.5)
        points = [
            (network, place + shift, found)
            for place, network in enumerate(networks)
            if (found := outcomes.outcome(network, attack)) is not None
        ]
        _draw_attack(axes, results, attack, points)
    if not all(lookup.usable(results, network) for network in networks):
        axes.plot([], [], color=style.INK, marker="x", linestyle="", label="did not learn")
    style.network_axis(axes, results, networks)
    axes.set_ylim(-3, 103)
    axes.set_ylabel("adversarial success rate, %")
    name = published.dataset_name(results.dataset.name)
    axes.set_title(f"Attacks through the softmax (dashed) and round it, on {name}")
    figure.legend(loc="outside lower center", ncols=3, handlelength=3.2)
    return figure


def _draw_attack(
    axes: Axes, results: records.Results, attack: str, points: Sequence[_Point]
) -> None:
    color, marker, _ = style.attack(attack)
    learnt = [point for point in points if lookup.usable(results, point[0])]
    for _, place, found in learnt:
        axes.vlines(place, found.low, found.high, color=color, alpha=0.45, linewidth=1.5)
    _plot(
        axes,
        [point for point in learnt if point[0].defense == "distillation"],
        color=color,
        marker=marker,
        linestyle="--" if attack in NAIVE else "-",
        label=outcomes.label(results.networks, attack),
    )
    others = [point for point in learnt if point[0].defense != "distillation"]
    _plot(axes, others, color=color, marker=marker, linestyle="")
    lost = [point for point in points if point not in learnt]
    _plot(axes, lost, color=color, marker="x", markersize=7, linestyle="")


def _plot(axes: Axes, points: Sequence[_Point], **appearance: Any) -> None:
    axes.plot(
        [place for _, place, _ in points], [found.percent for _, _, found in points], **appearance
    )
