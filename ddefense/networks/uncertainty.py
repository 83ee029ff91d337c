r"""How much dropout changes a network's outputs: its uncertainty about an image.

With dropout on, as in training, every pass over an image gives other outputs (Gal and Ghahramani
2016). Their variance over N passes, summed over the outputs, is

$$\sigma(x) = \frac{1}{N} \sum_n \lVert z^{(n)}(x) - \bar{z}(x) \rVert_2^2, \quad
  \bar{z}(x) = \frac{1}{N} \sum_n z^{(n)}(x)$$

where z are the logits, or the probabilities at T = 1.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense import interruption
from ddefense.networks.heads import clone_layer, logits_of, trainable_copy

# Divides the windows of a stream, so that an image meets the same others in memory or not.
_BATCH = 128

_DROPOUT = (keras.layers.Dropout, keras.layers.AlphaDropout, keras.layers.GaussianDropout)

Outputs = Literal["logits", "probabilities"]

DropoutVariance = Callable[[npt.NDArray[np.float32], int], npt.NDArray[np.float32]]
"""(images [n, H, W, C], number of the first of them) -> variances [n]."""


def dropout_variance(
    network: keras.Model, *, num_passes: int = 20, seed: int = 0, outputs: Outputs = "logits"
) -> DropoutVariance:
    """Compiles the variance of a network's outputs under dropout.

    Dropout is on in every pass: `Dropout`, its spatial kinds, `AlphaDropout` and `GaussianDropout`,
    in the network and in networks in it. Everything else is as in inference: batch normalisation
    uses its moving averages, augmentation and noise do nothing, dropout within another layer
    (such as a recurrent one) stays off. What lies before the first dropout is evaluated once per
    image, and of the passes only running moments are held.

    Args:
        network: see `without_softmax`; it is left as it is, and later changes of its weights do
            not count.
        num_passes: N >= 2.
        seed: of the draws, >= 0.
        outputs: which vary: the `logits`, or the `probabilities` at T = 1. Dropout changes large
            logits the most, so the former may be larger the more certain the network is.

    Returns:
        (images [n, H, W, C], number of the first of them) -> float32 variances, >= 0, shape [n].
        They depend on the seed, on the images, and on where each stands in the whole list: not
        on what was evaluated before, nor on where a list is cut, if cut at multiples of 128.

    Raises:
        ValueError: if the network has no dropout that reaches its logits, its logits cannot be
            told, or an argument is out of its range.
    """
    if outputs not in get_args(Outputs):
        raise ValueError(
            f"outputs: expected one of {list(get_args(Outputs))}; received {outputs!r}."
        )
    for name, value, minimum in (("num_passes", num_passes, 2), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise ValueError(f"{name}: expected an integer >= {minimum}; received {value!r}.")
    stochastic = _with_dropout_on(logits_of(trainable_copy(network, 1.0)))
    head, tail = _split(stochastic)
    generators = [
        layer.layer.seed_generator.state
        for layer in stochastic._flatten_layers()
        if isinstance(layer, _AlwaysOn)
    ]

    @tf.function(input_signature=[tf.TensorSpec([None, *stochastic.input_shape[1:]], tf.float32)])
    def variances(images: tf.Tensor) -> tf.Tensor:
        hidden = head(images, training=False)
        mean = squares = tf.zeros([tf.shape(images)[0], stochastic.output_shape[-1]])
        # Welford's update: no difference of large sums.
        for number in tf.range(1, num_passes + 1):
            found = tf.cast(tail(hidden, training=False), tf.float32)
            if outputs == "probabilities":
                found = tf.nn.softmax(found)
            change = found - mean
            mean += change / tf.cast(number, tf.float32)
            squares += change * (found - mean)
        return tf.reduce_sum(squares, axis=1) / num_passes

    compiled = variances.get_concrete_function()

    def of_images(images: npt.NDArray[np.float32], first_row: int) -> npt.NDArray[np.float32]:
        found = [np.zeros(0, np.float32)]
        for start in range(0, len(images), _BATCH):
            interruption.check()
            for i, state in enumerate(generators):
                words = np.random.SeedSequence([seed, first_row + start, i]).generate_state(2)
                state.assign(words.astype(state.dtype))
            found.append(compiled(tf.constant(images[start : start + _BATCH])).numpy())
        return np.concatenate(found)

    return of_images


class _AlwaysOn(keras.layers.Wrapper):
    """A dropout layer that drops in inference too."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        del training
        return self.layer(inputs, training=True)


def _with_dropout_on(network: keras.Model) -> keras.Model:
    """The same layers in another network, but for its dropout."""

    def replaced(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not _is_dropout(layer):
            return layer
        return _AlwaysOn(clone_layer(layer), name=layer.name)

    return keras.models.clone_model(network, clone_function=replaced, recursive=True)


def _is_dropout(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, _DROPOUT) and layer.rate > 0


def _split(network: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Cuts it into what is the same in every pass and what is not.

    Returns:
        Images -> a list of tensors, and that list -> logits.

    Raises:
        ValueError: if the logits are the same in every pass.
    """
    random: set[int] = set()
    cut: dict[int, Any] = {}
    # Keras has no public list of the calls in their order.
    for depth in sorted(network._nodes_by_depth, reverse=True):
        for node in network._nodes_by_depth[depth]:
            same = [tensor for tensor in node.input_tensors if id(tensor) not in random]
            if len(same) < len(node.input_tensors) or _draws(node.operation):
                random.update(map(id, node.output_tensors))
                cut |= {id(tensor): tensor for tensor in same}
    if id(network.outputs[0]) not in random:
        raise ValueError(
            "Expected a network with a dropout layer of a rate > 0 before its logits: its passes "
            "with dropout on tell how uncertain it is; received layers "
            f"{[layer.name for layer in network.layers]}. Add keras.layers.Dropout(0.5), such as "
            "before the last layer, and train the network with it."
        )
    tensors = list(cut.values())
    return keras.Model(network.inputs, tensors), keras.Model(tensors, network.outputs[0])


def _draws(operation: Any) -> bool:
    """Whether it is a dropout layer that is on, or a network with one."""
    return isinstance(operation, keras.layers.Layer) and any(
        isinstance(layer, _AlwaysOn) for layer in operation._flatten_layers()
    )
