"""How well a network under training does on images that it does not learn from."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ddefense import interruption
from ddefense.training.objective import Objective
from ddefense.training.windows import Windows

LOSS, ACCURACY = "val_loss", "val_accuracy"
_BATCH = 256


class Validation:
    """Evaluates a network, dropout off.

    Args:
        logits_network: images -> logits.
        windows: images, labels and true classes.
        objective: whose loss is evaluated.
        temperature: T > 0 of that loss.
        metrics: evaluated from probabilities at T = 1.

    Raises:
        ValueError: if a metric does not give one number, or two have one name.
    """

    def __init__(
        self,
        logits_network: keras.Model,
        windows: Windows,
        objective: Objective,
        temperature: float,
        metrics: Sequence[keras.metrics.Metric] = (),
    ) -> None:
        """Compiles what is evaluated."""
        self._windows, self._metrics = windows, metrics
        self._num_classes = logits_network.output_shape[-1]
        _check(metrics, self._num_classes)

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, *logits_network.input_shape[1:]], tf.float32),
                tf.TensorSpec([None, self._num_classes], tf.float32),
                tf.TensorSpec([None], tf.int32),
            ],
            autograph=False,
        )
        def evaluate(images: tf.Tensor, labels: tf.Tensor, classes: tf.Tensor) -> Any:
            logits = tf.cast(logits_network(images, training=False), tf.float32)
            losses = objective.image_losses(labels, classes, logits, temperature)
            hits = tf.argmax(logits, axis=1, output_type=tf.int32) == classes
            return tf.reduce_sum(losses), tf.math.count_nonzero(hits), tf.nn.softmax(logits)

        self._evaluate = evaluate.get_concrete_function()

    def __call__(self) -> dict[str, float]:
        """Evaluates all images.

        Returns:
            `val_loss` and `val_accuracy`, means over the images, and `val_<name>` of each metric.

        Raises:
            StoppedError: if the run was asked to stop.
        """
        loss, correct = 0.0, 0
        for metric in self._metrics:
            metric.reset_state()
        for window in self._windows.read():
            for start in range(0, len(window.classes), _BATCH):
                interruption.check()
                part = slice(start, start + _BATCH)
                classes = window.classes[part]
                losses, hits, probabilities = self._evaluate(
                    window.images[part], window.labels[part], classes
                )
                loss, correct = loss + float(losses), correct + int(hits)
                for metric in self._metrics:
                    _update(metric, classes, probabilities)
        found = {LOSS: loss / len(self._windows), ACCURACY: correct / len(self._windows)}
        return found | {name_of(metric): float(metric.result()) for metric in self._metrics}


def name_of(metric: keras.metrics.Metric) -> str:
    """What a metric of the validation images is called."""
    return f"val_{metric.name}"


def _update(metric: keras.metrics.Metric, classes: tf.Tensor, probabilities: tf.Tensor) -> None:
    takes_indices = any(base.__name__.startswith("Sparse") for base in type(metric).__mro__)
    wanted = classes if takes_indices else tf.one_hot(classes, probabilities.shape[-1])
    metric.update_state(wanted, probabilities)


def _check(metrics: Sequence[keras.metrics.Metric], num_classes: int) -> None:
    """Tries every metric, so that one that cannot be used is found before any training."""
    names = [LOSS, ACCURACY, *map(name_of, metrics)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                "metrics: expected names of their own, other than 'loss' and 'accuracy'; received "
                f"{name.removeprefix('val_')!r} twice."
            )
    for metric in metrics:
        metric.reset_state()
        every_class = tf.range(num_classes)
        _update(metric, every_class, tf.fill([num_classes, num_classes], 1.0 / num_classes))
        shape = tuple(np.shape(metric.result()))
        if shape:
            raise ValueError(
                f"metrics: expected one number of each; received {metric.name!r}, which gives the "
                f"shape {shape}. Choose an average."
            )
