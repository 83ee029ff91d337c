"""Views of a network share its weights; predictions are made in inference mode."""

import gc
import weakref

import keras
import numpy as np
import pytest

from ddefense import networks
from ddefense.layers import TemperatureSoftmax


def softmax(logits, temperature):
    scaled = np.exp(np.asarray(logits, np.float64) / temperature)
    return scaled / scaled.sum(axis=1, keepdims=True)


def test_heads_are_softmaxes_of_the_logits(make_tiny_network, tiny_images):
    network = make_tiny_network(20.0)
    logits = networks.predict(networks.logits_of(network), tiny_images)
    for temperature in (1.0, 20.0, 0.5):
        head = networks.with_temperature(network, temperature)
        assert networks.temperature_of(head) == temperature
        np.testing.assert_allclose(
            networks.predict(head, tiny_images), softmax(logits, temperature), rtol=1e-5
        )
    assert networks.temperature_of(network) == 20.0


def test_views_share_the_weights_both_ways(make_tiny_network, tiny_images):
    network = make_tiny_network(20.0)
    logits, deployed = networks.logits_of(network), networks.with_temperature(network, 1.0)
    before = networks.predict(logits, tiny_images)
    network.get_layer("logits").bias.assign([1.0, 0.0, -1.0])
    moved = networks.predict(logits, tiny_images)
    np.testing.assert_allclose(moved - before, np.tile([1, 0, -1], (10, 1)), atol=1e-6)
    np.testing.assert_allclose(
        networks.predict(deployed, tiny_images), softmax(moved, 1.0), rtol=1e-5
    )
    deployed.set_weights([np.zeros_like(w) for w in deployed.get_weights()])
    np.testing.assert_allclose(networks.predict(network, tiny_images), np.full((10, 3), 1 / 3))


def test_scaled_logits_are_the_logits_times_a_factor(make_tiny_network, tiny_images):
    logits = networks.logits_of(make_tiny_network())
    before = networks.predict(logits, tiny_images)
    for factor in (0.5, 1.0, 1024.0):
        scaled = networks.predict(networks.with_scaled_logits(logits, factor), tiny_images)
        np.testing.assert_array_equal(scaled, np.float32(factor) * before)
        assert (scaled.argmax(axis=1) == before.argmax(axis=1)).all()
    # What they came from is left alone.
    np.testing.assert_array_equal(networks.predict(logits, tiny_images), before)
    assert len(set(before.argmax(axis=1))) > 1  # or the test would say little


def test_scaled_logits_share_the_weights(make_tiny_network, tiny_images):
    logits = networks.logits_of(make_tiny_network())
    scaled = networks.with_scaled_logits(logits, 20.0)
    before = networks.predict(scaled, tiny_images)
    logits.get_layer("logits").bias.assign([1.0, 0.0, -1.0])
    moved = networks.predict(scaled, tiny_images) - before
    np.testing.assert_allclose(moved, np.tile([20, 0, -20], (10, 1)), atol=1e-4)


def dense(name, **settings):
    return keras.layers.Dense(3, name=name, **settings)


def sequential(last):
    return keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), last])


def test_a_sequential_network_has_logits_too(tiny_images):
    network = sequential(dense("logits"))
    found = networks.predict(networks.logits_of(network), tiny_images)
    flat = tiny_images.reshape(10, 16)
    np.testing.assert_allclose(found, flat @ network.get_weights()[0], rtol=1e-5, atol=1e-6)


def test_layers_behind_the_logits_are_left_out(tiny_images):
    layers = [keras.layers.Flatten(), dense("logits"), keras.layers.Softmax()]
    network = keras.Sequential([keras.Input((4, 4, 1)), *layers])
    logits = networks.predict(networks.logits_of(network), tiny_images)
    probabilities = networks.predict(network, tiny_images)
    np.testing.assert_allclose(probabilities, softmax(logits, 1.0), rtol=1e-5)
    assert np.abs(logits - probabilities).max() > 0.1


@pytest.mark.parametrize("build", [sequential, None], ids=["sequential", "functional"])
def test_a_network_without_logits_is_refused_with_the_layers_it_has(build):
    if build is None:
        images = keras.Input((3,), name="pixels")
        network = keras.Model(images, dense("scores")(images))
    else:
        network = build(dense("scores"))
    with pytest.raises(ValueError, match=r"a layer named 'logits'; received layers .*'scores'"):
        networks.logits_of(network)


def test_a_network_of_two_inputs_is_refused():
    one, other = keras.Input((3,)), keras.Input((3,))
    network = keras.Model([one, other], dense("logits")(keras.layers.add([one, other])))
    with pytest.raises(ValueError, match="one input, the images; received Functional with 2"):
        networks.logits_of(network)


