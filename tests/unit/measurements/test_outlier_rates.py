"""Recovery, detection and success, counted by hand."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddefense import records
from ddefense.measurements.outlier_rates import outlier_rates, outlier_record
from ddefense.records.extended import OutlierRecord

# The same examples in every run, as long as they need.
SAME = settings(deadline=None, derandomize=True, database=None, max_examples=40)

CLASSES = 3
OUTLIER = 3
SHARES = ("recovery", "detection", "success", "other")


def rates(predicted, source, target, sample, seed=0):
    arrays = [None if x is None else np.array(x) for x in (predicted, source, target, sample)]
    return outlier_rates(*arrays, num_classes=CLASSES, seed=seed)


def shares(record):
    return tuple(getattr(record, name) for name in SHARES)


@pytest.mark.parametrize(
    ("predicted", "targeted", "untargeted"),
    [
        (0, (1, 0, 0, 0), (1, 0, 0, 0)),
        (OUTLIER, (0, 1, 0, 0), (0, 1, 0, 0)),
        (1, (0, 0, 1, 0), (0, 0, 1, 0)),
        (2, (0, 0, 0, 1), (0, 0, 1, 0)),  # any wrong class will do without a target
    ],
)
def test_one_image_of_class_0_that_aims_at_class_1(predicted, targeted, untargeted):
    assert shares(rates([predicted], [0], [1], [5])) == targeted
    assert shares(rates([predicted], [0], None, [5])) == untargeted


def test_shares_of_attempts_by_hand():
    # Sample 4: success, detection. Sample 9: recovery, other, of three classes only two are wrong.
    found = rates([1, OUTLIER, 2, 1], [0, 0, 2, 2], [1, 2, 1, 0], [4, 4, 9, 9])
    assert shares(found) == (0.25, 0.25, 0.25, 0.25)
    assert (found.samples, found.attempts, found.targeted) == (2, 4, True)
    # Drawing sample 4 twice or never: half of its attempts succeeded, or none.
    assert found.success_interval == (0.0, 0.5)
    assert found.recovery_interval == (0.0, 0.5)


def test_samples_are_drawn_and_not_attempts():
    # Ten attempts of one sample vary together: there is nothing to draw from.
    found = rates([1, OUTLIER] * 5, [0] * 10, [1, 2] * 5, [7] * 10)
    assert found.success_interval == (0.5, 0.5)
    assert found.detection_interval == (0.5, 0.5)


@SAME
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(1, 2), st.integers(0, 4)),
        min_size=1,
        max_size=30,
    ),
    targeted=st.booleans(),
)
def test_the_shares_sum_to_one_and_lie_in_their_intervals(rows, targeted):
    predicted, source, offset, sample = np.array(rows).T
    target = (source + offset) % CLASSES if targeted else None
    found = outlier_rates(predicted, source, target, sample, num_classes=CLASSES, seed=0)
    assert sum(shares(found)) == pytest.approx(1)
    if not targeted:
        assert found.other == 0
    for name in SHARES:
        low, high = getattr(found, f"{name}_interval")
        assert 0 <= low <= high <= 1
        if found.samples == 1:
            assert low == pytest.approx(getattr(found, name))


def test_a_network_without_an_outlier_class_detects_nothing():
    found = rates([0, 1, 2, 2], [0, 0, 0, 1], [1, 1, 1, 0], [0, 1, 2, 3])
    assert shares(found) == (0.25, 0, 0.25, 0.5)


def test_clean_images_by_hand(tmp_path):
    attack = rates([OUTLIER], [0], [1], [0])
    predicted = np.array([0, 1, OUTLIER, 2, 0])
    found = outlier_record(predicted, np.array([0, 1, 2, 2, 1]), CLASSES, {"jsma_f": attack})
    assert (found.images, found.accuracy, found.false_detections, found.errors) == (
        5,
        0.6,
        0.2,
        0.2,
    )
    assert found.accuracy_of_accepted == 0.75
    records.dump(found, tmp_path / "outliers.json")
    assert records.load(OutlierRecord, tmp_path / "outliers.json") == found
    assert dataclasses.asdict(found)["attacks"]["jsma_f"]["detection"] == 1


def test_a_network_that_refuses_everything_has_no_accuracy_of_what_it_accepts():
    found = outlier_record(np.array([OUTLIER] * 2), np.array([0, 1]), CLASSES)
    assert found.accuracy_of_accepted is None
    assert (found.accuracy, found.false_detections) == (0, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predicted": [4]}, r"predicted: expected classes in 0..3, .*received 4..4"),
        ({"predicted": [[0, 1]]}, r"predicted: .*received \(1, 2\): the classes, not the outputs"),
        ({"predicted": []}, r"predicted: expected shape \[N >= 1\]"),
        ({"source": [3]}, "source: expected classes in 0..2, never the outlier class"),
        ({"target": [3]}, "target: expected classes in 0..2, never the outlier class"),
        ({"target": [0]}, "target: expected a class other than the source, received 0"),
        ({"target": [1, 2]}, r"target: expected shape \(1,\), received \(2,\)"),
        ({"sample": [1, 2]}, r"sample: expected shape \(1,\), received \(2,\)"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    arguments = {"predicted": [0], "source": [0], "target": [1], "sample": [0]} | changes
    with pytest.raises(ValueError, match=message):
        rates(**arguments)


def test_clean_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"labels: expected classes in 0\.\.2, never the outlier"):
        outlier_record(np.array([0]), np.array([3]), CLASSES)
