"""Exported networks for the tests of their parts."""

import numpy as np
import pytest

from ddefense import exporting


@pytest.fixture(scope="session")
def make_photo_network():
    """Builds a network of 6x5 RGB images -> three classes, which tells height from width."""
    import keras

    from ddefense.layers import TemperatureSoftmax

    def make(temperature=1.0, *, channels=3):
        images = keras.Input((6, 5, channels), name="images")
        x = keras.layers.Flatten(name="flatten")(images)
        glorot = keras.initializers.GlorotUniform(seed=5)
        logits = keras.layers.Dense(3, kernel_initializer=glorot, name="logits")(x)
        return keras.Model(images, TemperatureSoftmax(temperature)(logits), name="photo_network")

    return make


@pytest.fixture(scope="session")
def photos():
    """Four uint8 RGB images of 6x5."""
    return np.random.default_rng(3).integers(256, size=(4, 6, 5, 3)).astype(np.uint8)


@pytest.fixture(scope="session")
def open_export(tmp_path_factory):
    """Exports a network and loads it with TensorFlow's C++ runtime; more arguments are export's."""
    from ddefense.serving import runtime

    opened = []

    def export(network, **settings):
        base = tmp_path_factory.mktemp("exports") / "model"
        model = runtime.SavedModel(exporting.export_for_serving(network, base, **settings).path)
        opened.append(model)
        return model

    yield export
    for model in opened:
        model.close()
