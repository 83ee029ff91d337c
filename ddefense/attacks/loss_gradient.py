r"""Losses that attacks by the sign of a gradient climb, and their gradients on images.

| name | loss of class $c$ | of |
|---|---|---|
| `softmax` | $-\log F_c$, $F = \mathrm{softmax}(z)$ clipped to $[10^{-7}, 1]$ | float32 $F$ |
| `logits` | $-\log F^T_c$, $F^T = \mathrm{softmax}(z / T)$, by log-softmax | $z$ |

`softmax` is a loss of the probabilities, clipped from below where Keras clips them
(`keras.config.epsilon()`). Its gradient is exactly zero where float32 has rounded $F$ to 0 and 1,
and an image with a zero gradient stays where it is. Of a target it is zero as soon as
$F_c < 10^{-7}$, undistilled too: that is the clip, no defence. `logits` at the temperature of
training has neither (Carlini & Wagner, "Defensive Distillation is Not Robust to Adversarial
Examples", 2016, divide the logits by T for that).
"""

from collections.abc import Callable
from typing import Literal

import tensorflow as tf

from ddefense.attacks.classifier import Classifier, expect_logits
from ddefense.attacks.input_gradient import gradient_of

Loss = Literal["softmax", "logits"]
LOSSES: tuple[Loss, ...] = ("softmax", "logits")

LossGradient = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_SMALLEST_PROBABILITY = 1e-7


def loss_gradient(attacked: Classifier, loss: Loss, *, temperature: float = 1.0) -> LossGradient:
    """Makes the gradient of a loss with respect to images.

    Args:
        attacked: the network. From probabilities only `softmax` can be had.
        loss: a name of the table above.
        temperature: T > 0 of `logits`.

    Returns:
        A function to be called inside a `tf.function`: (images [N, H, W, C], classes int32 [N]) ->
        the gradient of each image's loss of its class, float32 [N, H, W, C].

    Raises:
        ValueError: if the loss is unknown or needs logits that the network does not give.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss: expected one of {list(LOSSES)}, received {loss!r}.")
    if loss == "logits":
        expect_logits(attacked, "loss='logits'")
    cut, num_classes = attacked.passes, attacked.num_classes
    probabilities_given = attacked.outputs == "probabilities"

    def losses(outputs: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        one_hot = tf.one_hot(classes, num_classes)
        if loss == "logits":
            return tf.nn.softmax_cross_entropy_with_logits(one_hot, outputs / temperature)
        probabilities = outputs if probabilities_given else tf.nn.softmax(outputs)
        of_class = tf.reduce_sum(one_hot * probabilities, axis=1)
        return -tf.math.log(tf.clip_by_value(of_class, _SMALLEST_PROBABILITY, 1.0))

    def gradient(images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            hidden = cut.head(images)
            tape.watch(hidden)
            summed = tf.reduce_sum(losses(tf.cast(cut.tail(hidden), tf.float32), classes))
        return tf.cast(cut.pull_back(gradient_of(tape, summed, hidden)), tf.float32)

    return gradient
