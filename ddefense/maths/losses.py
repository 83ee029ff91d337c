"""The losses that networks learn from."""

from typing import Any

import tensorflow as tf


def cross_entropies(labels: Any, logits: Any, temperature: float) -> Any:
    r"""Cross-entropy of each label against the softmax at a temperature.

    $$-\sum_i y_{ni} \log F_i(x_n), \quad F = \mathrm{softmax}(z / T)$$

    Taken from the logits, with log-softmax: probabilities that saturate in float32 would give no
    gradient.

    Args:
        labels: probabilities that sum to 1, float32, shape [N, classes].
        logits: z, shape [N, classes].
        temperature: T > 0.

    Returns:
        Nats, float32, shape [N].
    """
    scaled = tf.cast(logits, tf.float32) / temperature
    return tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=scaled)


def soft_label_cross_entropy(labels: Any, logits: Any, temperature: float) -> Any:
    r"""Mean cross-entropy of labels against the softmax at a temperature (the paper, section IV).

    $$-\frac{1}{N} \sum_n \sum_i y_{ni} \log F_i(x_n), \quad F = \mathrm{softmax}(z / T)$$

    There is no factor T^2 and no hard-label term; hard labels are one-hot rows.

    Args:
        labels: probabilities that sum to 1, float32, shape [N, classes].
        logits: z, shape [N, classes].
        temperature: T > 0.

    Returns:
        A scalar in nats.
    """
    return tf.reduce_mean(cross_entropies(labels, logits, temperature))


def student_losses(
    labels: Any,
    classes: Any,
    logits: Any,
    temperature: float,
    *,
    alpha: float,
    scale_by_temperature_squared: bool,
) -> Any:
    r"""What each image costs a student that learns from a teacher and from the truth.

    $$\alpha\, H(c_n, \mathrm{softmax}(z_n)) + (1 - \alpha)\, s\, H(y_n, \mathrm{softmax}(z_n/T))$$

    with s = T^2 or 1 (Hinton et al. 2015, section 2: the gradient of the soft term falls as 1/T^2,
    so the factor keeps the balance of the two as T changes). A term of weight 0 is left out.

    Args:
        labels: y, the teacher's probabilities at T, float32, shape [N, classes].
        classes: c, the true classes, integers, shape [N].
        logits: z, of the student, shape [N, classes].
        temperature: T > 0.
        alpha: weight of the true classes, in [0, 1].
        scale_by_temperature_squared: whether s is T^2.

    Returns:
        Nats, float32, shape [N].
    """
    factor = (1.0 - alpha) * (temperature**2 if scale_by_temperature_squared else 1.0)
    terms = []
    if alpha > 0.0:
        hard = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=classes, logits=tf.cast(logits, tf.float32)
        )
        terms.append(alpha * hard)
    if alpha < 1.0:
        terms.append(factor * cross_entropies(labels, logits, temperature))
    return tf.add_n(terms)
