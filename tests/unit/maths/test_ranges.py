"""Ranges of features, by hand."""

import numpy as np
import pytest

from ddefense.maths.ranges import from_unit, to_unit


@pytest.mark.parametrize(
    ("value_range", "ends"), [((0.0, 255.0), [0, 127.5, 255]), ((-1.0, 1.0), [-1, 0, 1])]
)
def test_there_and_back(value_range, ends):
    values = np.float32([0, 0.5, 1])
    brought = from_unit(values, value_range)
    assert brought.dtype == np.float32
    np.testing.assert_array_equal(brought, np.float32(ends))
    np.testing.assert_array_equal(to_unit(brought, value_range), values)


def test_the_unit_range_changes_no_bit():
    values = np.float32([0.1, 1 / 3, np.nextafter(np.float32(1), np.float32(0))])
    assert from_unit(values, (0.0, 1.0)) is values
    assert to_unit(values, (0, 1)) is values
