"""Features in [0, 1], as clients send them, and in the range that a network was trained on."""

from typing import Any


def from_unit(values: Any, value_range: tuple[float, float]) -> Any:
    """Brings values in [0, 1] to a range.

    Args:
        values: a floating-point array or tensor.
        value_range: its lower and upper end.

    Returns:
        low + values (high - low); the values themselves, bit for bit, where the range is [0, 1].
    """
    low, high = value_range
    return values if (low, high) == (0.0, 1.0) else low + values * (high - low)


def to_unit(values: Any, value_range: tuple[float, float]) -> Any:
    """Brings values in a range to [0, 1]: the inverse of `from_unit`."""
    low, high = value_range
    return values if (low, high) == (0.0, 1.0) else (values - low) / (high - low)
