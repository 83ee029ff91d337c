"""Whether the layers next to the images tell of features in a wider range than [0, 1]."""

import itertools
from collections.abc import Iterator

import keras
import numpy as np

_SMALL_SCALE = 1 / 100
"""Largest scale that is taken for one of bytes, such as 1/255 and 1/127.5."""
_MOST_VARIANCE = 0.25
"""Of any feature in [0, 1]: half of it 0 and half 1."""


def wide_input_layer(network: keras.Model) -> str | None:
    """The layer by which a network seems to scale features of a wide range, such as 0-255.

    Args:
        network: a classifier of images.

    Returns:
        The name of a `Rescaling` by 1/100 or less, or of a `Normalization` with a mean or variance
        that no feature in [0, 1] has, before any other layer with weights; None if there is none.
    """
    first = itertools.takewhile(
        lambda layer: isinstance(layer, keras.layers.Normalization) or not layer.weights,
        _flat(network),
    )
    return next((layer.name for layer in first if _scales_wide(layer)), None)


def _flat(network: keras.Model) -> Iterator[keras.Layer]:
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _flat(layer)
        else:
            yield layer


def _scales_wide(layer: keras.Layer) -> bool:
    if isinstance(layer, keras.layers.Rescaling):
        return bool(np.max(np.abs(layer.scale)) <= _SMALL_SCALE)
    if isinstance(layer, keras.layers.Normalization):
        mean, variance = (
            keras.ops.convert_to_numpy(values) for values in (layer.mean, layer.variance)
        )
        return bool(mean.min() < 0 or mean.max() > 1 or variance.max() > _MOST_VARIANCE)
    return False
