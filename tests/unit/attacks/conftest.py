"""A network small enough to try everything on."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddefense import attacks

SHAPE = (4, 4, 1)
CLASSES = 3


def make_network(scale: float = 1.0, dtype: str = "float32") -> keras.Model:
    """images -> logits, with the same weights in any type; `scale` multiplies the logits."""
    rng = np.random.default_rng(27)
    images = keras.Input(SHAPE, dtype=dtype)
    x = keras.layers.Flatten(dtype=dtype)(images)
    x = keras.layers.Dense(12, activation="relu", dtype=dtype)(x)
    network = keras.Model(images, keras.layers.Dense(CLASSES, dtype=dtype)(x))
    weights = [rng.normal(size=w.shape).astype(np.float32) for w in network.get_weights()]
    weights[2:] = [w * scale for w in weights[2:]]
    network.set_weights([w.astype(dtype) for w in weights])
    return network


def take_jacobian(
    network: keras.Model, images: np.ndarray, outputs: Callable[[tf.Tensor], tf.Tensor]
) -> np.ndarray:
    """Rows d outputs(logits)_i / dx, one autodiff pass each, shape [N, classes, features]."""
    x = tf.constant(images, network.input.dtype)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        columns = tf.unstack(outputs(network(x)), axis=1)
    rows = [tape.gradient(column, x).numpy().reshape(len(images), -1) for column in columns]
    return np.stack(rows, axis=1)


@pytest.fixture(scope="session")
def build_network():
    return make_network


@pytest.fixture(scope="session")
def jacobian():
    return take_jacobian


@pytest.fixture(scope="session")
def network():
    return make_network()


@pytest.fixture(scope="session")
def saturated():
    """Logits a thousand times as large: float32 probabilities are 0 and 1."""
    return make_network(1000.0)


@pytest.fixture(scope="session")
def images():
    """Twelve images with some features at each bound."""
    rng = np.random.default_rng(8)
    drawn = rng.uniform(-0.3, 1.3, (12, *SHAPE)).clip(0, 1)
    return drawn.astype(np.float32)


@pytest.fixture(scope="session")
def predict(network):
    return lambda images: network(images).numpy().argmax(axis=1)


@pytest.fixture(scope="session")
def linear():
    """Makes a function of two classes; the first leads by weights @ features + offset."""

    def make(weights, offset, scale=1.0, bounds=(0.0, 1.0)):
        column = scale * np.array(weights, np.float32)[:, None]
        shift = np.array([scale * offset, 0], np.float32)
        return attacks.classifier(
            lambda x: tf.reshape(x, [-1, len(weights)]) @ np.hstack([column, 0 * column]) + shift,
            image_shape=(1, len(weights), 1),
            bounds=bounds,
        )

    return make
