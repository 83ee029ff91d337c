r"""Forward derivatives: how the outputs move with each feature, the first part of JSMA.

Every reading of JSMA needs $\alpha = \partial o_t / \partial x$ for the target's output and
$\beta = \partial (\sum_{j \ne t} o_j) / \partial x$ for all the others. What the outputs $o$ are
differs, and on a network whose float32 softmax saturates that decides the result:

| name | outputs | arithmetic |
|---|---|---|
| `jsma_f` | $F = \mathrm{softmax}(z)$ | float32 gradient of $F_t$; $\beta = -\alpha$, not taken |
| `jsma_f_theta_1` | the same, for attacks with theta = 1 beside a run's own | |
| `jsma_f_literal` | $F$ | alpha and beta summed from the float32 Jacobian of $F$ |
| `jsma_f_exact` | $F$ | log domain: nothing underflows |
| `jsma_f_temperature` | $\mathrm{softmax}(z / T)$ at training T | float32 |
| `jsma_z` | logits $z$ | float32 |

`jsma_f_temperature` is after Carlini & Wagner (2016), whose attack also changes single pixels, in
either direction.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense.attacks.classifier import Classifier, classifier, expect_logits
from ddefense.attacks.input_gradient import gradient_of

Scores = tuple[tf.Tensor, ...]


def _f(logits: tf.Tensor, target: tf.Tensor, temperature: float) -> Scores:
    del temperature
    return (tf.reduce_sum(target * tf.nn.softmax(logits), axis=1),)


def _f_of_probabilities(probabilities: tf.Tensor, target: tf.Tensor, temperature: float) -> Scores:
    del temperature
    return (tf.reduce_sum(target * probabilities, axis=1),)


def _f_temperature(logits: tf.Tensor, target: tf.Tensor, temperature: float) -> Scores:
    return (tf.reduce_sum(target * tf.nn.softmax(logits / temperature), axis=1),)


def _f_exact(logits: tf.Tensor, target: tf.Tensor, temperature: float) -> Scores:
    # dF_t/dx = F_t (1 - F_t) [dz_t/dx - sum_{j != t} w_j dz_j/dx], w = softmax over j != t. The
    # factor F_t (1 - F_t) > 0 underflows but ranks nothing, so the bracket alone is taken.
    del temperature
    others = tf.where(target > 0, -np.inf, logits)
    weights = tf.stop_gradient(tf.nn.softmax(others))
    return (tf.reduce_sum((target - weights) * logits, axis=1),)


def _f_literal(logits: tf.Tensor, target: tf.Tensor, temperature: float) -> Scores:
    # Row i of the Jacobian of F in float32 is (e_i - p_i) p times that of z, in the order in which
    # the gradient of a softmax is computed. Rows are summed as float32 numbers before one gradient
    # pass for alpha and one for beta, instead of one per class.
    del temperature
    p = tf.stop_gradient(tf.nn.softmax(logits))
    classes = p.shape[1]
    alpha = (target - tf.reduce_sum(target * p, axis=1, keepdims=True)) * p
    # One row after the other: all of them together take memory by the square of the classes.
    _, beta = tf.while_loop(
        lambda i, _: i < classes,
        lambda i, beta: (
            i + 1,
            beta + (1 - target[:, i, None]) * ((tf.one_hot(i, classes) - p[:, i, None]) * p),
        ),
        (tf.constant(0), tf.zeros_like(p)),
    )
    alpha, beta = tf.stop_gradient(alpha), tf.stop_gradient(beta)
    return tf.reduce_sum(alpha * logits, axis=1), tf.reduce_sum(beta * logits, axis=1)


def _z(logits: tf.Tensor, target: tf.Tensor, temperature: float) -> Scores:
    del temperature
    return tf.reduce_sum(target * logits, axis=1), tf.reduce_sum((1 - target) * logits, axis=1)


# Each gives per-sample scores whose gradients are alpha and, unless it is -alpha, beta.
_SCORES: dict[str, Callable[[tf.Tensor, tf.Tensor, float], Scores]] = {
    "jsma_f": _f,
    "jsma_f_theta_1": _f,
    "jsma_f_literal": _f_literal,
    "jsma_f_exact": _f_exact,
    "jsma_f_temperature": _f_temperature,
    "jsma_z": _z,
}


@dataclasses.dataclass(frozen=True)
class ForwardDerivative:
    """A compiled direction-sensitivity estimate of one network.

    Attributes:
        function: (images [N, H, W, C], targets int32 [N]) -> (predicted class int64 [N], alpha)
            or (predicted class, alpha, beta), with alpha and beta float32 [N, features].
    """

    function: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]]

    def __call__(
        self, images: npt.NDArray[np.float32], targets: npt.NDArray[np.integer]
    ) -> list[npt.NDArray[Any]]:
        """Evaluates it on a batch."""
        outputs = self.function(tf.constant(images), tf.constant(targets, tf.int32))
        return [output.numpy() for output in outputs]


def forward_derivative(
    network: keras.Model | Classifier, name: str, *, temperature: float = 1.0
) -> ForwardDerivative:
    """Compiles the forward derivative of a network for one reading of JSMA.

    One forward pass serves the stop test and the gradients: one backward pass for readings on
    probabilities, two for the others, never one per class.

    Args:
        network: a model images -> logits, run in inference mode, or what `classifier` made of any
            function. Of the readings only `jsma_f` can be had from probabilities.
        name: a name of the table above.
        temperature: T of `jsma_f_temperature`; the others evaluate at T = 1.

    Returns:
        The compiled estimate.

    Raises:
        ValueError: if the name is unknown or needs logits that the network does not give.
    """
    if name not in _SCORES:
        raise ValueError(f"attack: expected one of {list(_SCORES)}, received {name!r}.")
    attacked = network if isinstance(network, Classifier) else classifier(network)
    score = _SCORES[name]
    if attacked.outputs == "probabilities" and score is _f:
        score = _f_of_probabilities
    else:
        expect_logits(attacked, name)
    cut, image_shape = attacked.passes, attacked.image_shape
    features, num_classes = math.prod(image_shape), attacked.num_classes

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *image_shape], tf.float32),
            tf.TensorSpec([None], tf.int32),
        ]
    )
    def function(images: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, ...]:
        target = tf.one_hot(targets, num_classes)
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            hidden = cut.head(images)
            tape.watch(hidden)
            outputs = tf.cast(cut.tail(hidden), tf.float32)
            scores = score(outputs, target, temperature)
        gradients = [cut.pull_back(gradient_of(tape, each, hidden)) for each in scores]
        maps = [tf.cast(tf.reshape(g, [-1, features]), tf.float32) for g in gradients]
        return tf.argmax(outputs, axis=1), *maps

    return ForwardDerivative(function.get_concrete_function())
