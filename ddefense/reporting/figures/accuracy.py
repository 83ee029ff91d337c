"""Accuracy change against temperature (the paper's Fig. 8)."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddefense import records
from ddefense.reporting import lookup, published
from ddefense.reporting.figures import style


@style.styled
def draw(results: records.Results) -> Figure:
    """Test accuracy of initial and distilled networks minus that of the undistilled one.

    Networks that did not learn would squeeze the rest; they are marked at the lower edge with
    their value.

    Args:
        results: of the run.

    Returns:
        The figure, with lines `initial` and `distilled`.
    """
    figure = style.figure()
    axes = figure.subplots()
    undistilled = results.baseline().test_accuracy
    bound = published.ACCURACY_CHANGE.value
    axes.axhspan(-bound, bound, color="#F0F0F0", zorder=0, label=f"paper: within {bound:g} points")
    axes.axhline(
        0,
        color=style.BASELINE,
        linestyle="--",
        linewidth=1.2,
        label=f"undistilled ({100 * undistilled:.2f} %)",
    )
    lost: list[tuple[float, float, str]] = []
    shown: list[float] = [-bound, bound]
    for kind, color, marker in (
        ("initial", style.INITIAL, "s"),
        ("distilled", style.DISTILLED, "o"),
    ):
        t, change = [], []
        for temperature, accuracy, learnt in _accuracies(results, kind):
            value = 100 * (accuracy - undistilled)
            if learnt:
                t.append(temperature)
                change.append(value)
            else:
                lost.append((temperature, value, color))
        shown += change
        axes.plot(t, change, color=color, marker=marker, label=kind)
    style.temperature_axis(axes, lookup.temperatures(results))
    span = max(shown) - min(shown)
    axes.set_ylim(min(shown) - (0.3 if lost else 0.1) * span, max(shown) + 0.1 * span)
    _mark_lost(axes, lost)
    axes.set_ylabel("accuracy minus undistilled, points")
    axes.set_title(f"Test accuracy on {results.dataset.name}, by distillation temperature")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _accuracies(results: records.Results, kind: str) -> list[tuple[float, float, bool]]:
    """(temperature, accuracy, learnt) of every network of a kind."""
    found = []
    for network in results.distilled():
        record = network.initial if kind == "initial" else network
        if record is not None:
            good = lookup.learnt(results, record.training)
            found.append((network.temperature, record.test_accuracy, good))
    return found


def _mark_lost(axes: Axes, lost: list[tuple[float, float, str]]) -> None:
    """Arrows at the lower edge; of two networks at one temperature the labels are stacked."""
    floor = axes.get_ylim()[0]
    seen: dict[float, int] = {}
    for temperature, value, color in lost:
        row = seen.get(temperature, 0)
        seen[temperature] = row + 1
        axes.plot(temperature, floor, marker="v", color=color, markersize=8, clip_on=False)
        axes.annotate(
            f"{value:+.1f}, did not learn",
            (temperature, floor),
            xytext=(-8, 5 + 12 * row),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=color,
        )
