"""What a history counts, and when a network counts as one that did not learn."""

import math

import numpy as np
import pytest

from ddefense.training import History
from ddefense.training.history import Partial

NOTHING = math.log(10)


def history(losses):
    return History(np.asarray(losses, np.float32), np.zeros(1), np.zeros(1))


@pytest.mark.parametrize(
    ("losses", "stalled"),
    [
        ([NOTHING] * 100, True),
        ([NOTHING] * 20, True),  # fewer steps than the window
        ([NOTHING * 1.009] * 100, True),
        ([NOTHING * 0.991] * 100, True),
        ([NOTHING * 0.989] * 100, False),
        ([NOTHING * 1.011] * 100, False),
        # Only the last 50 steps count, and their mean.
        ([0.1] * 100 + [NOTHING] * 50, True),
        ([NOTHING] * 100 + [0.1] * 50, False),
        ([0.1] * 100 + [NOTHING - 0.5, NOTHING + 0.5] * 25, True),
        # Learnt after step 3,000 only: not in time.
        ([NOTHING] * 3000 + [0.1] * 3000, True),
        ([NOTHING] * 2949 + [0.1] * 3000, False),
        ([0.1] * 4000, False),
        # With 3,000 steps or fewer there is no other moment than the end.
        ([NOTHING] * 2900 + [0.1] * 100, False),
    ],
)
def test_stalled_by_hand(losses, stalled):
    assert history(losses).stalled(10) is stalled


def test_the_number_of_classes_sets_the_level():
    assert history([math.log(3)] * 60).stalled(3)
    assert not history([math.log(3)] * 60).stalled(10)


def test_an_epoch_is_added_by_hand():
    before = History(np.float32([9, 9]), np.array([9.0]), np.array([0.5]))
    # Ten images in steps of four leave two for the third.
    epoch = Partial(np.float32([1.0, 2.0, 6.0]), correct=7)
    after = before.longer(epoch, np.array([4, 4, 2]), 0.25, {})
    np.testing.assert_array_equal(after.step_loss, [9, 9, 1, 2, 6])
    assert after.step_loss.dtype == np.float32
    np.testing.assert_allclose(after.epoch_loss, [9.0, (4 * 1 + 4 * 2 + 2 * 6) / 10])
    np.testing.assert_array_equal(after.epoch_accuracy, [0.5, 0.7])
    np.testing.assert_array_equal(after.learning_rate, [0.25])
    assert after.val_loss.size == after.val_accuracy.size == 0
    np.testing.assert_array_equal(before.epoch_loss, [9.0])  # is not changed


EMPTY = History(np.zeros(0, np.float32), np.zeros(0), np.zeros(0))


@pytest.mark.parametrize(
    ("sizes", "losses", "expected"),
    [([4, 4], [1.0, 3.0], 2.0), ([4, 1], [1.0, 6.0], 2.0), ([3], [1.5], 1.5)],
)
def test_each_step_weighs_what_it_used(sizes, losses, expected):
    after = EMPTY.longer(Partial(np.float32(losses), 0), np.array(sizes), 0.1, {})
    np.testing.assert_allclose(after.epoch_loss, [expected])
    np.testing.assert_array_equal(after.epoch_accuracy, [0.0])


def test_what_was_validated_is_kept_by_epoch():
    history, epoch = EMPTY, Partial(np.float32([1.0]), 1)
    for loss, auc in ((0.5, 0.75), (0.25, 1.0)):
        measured = {"val_loss": loss, "val_accuracy": 2 * loss, "val_auc": auc}
        history = history.longer(epoch, np.array([4]), 0.1, measured)
    np.testing.assert_array_equal(history.val_loss, [0.5, 0.25])
    np.testing.assert_array_equal(history.val_accuracy, [1.0, 0.5])
    np.testing.assert_array_equal(history.val_metrics["val_auc"], [0.75, 1.0])
    assert list(history.val_metrics) == ["val_auc"]


def test_the_objective_sets_the_level_too():
    # T = 20 with T^2: a network that knows nothing pays 400 ln 10.
    assert history([400 * NOTHING] * 60).stalled(10, scale=400.0)
    assert not history([400 * NOTHING] * 60).stalled(10)
    assert not history([NOTHING] * 60).stalled(10, scale=400.0)
