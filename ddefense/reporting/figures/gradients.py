"""Distribution of adversarial gradient amplitude per temperature (the paper's Fig. 9)."""

import itertools

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddefense import records
from ddefense.reporting import published
from ddefense.reporting.figures import style


@style.styled
def draw(results: records.Results) -> Figure:
    """Stacked shares of test images by the amplitude that the deployed network shows at T = 1.

    Args:
        results: of the run.

    Returns:
        The figure: one stack per network, smallest amplitudes at the bottom, so that the line of
        the images whose float32 Jacobian is exactly 0 can be read on the same axis.
    """
    figure = style.figure(4.6)
    axes = figure.subplots()
    networks = [n for n in style.all_networks(results) if n.gradients is not None]
    deployed = [n.amplitude.deployed for n in networks]
    edges = deployed[0].histogram_edges_log10
    shares = 100 * np.array([record.histogram for record in deployed])
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 1, len(edges) + 1))
    position = np.arange(len(networks))
    bottom = np.zeros(len(networks))
    for index, label in enumerate(bin_labels(edges)):
        axes.bar(
            position,
            shares[:, index],
            bottom=bottom,
            width=0.72,
            color=colors[index],
            edgecolor="white",
            linewidth=0.4,
            label=label,
        )
        bottom += shares[:, index]
    _mark_zeros(axes, [100 * record.float32_zero_samples for record in deployed])
    style.network_axis(axes, results, networks)
    axes.set_ylim(0, 100)
    axes.set_ylabel("share of test images, %")
    name = published.dataset_name(results.dataset.name)
    axes.set_title(f"Adversarial gradients on {name}, deployed at T = 1")
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(
        handles[::-1],
        labels[::-1],
        loc="outside right center",
        title="mean |dF/dx| of an image",
        title_fontsize=8.5,
    )
    for text in legend.get_texts():
        text.set_parse_math(True)  # of powers of 10
    return figure


def bin_labels(edges: list[float]) -> list[str]:
    """What each of the len(edges) + 1 bins holds, smallest first."""
    if not edges:
        return ["all"]
    powers = [rf"$10^{{{edge:g}}}$" for edge in edges]
    middle = [f"{low} to {high}" for low, high in itertools.pairwise(powers)]
    return [f"below {powers[0]}", *middle, f"above {powers[-1]}"]


def _mark_zeros(axes: Axes, percent: list[float]) -> None:
    """A line across each stack at the share whose float32 Jacobian is exactly 0, if any is."""
    found = [(place, share) for place, share in enumerate(percent) if share > 0]
    if found:
        lines = axes.hlines(
            [share for _, share in found],
            [place - 0.44 for place, _ in found],
            [place + 0.44 for place, _ in found],
            color=style.BAD,
            linewidth=2.6,
            label="exactly 0 in float32\nup to this line",
            zorder=4,
        )
        lines.set_clip_on(False)
