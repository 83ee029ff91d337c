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
    low, high = statistics.bootstrap_interval(rates, seed=0)
    assert rates.min() <= low <= rates.mean() <= high <= rates.max()
    assert low < high


def test_interval_has_the_width_of_the_normal_approximation():
    rates = np.random.default_rng(1).normal(0.5, 0.1, 400)
    low, high = statistics.bootstrap_interval(rates, seed=0)
    assert high - low == pytest.approx(2 * 1.96 * rates.std() / 20, rel=0.1)


def test_interval_depends_on_the_seed_alone():
    rates = np.random.default_rng(0).random(20)
    first = statistics.bootstrap_interval(rates, seed=3)
    np.random.default_rng().random(10)
    assert statistics.bootstrap_interval(rates, seed=3) == first
    assert statistics.bootstrap_interval(rates, seed=4) != first


@pytest.mark.parametrize("rates", [np.array([0.25]), np.full(10, 0.25)])
def test_interval_of_equal_values_is_a_point(rates):
    assert statistics.bootstrap_interval(rates, seed=0) == (0.25, 0.25)
