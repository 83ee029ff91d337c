"""One class more: the others start as they were."""

import keras
import numpy as np
import pytest

from ddefense import networks, training
from ddefense.networks.outlier_class import with_outlier_class


def deep(images):
    adapted = keras.layers.Normalization(axis=-1)
    adapted.adapt(200 * images)
    inner = keras.Sequential(
        [keras.Input((3, 3, 4)), keras.layers.BatchNormalization(), keras.layers.Flatten()]
    )
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            adapted,
            keras.layers.Conv2D(4, 2),
            inner,
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


def nested(images):
    classifier = keras.Sequential([keras.Input((16,)), keras.layers.Dense(3)])
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Flatten(),
            classifier,
            keras.layers.Activation("softmax"),
        ]
    )


BUILD = {"deep": deep, "nested": nested}


@pytest.mark.parametrize("kind", [*BUILD, "tiny", "half precision"])
def test_the_other_classes_keep_their_logits(kind, make_tiny_network, tiny_images):
    if kind in BUILD:
        network = BUILD[kind](tiny_images)
    else:
        dtype = "mixed_bfloat16" if kind == "half precision" else None
        network = make_tiny_network(20.0, dropout=0.5, dtype=dtype)
    before = networks.predict(networks.without_softmax(network), tiny_images)
    extended = with_outlier_class(network)
    logits = networks.predict(networks.logits_of(extended), tiny_images)
    assert logits.shape == (10, 4)
    np.testing.assert_allclose(logits[:, :3], before, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(logits[:, 3], np.zeros(10))
    assert networks.temperature_of(extended) == 1.0
    assert extended.dtype_policy == network.dtype_policy


def test_the_network_is_left_alone_and_shares_nothing(make_tiny_network, tiny_images):
    network = make_tiny_network()
    before = networks.predict(network, tiny_images)
    extended = with_outlier_class(network)
    extended.set_weights([w + 1 for w in extended.get_weights()])
    np.testing.assert_array_equal(networks.predict(network, tiny_images), before)


def test_frozen_layers_stay_frozen(make_tiny_network):
    network = make_tiny_network()
    network.get_layer("dense").trainable = False
    extended = with_outlier_class(network)
    assert [w.path for w in extended.trainable_weights] == ["logits/kernel", "logits/bias"]


def test_the_outlier_class_learns_from_where_it_starts(make_tiny_network, tiny_images):
    extended = with_outlier_class(make_tiny_network())
    rows = np.tile(np.array([0.5, 0, 0, 0.5], np.float32), (10, 1))
    settings = training.TrainingSettings(
        temperature=1.0, epochs=60, batch_size=5, learning_rate=0.5, momentum=0.5, seed=0
    )
    training.fit(extended, tiny_images, rows, settings)
    np.testing.assert_allclose(networks.predict(extended, tiny_images), rows, atol=0.05)


def test_logits_that_are_no_dense_layer_are_refused():
    network = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Conv2D(3, 4), keras.layers.Flatten(name="logits")]
    )
    with pytest.raises(ValueError, match=r"a Dense layer gives.*received Flatten \('logits'\)"):
        with_outlier_class(network)
