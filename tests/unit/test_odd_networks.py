"""Networks that are legal and unusual, through everything that the library does with a network."""

import keras
import numpy as np
import pytest

import ddefense
from ddefense.config import ATTACKS, ConfigError

SHAPE, CLASSES = (8, 8, 1), 3
PIXEL = {"preset": "smoke", "samples": 2}
ADVERSARIAL = tuple(name for name in ATTACKS if name != "transfer_cw_l2")
QUERIES = {"labels_only_queries": 150}
FEW = {"preset": "smoke", "samples": 2, "max_features": 4, **QUERIES}


@pytest.fixture(scope="module")
def data():
    """Two bright rows for each class, on noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % CLASSES
    images = rng.uniform(0, 0.4, (120, *SHAPE)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 0.5
    return images, labels


def network_of(before, hidden="relu", name=None):
    """A classifier behind some layers or operations on the images, untrained."""
    images = keras.Input(SHAPE)
    x = keras.layers.Flatten()(before(images))
    x = keras.layers.Dense(16, activation=hidden, name=name)(x)
    return keras.Model(images, keras.layers.Dense(CLASSES)(x))


@pytest.fixture(scope="module")
def weights(data):
    """Of a classifier that gets the images right."""
    keras.utils.set_random_seed(0)
    network = network_of(lambda images: images)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(0.01), loss)
    network.fit(*data, epochs=15, verbose=0)
    return network.get_weights()


@pytest.fixture
def trained(weights):
    def make(before, **settings):
        network = network_of(before, **settings)
        network.set_weights(weights)
        return network

    return make


# --- no gradient from the outputs to the images ---------------------------------------------------
def rounded(images):
    return keras.ops.round(images * 7) / 7


def stopped(images):
    return keras.ops.stop_gradient(images)


def binned(images):
    bins = keras.layers.Discretization(np.linspace(0.1, 0.9, 9).tolist())(images)
    return keras.layers.Rescaling(0.1)(keras.ops.cast(bins, "float32"))


def rounded_behind_a_convolution(images):
    filters = keras.layers.Conv2D(
        1, 1, kernel_initializer="ones", trainable=False, use_bias=False, name="filters"
    )
    return keras.ops.round(filters(images) * 7) / 7


MASKED = [rounded, stopped, binned]


@pytest.mark.slow
@pytest.mark.parametrize("before", MASKED)
def test_no_gradient_is_a_zero_gradient(before, trained, data):
    network = trained(before)
    attacks = ("jsma_f", "jsma_z", "fgsm", "pgd_linf", "labels_only")
    results = ddefense.evaluate(network, data, attacks=attacks, **FEW)
    found = results.networks[-1]
    assert found.test_accuracy > 0.9
    assert found.gradients.deployed.float32_zero_samples == 1
    assert [each.passed for each in results.controls if each.name == "zero_gradients"] == [False]
    for name in ("jsma_f", "jsma_z"):
        assert (found.attacks[name].success_rate, found.attacks[name].zero_maps) == (0, 4)
    assert found.norm_attacks["fgsm"].success_rate == 0
    assert found.norm_attacks["labels_only"].success_rate == 1


BY_GRADIENT = ("jsma_f", "jsma_f_literal", "fgsm", "pgd_linf", "cw_l2")
SLOWER = [
    pytest.param(name, marks=pytest.mark.slow) for name in ADVERSARIAL if name not in BY_GRADIENT
]


@pytest.mark.parametrize("name", [*BY_GRADIENT, *SLOWER])
def test_attacks_by_gradient_move_no_image_without_one(name, trained, data):
    images, labels = data[0][:2], data[1][:2]
    made = ddefense.attack(
        trained(rounded), (images, labels), name, cw_steps=20, max_features=4, **QUERIES
    )
    if name == "labels_only":
        assert made.success.all()
    elif not name.startswith("pgd"):  # which starts at random, and may be lucky
        np.testing.assert_array_equal(made.images, images[made.original])
        assert not made.success.any()


@pytest.mark.slow
def test_one_is_trained_and_attacked_behind_a_convolution(data):
    network = network_of(rounded_behind_a_convolution)
    pair = ddefense.distill(network, data, 2, epochs=2, optimizer="adam", learning_rate=0.01)
    made = ddefense.attack(pair.distilled, (data[0][:2], data[1][:2]), "cw_l2", cw_steps=20)
    assert np.isfinite(made.images).all()


# --- images of a single feature -------------------------------------------------------------------
@pytest.fixture(scope="module")
def pixel():
    """A network for images of one grey pixel, two shades, and these images."""
    labels = np.arange(12) % 2
    images = (0.8 * labels[:, None, None, None] + 0.1).astype(np.float32)
    network = keras.Sequential([keras.Input((1, 1, 1)), keras.layers.Flatten()])
    network.add(keras.layers.Dense(2))
    network.set_weights([np.float32([[-9, 9]]), np.float32([4.5, -4.5])])
    return network, (images, labels)


@pytest.mark.parametrize("name", ["jsma_f", "jsma_z"])
def test_jsma_of_a_single_feature_is_refused(name, pixel):
    network, data = pixel
    with pytest.raises(ConfigError, match=r"attacks: expected images of at least two features"):
        ddefense.attack(network, data, name)
    with pytest.raises(ConfigError, match=rf"at least two features with {name}"):
        ddefense.evaluate(network, data, attacks=(name, "fgsm"), **PIXEL)


@pytest.mark.parametrize("name", ["fgsm", "cw_l2", "cw_l0", "labels_only"])
def test_other_attacks_take_a_single_feature(name, pixel):
    network, data = pixel
    made = ddefense.attack(network, data, name, epsilon=0.5, cw_steps=100, cw_initial_c=1.0)
    assert made.success.all()


def test_an_evaluation_on_a_single_feature(pixel):
    network, data = pixel
    results = ddefense.evaluate(network, data, attacks=("fgsm",), epsilon=0.5, **PIXEL)
    assert results.networks[-1].norm_attacks["fgsm"].success_rate == 1
