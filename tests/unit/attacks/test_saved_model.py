"""SavedModels of other makers: which signature and output are attacked, and what is refused."""

import dataclasses
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from ddefense.settings import ConfigError

from ddefense import attacks, networks
from ddefense.attacks import saved_model

SHAPE, CLASSES = (2, 2, 1), 3
FEATURES = 4
# Class i has the sum of the first i + 1 features, times 3 i: far from uniform.
WEIGHTS = np.triu(np.ones((FEATURES, CLASSES), np.float32)) * np.float32([0.0, 3.0, 6.0])
DIGITS = pathlib.Path(__file__).parents[3] / "exported_models" / "digits_distilled_t100"


def logits_by_hand(images):
    return images.reshape(len(images), -1) @ WEIGHTS


class Linear(tf.Module):
    """What a maker who knows nothing of Keras may save."""

    def __init__(self):
        super().__init__()
        self.weights = tf.Variable(WEIGHTS)

    def logits(self, images):
        return tf.reshape(tf.cast(images, tf.float32), [-1, FEATURES]) @ self.weights


@pytest.fixture
def save(tmp_path):
    """Saves functions of a linear classifier as signatures; the folder."""

    def save(shape=(None, *SHAPE), dtype=tf.float32, name="pixels", **functions):
        model, spec = Linear(), tf.TensorSpec(shape, dtype, name=name)
        signatures = {
            key: tf.function(lambda x, f=f: f(model, x)).get_concrete_function(spec)
            for key, f in functions.items()
        }
        path = tmp_path / "model"
        tf.saved_model.save(model, str(path), signatures=signatures)
        return path

    return save


def probabilities(model, images):
    return {"scores": tf.nn.softmax(model.logits(images))}


def logits(model, images):
    return {"z": model.logits(images), "p": tf.nn.softmax(model.logits(images))}


def describe(path, signature="serving_default", **settings):
    loaded = saved_model.load_signature(path, signature)
    asked = {"image_shape": SHAPE, "num_classes": CLASSES} | settings
    return loaded, saved_model.describe(loaded, **asked)


@pytest.fixture
def images():
    return np.random.default_rng(5).uniform(size=(7, *SHAPE)).astype(np.float32)


# --- what is found --------------------------------------------------------------------------------


def test_probabilities_of_the_only_output(save, images):
    loaded, record = describe(save(serving_default=probabilities))
    assert (loaded.image_shape, loaded.num_classes) == (SHAPE, CLASSES)
    assert (record.signature, record.input) == ("serving_default", "pixels")
    assert (record.output, record.outputs, record.no_gradients) == ("scores", "probabilities", "")
    network = saved_model.network_of(loaded, record)
    expected = tf.nn.softmax(logits_by_hand(images)).numpy()
    np.testing.assert_allclose(networks.predict(network, images), expected, rtol=1e-5)
    attacked = attacks.classifier(network, "probabilities")
    assert (attacked.image_shape, attacked.num_classes) == (SHAPE, CLASSES)


def test_the_gradient_is_that_of_the_graph(save, images):
    loaded, record = describe(save(serving_default=logits), logits_output="z")
    assert (record.output, record.outputs) == ("z", "logits")
    network = saved_model.network_of(loaded, record)
    batch = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(batch)
        third = tf.reduce_sum(network(batch, training=False)[:, 2])
    found = tape.gradient(third, batch).numpy().reshape(len(images), -1)
    np.testing.assert_array_equal(found, np.tile(WEIGHTS[:, 2], (len(images), 1)))


def test_of_several_outputs_the_one_of_probabilities_is_taken(save):
    assert describe(save(serving_default=logits))[1].output == "p"


def test_a_signature_by_name(save):
    path = save(serving_default=lambda m, x: {"mean": tf.reduce_mean(x)}, classify=probabilities)
    assert describe(path, "classify")[1].signature == "classify"


@pytest.mark.parametrize("value_range", [(0.0, 255.0), (-1.0, 1.0)])
def test_the_model_gets_images_in_its_own_range(save, images, value_range):
    low, high = value_range
    loaded, record = describe(
        save(serving_default=logits), logits_output="z", value_range=value_range
    )
    found = networks.predict(saved_model.network_of(loaded, record), images)
    np.testing.assert_allclose(found, logits_by_hand(low + images * (high - low)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(None, None, None, 1), (None, None, None, None), None])
