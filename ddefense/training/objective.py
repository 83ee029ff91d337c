"""What a training minimises, beside what the network's own layers add to it."""

import dataclasses
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense.maths.losses import cross_entropies, soft_label_cross_entropy, student_losses
from ddefense.settings import is_number

Targets: TypeAlias = tf.Tensor | tuple[tf.Tensor, tf.Tensor]
"""Labels, float32 [N, classes]; or those and the true classes, int32 [N]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss. The default is the paper's: cross-entropy with the labels at T, and nothing else.

    Attributes:
        alpha: weight of the true classes at T = 1 beside the labels at T, in [0, 1]; see
            `maths.losses.student_losses`.
        scale_by_temperature_squared: whether the labels' term is multiplied by T^2.
        class_weights: factor >= 0 on the loss of the images of each true class, 1 for those not
            named. As in Keras the loss of a batch is the mean of weight times loss over its
            images, and not divided by the sum of the weights.
    """

    alpha: float = 0.0
    scale_by_temperature_squared: bool = False
    class_weights: Mapping[int, float] | None = None

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: naming the field, what was expected and what was received.
        """
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"alpha: expected a number in [0, 1]; received {self.alpha!r}.")
        for index, weight in (self.class_weights or {}).items():
            if index < 0 or not is_number(weight) or weight < 0:
                raise ValueError(
                    "class_weights: expected finite numbers >= 0 by class index, such as "
                    f"{{0: 1.0, 1: 5.0}}; received {weight!r} for {index!r}."
                )

    @property
    def uses_classes(self) -> bool:
        """Whether it is another one than the default; it is given the true classes then."""
        return self.alpha > 0.0 or self.scale_by_temperature_squared or bool(self.class_weights)

    def scale(self, temperature: float) -> float:
        """The loss of a network that has learnt nothing, in units of ln(classes).

        With class weights this holds if their mean over the images is 1.
        """
        squared = temperature**2 if self.scale_by_temperature_squared else 1.0
        return self.alpha + (1.0 - self.alpha) * squared

    def loss(self, targets: Targets, logits: tf.Tensor, temperature: float) -> tf.Tensor:
        """The mean loss of a batch, a scalar in nats.

        Args:
            targets: labels alone unless `uses_classes`.
            logits: shape [N, classes].
            temperature: T > 0.
        """
        if not self.uses_classes:
            return soft_label_cross_entropy(targets, logits, temperature)
        labels, classes = targets
        return tf.reduce_mean(self.image_losses(labels, classes, logits, temperature))

    def image_losses(
        self, labels: tf.Tensor, classes: tf.Tensor, logits: tf.Tensor, temperature: float
    ) -> tf.Tensor:
        """What each image adds to the loss, weighted, float32, shape [N].

        Args:
            labels: probabilities, shape [N, classes].
            classes: true classes, int32, shape [N].
            logits: shape [N, classes].
            temperature: T > 0.
        """
        if not self.uses_classes:
            return cross_entropies(labels, logits, temperature)
        losses = student_losses(
            labels,
            classes,
            logits,
            temperature,
            alpha=self.alpha,
            scale_by_temperature_squared=self.scale_by_temperature_squared,
        )
        if not self.class_weights:
            return losses
        return losses * tf.gather(self._weights(logits.shape[-1]), classes)

    def check(self, num_classes: int) -> None:
        """Checks that the network has every class that is weighted.

        Raises:
            ValueError: naming a class that it does not have.
        """
        unknown = [index for index in self.class_weights or {} if index >= num_classes]
        if unknown:
            raise ValueError(
                f"class_weights: expected class indices below {num_classes}, the network's number "
                f"of classes; received {unknown[0]}."
            )

    def _weights(self, num_classes: int) -> npt.NDArray[np.float32]:
        weights = np.ones(num_classes, np.float32)
        for index, weight in (self.class_weights or {}).items():
            weights[index] = weight
        return weights


def balanced_class_weights(classes: npt.NDArray[np.integer], num_classes: int) -> dict[int, float]:
    """Weights that make every class count the same: N / (classes present * images of the class).

    Their mean over the images is 1. A class without any image has none.

    Args:
        classes: true class of each image, shape [N].
        num_classes: number of classes.
    """
    counts = np.bincount(classes, minlength=num_classes)
    present = np.flatnonzero(counts)
    return {int(i): len(classes) / (len(present) * int(counts[i])) for i in present}
