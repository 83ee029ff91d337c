"""Size and speed of a network."""

import statistics
import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from ddefense.records import CostRecord

_CALLS = 21


def cost(
    network: keras.Model,
    image_shape: tuple[int, int, int],
    batch_sizes: Sequence[int] = (1, 32),
) -> CostRecord:
    """Counts the weights of a network and times compiled calls of it.

    Args:
        network: a model images -> outputs, run in inference mode.
        image_shape: (height, width, channels) of one image.
        batch_sizes: images per call.

    Returns:
        Sizes, and for each batch size the median of 21 calls after two that are not counted.
    """

    @tf.function(input_signature=[tf.TensorSpec([None, *image_shape], tf.float32)])
    def forward(images: tf.Tensor) -> tf.Tensor:
        return network(images, training=False)

    latency = {}
    for size in batch_sizes:
        images = tf.constant(
            np.random.default_rng(0).uniform(size=(size, *image_shape)), tf.float32
        )
        times = []
        for _ in range(_CALLS + 2):
            start = time.perf_counter()
            forward(images).numpy()
            times.append(time.perf_counter() - start)
        latency[size] = statistics.median(times[2:])
    return CostRecord(
        parameters=network.count_params(),
        weight_bytes=sum(weight.nbytes for weight in network.get_weights()),
        latency_seconds=latency,
    )
