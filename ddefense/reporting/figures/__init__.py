"""Figures of a run, one module each with `draw(results)` or `draw(results, samples)`."""

from collections.abc import Callable

from matplotlib.figure import Figure

from ddefense import records
from ddefense.reporting.figures import (
    accuracy,
    confidence,
    gradients,
    robustness,
    sample_grid,
    style,
    success_rate,
)
from ddefense.reporting.runs import Runs

FIGURES: dict[str, Callable[[records.Results], Figure]] = {
    "success_rate": success_rate.draw,
    "accuracy": accuracy.draw,
    "gradients": gradients.draw,
    "robustness": robustness.draw,
    "confidence": confidence.draw,
}
"""By file name without suffix; the sample grid, which needs the samples, comes beside them."""

FIGURES_OF_SEEDS: dict[str, Callable[[Runs], Figure]] = {"success_rate": success_rate.draw_seeds}
"""The same for several seeds."""


def draw_all(results: records.Results, samples: records.Samples) -> dict[str, Figure]:
    """Every figure of a run by file name without suffix, in the order of the report."""
    drawn = {"sample_grid": sample_grid.draw(results, samples)}
    return drawn | {name: draw(results) for name, draw in FIGURES.items()}


__all__ = ["FIGURES", "FIGURES_OF_SEEDS", "draw_all", "style"]
