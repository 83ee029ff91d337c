"""What the second network of extended defensive distillation learns from."""

import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddefense.datasets import Split
from ddefense.distillation.extended import outlier_labels, outlier_labels_by_window

# The same examples in every run, as long as they need.
SAME = settings(deadline=None, derandomize=True, database=None, max_examples=60)

LABELS = np.array([2, 0, 1, 1])
SIGMA = np.array([0.0, 4.0, 1.0, 2.0], np.float32)


def test_labels_by_hand():
    np.testing.assert_allclose(
        outlier_labels(LABELS, SIGMA, 3, 0.8),
        [[0, 0, 1, 0], [0.2, 0, 0, 0.8], [0, 0.8, 0, 0.2], [0, 0.6, 0, 0.4]],
        atol=1e-7,
    )


def test_the_largest_may_be_that_of_other_images():
    found = outlier_labels(LABELS, SIGMA, 3, 0.8, largest=2.0)
    # The second is beyond it.
    np.testing.assert_allclose(found[:, 3], [0, 0.8, 0.4, 0.8], atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1), np.ones(4), atol=1e-7)


@SAME
@given(
    sigma=st.lists(
        st.floats(0, 2.0**99, width=32, allow_subnormal=False), min_size=1, max_size=20
    ).filter(any),
    num_classes=st.integers(2, 7),
    alpha=st.floats(0, 1, exclude_min=True),
)
def test_every_row_is_a_distribution_over_two_classes(sigma, num_classes, alpha):
    sigma = np.array(sigma, np.float32)
    labels = np.arange(len(sigma)) % num_classes
    rows = outlier_labels(labels, sigma, num_classes, alpha)
    assert rows.dtype == np.float32
    assert rows.shape == (len(sigma), num_classes + 1)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-6)
    assert rows.min() >= 0
    assert rows[:, -1].max() == pytest.approx(alpha)
    assert (np.delete(rows, num_classes, axis=1).argmax(axis=1) == labels)[rows[:, -1] < 1].all()
    # More uncertain images give more to the outlier class.
    assert (np.diff(rows[np.argsort(sigma), -1]) >= 0).all()


@pytest.mark.parametrize("window", [1, 2, 3, 4, 9])
def test_windows_are_parts_of_the_whole(window):
    examples = types.SimpleNamespace(labels=LABELS, window=window)
    read = outlier_labels_by_window(examples, SIGMA, 3, 0.8)
    rows = np.concatenate([read(number) for number in range(-(-4 // window))])
    np.testing.assert_array_equal(rows, outlier_labels(LABELS, SIGMA, 3, 0.8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 0.0}, r"alpha: expected a number in \(0, 1\]; received 0.0"),
        ({"alpha": 1.1}, "alpha: .*received 1.1"),
        ({"alpha": np.nan}, "alpha: .*received nan"),
        ({"sigma": SIGMA[:3]}, r"sigma: .*the shapes \(3,\) and \(4,\)"),
        ({"sigma": np.array([0, np.nan, 1, 1])}, r"sigma: .*received .*nan.* at row 1"),
        ({"sigma": np.array([0, 1, -1, 1])}, "sigma: .*at row 2"),
        ({"sigma": np.zeros(4)}, "largest: expected an uncertainty > 0; received 0.0"),
        ({"largest": -1.0}, "largest: .*received -1.0"),
        ({"labels": np.array([0, 1, 2, 3])}, r"labels: expected classes in 0..2; received 0..3"),
        ({"labels": np.array([0, 1, 2, -1])}, r"labels: .*received -1..2"),
    ],
)
def test_bad_labels_are_refused(changes, message):
    arguments = {"labels": LABELS, "sigma": SIGMA, "num_classes": 3, "alpha": 0.9} | changes
    with pytest.raises(ValueError, match=message):
        outlier_labels(**arguments)
    labels = arguments.pop("labels")
    with pytest.raises(ValueError, match=message):
        outlier_labels_by_window(Split(np.zeros((4, 1, 1, 1)), labels), **arguments)
