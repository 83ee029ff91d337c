"""The fast way through a first convolution gives what automatic differentiation gives."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddefense import attack_catalog, attacks, networks
from ddefense.attacks import input_gradient

CLASSES = 3


def convolutional(shape=(7, 6, 1), *, kernel=3, before=None, wrap=None, **settings):
    """One convolution and a dense layer, with weights from a fixed seed."""
    images = keras.Input(shape)
    settings = {"filters": 4, "kernel_size": kernel, "activation": "relu"} | settings
    standardized = images if before is None else before(shape)(images)
    x = keras.layers.Conv2D(**settings)(standardized)
    x = x if wrap is None else wrap(standardized, x)
    network = keras.Model(images, keras.layers.Dense(CLASSES)(keras.layers.Flatten()(x)))
    rng = np.random.default_rng(0)
    for weight in network.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    return network


def standardize(axis=(1, 2, 3), *, invert=False, constant=(), dtype=None):
    """Makes a frozen `Normalization` for images of a shape; `constant` features never vary."""

    def make(shape):
        rng = np.random.default_rng(2)
        varies = [(None, *shape)[i] for i in np.atleast_1d(axis)]
        variance = rng.uniform(0.05, 0.1, varies)
        variance.reshape(-1)[list(constant)] = 0
        mean = rng.uniform(0.3, 0.6, varies)
        return keras.layers.Normalization(
            axis=axis, mean=mean, variance=variance, invert=invert, dtype=dtype
        )

    return make


def adapted(shape):
    """A `Normalization` that has seen images, instead of being told their statistics."""
    layer = keras.layers.Normalization(axis=(1, 2, 3))
    layer.adapt(np.random.default_rng(3).random((20, *shape)))
    return layer


def draw(network, count=5):
    rng = np.random.default_rng(1)
    return rng.random((count, *network.input_shape[1:])).astype(np.float32)


def plain_gradient(network, images, of):
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = of(network(x))
    return tape.gradient(score, x).numpy()


def cut_gradient(network, images, of):
    cut = input_gradient.passes(network)
    hidden = cut.head(tf.constant(images))
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        score = of(cut.tail(hidden))
    return cut.pull_back(tape.gradient(score, hidden)).numpy()


def is_cut_after_the_convolution(network):
    return input_gradient.passes(network).head(draw(network)).shape[1:] != network.input_shape[1:]


def add_images(images, x):
    return keras.layers.Concatenate()([keras.layers.Flatten()(images), keras.layers.Flatten()(x)])


FAST = {
    "3x3": {},
    "1x1": {"kernel": 1},
    "5x3": {"kernel": (5, 3)},
    "2x4": {"kernel": (2, 4)},
    "three channels": {"shape": (6, 6, 3)},
    "four channels": {"shape": (5, 8, 4)},
    "no bias": {"use_bias": False},
    "tanh": {"activation": "tanh"},
    "linear": {"activation": None},
    "each feature standardised": {"before": standardize()},
    "channels standardised": {"shape": (6, 6, 3), "before": standardize(axis=-1)},
    "constant features": {"before": standardize(constant=(0, 20, 41))},
    "standardised as adapted": {"before": adapted},
    "standardised in float64": {"before": standardize(dtype="float64")},
}
PLAIN = {
    "same padding": {"padding": "same"},
    "strides": {"strides": 2},
    "dilation": {"dilation_rate": 2},
    "groups": {"shape": (6, 6, 2), "groups": 2},
    "many channels": {"shape": (6, 6, 5)},
    "images used twice": {"wrap": add_images},
    "standardised images used twice": {"before": standardize(), "wrap": add_images},
    "standardisation undone": {"before": standardize(invert=True)},
    "standardised, same padding": {"before": standardize(), "padding": "same"},
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", (FAST | PLAIN).values(), ids=FAST | PLAIN)
def test_equals_autodiff(settings):
    network = convolutional(**settings)
    images = draw(network)
    found = cut_gradient(network, images, lambda z: z[:, 1])
    expected = plain_gradient(network, images, lambda z: z[:, 1])
    # A constant feature's derivative is ten million times that of the others.
    scale = np.maximum(1, np.abs(expected).max(axis=0))
    np.testing.assert_allclose(found / scale, expected / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("settings", (FAST | PLAIN).values(), ids=FAST | PLAIN)
def test_the_cut_network_gives_the_same_logits(settings):
    network = convolutional(**settings)
    images = draw(network)
    cut = input_gradient.passes(network)
    found = cut.tail(cut.head(tf.constant(images))).numpy()
    expected = network(images).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_takes_the_fast_way_where_it_applies():
    for settings in FAST.values():
        assert is_cut_after_the_convolution(convolutional(**settings))
    for settings in PLAIN.values():
        assert not is_cut_after_the_convolution(convolutional(**settings))


def build(name, precision="float32"):
    rng = np.random.default_rng(4)
    shape = (32, 32, 3) if name == "cifar10" else (28, 28, 1)
    mean, variance = rng.uniform(0.3, 0.6, shape), rng.uniform(0.05, 0.1, shape)
    statistics = (mean.astype(np.float32), variance.astype(np.float32))
    return networks.logits_of(
        networks.build(
            name,
            temperature=1.0,
            seed=0,
            statistics=statistics if name == "cifar10" else None,
            precision=precision,
        )
    )


@pytest.mark.parametrize("name", networks.NAMES)
def test_networks_by_name_are_cut_and_their_gradients_are_the_same(name):
    logits = build(name)
    images = draw(logits, 3)
    assert is_cut_after_the_convolution(logits)
    expected = plain_gradient(logits, images, lambda z: z[:, 4])
    found = cut_gradient(logits, images, lambda z: z[:, 4])
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    cut = input_gradient.passes(logits)
    np.testing.assert_allclose(
        cut.tail(cut.head(tf.constant(images))), logits(images), rtol=1e-4, atol=1e-6
    )


def test_a_network_of_low_precision_gives_float32_gradients():
    logits = build("cifar10", "mixed_bfloat16")
    images = draw(logits, 3)
    assert is_cut_after_the_convolution(logits)
    expected = plain_gradient(logits, images, lambda z: z[:, 4])
    found = cut_gradient(logits, images, lambda z: z[:, 4])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())


def test_a_sequential_network_is_cut_too():
    network = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            standardize()((6, 6, 2)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES),
        ]
    )
    images = draw(network)
    assert is_cut_after_the_convolution(network)
    expected = plain_gradient(network, images, lambda z: z[:, 0])
    found = cut_gradient(network, images, lambda z: z[:, 0])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_dropout_stays_off():
    network = convolutional(wrap=lambda _, x: keras.layers.Dropout(0.5, seed=0)(x))
    images = draw(network)
    first, second = (cut_gradient(network, images, lambda z: z[:, 0]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(
        first, plain_gradient(network, images, lambda z: z[:, 0]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", attack_catalog.JSMA_ATTACKS)
@pytest.mark.parametrize("settings", [FAST["3x3"], PLAIN["same padding"]], ids=["fast", "plain"])
def test_every_reading_goes_through_it(jacobian, name, settings):
    network = convolutional(**settings)
    network.set_weights([0.1 * w for w in network.get_weights()])  # far from saturation
    images = draw(network, 6)
    targets = np.arange(6) % CLASSES
    predicted, alpha, *_ = attacks.forward_derivative(network, name, temperature=5.0)(
        images, targets
    )
    outputs = {
        "jsma_z": lambda z: z,
        "jsma_f_temperature": lambda z: tf.nn.softmax(z / 5),
    }.get(name, tf.nn.softmax)
    expected = jacobian(network, images, outputs)[np.arange(6), targets]
    logits = network(images).numpy()
    if name == "jsma_f_exact":
        f = tf.nn.softmax(logits).numpy()[np.arange(6), targets]
        expected /= (f * (1 - f))[:, None]
    np.testing.assert_array_equal(predicted, logits.argmax(axis=1))
    np.testing.assert_allclose(alpha, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_a_network_without_hidden_layers_is_left_whole():
    images = keras.Input((2, 2, 1))
    network = keras.Model(images, keras.layers.Flatten()(images))
    assert not is_cut_after_the_convolution(network)
    attacks.forward_derivative(network, "jsma_z")
    assert attacks.classifier(network).num_classes == 4
