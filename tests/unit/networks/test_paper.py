"""The paper's networks and the small one: one row of the table per name."""

import keras
import numpy as np
import pytest

from ddefense import networks
from ddefense.layers import TemperatureSoftmax

PARAMETERS = {"mnist": 312_202, "cifar10": 1_147_978, "small": 25_410}
# The paper's Table I, and the small network:
# (layer, class, output shape, filters or units, activation).
TABLE_I = {
    "mnist": [
        ("images", "InputLayer", (28, 28, 1), None, None),
        ("conv_1_1", "Conv2D", (26, 26, 32), 32, "relu"),
        ("conv_1_2", "Conv2D", (24, 24, 32), 32, "relu"),
        ("pool_1", "MaxPooling2D", (12, 12, 32), None, None),
        ("conv_2_1", "Conv2D", (10, 10, 64), 64, "relu"),
        ("conv_2_2", "Conv2D", (8, 8, 64), 64, "relu"),
        ("pool_2", "MaxPooling2D", (4, 4, 64), None, None),
        ("flatten", "Flatten", (1024,), None, None),
        ("dense_1", "Dense", (200,), 200, "relu"),
        ("dropout_1", "Dropout", (200,), None, None),
        ("dense_2", "Dense", (200,), 200, "relu"),
        ("dropout_2", "Dropout", (200,), None, None),
        ("logits", "Dense", (10,), 10, "linear"),
        ("probabilities", "TemperatureSoftmax", (10,), None, None),
    ],
    "cifar10": [
        ("images", "InputLayer", (32, 32, 3), None, None),
        ("conv_1_1", "Conv2D", (30, 30, 64), 64, "relu"),
        ("conv_1_2", "Conv2D", (28, 28, 64), 64, "relu"),
        ("pool_1", "MaxPooling2D", (14, 14, 64), None, None),
        ("conv_2_1", "Conv2D", (12, 12, 128), 128, "relu"),
        ("conv_2_2", "Conv2D", (10, 10, 128), 128, "relu"),
        ("pool_2", "MaxPooling2D", (5, 5, 128), None, None),
        ("flatten", "Flatten", (3200,), None, None),
        ("dense_1", "Dense", (256,), 256, "relu"),
        ("dropout_1", "Dropout", (256,), None, None),
        ("dense_2", "Dense", (256,), 256, "relu"),
        ("dropout_2", "Dropout", (256,), None, None),
        ("logits", "Dense", (10,), 10, "linear"),
        ("probabilities", "TemperatureSoftmax", (10,), None, None),
    ],
    "small": [
        ("images", "InputLayer", (28, 28, 1), None, None),
        ("conv_1_1", "Conv2D", (26, 26, 8), 8, "relu"),
        ("conv_1_2", "Conv2D", (24, 24, 8), 8, "relu"),
        ("pool_1", "MaxPooling2D", (12, 12, 8), None, None),
        ("conv_2_1", "Conv2D", (10, 10, 16), 16, "relu"),
        ("conv_2_2", "Conv2D", (8, 8, 16), 16, "relu"),
        ("pool_2", "MaxPooling2D", (4, 4, 16), None, None),
        ("flatten", "Flatten", (256,), None, None),
        ("dense_1", "Dense", (64,), 64, "relu"),
        ("dropout_1", "Dropout", (64,), None, None),
        ("dense_2", "Dense", (64,), 64, "relu"),
        ("dropout_2", "Dropout", (64,), None, None),
        ("logits", "Dense", (10,), 10, "linear"),
        ("probabilities", "TemperatureSoftmax", (10,), None, None),
    ],
}


