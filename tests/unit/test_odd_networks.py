"""Networks that are legal and unusual, through everything that the library does with a network."""

import logging

import keras
import numpy as np
import pytest

import ddefense
from ddefense import networks
from ddefense.attack_catalog import ATTACKS
from ddefense.records import RunError
from ddefense.settings import ConfigError

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
        assert (found.attacks[name].success_rate, found.attacks[name].details["zero_maps"]) == (
            0,
            4,
        )
    assert found.attacks["fgsm"].success_rate == 0
    assert found.attacks["labels_only"].success_rate == 1


BY_GRADIENT = ("jsma_f", "jsma_f_literal", "fgsm", "pgd_linf", "cw_l2")
SLOWER = [
    pytest.param(name, marks=pytest.mark.slow) for name in ADVERSARIAL if name not in BY_GRADIENT
]


@pytest.mark.slow
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


def test_a_lowered_budget_is_not_called_the_number_of_features(pixel, caplog):
    network, data = pixel
    caplog.set_level(logging.INFO, "absl")
    ddefense.evaluate(network, data, attacks=("fgsm",), **PIXEL)
    assert "max_features: lowered to 2, for 12 test images of shape (1, 1, 1)." in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fgsm", "cw_l2", "cw_l0", "labels_only"])
def test_other_attacks_take_a_single_feature(name, pixel):
    network, data = pixel
    made = ddefense.attack(network, data, name, epsilon=0.5, cw_steps=100, cw_initial_c=1.0)
    assert made.success.all()


def test_an_evaluation_on_a_single_feature(pixel):
    network, data = pixel
    results = ddefense.evaluate(network, data, attacks=("fgsm",), epsilon=0.5, **PIXEL)
    assert results.networks[-1].attacks["fgsm"].success_rate == 1


# --- NaN and infinity -----------------------------------------------------------------------------
NOT_FINITE = r"finite answers to any image; received one that gives NaN or infinity for .*"


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("function", ["attack", "evaluate", "distill", "export"])
def test_weights_that_are_not_finite_are_refused_and_named(
    function, value, trained, data, tmp_path
):
    network = trained(lambda images: images)
    network.layers[-1].bias.assign([0, value, 0])
    calls = {
        "attack": lambda: ddefense.attack(network, (data[0][:6], data[1][:6])),
        "evaluate": lambda: ddefense.evaluate(network, data, attacks=("jsma_f",), **FEW),
        "distill": lambda: ddefense.distill(network, data, 5, epochs=1),
        "export": lambda: ddefense.export(network, tmp_path / "model"),
    }
    kind = RunError if function == "export" else ConfigError
    with pytest.raises(kind, match=NOT_FINITE + "bias' are not finite"):
        calls[function]()
    assert not list((tmp_path / "model").glob("*"))


def divided_by(extreme, weights):
    """The classifier, but that it multiplies by 0 / 0 where an extreme of the image is 0."""
    images = keras.Input(SHAPE)
    x = keras.layers.Dense(16, activation="relu")(keras.layers.Flatten()(images))
    # Behind the ReLU, which may make 0 of what is no number.
    value = extreme(images, axis=(1, 2, 3))
    network = keras.Model(images, keras.layers.Dense(CLASSES)(x * (value / value)[:, None]))
    network.set_weights(weights)
    return network


def test_images_without_an_answer_are_named(weights, data):
    network, images = divided_by(keras.ops.max, weights), data[0].copy()
    images[[4, 7]] = 0
    match = NOT_FINITE + r"2 of 120 (test )?images, the first of them number 4\."
    with pytest.raises(ConfigError, match=match):
        ddefense.attack(network, (images, data[1]), "fgsm")
    with pytest.raises(RunError, match=match):
        ddefense.evaluate(network, (images, data[1]), attacks=("fgsm",), **FEW)


def test_an_image_without_an_answer_is_no_success(weights, data):
    """The network divides by zero where its image is as dark as the attack can make it."""

    images = np.clip(data[0][:3], 0.05, 1)
    network = divided_by(keras.ops.min, weights)
    made = ddefense.attack(network, (images, data[1][:3]), "fgsm", epsilon=0.3)
    given = np.isfinite(network.predict(made.images, verbose=0)).all(axis=1)
    assert not given.all()
    assert not made.success[~given].any()
    assert (made.predicted[~given] == -1).all()


# --- names and functions --------------------------------------------------------------------------
NAMES = ["probabilities", "logits", "images", "unit_images", "from_unit", "scaled_logits"]


def everything(network, data, tmp_path, value_range=(0.0, 1.0)):
    """Everything that takes a network takes this one."""
    images, labels = data
    images = (images * (value_range[1] - value_range[0]) + value_range[0]).astype(np.float32)
    settings = {"value_range": value_range}
    pair = ddefense.distill(network, (images, labels), 2, epochs=1, **settings)
    for each in (network, pair.distilled):
        ddefense.attack(each, (images[:2], labels[:2]), "jsma_f", max_features=4, **settings)
        ddefense.evaluate(
            each, (images, labels), attacks=("jsma_f",), misclassified=True, **FEW, **settings
        )
    return ddefense.export(pair.distilled, tmp_path / "model", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_layers_may_be_called_as_ours_are(name, data, tmp_path):
    network = network_of(lambda images: images, name=name)
    assert everything(network, data, tmp_path, value_range=(0.0, 255.0)).is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["probabilities", "logits", "logits_1"])
def test_a_copy_of_such_a_network_answers_alike(name, data):
    network = network_of(lambda images: images, name=name)
    expected = keras.ops.softmax(network.predict(data[0][:8], verbose=0))
    for copy in (networks.deployed(network), networks.trainable_copy(network, 1.0)):
        np.testing.assert_allclose(copy.predict(data[0][:8], verbose=0), expected, rtol=1e-5)
        again = networks.deployed(networks.without_softmax(copy))
        np.testing.assert_allclose(again.predict(data[0][:8], verbose=0), expected, rtol=1e-5)


FACTOR = 2.0
LAMBDAS = {
    "layer": lambda: keras.layers.Lambda(lambda x: x * FACTOR),
    "activation": lambda: keras.layers.Activation(lambda x: x * FACTOR),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAMBDAS)
def test_a_lambda_of_this_process_is_taken_everywhere(kind, data, tmp_path):
    assert everything(network_of(LAMBDAS[kind]()), data, tmp_path).is_dir()


@pytest.mark.parametrize("kind", LAMBDAS)
def test_a_copy_calls_the_same_lambda(kind, trained, data):
    network = trained(LAMBDAS[kind]())
    copy = networks.trainable_copy(network, 1.0)
    expected = keras.ops.softmax(network.predict(data[0][:8], verbose=0))
    np.testing.assert_allclose(copy.predict(data[0][:8], verbose=0), expected, rtol=1e-5)
