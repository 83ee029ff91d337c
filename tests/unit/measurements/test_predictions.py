"""Measurements on logits, by hand."""

import dataclasses

import numpy as np
import pytest

from ddefense import measurements

LN3 = np.log(3)
# F = (1/4, 3/4), (3/4, 1/4), (1/2, 1/2), (1/4, 3/4).
LOGITS = np.array([[0, LN3], [LN3, 0], [5, 5], [1, 1 + LN3]], np.float32)


def test_accuracy():
    assert measurements.accuracy(LOGITS, np.array([1, 0, 1, 0])) == 0.5  # a tie is class 0
    assert measurements.accuracy(LOGITS, np.array([1, 0, 0, 1])) == 1
    assert measurements.accuracy(LOGITS, np.array([0, 1, 1, 0])) == 0


def test_agreement():
    assert measurements.agreement(LOGITS, LOGITS * 7) == 1
    assert measurements.agreement(LOGITS, -LOGITS) == 0.25
    # Classes 1, 0, 0, 1 against 1, 1, 0, 0.
    assert measurements.agreement(LOGITS, np.roll(LOGITS, 1, axis=0)) == 0.5
    assert isinstance(measurements.agreement(LOGITS, LOGITS), float)


def test_confidence_counts_wrong_predictions_as_zero():
    labels = np.array([1, 0, 0, 0])
    assert measurements.confidence(LOGITS, labels) == pytest.approx((0.75 + 0.75 + 0.5 + 0) / 4)
    assert measurements.confidence(LOGITS, 1 - np.array([1, 0, 0, 1])) == 0


def test_confidence_of_logits_beyond_float32():
    assert measurements.confidence(np.array([[5000, -5000]], np.float32), np.array([0])) == 1


def test_logit_scale():
    logits = np.array([[-1, 2, 4], [3, -3, -5]], np.float32)
    found = measurements.logit_scale(logits)
    assert found.mean_abs == pytest.approx(18 / 6)
    squares = (1 + 4 + 16 + 9 + 9 + 25) / 6
    assert found.std_abs == pytest.approx(np.sqrt(squares - 9))
    assert found.median_top_two_gap == pytest.approx((2 + 6) / 2)


def test_soft_label_summary():
    soft_labels = np.array([[0.5, 0.5, 0], [0, 1, 0], [0.25, 0.25, 0.5]], np.float32)
    found = measurements.soft_label_summary(soft_labels, np.array([0, 1, 0]))
    entropies = [np.log(2), 0, 0.5 * np.log(4) + 0.5 * np.log(2)]
    assert found.mean_entropy == pytest.approx(np.mean(entropies))
    assert found.mean_largest == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert found.agreement_with_hard == pytest.approx(2 / 3)


def test_soft_labels_that_say_nothing_have_the_entropy_of_the_classes():
    found = measurements.soft_label_summary(np.full((4, 10), 0.1, np.float32), np.zeros(4, int))
    assert found.mean_entropy == pytest.approx(np.log(10))
    assert found.mean_largest == pytest.approx(0.1)


@pytest.mark.parametrize("window", [1, 2, 3, 7, 20])
def test_a_summary_by_window_is_that_of_the_whole(window):
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(4), 17).astype(np.float32)
    labels = rng.integers(0, 4, 17)
    found = measurements.soft_labels_by_window(
        lambda number: rows[number * window : (number + 1) * window], labels, window
    )
    whole = measurements.soft_label_summary(rows, labels)
    for field in dataclasses.fields(whole):
        assert getattr(found, field.name) == pytest.approx(getattr(whole, field.name), rel=1e-6)
