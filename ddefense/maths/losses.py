"""The loss of both networks."""

from typing import Any

import tensorflow as tf


def soft_label_cross_entropy(labels: Any, logits: Any, temperature: float) -> Any:
    r"""Mean cross-entropy of labels against the softmax at a temperature (the paper, section IV).

    $$-\frac{1}{N} \sum_n \sum_i y_{ni} \log F_i(x_n), \quad F = \mathrm{softmax}(z / T)$$

    Taken from the logits, with log-softmax: probabilities that saturate in float32 would give no
    gradient. There is no factor T^2 and no hard-label term; hard labels are one-hot rows.

    Args:
        labels: probabilities that sum to 1, float32, shape [N, classes].
        logits: z, shape [N, classes].
        temperature: T > 0.

    Returns:
        A scalar in nats.
    """
    scaled = tf.cast(logits, tf.float32) / temperature
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=scaled))
