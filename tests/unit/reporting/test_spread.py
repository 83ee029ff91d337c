import pytest

from ddefense.reporting import spread
from ddefense.reporting.spread import Spread


def test_mean_deviation_and_range():
    # Mean 7 / 3; squares 16 / 9, 1 / 9, 25 / 9 sum to 42 / 9, over n - 1 = 2.
    found = spread.over([1.0, 4.0, 2.0])
    assert found == Spread(pytest.approx(7 / 3), pytest.approx((21 / 9) ** 0.5), 1.0, 4.0, 3)
    assert found.show(2) == "2.33 +- 1.53 [1.00, 4.00]"


def test_what_was_not_measured_is_not_counted():
    assert spread.over([None, 3.0, None, 5.0]) == Spread(4.0, pytest.approx(2**0.5), 3.0, 5.0, 2)
    assert spread.over([None, None]) is None
    assert spread.over([]) is None


def test_one_seed_has_no_deviation():
    assert spread.over([3.0]) == Spread(3.0, None, 3.0, 3.0, 1)
    assert spread.over([3.0]).show(1) == "3.0 +- - [3.0, 3.0]"


def test_equal_values_deviate_by_nothing():
    assert spread.over([0.1] * 3).deviation == pytest.approx(0, abs=1e-15)
