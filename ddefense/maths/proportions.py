"""What a share that was counted says about the share behind it."""

import math

# The 97.5 % quantile of the standard normal distribution: 95 % lie within it on either side.
_Z = 1.959963984540054


def wilson_interval(share: float, number: int) -> tuple[float, float]:
    r"""Wilson's 95 % interval of a proportion.

    $$\frac{p + \frac{z^2}{2n} \pm z \sqrt{\frac{p (1 - p)}{n} + \frac{z^2}{4 n^2}}}
      {1 + \frac{z^2}{n}}$$

    Unlike the interval of the normal approximation it stays within [0, 1], and it has a width at
    0 and at 1.

    Args:
        share: of successes p, in [0, 1].
        number: of trials n, 1 or more.

    Returns:
        Lower and upper limit.

    Raises:
        ValueError: if there was no trial.
    """
    if number < 1:
        raise ValueError(f"number: expected 1 or more trials, received {number}.")
    spread = _Z**2 / number
    centre = share + spread / 2
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4)
    return (centre - half) / (1 + spread), (centre + half) / (1 + spread)