@pytest.fixture(scope="module", params=networks.NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def network(name):
    return networks.build(name, temperature=20.0, seed=0)


@pytest.fixture(scope="module")
def images(network):
    shape = (7, *network.input_shape[1:])
    return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


def test_every_network_stands_in_these_tables():
    assert set(PARAMETERS) == set(TABLE_I) == set(networks.NAMES)


def test_number_of_parameters(name, network):
    assert network.count_params() == PARAMETERS[name]


def test_layers_are_those_of_table_one(name, network):
    found = []
    for layer in network.layers:
        size = getattr(layer, "filters", getattr(layer, "units", None))
        activation = getattr(layer, "activation", None)
        found.append(
            (
                layer.name,
                type(layer).__name__,
                tuple(layer.output.shape[1:]),
                size,
                activation and activation.__name__,
            )
        )
    assert found == TABLE_I[name]


def test_convolutions_are_three_by_three_and_dropout_is_one_half(network):
    layers = network.layers
    convolutions = [layer for layer in layers if isinstance(layer, keras.layers.Conv2D)]
    assert {layer.kernel_size for layer in convolutions} == {(3, 3)}
    assert {layer.strides for layer in convolutions} == {(1, 1)}
    assert {layer.pool_size for layer in layers if hasattr(layer, "pool_size")} == {(2, 2)}
    assert [x.rate for x in layers if isinstance(x, keras.layers.Dropout)] == [0.5, 0.5]


def test_outputs_are_probabilities_at_the_stated_temperature(network, images):
    assert networks.temperature_of(network) == 20.0
    found = networks.predict(network, images)
    assert found.shape == (7, 10)
    assert found.dtype == np.float32
    logits = networks.predict(networks.logits_of(network), images).astype(np.float64)
    scaled = np.exp(logits / 20)
    np.testing.assert_allclose(found, scaled / scaled.sum(axis=1, keepdims=True), rtol=1e-5)


def weights(name, seed):
    return networks.build(name, temperature=1.0, seed=seed).get_weights()


def test_the_seed_alone_determines_the_weights(name):
    keras.utils.set_random_seed(1)
    one = weights(name, 5)
    keras.utils.set_random_seed(2)
    for a, b in zip(one, weights(name, 5), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_seed_gives_other_weights(name):
    for a, b in zip(weights(name, 0), weights(name, 1), strict=True):
        # Biases start at zero, whatever the seed.
        assert (a == b).all() if a.ndim == 1 else (a != b).mean() > 0.99


def test_layers_of_one_shape_start_from_different_weights(name):
    kernels = [w for w in weights(name, 0) if w.ndim > 1]
    for i, one in enumerate(kernels):
        for other in kernels[i + 1 :]:
            assert one.shape != other.shape or (one != other).any()


def test_another_number_of_classes(name, images):
    network = networks.build(name, temperature=2.0, seed=0, num_classes=3)
    assert networks.predict(network, images).shape == (7, 3)


@pytest.mark.parametrize("shape", [(16, 16, 1), (20, 31, 4)])
def test_images_of_another_shape(name, shape):
    network = networks.build(name, temperature=1.0, seed=0, image_shape=shape)
    assert networks.predict(network, np.zeros((2, *shape), np.float32)).shape == (2, 10)


def test_images_that_the_convolutions_use_up_are_refused(name):
    with pytest.raises(
        ValueError, match=r"image_shape: expected at least 16x16 .*, received 15x90"
    ):
        networks.build(name, temperature=1.0, seed=0, image_shape=(15, 90, 3))


def test_a_saved_network_gives_the_same_answers(network, images, tmp_path):
    network.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras", compile=False)
    assert networks.temperature_of(again) == 20.0
    assert isinstance(again.layers[-1], TemperatureSoftmax)
    np.testing.assert_array_equal(
        networks.predict(again, images), networks.predict(network, images)
    )


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"expected one of \['mnist', 'cifar10', 'small'\], received 'resnet'"
    ):
        networks.build("resnet", temperature=1.0, seed=0)


def test_an_invalid_temperature_is_refused(name):
    with pytest.raises(ValueError, match="temperature=0"):
        networks.build(name, temperature=0, seed=0)
