"""What attacks take, and how what they cannot take is refused."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddefense import attacks
from ddefense.attacks.classifier import check_inputs, expect_logits

SHAPE = (4, 4, 1)


def softmax_of(network):
    return keras.Model(network.input, keras.layers.Softmax()(network.output))


def test_wraps_a_keras_model(network, images):
    attacked = attacks.classifier(network)
    assert (attacked.outputs, attacked.image_shape, attacked.num_classes) == ("logits", SHAPE, 3)
    np.testing.assert_allclose(attacked(images), network(images), rtol=1e-5, atol=1e-5)


def test_wraps_a_function(network, images):
    attacked = attacks.classifier(lambda x: 2 * network(x), image_shape=SHAPE)
    assert (attacked.outputs, attacked.image_shape, attacked.num_classes) == ("logits", SHAPE, 3)
    np.testing.assert_allclose(attacked(images), 2 * network(images), rtol=1e-6)
    in_graph = tf.function(attacked)(tf.constant(images))
    np.testing.assert_allclose(in_graph, 2 * network(images), rtol=1e-5, atol=1e-5)


def test_wraps_probabilities(network, images):
    for given in (softmax_of(network), lambda x: tf.nn.softmax(network(x))):
        attacked = attacks.classifier(given, "probabilities", image_shape=SHAPE)
        assert attacked.outputs == "probabilities"
        np.testing.assert_allclose(attacked(images), softmax_of(network)(images), atol=1e-6)


def test_a_keras_model_says_its_shape_itself(network):
    assert attacks.classifier(network, image_shape=(9, 9, 9)).image_shape == SHAPE


def test_runs_in_inference_mode(network, images):
    noisy = keras.Model(network.input, keras.layers.Dropout(0.9, seed=1)(network.output))
    assert (noisy(images, training=True).numpy() != network(images).numpy()).any()
    np.testing.assert_allclose(attacks.classifier(noisy)(images), network(images), rtol=1e-5)


def test_gives_float32_whatever_the_function_gives(network, images):
    attacked = attacks.classifier(lambda x: tf.cast(network(x), tf.float64), image_shape=SHAPE)
    assert attacked(images).dtype == tf.float32


def test_tries_values_within_the_bounds():
    seen = []

    def function(images):
        seen.append(images.numpy())
        return tf.reduce_sum(images, axis=(1, 2)) * tf.constant([1.0, 2.0])

    attacked = attacks.classifier(function, image_shape=SHAPE, bounds=(-3.0, -1.0))
    assert attacked.bounds == (-3.0, -1.0)
    assert seen[0].shape[1:] == SHAPE
    assert seen[0].min() >= -3
    assert seen[0].max() <= -1


def test_an_unknown_kind_of_outputs_is_refused(network):
    with pytest.raises(ValueError, match="'logits' or 'probabilities', received 'scores'"):
        attacks.classifier(network, "scores")


def test_a_function_must_come_with_its_shape():
    with pytest.raises(ValueError, match=r"image_shape: expected .* received None"):
        attacks.classifier(tf.identity)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: tf.reduce_sum(x, axis=(1, 2, 3)), "(8,)"),
        (lambda x: tf.reduce_sum(x, axis=(1, 2)), "(8, 1)"),
        (lambda x: tf.reshape(x, [4, -1]), "(4, 32)"),
        (tf.identity, "(8, 4, 4, 1)"),
    ],
    ids=["no class axis", "one class", "other images", "images"],
)
def test_outputs_of_another_shape_are_refused(function, shape):
    message = f"[N, classes >= 2], received {shape} for 8 images"
    with pytest.raises(ValueError, match=re.escape(message)):
        attacks.classifier(function, image_shape=SHAPE)


def test_probabilities_in_place_of_logits_are_named(network):
    with pytest.raises(ValueError, match=r"expected logits, .* these are probabilities.*logits_of"):
        attacks.classifier(softmax_of(network))


def test_logits_in_place_of_probabilities_are_named(network):
    with pytest.raises(
        ValueError, match=r"expected probabilities, .*first row: .*outputs='logits'"
    ):
        attacks.classifier(network, "probabilities")


def test_rows_that_sum_to_one_but_are_negative_are_logits():
    def function(images):
        return tf.ones_like(images[:, 0, :2, 0]) * tf.constant([1.5, -0.5])

    assert attacks.classifier(function, image_shape=SHAPE).outputs == "logits"
    with pytest.raises(ValueError, match="rows are negative or do not sum to 1"):
        attacks.classifier(function, "probabilities", image_shape=SHAPE)


def test_an_attack_on_logits_refuses_probabilities_by_its_name(network):
    expect_logits(attacks.classifier(network), "cw_l2")
    attacked = attacks.classifier(softmax_of(network), "probabilities")
    with pytest.raises(ValueError, match=r"cw_l2: expected .* logits, received .* probabilities"):
        expect_logits(attacked, "cw_l2")


LABELS = np.zeros(12, np.int64)
TARGETS = np.ones(12, np.int64)


def test_good_inputs_pass(network, images):
    attacked = attacks.classifier(network)
    for targets in (TARGETS, None):
        check_inputs(attacked, images, LABELS, targets)
    check_inputs(attacked, images, LABELS.astype(np.uint8), TARGETS.astype(np.int32))


def changed(array, row, value):
    array = array.copy()
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bounds": (1.0, 0.0)}, "bounds: expected (low, high) with low < high, received (1.0, 0"),
        ({"bounds": (0.0, np.nan)}, "bounds: expected (low, high) with low < high, received (0.0"),
        ({"images": np.zeros((12, 4, 4), np.float32)}, "[N >= 1, 4, 4, 1], received (12, 4, 4)."),
        ({"images": np.zeros((12, 4, 4, 2), np.float32)}, "4, 4, 1], received (12, 4, 4, 2)."),
        ({"images": np.zeros((0, 4, 4, 1), np.float32)}, "4, 4, 1], received (0, 4, 4, 1)."),
        ({"images": np.zeros((12, 4, 4, 1))}, "images: expected float32, received float64."),
        (
            {"images": np.full((12, 4, 4, 1), 255, np.float32)},
            "images: expected values within bounds [0, 1], received [255, 255].",
        ),
        ({"bounds": (0.5, 1.0)}, "images: expected values within bounds [0.5, 1], received [0, 1]"),
        ({"images": np.full((12, 4, 4, 1), np.nan, np.float32)}, "received [nan, nan]."),
        ({"labels": LABELS[:3]}, "labels: expected 12 classes in 0..2, received array([0, 0, 0])."),
        ({"labels": LABELS[:, None]}, "labels: expected 12 classes in 0..2, received"),
        ({"labels": LABELS.astype(float)}, "labels: expected 12 classes in 0..2, received"),
        ({"labels": changed(LABELS, 4, -1)}, "labels: expected 12 classes in 0..2, received"),
        ({"labels": changed(LABELS, 4, 3)}, "labels: expected 12 classes in 0..2, received"),
        ({"targets": changed(TARGETS, 4, 3)}, "targets: expected 12 classes in 0..2, received"),
        ({"targets": TARGETS[:3]}, "targets: expected 12 classes in 0..2, received"),
        (
            {"targets": changed(TARGETS, 4, 0)},
            "targets: expected a class other than the label, received 0 for both at row 4.",
        ),
    ],
)
def test_bad_inputs_are_refused(network, images, given, message):
    arguments = {"images": images, "labels": LABELS, "targets": TARGETS} | given
    bounds = arguments.pop("bounds", (0.0, 1.0))
    with pytest.raises(ValueError, match=re.escape(message)):
        check_inputs(attacks.classifier(network, bounds=bounds), **arguments)
