"""Confidence against temperature (the paper's table of confidence on CIFAR10)."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddefense import records
from ddefense.reporting import lookup, published
from ddefense.reporting.figures import style


@style.styled
def draw(results: records.Results) -> Figure:
    """Confidence of the distilled networks, undistilled dashed, accuracy above as its limit.

    Args:
        results: of the run.

    Returns:
        The figure. The paper's values, which are unverified, appear on CIFAR10 only.
    """
    figure = style.figure()
    axes = figure.subplots()
    networks = [n for n in results.distilled() if lookup.usable(results, n)]
    t = [n.temperature for n in networks]
    axes.plot(
        t,
        [100 * n.test_accuracy for n in networks],
        color=style.INITIAL,
        marker="s",
        linewidth=1.2,
        linestyle=":",
        label="accuracy, its upper limit",
    )
    axes.plot(
        t,
        [100 * n.confidence for n in networks],
        color=style.DISTILLED,
        marker="o",
        label="confidence, distilled",
    )
    axes.axhline(
        100 * results.baseline().confidence,
        color=style.BASELINE,
        linestyle="--",
        linewidth=1.2,
        label="confidence, undistilled",
    )
    _draw_paper(axes, results)
    style.temperature_axis(axes, lookup.temperatures(results))
    lost = [n for n in results.distilled() if n not in networks]
    style.mark_lost(axes, [(n.temperature, style.DISTILLED) for n in lost])
    axes.set_ylabel("share of the test set, %")
    name = published.dataset_name(results.dataset.name)
    axes.set_title(f"Confidence on {name}, by distillation temperature")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _draw_paper(axes: Axes, results: records.Results) -> None:
    """The paper's values, which are for CIFAR10 only."""
    if results.dataset.name == "cifar10":
        axes.plot(
            list(published.CONFIDENCE),
            [value.value for value in published.CONFIDENCE.values()],
            color=style.PAPER,
            marker=".",
            linewidth=1.2,
            label="paper (unverified)",
        )
