"""The L0 attack where the fewest features are known."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from ddefense import attacks
from ddefense.attacks import CarliniWagnerL0, cw_l0
from ddefense.attacks.cw_l0 import needless

# In units of 0.5, the room of each feature, they move the lead by 10, 9, ... 1.
WEIGHTS = 2.0 * np.array([10, 3, 9, 1, 7, 5, 6, 2, 8, 4], np.float32)
SHAPE = (1, 5, 2)
SETTINGS = CarliniWagnerL0(steps=200, learning_rate=0.1)


def linear(lead, scale=1.0):
    """Two classes; at features of 0.5 the first leads by `lead`."""
    columns = scale * np.stack([WEIGHTS, 0 * WEIGHTS], axis=1)
    shift = np.array([scale * (lead - 0.5 * WEIGHTS.sum()), 0], np.float32)
    return attacks.classifier(
        lambda x: tf.reshape(x, [-1, 10]) @ columns + shift, image_shape=SHAPE
    )


def attack(attacked, images, settings=SETTINGS):
    labels = np.zeros(len(images), np.int64)
    return cw_l0(attacked, images, labels, 1 - labels, settings=settings).images


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize(
    ("lead", "fewest"),
    [(2.0, 1), (8.0, 1), (12.0, 2), (18.0, 2), (25.0, 3), (38.0, 5)],  # 10, 19, 27, 34, 40
)
def test_changes_the_fewest_features(lead, fewest, scale):
    images = np.full((2, *SHAPE), 0.5, np.float32)
    made = attack(linear(lead, scale), images)
    changed = (made != images).reshape(2, -1)
    assert (changed.sum(axis=1) == fewest).all()
    moved = (made - images).reshape(2, -1) @ WEIGHTS
    assert (moved < -lead).all()


def test_a_feature_at_its_bound_is_of_no_use():
    images = np.full((1, *SHAPE), 0.5, np.float32)
    images[0, 0, 0, 0] = 0  # the weightiest one, which cannot fall
    made = attack(linear(18.0), images)  # 8 is left of the lead, for the next one of 9
    changed = np.flatnonzero(made != images)
    assert changed.tolist() == [2]


def test_kappa_is_met_by_more_features():
    images = np.full((1, *SHAPE), 0.5, np.float32)
    made = attack(linear(8.0), images, dataclasses.replace(SETTINGS, kappa=8.0))
    assert (made != images).sum() == 2
    assert ((made - images).reshape(-1) @ WEIGHTS) <= -16


def test_puts_back_what_has_hardly_changed_first():
    change = np.array([1.0, -0.009, 0.5, 0.0, 0.011], np.float32)
    allowed = np.array([True, True, True, False, True])
    back = needless(change, np.ones(5, np.float32), allowed)
    np.testing.assert_array_equal(back, [False, True, False, False, False])


def test_puts_back_what_matters_least():
    # Effects 1.0, 0.4, 0.9, and the least one is not allowed any more.
    change = np.array([1.0, -0.2, 0.3, 0.1], np.float32)
    slope = np.array([-1.0, 2.0, 3.0, 0.1], np.float32)
    allowed = np.array([True, True, True, False])
    np.testing.assert_array_equal(needless(change, slope, allowed), [False, True, False, False])
    # 0.3 * sqrt(100), of which the first ones matter least.
    change = np.ones(100, np.float32)
    back = needless(change, np.arange(100, dtype=np.float32), np.ones(100, bool))
    assert np.flatnonzero(back).tolist() == [0, 1, 2]
