"""Networks small enough to measure by hand."""

import keras
import numpy as np
import pytest

SHAPE = (3, 3, 1)
CLASSES = 3


def make_network(scale: float = 1.0, dtype: str = "float32") -> keras.Model:
    """images -> logits, with the same weights in any type; `scale` multiplies the logits."""
    rng = np.random.default_rng(2)
    images = keras.Input(SHAPE, dtype=dtype)
    x = keras.layers.Flatten(dtype=dtype)(images)
    x = keras.layers.Dense(8, activation="relu", dtype=dtype)(x)
    network = keras.Model(images, keras.layers.Dense(CLASSES, dtype=dtype)(x))
    weights = [rng.normal(size=w.shape).astype(np.float32) for w in network.get_weights()]
    weights[2:] = [w * scale for w in weights[2:]]
    network.set_weights([w.astype(dtype) for w in weights])
    return network


@pytest.fixture(scope="session")
def build_network():
    return make_network


@pytest.fixture(scope="session")
def by_brightest():
    """The class is the brightest of the first three pixels of a row of four."""
    images = keras.Input((1, 4, 1))
    network = keras.Model(
        images, keras.layers.Dense(CLASSES, use_bias=False)(keras.layers.Flatten()(images))
    )
    network.set_weights([np.eye(4, CLASSES)])
    return network
