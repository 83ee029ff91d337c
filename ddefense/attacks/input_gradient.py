"""Gradients with respect to images, with a fast way through a first convolution.

The gradient of a convolution with respect to an input of one to four channels is slow in
general-purpose kernels, which pad channels to a full vector: on the paper's MNIST network it took
a third of the backward pass for 1 % of its arithmetic. Here automatic differentiation stops at
the convolution's output, and one matrix product with shifted sums carries the gradient to the
image, through a standardisation where the network starts with one. The numbers are the same up to
rounding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

_FEW_CHANNELS = 4


class Passes(NamedTuple):
    """A network cut at the tensor that a gradient tape has to watch.

    Attributes:
        head: images -> the tensor to watch.
        tail: that tensor -> logits.
        pull_back: gradient with respect to that tensor -> gradient with respect to the images.
    """

    head: Callable[[Any], Any]
    tail: Callable[[Any], Any]
    pull_back: Callable[[Any], Any]


def passes(network: keras.Model) -> Passes:
    """Cuts a network after its first convolution if that pays, else at its images.

    Args:
        network: a model images -> logits, evaluated in inference mode.

    Returns:
        Its passes, to be called inside a `tf.function`.
    """
    images = network.inputs[0]
    # A `Sequential` does not list its input, and the last layer stays with the tail.
    layers = [x for x in network.layers if not isinstance(x, keras.layers.InputLayer)][:-1]
    standardize = None
    if layers and _is_standardization(layers[0], images):
        standardize = layers.pop(0)
        images = standardize.output
    if layers and _is_simple_convolution(layers[0], images):
        first = layers[0]
        try:
            rest = keras.Model(first.output, network.outputs[0])
        except ValueError:  # another path leads from the images to the logits
            rest = None
        if rest is not None:
            return Passes(
                head=lambda images: _convolve(first, _standardized(standardize, images)),
                tail=lambda hidden: rest(first.activation(hidden), training=False),
                pull_back=lambda gradient: _unscaled(standardize, _pull_back(first, gradient)),
            )
    return Passes(
        head=tf.identity,
        tail=lambda images: network(images, training=False),
        pull_back=tf.identity,
    )


def gradient_of(tape: tf.GradientTape, outputs: Any, watched: Any) -> Any:
    """The gradient of the sum of some outputs.

    It is zero where no differentiable operation leads from one to the other, as in a network that
    rounds its images: an attacker who follows gradients stays where he is, on such a network as on
    one whose gradients underflow.

    Args:
        tape: that recorded the outputs.
        outputs: of any shape.
        watched: by the tape, such as images or what `Passes.head` makes of them.

    Returns:
        A tensor of the shape of `watched`.
    """
    return tape.gradient(outputs, watched, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def _is_standardization(layer: Any, images: Any) -> bool:
    return type(layer) is keras.layers.Normalization and not layer.invert and layer.input is images


def _standardized(layer: keras.layers.Normalization | None, images: Any) -> Any:
    return images if layer is None else layer(images)


def _unscaled(layer: keras.layers.Normalization | None, gradient: Any) -> Any:
    """Gradient with respect to the standardised images -> with respect to the images."""
    if layer is None:
        return gradient
    # The deviation by which the layer divides, with its own floor.
    deviation = tf.maximum(tf.sqrt(layer.variance), keras.config.epsilon())
    return tf.cast(gradient, deviation.dtype) / deviation


def _is_simple_convolution(layer: Any, images: Any) -> bool:
    return (
        type(layer) is keras.layers.Conv2D
        and layer.input is images
        and layer.strides == (1, 1)
        and layer.dilation_rate == (1, 1)
        and layer.groups == 1
        and layer.padding == "valid"
        and layer.data_format == "channels_last"
        and layer.kernel.shape[2] <= _FEW_CHANNELS
    )


def _convolve(layer: keras.layers.Conv2D, images: Any) -> Any:
    images = tf.cast(images, layer.compute_dtype)
    hidden = tf.nn.conv2d(images, tf.cast(layer.kernel, images.dtype), 1, "VALID")
    return tf.nn.bias_add(hidden, tf.cast(layer.bias, hidden.dtype)) if layer.use_bias else hidden


def _pull_back(layer: keras.layers.Conv2D, gradient: Any) -> Any:
    """Input gradient of a stride-1 "valid" convolution: gradient [N, h, w, filters] -> images."""
    height, width, channels, filters = layer.kernel.shape
    kernel = tf.reshape(tf.cast(layer.kernel, gradient.dtype), [-1, filters])
    # One row per (kernel row, kernel column, channel), so that every shift moves whole rows.
    rows = tf.matmul(kernel, tf.reshape(gradient, [-1, filters]), transpose_b=True)
    rows = tf.reshape(rows, [height, width, channels, -1, *gradient.shape[1:3]])

    def shifted_sum(parts: Any, axis: int) -> Any:
        count, rank = len(parts), len(parts[0].shape)
        paddings = [
            [[i, count - 1 - i] if dimension == axis else [0, 0] for dimension in range(rank)]
            for i in range(count)
        ]
        return tf.add_n([tf.pad(part, p) for part, p in zip(parts, paddings, strict=True)])

    columns = [shifted_sum([rows[i, j] for j in range(width)], axis=3) for i in range(height)]
    return tf.transpose(shifted_sum(columns, axis=2), [1, 2, 3, 0])
