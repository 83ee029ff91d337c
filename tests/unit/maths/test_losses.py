"""The loss of both networks, by hand, against Keras, and where Keras gives up."""

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from ddefense.layers import TemperatureSoftmax
from ddefense.maths import losses

LN3 = float(np.log(3))


def loss_and_gradient(loss, logits):
    z = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = loss(z)
    return float(value), tape.gradient(value, z).numpy()


@pytest.mark.parametrize(
    ("labels", "temperature", "expected"),
    [
        ([[0, 1]], 1.0, -np.log(3 / 4)),  # F = (1/4, 3/4)
        ([[1, 0]], 1.0, -np.log(1 / 4)),
        ([[0.5, 0.5]], 1.0, -0.5 * np.log(3 / 4) - 0.5 * np.log(1 / 4)),
        ([[0, 1]], 2.0, -np.log(np.sqrt(3) / (1 + np.sqrt(3)))),
        ([[0, 1]], 0.5, -np.log(9 / 10)),
    ],
)
def test_by_hand(labels, temperature, expected):
    labels = np.array(labels, np.float32)
    found = losses.soft_label_cross_entropy(labels, tf.constant([[0.0, LN3]]), temperature)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_is_the_mean_over_images():
    labels = np.array([[0, 1], [1, 0]], np.float32)
    logits = tf.constant([[0.0, LN3], [0.0, LN3]])
    found = losses.soft_label_cross_entropy(labels, logits, 1.0)
    assert float(found) == pytest.approx((-np.log(3 / 4) - np.log(1 / 4)) / 2, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0, 100.0])
def test_equals_keras_through_the_layer(temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(16, 10)).astype(np.float32)
    labels = scipy.special.softmax(rng.normal(size=(16, 10)), axis=1).astype(np.float32)
    probabilities = TemperatureSoftmax(temperature)(logits).numpy()
    expected = keras.losses.categorical_crossentropy(labels, probabilities).numpy().mean()
    found = losses.soft_label_cross_entropy(labels, logits, temperature)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_gradient_is_that_of_the_closed_form(temperature):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(6, 4)) * 5
    labels = scipy.special.softmax(rng.normal(size=(6, 4)), axis=1).astype(np.float32)
    _, gradient = loss_and_gradient(
        lambda z: losses.soft_label_cross_entropy(labels, z, temperature), logits
    )
    expected = (scipy.special.softmax(logits / temperature, axis=1) - labels) / temperature / 6
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_survives_a_gap_at_which_clipped_probabilities_do_not(temperature):
    labels, gap = np.array([[0, 1]], np.float32), 500.0
    logits = [[gap, 0.0]]

    def clipped(z):
        probabilities = tf.identity(tf.nn.softmax(z / temperature))
        return tf.reduce_mean(keras.losses.categorical_crossentropy(labels, probabilities))

    value, gradient = loss_and_gradient(clipped, logits)
    assert value < 20
    assert not gradient.any()

    value, gradient = loss_and_gradient(
        lambda z: losses.soft_label_cross_entropy(labels, z, temperature), logits
    )
    assert value == pytest.approx(gap / temperature, rel=1e-6)
    np.testing.assert_allclose(gradient, [[1 / temperature, -1 / temperature]], rtol=1e-6)


@pytest.mark.parametrize("temperature", [2.0, 20.0])
def test_has_no_squared_temperature_and_no_hard_label_term(temperature):
    # Only z / T enters, so scaling both leaves the loss as it is.
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(8, 5)).astype(np.float32)
    labels = scipy.special.softmax(rng.normal(size=(8, 5)), axis=1).astype(np.float32)
    at_one = losses.soft_label_cross_entropy(labels, logits, 1.0)
    scaled = losses.soft_label_cross_entropy(labels, logits * np.float32(temperature), temperature)
    assert float(scaled) == pytest.approx(float(at_one), rel=1e-5)


def test_half_precision_logits_are_raised_first():
    labels = np.array([[0, 1]], np.float32)
    found = losses.soft_label_cross_entropy(labels, tf.constant([[60000.0, 0.0]], tf.float16), 0.5)
    assert found.dtype == tf.float32
    assert float(found) == pytest.approx(119_936, rel=1e-3)


class TestStudent:
    """A student's loss by hand: z = (0, ln 3), so the softmax is (1/4, 3/4) at T = 1."""

    LABELS = np.array([[0.5, 0.5]], np.float32)
    # At T = 2 the softmax is (1, sqrt 3) / (1 + sqrt 3).
    SOFT = -0.5 * np.log(1 / (1 + np.sqrt(3))) - 0.5 * np.log(np.sqrt(3) / (1 + np.sqrt(3)))
    HARD = -np.log(1 / 4)

    def losses(self, z, **settings):
        settings = {"alpha": 0.0, "scale_by_temperature_squared": False} | settings
        return losses.student_losses(self.LABELS, tf.constant([0]), z, 2.0, **settings)

    @pytest.mark.parametrize(
        ("alpha", "squared", "hard", "soft"),
        [
            (0.0, False, 0.0, 1.0),
            (1.0, False, 1.0, 0.0),
            (1.0, True, 1.0, 0.0),
            (0.25, False, 0.25, 0.75),
            (0.25, True, 0.25, 3.0),
        ],
    )
    def test_by_hand(self, alpha, squared, hard, soft):
        found = self.losses(
            tf.constant([[0.0, LN3]]), alpha=alpha, scale_by_temperature_squared=squared
        )
        np.testing.assert_allclose(found, [hard * self.HARD + soft * self.SOFT], rtol=1e-6)

    def test_a_term_of_weight_zero_is_left_out(self):
        labels = np.array([[np.nan, np.nan]], np.float32)  # times 0 that is nan
        found = losses.student_losses(
            labels,
            tf.constant([0]),
            tf.constant([[0.0, LN3]]),
            2.0,
            alpha=1.0,
            scale_by_temperature_squared=True,
        )
        np.testing.assert_allclose(found, [self.HARD], rtol=1e-6)

    @pytest.mark.parametrize("temperature", [1.0, 5.0, 50.0])
    def test_the_square_keeps_the_size_of_the_gradient(self, temperature):
        """Hinton et al. 2015: at a high T it nears (z - v) / classes of zero-mean logits."""
        z = np.array([[0.3, -0.1, -0.2]])
        v = np.array([[-0.2, 0.4, -0.2]])
        labels = scipy.special.softmax(v / temperature, axis=1).astype(np.float32)
        value, gradient = loss_and_gradient(
            lambda logits: tf.reduce_sum(
                losses.student_losses(
                    labels,
                    tf.constant([0]),
                    logits,
                    temperature,
                    alpha=0.0,
                    scale_by_temperature_squared=True,
                )
            ),
            z,
        )
        assert value > 0
        np.testing.assert_allclose(gradient, (z - v) / 3, atol=0.2 / temperature + 1e-3)
