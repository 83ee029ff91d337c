"""Rates, intervals and distances, by hand."""

import numpy as np
import pytest

from ddefense.maths import statistics

CAP = 0.2


def test_robustness_takes_the_easiest_target_and_counts_failures_at_the_cap():
    # Sample 0: 0.10 and 0.04 succeed. Sample 1: 0.02 failed, 0.06 succeeds. Sample 2: none.
    capped, uncapped, unreached = statistics.robustness(
        np.array([0.10, 0.04, 0.02, 0.06, 0.01, 0.03]),
        np.array([True, True, False, True, False, False]),
        np.array([0, 0, 1, 1, 2, 2]),
        CAP,
    )
    assert capped == pytest.approx((0.04 + 0.06 + 0.2) / 3)
    assert uncapped == pytest.approx((0.04 + 0.06) / 2)
    assert unreached == pytest.approx(1 / 3)


def test_robustness_counts_a_success_without_any_change_as_zero():
    capped, uncapped, unreached = statistics.robustness(
        np.array([0.0, 0.1]), np.array([True, True]), np.array([0, 0]), CAP
    )
    assert (capped, uncapped, unreached) == (0, 0, 0)


def test_robustness_is_the_cap_where_nothing_succeeds():
    capped, uncapped, unreached = statistics.robustness(
        np.array([0.0, 0.0, 0.0]), np.zeros(3, bool), np.array([0, 1, 1]), CAP
    )
    assert capped == pytest.approx(CAP)
    assert uncapped is None
    assert unreached == 1


def test_robustness_does_not_depend_on_the_order_of_pairs():
    rng = np.random.default_rng(0)
    distortion, success = rng.random(30) * CAP, rng.random(30) < 0.5
    sample = np.repeat(np.arange(10), 3)
    order = rng.permutation(30)
    assert statistics.robustness(distortion, success, sample, CAP) == pytest.approx(
        statistics.robustness(distortion[order], success[order], sample[order], CAP)
    )


@pytest.mark.parametrize(
    "rates",
    [
        np.array([0.0, 1.0]),
        np.random.default_rng(0).random(100),
        np.array([1.0] + [0.0] * 99),  # one sample in a hundred gives way
    ],
)
def test_interval_contains_the_mean(rates):
    low, high = statistics.ratio_interval(rates, np.ones(len(rates), int), seed=0)
    assert rates.min() <= low <= rates.mean() <= high <= rates.max()
    assert low < high


def test_interval_has_the_width_of_the_normal_approximation():
    rates = np.random.default_rng(1).normal(0.5, 0.1, 400)
    low, high = statistics.ratio_interval(rates, np.ones(len(rates), int), seed=0)
    assert high - low == pytest.approx(2 * 1.96 * rates.std() / 20, rel=0.1)


def test_interval_depends_on_the_seed_alone():
    rates = np.random.default_rng(0).random(20)
    first = statistics.ratio_interval(rates, np.ones(len(rates), int), seed=3)
    np.random.default_rng().random(10)
    assert statistics.ratio_interval(rates, np.ones(len(rates), int), seed=3) == first
    assert statistics.ratio_interval(rates, np.ones(len(rates), int), seed=4) != first


@pytest.mark.parametrize("rates", [np.array([0.25]), np.full(10, 0.25)])
def test_interval_of_equal_values_is_a_point(rates):
    assert statistics.ratio_interval(rates, np.ones(len(rates), int), seed=0) == (0.25, 0.25)


def test_ratio_interval_of_two_samples_by_hand():
    # Sample 0 has 1 + 3, sample 1 has 8. Drawn are {0, 0}, {0, 1} and {1, 1}, so that the mean is
    # 4 / 2, 12 / 3 or 8 / 1, and each end is drawn in a quarter of the cases.
    assert statistics.ratio_interval(np.array([4.0, 8.0]), np.array([2, 1]), seed=0) == (2, 8)


def test_ratio_interval_leaves_out_draws_in_which_nothing_counts():
    # The only sample that counts says 2; a quarter of the draws miss it.
    assert statistics.ratio_interval(np.array([0.0, 4.0]), np.array([0, 2]), seed=0) == (2, 2)


def test_ratio_interval_draws_samples_and_not_attempts():
    # Ten samples of nine attempts that agree with each other: the width is that of ten values.
    values = np.arange(10.0)
    low, high = statistics.ratio_interval(9 * values, np.full(10, 9), seed=0)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(10), rel=0.15)


def test_ratio_interval_depends_on_the_seed_alone():
    totals, counts = np.random.default_rng(0).random(20), np.arange(20)
    first = statistics.ratio_interval(totals, counts, seed=3)
    np.random.default_rng().random(10)
    assert statistics.ratio_interval(totals, counts, seed=3) == first
    assert statistics.ratio_interval(totals, counts, seed=4) != first


def test_ratio_interval_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one attempt"):
        statistics.ratio_interval(np.zeros(3), np.zeros(3, int), seed=0)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3], [2, 4, 6], 1),
        ([1, 2, 3], [3, 2, 1], -1),
        # Deviations (-1, 0, 1) and (-1, 1, 0): 1 / sqrt(2 * 2).
        ([1, 2, 3], [0, 2, 1], 0.5),
        ([-1, 0, 1], [1, 0, 1], 0),
    ],
)
def test_correlation_by_hand(first, second, expected):
    assert statistics.correlation(first, second) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([], []),
        ([1, 2], [1, 2]),
        ([1, 2, 3], [5, 5, 5]),
        ([0, 0, 0], [1, 2, 3]),
        ([0.1 + 0.2, 0.3, 0.3], [1, 2, 3]),  # constant but for rounding
    ],
)
def test_correlation_is_undefined(first, second):
    assert statistics.correlation(first, second) is None


def test_correlation_refuses_lists_of_different_length():
    with pytest.raises(ValueError, match=r"received shapes \(3,\) and \(2,\)"):
        statistics.correlation([1, 2, 3], [1, 2])