class Subclassed(keras.Model):
    """A network whose layers nobody can see through."""

    def __init__(self):
        super().__init__()
        self.last = dense("logits")

    def call(self, images):
        return self.last(images)


def test_a_subclassed_network_is_refused():
    network = Subclassed()
    network(np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="received Subclassed with no known inputs"):
        networks.logits_of(network)


def test_temperature_of_something_else_is_refused(make_tiny_network):
    with pytest.raises(ValueError, match=r"received one that ends in Dense \('logits'\)"):
        networks.temperature_of(networks.logits_of(make_tiny_network()))
    inputs = keras.Input((3,))
    with pytest.raises(ValueError, match="ends in Softmax"):
        networks.temperature_of(keras.Model(inputs, keras.layers.Softmax()(inputs)))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_an_invalid_temperature_is_refused(make_tiny_network, temperature):
    with pytest.raises(ValueError, match="finite number > 0"):
        networks.with_temperature(make_tiny_network(), temperature)


def test_predict_is_the_network_in_inference_mode(make_tiny_network, tiny_images):
    network = make_tiny_network(dropout=0.9)
    expected = keras.ops.convert_to_numpy(network(tiny_images, training=False))
    dropped = keras.ops.convert_to_numpy(network(tiny_images, training=True))
    assert (dropped != expected).any()  # or the test would say nothing
    found = [networks.predict(network, tiny_images) for _ in range(2)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 256])
