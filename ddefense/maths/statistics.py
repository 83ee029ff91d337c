"""Rates, intervals and distances over samples and their targets."""

import numpy as np
import numpy.typing as npt
import scipy.stats

_RESAMPLES = 2000

# Below it, relative to the mean, a spread is rounding; scipy warns from there on.
_CONSTANT = 1e-12


def ratio_interval(
    totals: npt.NDArray[np.floating], counts: npt.NDArray[np.integer], seed: int
) -> tuple[float, float]:
    r"""95 % percentile bootstrap interval of a mean over some attempts of each sample.

    $$\frac{\sum_s \text{total}_s}{\sum_s \text{count}_s}$$

    The targets of one sample are correlated, so samples are drawn, not attempts, and each brings
    all of its attempts that count, which may be none. Draws in which nothing counts have no mean
    and are left out.

    Args:
        totals: sum over the attempts of each sample that count, shape [S].
        counts: how many they are, shape [S], not all 0.
        seed: of the resampling.

    Returns:
        Lower and upper end; equal if one sample alone has attempts that count.

    Raises:
        ValueError: if nothing counts.
    """
    if not np.any(counts):
        raise ValueError("counts: expected at least one attempt that counts, received none.")
    drawn = np.random.default_rng(seed).integers(len(counts), size=(_RESAMPLES, len(counts)))
    total, count = totals[drawn].sum(axis=1), counts[drawn].sum(axis=1)
    found = count > 0
    low, high = np.percentile(total[found] / count[found], (2.5, 97.5))
    return float(low), float(high)


def correlation(first: npt.ArrayLike, second: npt.ArrayLike) -> float | None:
    """Pearson's correlation coefficient.

    Args:
        first: values, shape [N].
        second: values paired with them, shape [N].

    Returns:
        The coefficient, in [-1, 1]; None for fewer than three pairs, of which it says nothing, and
        where one side is constant, up to rounding.

    Raises:
        ValueError: if the shapes differ.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            f"correlation: expected two lists of equal length, received shapes {a.shape} and "
            f"{b.shape}."
        )
    if len(a) < 3 or any(np.std(side) <= _CONSTANT * abs(np.mean(side)) for side in (a, b)):
        return None
    return float(scipy.stats.pearsonr(a, b).statistic)


def robustness(
    distortion: npt.NDArray[np.floating],
    success: npt.NDArray[np.bool_],
    sample: npt.NDArray[np.integer],
    cap: float,
) -> tuple[float, float | None, float]:
    r"""Mean minimal distortion over samples (the paper, section V-D).

    $$\rho = \frac{1}{S} \sum_s \min_t \Delta_{s,t}, \quad
      \Delta_{s,t} = \text{cap where the attack failed}$$

    Args:
        distortion: share of features changed by each (sample, target) pair, shape [P].
        success: whether the pair succeeded, shape [P].
        sample: sample of each pair, 0..S-1 with every sample present, shape [P].
        cap: the budget as a share of the features.

    Returns:
        The robustness with failures at the cap, as the paper computes it; the mean over samples
        with a success alone (None without one); the share of samples without any success.
    """
    minimal = np.full(int(sample.max()) + 1, np.inf)
    np.minimum.at(minimal, sample[success], distortion[success])
    reached = np.isfinite(minimal)
    uncapped = float(minimal[reached].mean()) if reached.any() else None
    return (
        float(np.where(reached, minimal, cap).mean()),
        uncapped,
        float(1 - reached.mean()),
    )
