"""Accuracy change against temperature."""

from matplotlib.figure import Figure

from ddefense import records
from ddefense.reporting import lookup, published
from ddefense.reporting.figures import style


@style.styled
def draw(results: records.Results) -> Figure:
    """Test accuracy of initial and distilled networks minus that of the undistilled one.

    Networks that did not learn would squeeze the rest; they are marked at the lower edge.

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
    lost: list[tuple[float, str]] = []
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
                lost.append((temperature, color))
        shown += change
        axes.plot(t, change, color=color, marker=marker, label=kind)
    style.temperature_axis(axes, lookup.temperatures(results))
    span = max(shown) - min(shown)
    axes.set_ylim(min(shown) - 0.1 * span, max(shown) + 0.1 * span)
    style.mark_lost(axes, lost)
    axes.set_ylabel("accuracy minus undistilled, points")
    name = published.dataset_name(results.dataset.name)
    axes.set_title(f"Test accuracy on {name}, by distillation temperature")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _accuracies(results: records.Results, kind: str) -> list[tuple[float, float, bool]]:
    """(temperature, accuracy, learnt) of every network of a kind."""
    found = []
    for network in results.distilled():
        record = network.initial if kind == "initial" else network
        if record is not None:
            # What was distilled from a network that did not learn did not learn either.
            good = (
                lookup.learnt_at(results, record.test_accuracy)
                if kind == "initial"
                else lookup.usable(results, network)
            )
            found.append((network.temperature, record.test_accuracy, good))
    return found