def test_predict_keeps_the_order_and_the_last_partial_batch(
    make_tiny_network, tiny_images, batch_size
):
    network = make_tiny_network()
    expected = keras.ops.convert_to_numpy(network(tiny_images, training=False))
    found = networks.predict(network, tiny_images, batch_size=batch_size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_predict_gives_float32_for_half_precision_logits(make_tiny_network, tiny_images):
    network = make_tiny_network(dtype="mixed_float16")
    assert networks.predict(networks.logits_of(network), tiny_images).dtype == np.float32


# --- what predict compiles is kept ----------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
class Counting(keras.layers.Layer):
    """Adds a constant, and counts how often it is traced."""

    def __init__(self, constant):
        super().__init__()
        self.constant, self.traced = constant, 0

    def call(self, x):
        self.traced += 1
        return x + self.constant


def counting(constant, shape=(4, 4, 1)):
    layer = Counting(constant)
    images = keras.Input(shape)
    network = keras.Model(images, layer(images))
    layer.traced = 0
    return network, layer


def test_a_network_is_compiled_once_for_images_of_any_number(tiny_images):
    network, layer = counting(1.0)
    for count in (10, 3, 10):
        found = networks.predict(network, tiny_images[:count], batch_size=4)
        np.testing.assert_array_equal(found, tiny_images[:count] + 1)
    assert layer.traced == 1


def test_a_network_of_any_size_is_compiled_for_each_shape(tiny_images):
    network, layer = counting(1.0, (None, None, 1))
    for images in (tiny_images, tiny_images[:, :2], tiny_images):
        np.testing.assert_array_equal(networks.predict(network, images), images + 1)
    assert layer.traced == 2


def test_networks_are_not_taken_for_each_other(tiny_images):
    """More than are remembered, in turns."""
    made = [counting(float(i))[0] for i in range(6)]
    for _ in range(2):
        for i, network in enumerate(made):
            np.testing.assert_array_equal(networks.predict(network, tiny_images), tiny_images + i)


def test_few_networks_are_kept_alive(tiny_images):
    made = [counting(float(i))[0] for i in range(20)]
    for network in made:
        networks.predict(network, tiny_images)
    references = [weakref.ref(network) for network in made]
    del made, network
    gc.collect()
    assert sum(reference() is not None for reference in references) <= 5


# --- the softmax is found, whatever it is ---------------------------------------------------------


def on_images(*layers):
    """A functional network of layers, or of functions of symbolic tensors."""
    images = x = keras.Input((4, 4, 1), name="pixels")
    for layer in (keras.layers.Flatten(), *layers):
        x = layer(x)
    return keras.Model(images, x, name="given")


def in_a_network():
    inner = keras.Sequential([keras.Input((16,)), dense("inner", activation="softmax")])
    return on_images(keras.layers.Rescaling(2.0), inner)


def twice():
    """The same layer on two branches, the second of which gives the output."""
    shared = dense("shared", activation="softmax")
    images = keras.Input((4, 4, 1))
    first = keras.layers.Flatten()(images)
    shared(first)
    return keras.Model(images, shared(keras.layers.Rescaling(-1.0)(first)))


WITH_SOFTMAX = {
    "activation": lambda: on_images(dense("scores", activation="softmax")),
    "activation of logits": lambda: on_images(dense("logits", activation="softmax")),
    "activation, then float32": lambda: on_images(
        dense("scores", activation="softmax"), keras.layers.Activation("linear", dtype="float32")
    ),
    "layer": lambda: on_images(dense("scores"), keras.layers.Softmax(name="probabilities")),
    "layer over axis 1": lambda: on_images(dense("scores"), keras.layers.Softmax(axis=1)),
    "layer over [-1]": lambda: on_images(dense("scores"), keras.layers.Softmax(axis=[-1])),
    "layer named logits": lambda: on_images(dense("scores"), keras.layers.Softmax(name="logits")),
    "activation layer": lambda: on_images(dense("scores"), keras.layers.Activation("softmax")),
    "operation": lambda: on_images(dense("scores"), keras.ops.softmax),
    "our own": lambda: on_images(dense("scores"), TemperatureSoftmax(1.0)),
    "after a relu": lambda: on_images(dense("scores", activation="relu"), keras.layers.Softmax()),
    "sequential": lambda: sequential(dense("scores", activation="softmax")),
    "in a network": in_a_network,
    "of a shared layer": twice,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_SOFTMAX)
def test_a_deployed_network_gives_the_probabilities_of_the_given_one(name, tiny_images):
    network = WITH_SOFTMAX[name]()
    network.set_weights([2 * weights + 0.1 for weights in network.get_weights()])  # also biases
    before = networks.predict(network, tiny_images)
    config, weights = network.get_config(), network.get_weights()
    deployed = networks.deployed(network)
    assert networks.temperature_of(deployed) == 1.0
    np.testing.assert_allclose(networks.predict(deployed, tiny_images), before, atol=1e-6)
    logits = networks.predict(networks.logits_of(deployed), tiny_images)
    np.testing.assert_allclose(softmax(logits, 1.0), before, atol=1e-6)
    assert np.abs(logits.sum(axis=1) - 1).max() > 0.1  # or these would be probabilities
    # What was given is left as it was.
    assert network.get_config() == config
    np.testing.assert_array_equal(networks.predict(network, tiny_images), before)
    for now, then in zip(network.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("name", ["activation", "layer", "in a network"])
def test_a_deployed_network_is_saved_and_deployed_again(name, tiny_images, tmp_path):
    deployed = networks.deployed(WITH_SOFTMAX[name]())
    deployed.save(tmp_path / "network.keras")
    again = networks.deployed(networks.load(tmp_path / "network.keras"))
    np.testing.assert_array_equal(
        networks.predict(again, tiny_images), networks.predict(deployed, tiny_images)
    )


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_our_networks_are_deployed_at_1_and_share_their_weights(
    make_tiny_network, tiny_images, temperature
):
    network = make_tiny_network(temperature)
    deployed = networks.deployed(network)
    expected = networks.predict(networks.with_temperature(network, 1.0), tiny_images)
    np.testing.assert_array_equal(networks.predict(deployed, tiny_images), expected)
    assert all(a is b for a, b in zip(deployed.weights, network.weights, strict=True))
    assert deployed.get_layer("logits") is network.get_layer("logits")


LINEAR = {
    "named logits": lambda: on_images(dense("logits")),
    "another layer named logits": lambda: on_images(
        dense("scores"), keras.layers.Rescaling(3.0, name="logits")
    ),
    "dense": lambda: on_images(dense("scores")),
    "then float32": lambda: on_images(
        dense("scores"), keras.layers.Activation("linear", dtype="float32")
    ),
    "sequential": lambda: sequential(dense("scores")),
}


@pytest.mark.parametrize("name", LINEAR)
def test_outputs_that_are_logits_stay_what_they_are(name, tiny_images):
    network = LINEAR[name]()
    found = networks.without_softmax(network)
    assert found.layers[-1].name == "logits"
    logits = networks.predict(network, tiny_images)
    np.testing.assert_array_equal(networks.predict(found, tiny_images), logits)
    deployed = networks.predict(networks.deployed(network), tiny_images)
    np.testing.assert_allclose(deployed, softmax(logits, 1.0), rtol=1e-5)
    assert all(a is b for a, b in zip(found.weights, network.weights, strict=True))


def test_only_a_layer_with_a_softmax_of_its_own_is_copied(tiny_images):
    hidden = keras.layers.Dense(5, activation="relu")
    network = on_images(hidden, dense("scores", activation="softmax"))
    deployed = networks.deployed(network)
    assert all(a is b for a, b in zip(deployed.weights[:2], hidden.weights, strict=True))
    before = networks.predict(deployed, tiny_images)
    network.get_layer("scores").kernel.assign(np.zeros((5, 3)))
    np.testing.assert_array_equal(networks.predict(deployed, tiny_images), before)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", ["activation", "layer", "linear"])
def test_a_half_precision_network_keeps_its_precision_up_to_a_float32_softmax(
    name, policy, tiny_images
):
    hidden = keras.layers.Dense(5, activation="relu", dtype=policy)
    tail = {
        "activation": [dense("scores", activation="softmax", dtype=policy)],
        "layer": [dense("scores", dtype=policy), keras.layers.Softmax(dtype="float32")],
        "linear": [dense("scores", dtype=policy)],
    }[name]
    network = on_images(hidden, *tail)
    deployed = networks.deployed(network)
    assert deployed.output.dtype == "float32"
    assert all(weights.dtype == "float32" for weights in deployed.weights)
    assert hidden in deployed.layers
    expected = networks.predict(network, tiny_images)
    if name == "linear":
        expected = softmax(expected, 1.0)
    # A softmax in half precision rounds its own results.
    atol = 4e-3 if name == "activation" else 1e-6
    np.testing.assert_allclose(networks.predict(deployed, tiny_images), expected, atol=atol)
    logits = networks.predict(networks.logits_of(deployed), tiny_images)
    kind = {"mixed_bfloat16": "bfloat16", "mixed_float16": "float16"}[policy]
    rounded = keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.cast(logits, kind), "float32"))
    np.testing.assert_array_equal(logits, rounded)


