"""Copies of a network to be trained: the same answers, no variable in common."""

import keras
import numpy as np
import pytest

from ddefense import networks

CLASSES = 3


def adapted(images):
    """Standardisation whose mean and variance are weights, and no constants of its config."""
    layer = keras.layers.Normalization(axis=-1)
    layer.adapt(200 * images)
    return layer


def build(images, last):
    inner = keras.Sequential(
        [keras.Input((3, 3, 4)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    )
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Rescaling(255.0),
            adapted(images),
            keras.layers.Conv2D(4, 2),
            inner,
            keras.layers.Flatten(),
            last,
        ]
    )


def dense(**settings):
    return keras.layers.Dense(CLASSES, **settings)


LAST = {
    "softmax": lambda: dense(activation="softmax"),
    "logits": lambda: dense(name="logits"),
    "linear": lambda: dense(),
}


@pytest.fixture(params=list(LAST))
def network(request, tiny_images):
    return build(tiny_images, LAST[request.param]())


def test_a_copy_gives_the_same_answers_at_its_temperature(network, tiny_images):
    copy = networks.trainable_copy(network, 20.0)
    assert networks.temperature_of(copy) == 20.0
    np.testing.assert_array_equal(
        networks.predict(networks.logits_of(copy), tiny_images),
        networks.predict(networks.without_softmax(network), tiny_images),
    )


def test_training_the_copy_leaves_the_network_alone(network, tiny_images):
    before = [w.copy() for w in network.get_weights()]
    copy = networks.trainable_copy(network, 2.0)
    copy.set_weights([w + 1 for w in copy.get_weights()])
    for weight, old in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert len(copy.trainable_weights) == len(network.trainable_weights)


def test_regularizers_and_frozen_layers_are_copied(tiny_images):
    network = build(tiny_images, dense(activation="softmax", kernel_regularizer="l2"))
    network.layers[2].trainable = False
    copy = networks.trainable_copy(network, 2.0)
    assert len(copy.losses) == 1
    assert len(copy.trainable_weights) == len(network.trainable_weights)


def test_a_network_without_logits_is_refused(tiny_images):
    with pytest.raises(ValueError, match="ends in a softmax, or in logits"):
        networks.trainable_copy(build(tiny_images, dense(activation="sigmoid")), 2.0)


@pytest.mark.parametrize(
    "last",
    [
        lambda: dense(),
        lambda: dense(activation="softmax"),
        lambda: keras.Sequential([dense(), keras.layers.Softmax()]),
    ],
)
def test_logits_are_float32_whatever_the_precision(tiny_images, last):
    copy = networks.trainable_copy(build(tiny_images, last()), 2.0, "mixed_bfloat16")
    logits = networks.predict(networks.logits_of(copy), tiny_images)
    # The first 16 bits of a float32 are a bfloat16.
    assert (logits.view(np.uint32) & 0xFFFF).any()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_the_precision_is_that_of_every_layer_but_the_ends(network, tiny_images, precision):
    copy = networks.trainable_copy(network, 2.0, precision)
    found = {layer.name: layer.dtype_policy.name for layer in copy._flatten_layers()}
    exact = [name for name in found if name.startswith(("normal", "rescal", "logits", "probab"))]
    assert len(exact) == 4
    assert {found[name] for name in exact} == {"float32"}
    for kind in ("conv", "dropout"):
        assert [found[name] for name in found if name.startswith(kind)] == [precision]
    back = networks.trainable_copy(copy, 2.0, "float32")
    np.testing.assert_array_equal(
        networks.predict(back, tiny_images),
        networks.predict(networks.trainable_copy(network, 2.0), tiny_images),
    )
    np.testing.assert_allclose(
        networks.predict(copy, tiny_images), networks.predict(back, tiny_images), atol=0.05
    )
