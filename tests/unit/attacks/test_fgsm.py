"""One step along the sign of a gradient: on paper, where it is blind, and what it refuses."""

import functools
import gc
import math
import re
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ddefense import attacks, interruption
from ddefense.attacks import PGD, SignAttack
from ddefense.attacks.loss_gradient import LOSSES, loss_gradient

SHAPE = (4, 4, 1)
LOGITS = SignAttack(epsilon=0.1, loss="logits")


def fgsm(*given, **settings):
    return attacks.fgsm(*given, **settings).images


@pytest.fixture(scope="module")
def attacked(network):
    return attacks.classifier(network)


@pytest.fixture(scope="module")
def within(network):
    """The network with other bounds."""
    return functools.cache(lambda low, high: attacks.classifier(network, bounds=(low, high)))


def linear(weights, biases=None):
    """A network whose logits are one matrix product: images [N, 1, features, 1] -> classes."""
    weights = np.array(weights, np.float32)
    biases = np.zeros(weights.shape[1]) if biases is None else np.array(biases)
    images = keras.Input((1, len(weights), 1))
    logits = keras.layers.Dense(weights.shape[1])(keras.layers.Flatten()(images))
    network = keras.Model(images, logits)
    network.set_weights([weights, biases])
    return network


def row(*features):
    return np.array(features, np.float32).reshape(1, 1, -1, 1)


# Rows are features; the third one does nothing. The gradient of class c's loss is
# -(1 - p_c) (w_c - mean of the others' w, weighted by their probabilities); with two classes its
# sign is that of w_other - w_c.
TWO = [[1.0, 0.0], [-2.0, 1.0], [0.0, 0.0], [0.0, 3.0]]


@pytest.mark.parametrize("settings", [SignAttack(epsilon=0.1), LOGITS], ids=LOSSES)
@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, (0.4, 0.6, 0.5, 0.6)),  # away from class 0
        ([1], (0.4, 0.6, 0.5, 0.6)),  # towards class 1: with two classes the same
    ],
)
def test_on_a_linear_network_by_hand(settings, targets, expected):
    attacked = attacks.classifier(linear(TWO))
    targets = None if targets is None else np.array(targets)
    made = fgsm(attacked, row(0.5, 0.5, 0.5, 0.5), np.array([0]), targets, settings=settings)
    np.testing.assert_allclose(made, row(*expected), rtol=1e-6)
    assert made.dtype == np.float32


@pytest.mark.parametrize("settings", [SignAttack(epsilon=0.1), LOGITS], ids=LOSSES)
def test_a_target_is_not_the_same_as_any_other_class(settings):
    # From class 0 the way out is class 1, whose logit is by far the second largest; class 2 lies
    # the other way along both features.
    network = linear([[0.0, 2.0, -2.0], [0.0, -2.0, 2.0]], [3.0, 2.0, -2.0])
    attacked, images, labels = attacks.classifier(network), row(0.5, 0.5), np.array([0])
    away = fgsm(attacked, images, labels, settings=settings)
    np.testing.assert_allclose(away, row(0.6, 0.4), rtol=1e-6)
    towards = fgsm(attacked, images, labels, np.array([2]), settings=settings)
    np.testing.assert_allclose(towards, row(0.4, 0.6), rtol=1e-6)


def test_results_are_clipped_to_the_bounds():
    attacked = attacks.classifier(linear(TWO), bounds=(-1.0, 1.0))
    images = row(-0.95, 0.95, 1.0, -1.0)
    made = fgsm(attacked, images, np.array([0]), settings=LOGITS)
    np.testing.assert_allclose(made, row(-1.0, 1.0, 1.0, -0.9), rtol=1e-6)


def gradient(attacked, loss, images, classes, temperature=1.0):
    function = tf.function(loss_gradient(attacked, loss, temperature=temperature))
    return function(tf.constant(images), tf.constant(classes, tf.int32)).numpy()


@pytest.mark.parametrize(
    ("loss", "temperature"), [("softmax", 1.0), ("logits", 1.0), ("logits", 5.0)]
)
def test_gradients_are_those_of_minus_log_probability(network, images, jacobian, loss, temperature):
    classes = np.arange(len(images)) % 3
    probabilities = tf.nn.softmax(network(images) / temperature).numpy()
    rows = jacobian(network, images, lambda z: tf.nn.softmax(z / temperature))
    index = np.arange(len(images))
    expected = -rows[index, classes] / probabilities[index, classes, None]
    found = gradient(attacks.classifier(network), loss, images, classes, temperature)
    assert found.shape == images.shape
    # Below 1e-7 the loss through the softmax is flat.
    if loss == "softmax":
        expected[probabilities[index, classes] < 1e-7] = 0
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.reshape(len(images), -1), expected, atol=1e-4 * scale)


