"""Success of every attack on every network of an evaluation."""

from matplotlib.figure import Figure

from ddefense import records
from ddefense.reporting import lookup, outcomes, published
from ddefense.reporting.figures import style

_COLOURS = (style.INITIAL, style.DISTILLED)
_HEIGHT = 0.8
"""Of the bars of one attack, as a share of the distance between attacks."""


@style.styled
def draw(results: records.Results) -> Figure:
    """One bar per attack and network with its interval; attacks in the order of the tables.

    Args:
        results: of the evaluation.

    Returns:
        The figure: attacks down, success along.
    """
    networks = results.networks
    attacks = outcomes.attacks_in(networks)
    figure = style.figure(1.4 + 0.22 * len(attacks) * (1 + len(networks)))
    axes = figure.subplots()
    thickness = _HEIGHT / len(networks)
    for index, network in enumerate(networks):
        found = [(place, outcomes.outcome(network, attack)) for place, attack in enumerate(attacks)]
        bars = [(place, outcome) for place, outcome in found if outcome is not None]
        places = [place + (index + 0.5) * thickness - _HEIGHT / 2 for place, _ in bars]
        color = _COLOURS[(index + 2 - len(networks)) % 2]
        axes.barh(
            places,
            [outcome.percent for _, outcome in bars],
            height=0.9 * thickness,
            color=color,
            label=lookup.row_label(results, network),
        )
        # A mark at the end, which shows where the bar has no length.
        ends = [outcome.percent for _, outcome in bars]
        axes.plot(ends, places, color=color, marker="o", markersize=4, linestyle="")
        axes.hlines(
            places,
            [outcome.low for _, outcome in bars],
            [outcome.high for _, outcome in bars],
            color=style.INK,
            linewidth=1,
            zorder=3,
        )
    axes.set_yticks(range(len(attacks)), [outcomes.label(networks, a) for a in attacks])
    axes.set_ylim(max(len(attacks), 1) - 0.5, -0.5)
    axes.set_xlim(-1.5, 103)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("adversarial success rate, %")
    name = published.dataset_name(results.dataset.name)
    axes.set_title(f"Attacks on {name}, with 95 % intervals")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
