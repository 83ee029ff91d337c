"""Half precision in the hidden layers alone; weights, logits and softmax stay in float32."""

import keras
import numpy as np
import pytest

from ddefense import networks

HIDDEN = (
    *("conv_1_1", "conv_1_2", "pool_1", "conv_2_1", "conv_2_2", "pool_2", "flatten"),
    *("dense_1", "dropout_1", "dense_2", "dropout_2"),
)
IMAGES = np.random.default_rng(0).uniform(size=(6, 28, 28, 1)).astype(np.float32)
STATISTICS = np.full((28, 28, 1), 0.5, np.float32), np.full((28, 28, 1), 0.09, np.float32)


def build(precision, **settings):
    return networks.build(
        "mnist", temperature=2.0, seed=0, statistics=STATISTICS, precision=precision, **settings
    )


@pytest.fixture(scope="module")
def mixed():
    return build("mixed_bfloat16")


@pytest.fixture(scope="module")
def full():
    return build("float32")


def test_hidden_layers_compute_in_bfloat16_and_no_other(mixed):
    found = {layer.name: layer.compute_dtype for layer in mixed.layers}
    others = dict.fromkeys(("images", "standardize", "logits", "probabilities"), "float32")
    assert found == dict.fromkeys(HIDDEN, "bfloat16") | others
    # What they say is what they give.
    assert {layer.name: layer.output.dtype for layer in mixed.layers} == found


def test_float32_is_the_default_and_means_every_layer(full):
    assert {layer.compute_dtype for layer in full.layers} == {"float32"}
    default = networks.build("mnist", temperature=2.0, seed=0)
    assert {layer.compute_dtype for layer in default.layers} == {"float32"}


def test_weights_are_float32_and_those_of_the_seed(mixed, full):
    assert {w.dtype for w in mixed.weights} == {"float32"}
    for one, other in zip(mixed.get_weights(), full.get_weights(), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other)


def significant_bits(values):
    """Of the value that needs most."""
    mantissas = np.frexp(values.astype(np.float64))[0]
    return next(bits for bits in range(54) if (mantissas * 2.0**bits % 1 == 0).all())


def test_logits_and_probabilities_have_the_resolution_of_float32(mixed):
    hidden = keras.Model(mixed.input, mixed.get_layer("dense_2").output)
    assert significant_bits(networks.predict(hidden, IMAGES)) <= 8  # those of bfloat16
    logits = networks.predict(networks.logits_of(mixed), IMAGES)
    assert significant_bits(logits) > 16
    probabilities = networks.predict(mixed, IMAGES)
    scaled = np.exp(logits.astype(np.float64) / 2)
    np.testing.assert_allclose(probabilities, scaled / scaled.sum(axis=1, keepdims=True), rtol=1e-6)


def test_it_is_nearly_the_network_in_float32_and_not_quite(mixed, full):
    found, expected = (networks.predict(networks.logits_of(n), IMAGES) for n in (mixed, full))
    assert (found != expected).any()
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("precision", ["half", "bfloat17", "", 16])
def test_an_unknown_precision_is_refused(precision):
    with pytest.raises(ValueError, match="precision: expected one of"):
        build(precision)