def test_probabilities_below_keras_epsilon_give_no_gradient_through_the_softmax():
    # Two classes: p_1 = 1 / (1 + exp(gap)), which is 1e-7 at a gap of 16.1.
    for gap, moves in ((15.0, True), (17.0, False)):
        attacked = attacks.classifier(linear([[0.0, 1.0]], [gap, 0.0]))
        found = gradient(attacked, "softmax", row(0.0), np.array([1]))
        assert bool(found.any()) is moves
        assert gradient(attacked, "logits", row(0.0), np.array([1])).any()
        # Class 0 has the rest, and float32 still knows the small one.
        assert gradient(attacked, "softmax", row(0.0), np.array([0])).any()


def test_saturation_blinds_the_softmax_and_the_temperature_heals(saturated, images):
    attacked = attacks.classifier(saturated)
    logits = saturated(images).numpy()
    labels = logits.argmax(axis=1)
    targets = (labels + 1) % 3
    for goal in (None, targets):
        blind = fgsm(attacked, images, labels, goal, settings=SignAttack(epsilon=0.3))
        np.testing.assert_array_equal(blind, images)
    healed = SignAttack(epsilon=0.3, loss="logits", temperature=1000.0)
    for goal in (None, targets):
        made = fgsm(attacked, images, labels, goal, settings=healed)
        assert (made != images).reshape(len(images), -1).any(axis=1).all()
    fooled = saturated(fgsm(attacked, images, labels, settings=healed)).numpy()
    assert (fooled.argmax(axis=1) != labels).mean() > 0.5


def test_the_temperature_undoes_the_scale_of_the_logits(network, saturated, images, predict):
    labels = predict(images)
    healthy = fgsm(attacks.classifier(network), images, labels, settings=LOGITS)
    healed = fgsm(
        attacks.classifier(saturated),
        images,
        labels,
        settings=SignAttack(epsilon=0.1, loss="logits", temperature=1000.0),
    )
    np.testing.assert_array_equal(healed, healthy)


def test_a_network_that_ignores_its_images_leaves_them_alone(images):
    def constant(given):
        return tf.tile([[1.0, 2.0, 3.0]], [tf.shape(given)[0], 1])

    attacked = attacks.classifier(constant, image_shape=SHAPE)
    labels = np.zeros(len(images), np.int64)
    np.testing.assert_array_equal(fgsm(attacked, images, labels, settings=LOGITS), images)


def test_probabilities_are_taken_as_they_are(network, images, predict):
    labels, settings = predict(images), SignAttack(epsilon=0.1)
    logits = attacks.classifier(network)
    probabilities = attacks.classifier(
        lambda x: tf.nn.softmax(network(x)), "probabilities", image_shape=SHAPE
    )
    np.testing.assert_array_equal(
        fgsm(probabilities, images, labels, settings=settings),
        fgsm(logits, images, labels, settings=settings),
    )


def test_the_loss_of_logits_refuses_probabilities(network, images, predict):
    attacked = attacks.classifier(
        lambda x: tf.nn.softmax(network(x)), "probabilities", image_shape=SHAPE
    )
    for attack in (attacks.fgsm, attacks.pgd_linf):
        with pytest.raises(ValueError, match=r"loss='logits': expected .* logits, received .*prob"):
            attack(attacked, images, predict(images), settings=PGD(epsilon=0.1, loss="logits"))


@st.composite
def attempts(draw):
    count = draw(st.integers(1, 4))
    low, high = draw(st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.25, 0.5)]))
    pixels = st.floats(low, high, width=32)
    images = draw(npst.arrays(np.float32, (count, *SHAPE), elements=pixels))
    labels = draw(npst.arrays(np.int64, count, elements=st.integers(0, 2)))
    targets = (labels + draw(st.integers(1, 2))) % 3 if draw(st.booleans()) else None
    return images, labels, targets, (low, high)


@given(attempts(), st.sampled_from([1e-3, 0.1, 0.3, 2.0]), st.sampled_from(LOSSES))
@examples(max_examples=50, derandomize=True, database=None, deadline=None)
def test_features_move_by_epsilon_or_to_a_bound_or_not_at_all(within, attempt, epsilon, loss):
    images, labels, targets, (low, high) = attempt
    settings = SignAttack(epsilon=epsilon, loss=loss)
    made = fgsm(within(low, high), images, labels, targets, settings=settings)
    assert made.min() >= low
    assert made.max() <= high
    moved = np.abs(made - images)
    assert moved.max() <= epsilon + 1e-6
    whole = np.isclose(moved, epsilon, rtol=1e-4, atol=1e-6)
    assert (whole | (moved == 0) | (made == low) | (made == high)).all()


def test_batching_does_not_matter(attacked, images, predict):
    labels = predict(images)
    together = fgsm(attacked, images, labels, settings=LOGITS)
    for batch_size in (1, 5, 12):
        parts = fgsm(attacked, images, labels, settings=LOGITS, batch_size=batch_size)
        np.testing.assert_array_equal(parts, together)


def test_leaves_its_arguments_alone(attacked, images, predict):
    originals, labels = images.copy(), predict(images)
    originals.flags.writeable = labels.flags.writeable = False
    made = fgsm(attacked, originals, labels.astype(np.uint8), settings=LOGITS)
    assert (made != originals).any()
    np.testing.assert_array_equal(originals, images)


