"""Rates, intervals and distances over samples and their targets."""

import numpy as np
import numpy.typing as npt
import scipy.stats

_RESAMPLES = 2000


def bootstrap_interval(per_sample: npt.NDArray[np.floating], seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean over samples.

    The targets of one sample are correlated, so samples are drawn, not attempts.

    Args:
        per_sample: one value per sample, shape [S].
        seed: of the resampling.

    Returns:
        Lower and upper end; equal if there is one sample only.
    """
    if len(per_sample) < 2:
        return float(per_sample[0]), float(per_sample[0])
    found = scipy.stats.bootstrap(
        (per_sample,),
        np.mean,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


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
