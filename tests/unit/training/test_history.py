"""When a network counts as one that did not learn."""

import math

import numpy as np
import pytest

from ddefense.training import History

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