def test_stops_between_batches_when_asked_to(network, images, predict, monkeypatch):
    seen = []

    def asked():
        seen.append(None)
        return len(seen) > 2

    monkeypatch.setattr(interruption, "asked", asked)
    with pytest.raises(interruption.StoppedError):
        fgsm(attacks.classifier(network), images, predict(images), settings=LOGITS, batch_size=4)
    assert len(seen) == 3


def test_one_network_is_traced_once_and_forgotten_with_it(network, images, predict):
    traced = []

    def function(given):
        traced.append(None)
        return network(given)

    attacked = attacks.classifier(function, image_shape=SHAPE)
    labels, before = predict(images), len(traced)
    fgsm(attacked, images, labels, settings=LOGITS)
    once = len(traced)
    assert once > before
    for epsilon in (0.2, 0.3):
        for steps, rows in ((2, 12), (4, 5)):
            settings = PGD(epsilon=epsilon, steps=steps, restarts=2, loss="logits")
            given = images[:rows], labels[:rows]
            fgsm(attacked, *given, settings=settings)
            attacks.pgd_linf(attacked, *given, settings=settings)
            attacks.pgd_linf(attacked, *given, (labels[:rows] + 1) % 3, settings=settings)
    assert len(traced) == once
    fgsm(attacked, images, labels, settings=SignAttack(epsilon=0.1))
    assert len(traced) > once

    alive = weakref.ref(attacked)
    del attacked
    gc.collect()
    assert alive() is None


def test_a_function_that_has_changed_is_traced_anew(network, saturated, images, predict):
    current = [network]

    def function(given):
        return current[0](given)

    labels = predict(images)
    first = attacks.classifier(function, image_shape=SHAPE)
    through = SignAttack(epsilon=0.1)
    moved = fgsm(first, images, labels, settings=through)
    current[0] = saturated
    second = attacks.classifier(function, image_shape=SHAPE)
    assert (moved != images).any()
    blind = fgsm(second, images, labels, settings=through)
    np.testing.assert_array_equal(blind, images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0.0}, "epsilon: expected a finite number > 0; received 0.0."),
        ({"epsilon": math.inf}, "epsilon: expected a finite number > 0; received inf."),
        ({"epsilon": math.nan}, "epsilon: expected a finite number > 0; received nan."),
        ({"epsilon": "0.3"}, "epsilon: expected a finite number > 0; received '0.3'."),
        ({"epsilon": True}, "epsilon: expected a finite number > 0; received True."),
        ({"epsilon": None}, "epsilon: expected a finite number > 0; received None."),
        ({"steps": 0}, "steps: expected an integer >= 1; received 0."),
        ({"steps": 2.0}, "steps: expected an integer >= 1; received 2.0."),
        ({"step_size": -0.1}, "step_size: expected a finite number > 0; received -0.1."),
        ({"restarts": 0}, "restarts: expected an integer >= 1; received 0."),
        ({"restarts": True}, "restarts: expected an integer >= 1; received True."),
        ({"random_start": 1}, "random_start: expected true or false; received 1."),
        ({"seed": -1}, "seed: expected an integer >= 0; received -1."),
        ({"loss": "hinge"}, "loss: expected one of ['softmax', 'logits']; received 'hinge'."),
        ({"temperature": 0.0}, "temperature: expected a finite number > 0; received 0.0."),
        ({"temperature": 20.0}, "temperature: expected 1 with loss='softmax'"),
        ({"restarts": 2, "random_start": False}, "restarts: expected 1 with random_start=False"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PGD(**({"epsilon": 0.3} | changes))


def test_an_unknown_loss_is_refused_with_the_known_ones(network):
    with pytest.raises(ValueError, match=r"loss: expected one of \['softmax', 'logits'\], .*'mse'"):
        loss_gradient(attacks.classifier(network), "mse")


@pytest.mark.parametrize("attack", [attacks.fgsm, attacks.pgd_linf])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": np.zeros((2, 4, 4, 2), np.float32)},
            "images: expected shape [N >= 1, 4, 4, 1]",
        ),
        ({"images": np.full((2, *SHAPE), 2, np.float32)}, "images: expected values within bounds"),
        ({"labels": np.array([0, 3])}, "labels: expected 2 classes in 0..2"),
        ({"targets": np.array([1, 0])}, "targets: expected a class other than the label"),
        ({"batch_size": 0}, "batch_size: expected an integer >= 1; received 0."),
    ],
)
def test_bad_arguments_are_refused(network, attack, changes, message):
    good = {
        "images": np.zeros((2, *SHAPE), np.float32),
        "labels": np.array([0, 0]),
        "targets": None,
        "settings": PGD(epsilon=0.1, loss="logits"),
    }
    with pytest.raises(ValueError, match=re.escape(message)):
        attack(attacks.classifier(network), **(good | changes))