def outputs_per_pixel():
    return keras.Sequential([keras.Input((4, 4, 1)), dense("scores", activation="softmax")])


def two_outputs():
    images = keras.Input((3,))
    return keras.Model(images, [dense("one")(images), dense("other")(images)])


def masked_softmax():
    images = keras.Input((3,))
    return keras.Model(images, keras.layers.Softmax()(images, mask=images > 0))


class OwnCall(keras.Sequential):
    """A network that does more than its layers."""

    def call(self, images, training=None, mask=None):
        return keras.ops.softmax(super().call(images))


def own_call():
    return OwnCall([keras.Input((3,)), dense("logits")])


def two_inputs():
    one, other = keras.Input((3,)), keras.Input((3,))
    return keras.Model([one, other], dense("logits")(keras.layers.add([one, other])))


def subclassed():
    network = Subclassed()
    network(np.zeros((1, 3), np.float32))
    return network


UNFIT = {
    "sigmoid": (
        lambda: on_images(dense("scores", activation="sigmoid")),
        r"ends in a softmax, or in logits: .* Dense \('scores', activation sigmoid\)",
    ),
    "relu": (lambda: on_images(dense("scores", activation="relu")), "'scores', activation relu"),
    "relu named logits": (lambda: on_images(dense("logits", activation="relu")), "activation relu"),
    "relu, then float32": (
        lambda: on_images(dense("scores", activation="relu"), keras.layers.Activation("linear")),
        "'scores', activation relu",
    ),
    "a relu layer": (lambda: on_images(dense("scores"), keras.layers.ReLU()), r"in ReLU \('re_lu"),
    "a recurrent layer": (
        lambda: on_images(
            keras.layers.Reshape((4, 4)), keras.layers.LSTM(3, activation="softmax", name="last")
        ),
        r"LSTM \('last', activation softmax\)",
    ),
    "dropout": (lambda: on_images(dense("scores"), keras.layers.Dropout(0.5)), "in Dropout"),
    "one output": (
        lambda: on_images(keras.layers.Dense(1, activation="sigmoid")),
        r"shape \[N, classes >= 2\]; .* \(None, 1\)",
    ),
    "every pixel": (outputs_per_pixel, r"of shape \(None, 4, 4, 3\)"),
    "another axis": (
        lambda: on_images(dense("scores"), keras.layers.Softmax(axis=0)),
        r"Softmax \('softmax\w*'\) over axis 0",
    ),
    "a mask": (masked_softmax, "Expected a softmax of the logits alone; .* of 2 tensors"),
    "two softmaxes": (
        lambda: on_images(dense("scores", activation="softmax"), keras.layers.Softmax()),
        "Expected one softmax; .* in two, Dense",
    ),
    "two outputs": (two_outputs, "with one output, .* received one with 2"),
    "two inputs": (two_inputs, "one input, the images; received Functional with 2"),
    "subclassed": (subclassed, "received Subclassed with no known inputs"),
    "a call of its own": (own_call, "received OwnCall, a class with a `call` of its own"),
    "subclassed in a network": (
        lambda: on_images(Subclassed()),
        "received Subclassed with no known inputs",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_network_whose_logits_cannot_be_told_is_refused(name):
    build, reason = UNFIT[name]
    with pytest.raises(ValueError, match=reason):
        networks.deployed(build())


def test_a_hidden_layer_may_be_called_logits():
    network = on_images(dense("logits"), keras.layers.Rescaling(0.1), keras.layers.Softmax())
    images = np.random.default_rng(0).uniform(size=(5, *network.input_shape[1:]))
    found = networks.deployed(network)
    np.testing.assert_allclose(found(images), network(images), rtol=1e-6)
    assert found.layers[-2].name == "logits_1"
