"""Views of a network share its weights; predictions are made in inference mode."""

import keras
import numpy as np
import pytest

from ddefense import networks


def softmax(logits, temperature):
    scaled = np.exp(np.asarray(logits, np.float64) / temperature)
    return scaled / scaled.sum(axis=1, keepdims=True)


def test_heads_are_softmaxes_of_the_logits(make_tiny_network, tiny_images):
    network = make_tiny_network(20.0)
    logits = networks.predict(networks.logits_of(network), tiny_images)
    for temperature in (1.0, 20.0, 0.5):
        head = networks.with_temperature(network, temperature)
        assert networks.temperature_of(head) == temperature
        np.testing.assert_allclose(
            networks.predict(head, tiny_images), softmax(logits, temperature), rtol=1e-5
        )
    assert networks.temperature_of(network) == 20.0


def test_views_share_the_weights_both_ways(make_tiny_network, tiny_images):
    network = make_tiny_network(20.0)
    logits, deployed = networks.logits_of(network), networks.with_temperature(network, 1.0)
    before = networks.predict(logits, tiny_images)
    network.get_layer("logits").bias.assign([1.0, 0.0, -1.0])
    moved = networks.predict(logits, tiny_images)
    np.testing.assert_allclose(moved - before, np.tile([1, 0, -1], (10, 1)), atol=1e-6)
    np.testing.assert_allclose(
        networks.predict(deployed, tiny_images), softmax(moved, 1.0), rtol=1e-5
    )
    deployed.set_weights([np.zeros_like(w) for w in deployed.get_weights()])
    np.testing.assert_allclose(networks.predict(network, tiny_images), np.full((10, 3), 1 / 3))


def test_temperature_of_something_else_is_refused(make_tiny_network):
    with pytest.raises(ValueError, match=r"received one that ends in Dense \('logits'\)"):
        networks.temperature_of(networks.logits_of(make_tiny_network()))
    inputs = keras.Input((3,))
    with pytest.raises(ValueError, match="ends in Softmax"):
        networks.temperature_of(keras.Model(inputs, keras.layers.Softmax()(inputs)))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_an_invalid_temperature_is_refused(make_tiny_network, temperature):
    with pytest.raises(ValueError, match="finite number > 0"):
        networks.with_temperature(make_tiny_network(), temperature)


def test_predict_is_the_network_in_inference_mode(make_tiny_network, tiny_images):
    network = make_tiny_network(dropout=0.9)
    expected = keras.ops.convert_to_numpy(network(tiny_images, training=False))
    dropped = keras.ops.convert_to_numpy(network(tiny_images, training=True))
    assert (dropped != expected).any()  # or the test would say nothing
    found = [networks.predict(network, tiny_images) for _ in range(2)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 256])
def test_predict_keeps_the_order_and_the_last_partial_batch(
    make_tiny_network, tiny_images, batch_size
):
    network = make_tiny_network()
    expected = keras.ops.convert_to_numpy(network(tiny_images, training=False))
    found = networks.predict(network, tiny_images, batch_size=batch_size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_predict_gives_float32_for_half_precision_logits(make_tiny_network, tiny_images):
    network = make_tiny_network(dtype="mixed_float16")
    assert networks.predict(networks.logits_of(network), tiny_images).dtype == np.float32
