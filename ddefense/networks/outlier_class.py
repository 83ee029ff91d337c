"""A network with one class more, for images that belong to none of the others."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ddefense.networks.heads import clone_layer, layer_of_logits, with_temperature, without_softmax


def with_outlier_class(network: keras.Model) -> keras.Model:
    """The same architecture and weights with an output more, the last one, for outliers.

    All weights are copied, those of the K classes included: as in defensive distillation, both
    trainings start from the weights that the network has, so pass it as it was before its first
    training. The weights of the outlier class are 0: to begin with its logit is 0 for every image
    and the others are those of the network. Training moves them at once, because the gradient of
    a last layer does not go through its own weights.

    Args:
        network: see `without_softmax`; the layer that gives its K logits is a `Dense`. It is left
            as it is, and shares no variable with what is returned.

    Returns:
        A model images -> probabilities at T = 1 [N, K + 1] with a layer named `logits`.

    Raises:
        ValueError: if the network's logits cannot be told, or no `Dense` layer gives them.
    """
    logits = without_softmax(network)
    last = _last_layer(logits)

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        return clone_layer(layer, units=last.units + 1) if layer is last else clone_layer(layer)

    copy = keras.models.clone_model(logits, clone_function=clone, recursive=True)
    copy.set_weights(
        [
            _grown(old, new.shape)
            for old, new in zip(logits.get_weights(), copy.weights, strict=True)
        ]
    )
    for layer in copy._flatten_layers():
        # What it standardises with is computed from its weights once, not whenever they are set.
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    return with_temperature(copy, 1.0)


def _grown(weight: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The same weight in the corner of one that may be larger."""
    grown = np.zeros(shape, weight.dtype)
    grown[tuple(slice(size) for size in weight.shape)] = weight
    return grown


def _last_layer(logits_network: keras.Model) -> keras.layers.Dense:
    """The layer that computes the logits, if it can be given an output more."""
    layer = layer_of_logits(logits_network)
    if type(layer) is not keras.layers.Dense:
        raise ValueError(
            "Expected a network whose logits a Dense layer gives, so that it can be given one "
            f"class more; received {type(layer).__name__} ({layer.name!r}). Pass a network with "
            "one output more as the student."
        )
    return layer
