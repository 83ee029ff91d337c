"""Which first layers tell that a network was trained on a wider range than [0, 1]."""

import keras
import pytest

from ddefense.exporting import scaling

WIDE = {
    "1/255": lambda: [keras.layers.Rescaling(1 / 255, name="it")],
    "to [-1, 1]": lambda: [keras.layers.Rescaling(1 / 127.5, offset=-1, name="it")],
    "per channel": lambda: [keras.layers.Rescaling([1 / 255, 1 / 127, 1 / 255], name="it")],
    "after others": lambda: [
        keras.layers.RandomFlip(seed=1),
        keras.layers.Rescaling(1 / 255, name="it"),
    ],
    "within a model": lambda: [
        keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Rescaling(1 / 255, name="it")])
    ],
    "mean of bytes": lambda: [keras.layers.Normalization(mean=120.0, variance=0.1, name="it")],
    "variance of bytes": lambda: [keras.layers.Normalization(mean=0.5, variance=0.26, name="it")],
    "mean below 0": lambda: [keras.layers.Normalization(mean=-0.1, variance=0.1, name="it")],
}
NARROW = {
    "nothing": lambda: [],
    "doubled": lambda: [keras.layers.Rescaling(2.0, offset=-1)],
    "statistics of [0, 1]": lambda: [keras.layers.Normalization(mean=0.5, variance=0.25)],
    "behind weights": lambda: [keras.layers.Conv2D(3, 1), keras.layers.Rescaling(1 / 255)],
    "behind frozen weights": lambda: [
        keras.layers.Conv2D(3, 1, trainable=False),
        keras.layers.Rescaling(1 / 255),
    ],
}


def build(layers):
    return keras.Sequential([keras.Input((4, 4, 3)), *layers, keras.layers.Flatten()])


@pytest.mark.parametrize("name", WIDE)
def test_a_layer_for_a_wide_range_is_named(name):
    assert scaling.wide_input_layer(build(WIDE[name]())) == "it"


@pytest.mark.parametrize("name", NARROW)
def test_a_network_for_0_to_1_has_none(name):
    assert scaling.wide_input_layer(build(NARROW[name]())) is None


def test_what_was_learnt_from_bytes_is_read_from_a_file(tmp_path):
    layer = keras.layers.Normalization(name="it")
    layer.adapt(keras.random.uniform((50, 4, 4, 3), 0, 255, seed=1))
    build([layer]).save(tmp_path / "a.keras")
    assert scaling.wide_input_layer(keras.models.load_model(tmp_path / "a.keras")) == "it"
