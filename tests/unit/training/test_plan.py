"""Which images each optimizer step takes, by hand and whatever the sizes are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddefense.training.plan import Plan


def test_by_hand():
    # Windows of ten, ten and three images in batches of four: 4 4 2, 4 4 2, 3.
    plan = Plan([10, 10, 3], batch_size=4, epochs=2, max_steps=None)
    assert plan.sizes.tolist() == [4, 4, 2, 4, 4, 2, 3]
    assert plan.per_epoch == 7
    assert (plan.epochs, plan.images) == (2, 46)
    assert [plan.window_of(step) for step in range(8)] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert [plan.step_in_window(step) for step in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert [plan.images_of(steps) for steps in range(8)] == [0, 4, 8, 10, 14, 18, 20, 23]
    assert plan.images_before(1, 3) == 33
    assert [plan.steps_of(epoch) for epoch in range(2)] == [7, 7]


@pytest.mark.parametrize(
    ("max_steps", "epochs", "images", "last"),
    [(1, 1, 4, 1), (3, 1, 10, 3), (7, 1, 23, 7), (8, 2, 27, 1), (10, 2, 33, 3), (99, 2, 46, 7)],
)
def test_max_steps_cuts_the_last_epoch_short(max_steps, epochs, images, last):
    plan = Plan([10, 10, 3], batch_size=4, epochs=2, max_steps=max_steps)
    assert (plan.epochs, plan.images) == (epochs, images)
    assert plan.steps_of(epochs - 1) == last


@given(st.integers(1, 60), st.integers(1, 25), st.integers(1, 12))
def test_every_image_belongs_to_one_step_and_no_step_to_two_windows(images, window, batch_size):
    windows = [min(window, images - start) for start in range(0, images, window)]
    plan = Plan(windows, batch_size, epochs=1, max_steps=None)
    assert plan.sizes.sum() == plan.images == images
    assert plan.sizes.min() >= 1
    assert plan.sizes.max() <= batch_size
    owner = np.array([plan.window_of(step) for step in range(plan.per_epoch)])
    taken = [plan.sizes[owner == number].sum() for number in range(len(windows))]
    assert taken == windows
