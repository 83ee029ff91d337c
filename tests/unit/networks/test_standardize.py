"""Features are standardised inside a network, with statistics that are frozen into it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddefense import distillation, networks, training

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


@pytest.fixture(scope="module", params=SHAPES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def images(name):
    return np.random.default_rng(0).uniform(size=(5, *SHAPES[name])).astype(np.float32)


@pytest.fixture(scope="module")
def statistics(name):
    """A mean and a variance of its own for every feature."""
    generator = np.random.default_rng(1)
    return (
        generator.uniform(0.2, 0.8, SHAPES[name]).astype(np.float32),
        generator.uniform(0.01, 0.25, SHAPES[name]).astype(np.float32),
    )


@pytest.fixture(scope="module")
def network(name, statistics):
    return networks.build(name, temperature=2.0, seed=0, statistics=statistics)


@pytest.fixture(scope="module")
def plain(name):
    """The same weights without the standardisation."""
    return networks.build(name, temperature=2.0, seed=0)


@pytest.fixture(scope="module")
def by_hand(images, statistics):
    mean, variance = (s.astype(np.float64) for s in statistics)
    return (images - mean) / np.sqrt(variance)


def standardized(network, images):
    inside = keras.Model(network.input, network.get_layer("standardize").output)
    return networks.predict(inside, images)


def test_it_is_the_first_layer_and_the_only_one_more(network, plain):
    names = [layer.name for layer in network.layers]
    assert names[:3] == ["images", "standardize", "conv_1_1"]
    names.remove("standardize")
    assert names == [layer.name for layer in plain.layers]


def test_every_feature_has_its_own_mean_and_deviation(network, images, by_hand):
    np.testing.assert_allclose(standardized(network, images), by_hand, rtol=1e-5, atol=1e-6)


def test_what_follows_is_the_network_without_it(network, plain, images, by_hand):
    logits = networks.predict(networks.logits_of(network), images)
    np.testing.assert_allclose(
        logits,
        networks.predict(networks.logits_of(plain), by_hand.astype(np.float32)),
        rtol=1e-4,
        atol=1e-5,
    )
    assert np.abs(logits - networks.predict(networks.logits_of(plain), images)).max() > 0.01


def test_it_has_no_weights(network, plain):
    """Neither `set_weights` of another network nor training can change it."""
    layer = network.get_layer("standardize")
    assert layer.weights == layer.variables == []
    assert layer.trainable_weights == layer.non_trainable_weights == []
    assert network.non_trainable_weights == []
    assert [w.shape for w in network.weights] == [w.shape for w in plain.weights]
    for one, other in zip(network.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_saved_network_has_the_same_bits(network, images, tmp_path):
    network.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras", compile=False)
    np.testing.assert_array_equal(standardized(again, images), standardized(network, images))
    np.testing.assert_array_equal(
        networks.predict(again, images), networks.predict(network, images)
    )
    # And once more from what was loaded.
    again.save(tmp_path / "again.keras")
    third = keras.models.load_model(tmp_path / "again.keras", compile=False)
    np.testing.assert_array_equal(
        networks.predict(third, images), networks.predict(network, images)
    )


def test_every_view_standardises(network, images):
    logits = networks.predict(networks.logits_of(network), images).astype(np.float64)
    deployed = networks.with_temperature(network, 1.0)
    scaled = np.exp(logits)
    np.testing.assert_allclose(
        networks.predict(deployed, images), scaled / scaled.sum(axis=1, keepdims=True), rtol=1e-5
    )


def test_gradients_are_with_respect_to_the_images_as_they_are(network, images, statistics):
    """Attacks see the box of the images; the chain rule divides by the deviation."""
    values = keras.Model(network.input, network.get_layer("standardize").output)
    inputs = tf.constant(images[:1])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        inside = values(inputs)
    diagonal = tape.gradient(inside, inputs).numpy()[0]
    np.testing.assert_allclose(diagonal, 1 / np.sqrt(statistics[1]), rtol=1e-5)


@pytest.mark.slow
def test_training_does_not_move_it(name, statistics, images):
    network = networks.build(name, temperature=1.0, seed=0, statistics=statistics)
    before = standardized(network, images)
    labels = distillation.hard_labels(np.arange(5), 10)
    settings = training.TrainingSettings(
        temperature=1.0, epochs=1, batch_size=5, learning_rate=0.1, momentum=0.5, seed=0
    )
    weights = network.get_weights()
    training.fit(network, images, labels, settings)
    assert any((a != b).any() for a, b in zip(weights, network.get_weights(), strict=True))
    np.testing.assert_array_equal(standardized(network, images), before)


def test_there_is_none_without_statistics(plain):
    assert "standardize" not in [layer.name for layer in plain.layers]
