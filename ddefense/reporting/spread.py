"""Mean and spread of one number over several seeds."""

import dataclasses
import math
from collections.abc import Iterable
from typing import ClassVar


@dataclasses.dataclass(frozen=True)
class Spread:
    """One number over several seeds; five fields in CSV, one cell in Markdown.

    Attributes:
        mean: over the seeds.
        deviation: sample standard deviation, with n - 1; None for one seed.
        low: smallest value.
        high: largest value.
        seeds: how many have a value.
    """

    ENDINGS: ClassVar[tuple[str, ...]] = ("_mean", "_deviation", "_low", "_high", "_seeds")

    mean: float
    deviation: float | None
    low: float
    high: float
    seeds: int

    def show(self, digits: int) -> str:
        """`88.44 +- 0.52 [87.90, 89.00]`: mean, deviation, smallest and largest."""
        deviation = "-" if self.deviation is None else f"{self.deviation:.{digits}f}"
        return (
            f"{self.mean:.{digits}f} +- {deviation} [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        )


def over(values: Iterable[float | None]) -> Spread | None:
    """The spread of the values that there are.

    Args:
        values: one per seed; None where it was not measured.

    Returns:
        The spread; None without any value.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean = math.fsum(known) / len(known)
    deviation = None
    if len(known) > 1:
        deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in known) / (len(known) - 1))
    return Spread(mean, deviation, min(known), max(known), len(known))
