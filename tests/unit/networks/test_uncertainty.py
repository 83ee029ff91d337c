"""The variance of outputs under dropout: by hand, and of dropout alone."""

import keras
import numpy as np
import pytest

from ddefense import interruption, networks
from ddefense.networks.uncertainty import dropout_variance

WEIGHTS = np.array([[3.0, 4.0]])  # of squared length 25
ONES = np.ones((200, 1, 1, 1), np.float32)


def linear(*before, rate=0.5):
    """One pixel x -> logits (3x, 4x), with dropout of x."""
    layers = [keras.Input((1, 1, 1)), *before, keras.layers.Dropout(rate), keras.layers.Flatten()]
    network = keras.Sequential([*layers, keras.layers.Dense(2, use_bias=False)])
    network.layers[-1].set_weights([WEIGHTS])
    return network


def test_two_passes_by_hand():
    # x is dropped or doubled: the logits are (0, 0) or (6, 8). Two equal passes have variance 0,
    # two different ones 5 * 5 about their mean (3, 4).
    found = dropout_variance(linear(), num_passes=2)(ONES, 0)
    assert found.dtype == np.float32
    assert set(found.tolist()) == {0.0, 25.0}
    assert 70 < (found > 0).sum() < 130  # 7 deviations about one half would be 50..150


def test_many_passes_approach_the_variance_of_a_coin():
    # x^2 rate / (1 - rate) times the squared length.
    rates = {0.5: 25.0, 0.2: 25 / 4}
    for rate, expected in rates.items():
        found = dropout_variance(linear(rate=rate), num_passes=400)(ONES, 0)
        assert found.mean() == pytest.approx(expected, rel=0.02)


def test_the_variance_of_probabilities_by_hand():
    # The logits (0, 0) and (6, 8) are the probabilities (1/2, 1/2) and (1 - p, p).
    found = dropout_variance(linear(), num_passes=2, outputs="probabilities")(ONES, 0)
    p = 1 / (1 + np.exp(-2))
    np.testing.assert_allclose(np.unique(found), [0, 2 * ((p - 0.5) / 2) ** 2], rtol=1e-5)


def test_the_variance_is_a_square():
    variance = dropout_variance(linear())
    np.testing.assert_array_equal(variance(4 * ONES, 0), 16 * variance(ONES, 0))
    np.testing.assert_array_equal(variance(0 * ONES, 0), np.zeros(200))


def test_a_softmax_makes_no_difference(make_tiny_network, tiny_images):
    network = make_tiny_network(20.0, dropout=0.5)
    expected = dropout_variance(networks.logits_of(network))(tiny_images, 0)
    np.testing.assert_array_equal(dropout_variance(network)(tiny_images, 0), expected)
    assert (expected > 0).sum() >= 5


def test_the_draws_depend_on_seed_and_row_alone(make_tiny_network):
    network = make_tiny_network(dropout=0.5)
    images = np.random.default_rng(0).uniform(size=(300, 4, 4, 1)).astype(np.float32)
    variance = dropout_variance(network, seed=3)
    whole = variance(images, 0)
    # In any order, in parts, and compiled again.
    np.testing.assert_array_equal(variance(images[256:], 256), whole[256:])
    np.testing.assert_array_equal(variance(images[:256], 0), whole[:256])
    np.testing.assert_array_equal(dropout_variance(network, seed=3)(images, 0), whole)
    assert not np.array_equal(dropout_variance(network, seed=4)(images, 0), whole)
    # The same image elsewhere is another draw.
    assert len(set(dropout_variance(linear())(ONES, 0).tolist())) > 2
    assert not np.array_equal(variance(images[:128], 128), whole[:128])


def test_the_network_is_left_as_it_is(make_tiny_network, tiny_images):
    network = make_tiny_network(dropout=0.5)
    before = networks.predict(network, tiny_images)
    variance = dropout_variance(network)
    found = variance(tiny_images, 0)
    np.testing.assert_array_equal(networks.predict(network, tiny_images), before)
    assert all(len(layer._inbound_nodes) == 1 for layer in network.layers)
    network.set_weights([np.zeros_like(w) for w in network.get_weights()])
    np.testing.assert_array_equal(variance(tiny_images, 0), found)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.SpatialDropout2D(0.5),
        keras.layers.AlphaDropout(0.5),
        keras.layers.GaussianDropout(0.5),
        keras.layers.Dropout(0.5, seed=7),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_kinds_of_dropout(layer):
    network = linear(layer, rate=0.0)
    found = dropout_variance(network)(ONES, 0)
    assert (found > 0).all()
    assert len(set(found.tolist())) > 2


def test_batch_normalisation_uses_its_moving_averages():
    # Of equal images a batch's own mean would leave 0.
    network = linear(keras.layers.BatchNormalization(epsilon=0.0))
    expected = dropout_variance(linear())(ONES, 0)
    np.testing.assert_array_equal(dropout_variance(network)(ONES, 0), expected)


def test_noise_and_augmentation_stay_off():
    network = linear(keras.layers.GaussianNoise(1.0), keras.layers.RandomBrightness(1.0))
    found = dropout_variance(network, num_passes=2)(ONES, 0)
    assert set(found.tolist()) == {0.0, 25.0}


def test_dropout_in_a_network_in_a_network():
    inner = linear(rate=0.0)
    deep = keras.Sequential([keras.Input((1, 1, 1)), keras.layers.Dropout(0.5), inner])
    deeper = keras.Sequential([keras.Input((1, 1, 1)), linear()])
    for network in (deep, deeper):
        found = dropout_variance(network, num_passes=2)(ONES, 0)
        assert set(found.tolist()) == {0.0, 25.0}


def test_a_path_around_the_dropout_adds_nothing():
    images = keras.Input((1, 1, 1))
    x = keras.layers.Rescaling(1.0)(images)
    x = keras.layers.Flatten()(keras.layers.Add()([keras.layers.Dropout(0.5)(x), x, images]))
    network = keras.Model(images, keras.layers.Dense(2, use_bias=False)(x))
    network.layers[-1].set_weights([WEIGHTS])
    found = dropout_variance(network, num_passes=2)(ONES, 0)
    assert set(found.tolist()) == {0.0, 25.0}


def test_half_precision_gives_finite_variances():
    with_policy = networks.trainable_copy(linear(), 1.0, "mixed_bfloat16")
    found = dropout_variance(with_policy, num_passes=2)(ONES, 0)
    assert set(found.tolist()) == {0.0, 25.0}


@pytest.mark.parametrize("kind", ["without", "rate 0", "beside"])
def test_a_network_without_dropout_before_its_logits_is_refused(kind):
    network = linear(rate=0.0)
    if kind == "without":
        network = keras.Sequential([keras.Input((1, 1, 1)), *network.layers[1:]])
    if kind == "beside":
        keras.layers.Dropout(0.5)(network.layers[0].output)
    with pytest.raises(ValueError, match="a dropout layer of a rate > 0 before its logits"):
        dropout_variance(network)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_passes": 1}, "num_passes: expected an integer >= 2; received 1"),
        ({"num_passes": 2.0}, "num_passes: expected an integer >= 2; received 2.0"),
        ({"seed": -1}, "seed: expected an integer >= 0; received -1"),
        ({"outputs": "labels"}, r"outputs: expected one of \['logits', 'probabilities'\]"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dropout_variance(linear(), **changes)


def test_a_run_that_was_asked_to_stop_stops(monkeypatch):
    variance = dropout_variance(linear())
    monkeypatch.setattr(interruption, "asked", lambda: True)
    with pytest.raises(interruption.StoppedError):
        variance(ONES, 0)