def test_a_shape_may_be_declared_in_part(save, images, shape):
    loaded, record = describe(save(shape, serving_default=logits), logits_output="z")
    assert loaded.image_shape is None
    found = networks.predict(saved_model.network_of(loaded, record), images)
    np.testing.assert_allclose(found, logits_by_hand(images), rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_fixed_number_of_images_is_called_as_often_as_it_takes(save, images, batch_size):
    """Seven images: none is left out, and none counted twice in the gradient."""
    path = save((batch_size, *SHAPE), serving_default=logits)
    loaded, record = describe(path, logits_output="z")
    assert record.no_gradients == ""
    network = saved_model.network_of(loaded, record)
    np.testing.assert_allclose(networks.predict(network, images), logits_by_hand(images), rtol=1e-5)
    batch = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(batch)
        third = tf.reduce_sum(network(batch, training=False)[:, 2])
    found = tape.gradient(third, batch).numpy().reshape(len(images), -1)
    np.testing.assert_array_equal(found, np.tile(WEIGHTS[:, 2], (len(images), 1)))


@pytest.mark.parametrize("dtype", [tf.float64, tf.float16])
def test_another_floating_point_type(save, images, dtype):
    loaded, record = describe(save(dtype=dtype, serving_default=logits), logits_output="z")
    found = networks.predict(saved_model.network_of(loaded, record), images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, logits_by_hand(images), rtol=5e-3)


def test_what_keras_exports(tmp_path, images):
    network = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES, use_bias=False, activation="softmax"),
        ]
    )
    network.set_weights([WEIGHTS])
    network.export(tmp_path / "model", verbose=False)
    loaded, record = describe(tmp_path / "model")
    assert (record.outputs, record.no_gradients) == ("probabilities", "")
    np.testing.assert_allclose(
        networks.predict(saved_model.network_of(loaded, record), images),
        networks.predict(network, images),
        rtol=1e-6,
    )


def test_what_this_package_exports(digits):
    path = DIGITS / "1"
    loaded, record = describe(path, image_shape=(28, 28, 1), num_classes=10)
    assert (loaded.image_shape, loaded.num_classes) == ((28, 28, 1), 10)
    assert (record.output, record.outputs, record.no_gradients) == (
        *("probabilities", "probabilities"),
        "",
    )
    found = networks.predict(saved_model.network_of(loaded, record), digits.test.images)
    assert (found.argmax(axis=1) == digits.test.labels).mean() > 0.9


def no_gradient(make):
    return lambda model, images: {"p": make(model.logits(images), images)}


WITHOUT_GRADIENTS = {
    "only the class": no_gradient(lambda z, x: tf.one_hot(tf.argmax(z, axis=1), CLASSES)),
    "rounded": lambda model, x: {"p": tf.nn.softmax(model.logits(tf.round(8 * x)))},
    "stopped": no_gradient(lambda z, x: tf.stop_gradient(tf.nn.softmax(z))),
    "through text": no_gradient(
        lambda z, x: tf.nn.softmax(tf.strings.to_number(tf.strings.as_string(z)))
    ),
}


@pytest.mark.parametrize("name", WITHOUT_GRADIENTS)
def test_outputs_that_no_gradient_leads_to_have_one_of_zeros(save, name):
    _, record = describe(save(serving_default=WITHOUT_GRADIENTS[name]))
    assert record.no_gradients == ""


def test_an_operation_that_refuses_its_gradient_is_named(save):
    def refuse(model, images):
        z = model.logits(images)
        # It has a gradient in TensorFlow's registry, which raises.
        return {"p": tf.raw_ops.PreventGradient(input=tf.nn.softmax(z), message="keep out")}

    _, record = describe(save(serving_default=refuse))
    assert "LookupError" in record.no_gradients
    assert "keep out" in record.no_gradients


def test_a_gradient_of_nothing_but_zeros_is_one(save):
    def saturated(model, images):
        return {"p": tf.nn.softmax(1e6 * (model.logits(images) + tf.constant([0.0, 9.0, 0.0])))}

    assert describe(save(serving_default=saturated))[1].no_gradients == ""


# --- what is refused ------------------------------------------------------------------------------


def refused(path, *named, **settings):
    with pytest.raises(ConfigError) as caught:
        describe(path, **settings)
    message = str(caught.value)
    assert "\n" not in message
    for part in named:
        assert part in message, message


def test_no_saved_model(tmp_path):
    refused(tmp_path, "model: expected a SavedModel that TensorFlow can load", str(tmp_path))


