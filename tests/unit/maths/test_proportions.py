"""Wilson's interval, by hand and against SciPy's."""

import pytest
import scipy.stats

from ddefense.maths.proportions import wilson_interval

Z2 = 1.959963984540054**2  # 3.84146


@pytest.mark.parametrize(
    ("successes", "number", "low", "high"),
    [
        (0, 10, 0.0, Z2 / (10 + Z2)),  # 27.75 %
        (10, 10, 10 / (10 + Z2), 1.0),
        # 3.84146 / 360 = 0.0106707: (0.455335 -+ sqrt(0.0106707 * 0.2475 + 0.0000285)) / 1.0106707
        (162, 360, 0.3994, 0.5016),
        # 0.0384146: (0.6192073 -+ sqrt(0.0384146 * 0.24 + 0.0003689)) / 1.0384146
        (60, 100, 0.5020, 0.6906),
    ],
)
def test_by_hand(successes, number, low, high):
    found = wilson_interval(successes / number, number)
    assert found == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("number", [1, 3, 37, 10_000])
def test_as_scipy_has_it(number):
    for successes in {0, 1, number // 3, number}:
        expected = scipy.stats.binomtest(successes, number).proportion_ci(method="wilson")
        assert wilson_interval(successes / number, number) == pytest.approx(tuple(expected))


def test_nothing_follows_from_no_trial():
    with pytest.raises(ValueError, match="expected 1 or more trials, received 0"):
        wilson_interval(0.5, 0)
