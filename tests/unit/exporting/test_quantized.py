"""Networks in 8-bit integers: what they take, what they answer, what they cannot be made of."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddefense import networks
from ddefense.exporting import quantized


@pytest.fixture(scope="module")
def images():
    """Noise of every brightness, so that the classes of the tiny network occur; dark ones first."""
    scales = np.linspace(0, 1, 300).reshape(-1, 1, 1, 1)
    noise = np.random.default_rng(2).uniform(size=(300, 4, 4, 1))
    return (scales * noise).astype(np.float32)


@pytest.fixture(scope="module")
def network(make_tiny_network):
    return make_tiny_network()


@pytest.fixture(scope="module")
def content(network, images):
    return quantized.convert(network, images)


def pixels_of(images):
    return np.rint(images * 255).astype(np.uint8)


def details(content):
    with pytest.warns(UserWarning, match=r"tf\.lite\.Interpreter is deprecated"):
        interpreter = tf.lite.Interpreter(model_content=content)
    return interpreter


def test_answers_are_the_networks_but_for_rounding(network, images, content):
    answers = quantized.predict(content, pixels_of(images))
    expected = networks.predict(network, images)
    assert answers.shape == expected.shape
    assert np.abs(answers / 256 - expected).max() < 0.05
    certain = np.sort(expected, axis=1)[:, -1] - np.sort(expected, axis=1)[:, -2] > 0.1
    assert certain.sum() > 20
    assert (answers.argmax(axis=1) == expected.argmax(axis=1))[certain].all()


def test_everything_in_the_file_is_an_integer(content):
    kinds = {tensor["dtype"] for tensor in details(content).get_tensor_details()}
    assert kinds <= {np.uint8, np.int8, np.int32}
    assert np.int8 in kinds


def test_input_is_bytes_as_they_come_and_output_is_in_units_of_1_256(content):
    interpreter = details(content)
    (asked,), (answered,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (asked["dtype"], answered["dtype"]) == (np.uint8, np.uint8)
    scale, offset = asked["quantization"]
    assert (scale, offset) == (pytest.approx(1 / 255, rel=1e-6), 0)
    assert answered["quantization"] == (1 / 256, 0)
    assert asked["shape_signature"].tolist() == [-1, 4, 4, 1]


def test_dark_images_do_not_change_the_scale_of_the_input(network, images):
    scale, offset = details(quantized.convert(network, images / 4)).get_input_details()[0][
        "quantization"
    ]
    assert (scale, offset) == (pytest.approx(1 / 255, rel=1e-6), 0)


@pytest.mark.parametrize("value_range", [(0.0, 255.0), (-1.0, 1.0), (2.0, 6.0)])
def test_the_file_takes_bytes_whatever_the_network_was_trained_on(network, images, value_range):
    low, high = value_range
    inside = keras.Input((4, 4, 1))
    scaled = keras.layers.Rescaling(1 / (high - low), -low / (high - low))(inside)
    logits = networks.logits_of(network)(scaled)
    logits = keras.layers.Identity(name="logits")(logits)
    other = networks.with_temperature(keras.Model(inside, logits), 1.0)
    content = quantized.convert(other, low + images * (high - low), value_range=value_range)
    answers = quantized.predict(content, pixels_of(images))
    assert np.abs(answers / 256 - networks.predict(network, images)).max() < 0.1


def test_calibration_images_are_left_as_they_are(network, images):
    before = images.copy()
    quantized.convert(network, images)
    np.testing.assert_array_equal(images, before)


def test_any_number_of_images(images, content):
    pixels = pixels_of(images)
    together = quantized.predict(content, pixels)
    np.testing.assert_array_equal(quantized.predict(content, pixels[:1]), together[:1])
    np.testing.assert_array_equal(quantized.predict(content, pixels[:257]), together[:257])


def test_the_same_network_gives_the_same_file(network, images, content):
    assert quantized.convert(network, images) == content


def test_nothing_is_printed(network, images, capfd):
    quantized.predict(quantized.convert(network, images), pixels_of(images[:2]))
    assert capfd.readouterr() == ("", "")


def test_a_network_that_cannot_be_converted_is_named():
    images = keras.Input((4, 4, 1))
    # Sorting has no kernel in 8-bit integers.
    x = keras.ops.cumprod(keras.layers.Flatten()(images), axis=1)
    logits = keras.layers.Dense(3, name="logits")(x)
    network = networks.with_temperature(keras.Model(images, logits), 1.0)
    calibration = np.random.default_rng(0).uniform(size=(3, 4, 4, 1)).astype(np.float32)
    with pytest.raises(quantized.QuantizationError, match=r"TFLite can convert.*--quantize"):
        quantized.convert(network, calibration)
