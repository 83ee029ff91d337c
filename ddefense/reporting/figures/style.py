"""How the figures look: colours, sizes and fonts, and how they are saved."""

import contextlib
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from ddefense import records
from ddefense.attack_catalog import ATTACKS, OTHER_STYLE
from ddefense.reporting import lookup

P = ParamSpec("P")

WIDTH = 7.2
"""Inches; at `DPI` about the width of a README page."""
HEIGHT = 4.4
DPI = 150

INK = "#222222"
PAPER = "#8C8C8C"
BASELINE = "#222222"
GRID = "#E3E3E3"
GOOD = "#0072B2"
BAD = "#D55E00"
INITIAL = "#E69F00"
DISTILLED = "#0072B2"
_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#777777",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.0,
    "savefig.facecolor": "white",
    "figure.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "ddefense",
}


@contextlib.contextmanager
def settings(*, formulas: bool = False) -> Iterator[None]:
    """Matplotlib's defaults and this style, whatever the user's own matplotlibrc says.

    Args:
        formulas: whether dollars in a text enclose a formula: where no text is of others.
    """
    with matplotlib.style.context(["default", _SETTINGS | {"text.parse_math": formulas}]):
        yield


def styled(draw: Callable[P, Figure], *, formulas: bool = False) -> Callable[P, Figure]:
    """Draws with this style."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with settings(formulas=formulas):
            return draw(*args, **kwargs)

    return wrapped


def attack(name: str) -> tuple[str, str, str]:
    """Colour, marker and line style of an attack."""
    spec = ATTACKS.get(name)
    return OTHER_STYLE if spec is None else spec.style


def figure(height: float = HEIGHT) -> Figure:
    """An empty figure of the usual width, laid out without overlaps."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def temperature_axis(axes: Axes, temperatures: Sequence[float]) -> None:
    """A logarithmic horizontal axis with a tick at each temperature of the run."""
    axes.set_xscale("log")
    axes.set_xlabel("distillation temperature T (log scale)")
    ticks = sorted(set(temperatures)) or [1.0]
    margin = (ticks[-1] / ticks[0]) ** 0.04 if len(ticks) > 1 else 2.0
    axes.set_xlim(ticks[0] / margin, ticks[-1] * margin)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{t:g}" for t in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())


def all_networks(results: records.Results) -> list[records.NetworkRecord]:
    """The undistilled network, the distilled ones, and the adversarially trained one if any.

    Those of an evaluation as they stand in its results.
    """
    if results.is_evaluation:
        return results.networks
    yardstick = results.yardstick()
    return [results.baseline(), *results.distilled(), *([yardstick] if yardstick else [])]


def network_axis(
    axes: Axes, results: records.Results, networks: Sequence[records.NetworkRecord]
) -> None:
    """A horizontal axis with the networks at equal distances, named by their temperature.

    Those of an evaluation have names of their own.
    """
    axes.set_xticks(range(len(networks)), [_tick(results, network) for network in networks])
    axes.set_xlabel("network" if results.is_evaluation else "distillation temperature T")


def _tick(results: records.Results, network: records.NetworkRecord) -> str:
    if network.training is None:
        return lookup.row_label(results, network)
    names = {"none": "un-\ndistilled", "adversarial_training": "adver-\nsarially\ntrained"}
    name = names.get(network.defense, f"{network.temperature:g}")
    return name if lookup.usable(results, network) else f"{name}\ndid not\nlearn"


def mark_lost(axes: Axes, lost: Sequence[tuple[float, str]]) -> None:
    """Arrows at the lower edge for networks that did not learn and would squeeze the rest.

    Args:
        axes: with its vertical limits set.
        lost: (temperature, colour) of each; of two at one temperature both stay visible.
    """
    size = dict.fromkeys((temperature for temperature, _ in lost), 11.0)
    for temperature, color in lost:
        axes.plot(
            temperature,
            0.0,
            transform=axes.get_xaxis_transform(),
            marker="v",
            color=color,
            markersize=size[temperature],
            linestyle="",
            clip_on=False,
            zorder=5,
        )
        size[temperature] -= 5
    if lost:
        axes.plot(
            [], [], marker="v", color=INK, linestyle="", label="did not learn (off the scale)"
        )


def save(drawing: Figure, suffix: str, *, formulas: bool = False) -> bytes:
    """The figure as a file's bytes, the same for the same figure.

    Args:
        drawing: the figure.
        suffix: `png` or `svg`.
        formulas: as it was drawn with.

    Returns:
        The contents of the file: no date, and stable identifiers in the SVG.
    """
    buffer = io.BytesIO()
    metadata = {"Date": None} if suffix == "svg" else {"Software": None}
    with settings(formulas=formulas):
        drawing.savefig(
            buffer, format=suffix, dpi=DPI, metadata=metadata, bbox_inches="tight", pad_inches=0.08
        )
    return buffer.getvalue()
