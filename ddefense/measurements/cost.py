"""Size and speed of networks, side by side."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ddefense.records import CostRecord

_CALLS = 21
_NOT_COUNTED = 2


def costs(
    networks: Sequence[keras.Model],
    image_shape: tuple[int, int, int],
    batch_sizes: Sequence[int] = (1, 32),
) -> list[CostRecord]:
    """Counts the weights of networks and times compiled calls of them, in turns.

    What else the machine does meanwhile slows all of them alike.

    Args:
        networks: models images -> outputs, run in inference mode.
        image_shape: (height, width, channels) of one image.
        batch_sizes: images per call.

    Returns:
        For each network its sizes, and for each batch size the median of 21 calls after two that
        are not counted.
    """
    compiled = [_compiled(network, image_shape) for network in networks]
    latency: list[dict[int, float]] = [{} for _ in networks]
    for size in batch_sizes:
        images = tf.constant(
            np.random.default_rng(0).uniform(size=(size, *image_shape)), tf.float32
        )
        times = [
            [_seconds(call, images) for call in compiled] for _ in range(_NOT_COUNTED + _CALLS)
        ]
        for found, column in zip(latency, zip(*times[_NOT_COUNTED:], strict=True), strict=True):
            found[size] = statistics.median(column)
    return [
        CostRecord(
            parameters=network.count_params(),
            weight_bytes=sum(weight.nbytes for weight in network.get_weights()),
            latency_seconds=found,
        )
        for network, found in zip(networks, latency, strict=True)
    ]


def _compiled(network: keras.Model, image_shape: tuple[int, int, int]) -> Callable[..., Any]:
    @tf.function(input_signature=[tf.TensorSpec([None, *image_shape], tf.float32)])
    def forward(images: tf.Tensor) -> tf.Tensor:
        return network(images, training=False)

    return forward.get_concrete_function()


def _seconds(call: Callable[..., Any], images: tf.Tensor) -> float:
    start = time.perf_counter()
    call(images).numpy()
    return time.perf_counter() - start