def test_a_damaged_saved_model(save):
    path = save(serving_default=probabilities)
    (path / "saved_model.pb").write_bytes(b"no graph")
    refused(path, "model: expected a SavedModel that TensorFlow can load", str(path))


def test_no_such_signature(save):
    path = save(serving_default=probabilities, other=probabilities)
    refused(
        *(path, "signature: expected one of ['other', 'serving_default']", "'predict'"),
        signature="predict",
    )


def test_no_signature_at_all(tmp_path):
    tf.saved_model.save(Linear(), str(tmp_path / "model"))
    refused(tmp_path / "model", "signature: expected one of []")


@pytest.mark.parametrize(
    ("shape", "dtype", "shown"),
    [
        ((None, FEATURES), tf.float32, "pixels (float32, [None, 4])"),
        ((None, *SHAPE), tf.uint8, "pixels (uint8, [None, 2, 2, 1])"),
        ((None, *SHAPE, 1), tf.float32, "pixels (float32, [None, 2, 2, 1, 1])"),
    ],
)
def test_no_floating_point_images(save, shape, dtype, shown):
    path = save(shape, dtype, serving_default=probabilities)
    refused(path, "signature: expected one with a single input, floating-point images", shown)


def test_more_than_images(tmp_path):
    class Two(Linear):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, *SHAPE], tf.float32, name="images"),
                tf.TensorSpec([], tf.float32, name="rate"),
            ]
        )
        def serve(self, images, rate):
            return {"p": tf.nn.softmax(rate * self.logits(images))}

    model = Two()
    tf.saved_model.save(model, str(tmp_path / "model"), signatures=model.serve)
    refused(
        *(tmp_path / "model", "signature: expected one with a single input"),
        *("images (float32, [None, 2, 2, 1])", "rate (float32, [])", "['serving_default']"),
    )


def test_images_of_another_shape(save):
    path = save(serving_default=probabilities)
    refused(path, "model: expected", "(4, 4, 1)", "(2, 2, 1)", image_shape=(4, 4, 1))


def test_images_that_the_graph_refuses(save):
    def refuse(model, images):
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_max(images) > 2.0, ["dark"])]):
            return probabilities(model, images)

    path = save(serving_default=refuse)
    refused(path, "model: expected 'serving_default' to take images", "[0, 1]", "value_range")
    refused(path, "it failed: assertion failed: [dark]")
    assert describe(path, value_range=(0.0, 255.0))[1].output == "scores"


def test_another_number_of_classes(save):
    path = save(serving_default=logits)
    refused(path, "shape [N, 4]", "z (float32, [8, 3])", "p (float32, [8, 3])", num_classes=4)


def test_logits_without_a_word(save):
    path = save(serving_default=lambda m, x: {"z": m.logits(x)})
    refused(path, "model: expected probabilities in z", "logits_output")


def test_no_such_output(save):
    path = save(serving_default=logits)
    refused(path, "logits_output: expected one of ['p', 'z']", "'y'", logits_output="y")
    refused(path, "probabilities_output: expected one of ['p', 'z']", probabilities_output="y")


def test_outputs_that_are_not_what_is_said_of_them(save):
    path = save(serving_default=logits)
    refused(path, "logits_output: expected logits; received 'p'", logits_output="p")
    refused(path, "expected probabilities in z", "logits_output", probabilities_output="z")


def test_logits_that_are_infinite(save):
    path = save(serving_default=lambda m, x: {"z": m.logits(x) / 0.0})
    refused(path, "logits_output: z: Expected a network with finite answers", logits_output="z")


def test_several_outputs_of_probabilities(save):
    def several(model, images):
        p = tf.nn.softmax(model.logits(images))
        return {"first": p, "second": p[:, ::-1], "class": tf.argmax(p, axis=1)}

    path = save(serving_default=several)
    refused(path, "probabilities_output: expected one of ['first', 'second']", "received none")
    assert describe(path, probabilities_output="second")[1].output == "second"


def test_a_record_says_all_that_is_needed_to_run_it_again(save, images):
    path = save(serving_default=logits)
    loaded, record = describe(path, logits_output="z", value_range=(0.0, 2.0))
    again = saved_model.load_signature(path, record.signature)
    for other in (record, dataclasses.replace(record)):
        np.testing.assert_array_equal(
            networks.predict(saved_model.network_of(loaded, record), images),
            networks.predict(saved_model.network_of(again, other), images),
        )
