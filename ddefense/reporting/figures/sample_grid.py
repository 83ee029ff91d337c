"""Adversarial samples beside the legitimate images they started from."""

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from ddefense import records
from ddefense.attack_catalog import PAPER
from ddefense.reporting import lookup
from ddefense.reporting.figures import style

_GAP = 0.14
"""Space between images, as a share of their size."""
_MOST_CLASSES = 12
"""For more the images would be too small."""

Image = npt.NDArray[np.float32]


@style.styled
def draw(
    results: records.Results,
    samples: records.Samples,
    network: str | None = None,
    attack: str | None = None,
) -> Figure:
    """Source classes down, target classes along; the legitimate image at the left of each row.

    Args:
        results: of the run.
        samples: the attacked images and outcomes.
        network: name of the attacked network; None for the undistilled one, or the evaluated one.
        attack: name of the attack; if it was not run on the network, another one that was. None
            for jsma_f, or on an evaluated network the most successful one.

    Returns:
        The figure: successes framed, failures crossed, attempts that start in their target named.
        One sample per source class is shown, of
        the first classes if there are many.
    """
    if network is None:
        network = (results.networks[-1] if results.is_evaluation else results.baseline()).name
    record = next(n for n in results.networks if n.name == network)
    attack = _available(samples, network, attack or _usual(record))
    classes = results.dataset.class_names[:_MOST_CLASSES]
    rows = [(c, np.flatnonzero(samples.labels == c)) for c in range(len(classes))]
    shown = [(c, int(found[0])) for c, found in rows if len(found)]
    figure = style.figure(0.95 + 0.58 * max(len(shown), 2))
    axes = figure.subplots()
    axes.set_aspect("equal")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=2)
    axes.set_xlim(-0.5, len(classes) + 0.8)
    axes.set_ylim(max(len(shown), 1) - 0.5, -0.5)
    for row, (source, index) in enumerate(shown):
        _place(axes, _displayable(results, samples.images[index]), 0.0, row)
        if attack:
            _draw_row(axes, results, samples, (network, attack), (row, index, source))
    _label(axes, classes, [classes[source] for source, _ in shown])
    title = f"{lookup.attack_label(attack)} on {_description(record)}"
    axes.set_title(title if attack else "No attacked samples on this network", loc="left")
    figure.legend(
        handles=[
            Patch(facecolor="none", edgecolor=style.GOOD, linewidth=1.8, label="target reached"),
            Line2D([], [], color=style.BAD, marker="x", linestyle="", label="not reached"),
        ],
        loc="outside lower center",
        ncols=2,
    )
    return figure


def _draw_row(
    axes: Axes,
    results: records.Results,
    samples: records.Samples,
    key: tuple[str, str],
    place: tuple[int, int, int],
) -> None:
    """The adversarial images of one sample, each in the column of its target class."""
    row, index, source = place
    outcome = samples.outcomes[key]
    inside = (outcome.sample == index) & (outcome.target < _MOST_CLASSES)
    for pair in np.flatnonzero(inside):
        target = int(outcome.target[pair])
        column = target + 1.3
        _place(axes, _displayable(results, samples.adversarial(*key, pair=int(pair))), column, row)
        size = 1 - _GAP
        reached, started = bool(outcome.success[pair]), bool(outcome.started[pair])
        axes.add_patch(
            Rectangle(
                (column - size / 2, row - size / 2),
                size,
                size,
                fill=False,
                edgecolor=style.GOOD if reached else "#BBBBBB",
                linewidth=1.8 if reached else 0.8,
                zorder=3,
            )
        )
        if started:
            axes.text(column, row, "starts\nthere", ha="center", va="center", color=style.BAD)
        elif not reached:
            _cross(axes, column + 0.3, row + 0.3)
    axes.text(source + 1.3, row, "-", ha="center", va="center", color=style.PAPER)


def _cross(axes: Axes, column: float, row: float) -> None:
    """A cross with a white rim, which shows on any image."""
    for color, width in (("white", 3.6), (style.BAD, 1.6)):
        axes.plot(
            column,
            row,
            marker="x",
            color=color,
            markersize=5.5,
            markeredgewidth=width,
            linestyle="",
            zorder=4,
        )


def _place(axes: Axes, image: Image, column: float, row: int) -> None:
    half = (1 - _GAP) / 2
    axes.imshow(
        image,
        extent=(column - half, column + half, row + half, row - half),
        interpolation="nearest",
        zorder=2,
    )


def _label(axes: Axes, classes: list[str], sources: list[str]) -> None:
    long = max(len(name) for name in classes) > 3
    axes.set_xticks(
        [0.0, *(c + 1.3 for c in range(len(classes)))],
        ["original", *classes],
        rotation=40 if long else 0,
        ha="right" if long else "center",
        rotation_mode="anchor" if long else "default",
    )
    axes.set_yticks(range(len(sources)), sources)
    axes.set_xlabel("target class")
    axes.set_ylabel("source class")


def _usual(network: records.NetworkRecord) -> str:
    """The paper's attack, or where the network is not the paper's the most successful one."""
    if network.training is not None or not network.readings:
        return PAPER
    return max(network.readings, key=lambda attack: network.attacks[attack].success_rate or 0.0)


def _available(samples: records.Samples, network: str, attack: str) -> str:
    """The attack if it was run on the network, else the first that was; empty if none was."""
    found = sorted(name for of, name in samples.outcomes if of == network)
    return attack if attack in found else (found[0] if found else "")


def _displayable(results: records.Results, image: Image) -> Image:
    """The image in [0, 1] with three channels."""
    low, high = results.dataset.value_range
    scaled = np.clip((image - low) / max(high - low, 1e-12), 0, 1)
    return np.repeat(scaled, 3, axis=-1) if image.shape[-1] == 1 else scaled


def _description(network: records.NetworkRecord) -> str:
    label = lookup.network_label(network)
    if network.training is None:
        return label
    return (
        f"the distilled ({label}) network"
        if network.defense == "distillation"
        else (f"the {label} network")
    )
