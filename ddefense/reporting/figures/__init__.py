"""Figures of a run, one module each with `draw(results)` or `draw(results, samples)`."""

from collections.abc import Callable

from matplotlib.figure import Figure

from ddefense import records
from ddefense.reporting import lookup
from ddefense.reporting.figures import (
    accuracy,
    adaptive,
    attack_rates,
    confidence,
    distance,
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
FIGURES_OF_NORM_ATTACKS = {"adaptive": adaptive, "distance": distance}
"""The same for figures that not every run has data for, as modules with `measured(results)`."""

FIGURES_OF_EVALUATION: dict[str, Callable[[records.Results], Figure]] = {
    "attack_rates": attack_rates.draw,
    "gradients": gradients.draw,
}
"""The same for networks that the run did not train; the sample grid comes with readings of JSMA."""

FIGURES_OF_SEEDS: dict[str, Callable[[Runs], Figure]] = {"success_rate": success_rate.draw_seeds}
"""The same for several seeds."""


def draw_all(results: records.Results, samples: records.Samples) -> dict[str, Figure]:
    """Every figure that a run has data for, by file name without suffix."""
    if results.is_evaluation:
        of_samples = {"sample_grid": sample_grid.draw(results, samples)} if samples.outcomes else {}
        drawn = {name: draw(results) for name, draw in _of_evaluation(results).items()}
        return of_samples | drawn
    drawn = {"sample_grid": sample_grid.draw(results, samples)}
    drawn |= {name: draw(results) for name, draw in FIGURES.items()}
    for name, module in FIGURES_OF_NORM_ATTACKS.items():
        if module.measured(results):
            drawn[name] = module.draw(results)
    return drawn


def names(results: records.Results) -> set[str]:
    """Names of the figures that `draw_all` draws."""
    if results.is_evaluation:
        of_samples = {"sample_grid"} if lookup.attacks_in(results) else set()
        return of_samples | {*_of_evaluation(results)}
    further = {name for name, m in FIGURES_OF_NORM_ATTACKS.items() if m.measured(results)}
    return {"sample_grid", *FIGURES} | further


def _of_evaluation(results: records.Results) -> dict[str, Callable[[records.Results], Figure]]:
    """Those of `FIGURES_OF_EVALUATION` that there are data for."""
    drawn = dict(FIGURES_OF_EVALUATION)
    if all(network.gradients is None for network in results.networks):
        del drawn["gradients"]
    return drawn


__all__ = [
    "FIGURES",
    "FIGURES_OF_EVALUATION",
    "FIGURES_OF_NORM_ATTACKS",
    "FIGURES_OF_SEEDS",
    "draw_all",
    "names",
    "style",
]
