"""Properties of JSMA on a real network, whatever the images."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ddefense import attacks

SHAPE, CLASSES = (3, 3, 1), 3


def make_network():
    rng = np.random.default_rng(1)
    network = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(CLASSES),
        ]
    )
    network.set_weights([rng.normal(size=w.shape) for w in network.get_weights()])
    return network


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module", params=["jsma_f", "jsma_f_exact", "jsma_z"])
def attack(request, network):
    """Attacks images whose labels are other classes than the targets."""
    attacked = attacks.classifier(network)

    def run(images, targets, *, batch_size, **settings):
        settings = attacks.JSMA(reading=request.param, **settings)
        labels = (targets + 1) % CLASSES
        return attacks.jsma(
            attacked, images, labels, targets, settings=settings, batch_size=batch_size
        )

    return run


@st.composite
def attempts(draw):
    count = draw(st.integers(1, 5))
    pixels = st.sampled_from([0.0, 0.125, 0.5, 0.875, 1.0])
    images = draw(npst.arrays(np.float32, (count, *SHAPE), elements=pixels))
    targets = draw(npst.arrays(np.int64, count, elements=st.integers(0, CLASSES - 1)))
    arguments = {
        "theta": draw(st.sampled_from([1.0, -1.0, 0.25, -0.25])),
        "max_features": draw(st.sampled_from([2, 4, 8, 10])),
        "batch_size": draw(st.integers(1, 6)),
    }
    return images, targets, arguments


@pytest.mark.slow
@settings(max_examples=40)
@given(attempts())
def test_bounds_budget_and_direction_hold(network, attack, drawn):
    images, targets, arguments = drawn
    made = attack(images, targets, **arguments)
    moved = (made.images - images).reshape(len(images), -1)
    theta = arguments["theta"]
    assert made.images.min() >= 0
    assert made.images.max() <= 1
    assert (moved * np.sign(theta) >= 0).all()
    assert np.abs(moved).max() <= abs(theta)
    steps = made.details["steps"]
    np.testing.assert_array_equal((moved != 0).sum(axis=1), 2 * steps)
    assert (2 * steps <= arguments["max_features"]).all()

    stays = network(images).numpy().argmax(axis=1) == targets
    assert not steps[stays].any()
    assert not made.details["no_admissible_pair"][stays].any()


@pytest.mark.slow
@settings(max_examples=40)
@given(attempts(), st.randoms(use_true_random=False))
def test_samples_do_not_depend_on_each_other(attack, drawn, random):
    images, targets, arguments = drawn
    order = list(range(len(images)))
    random.shuffle(order)
    straight = attack(images, targets, **arguments)
    arguments["batch_size"] = random.randint(1, 6)
    mixed = attack(images[order], targets[order], **arguments)
    np.testing.assert_array_equal(mixed.images, straight.images[order])
    for name, of_each in straight.details.items():
        np.testing.assert_array_equal(mixed.details[name], of_each[order])


@settings(max_examples=30)
@given(attempts())
def test_a_larger_budget_goes_the_same_way_further(network, attack, drawn):
    images, targets, arguments = drawn
    small = attack(images, targets, **(arguments | {"max_features": 2}))
    large = attack(images, targets, **(arguments | {"max_features": 8}))
    assert (small.details["steps"] <= large.details["steps"]).all()
    changed = small.images != images
    np.testing.assert_array_equal(large.images[changed], small.images[changed])
    reached = network(small.images).numpy().argmax(axis=1) == targets
    np.testing.assert_array_equal(large.images[reached], small.images[reached])
