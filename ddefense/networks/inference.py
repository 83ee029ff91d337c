"""Outputs of a network over many images, in inference mode."""

import functools
from collections.abc import Callable

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense import interruption

_BATCH = 256


def predict(
    network: keras.Model, images: npt.NDArray[np.float32], batch_size: int = _BATCH
) -> npt.NDArray[np.float32]:
    """Evaluates a network batch by batch, dropout off, in the order of the images.

    Args:
        network: a model images -> outputs.
        images: shape [N, H, W, C].
        batch_size: images evaluated together; the last bits of a result depend on it.

    Returns:
        float32 outputs, shape [N, ...].

    Raises:
        StoppedError: if the run was asked to stop.
    """
    compiled = _compiled(network, images.shape[1:])
    outputs = []
    for i in range(0, len(images), batch_size):
        interruption.check()
        outputs.append(compiled(tf.constant(images[i : i + batch_size])).numpy())
    return np.concatenate(outputs)


# Tracing takes longer than a small batch. A few networks are remembered, which keeps them alive.
@functools.lru_cache(maxsize=4)
def _compiled(
    network: keras.Model, image_shape: tuple[int, ...]
) -> Callable[[tf.Tensor], tf.Tensor]:
    @tf.function(input_signature=[tf.TensorSpec([None, *image_shape], tf.float32)])
    def forward(batch: tf.Tensor) -> tf.Tensor:
        return tf.cast(network(batch, training=False), tf.float32)

    return forward.get_concrete_function()
