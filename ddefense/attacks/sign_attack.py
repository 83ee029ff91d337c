"""What attacks by the sign of a gradient share: settings, compiled steps, and their checks."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense import interruption
from ddefense.attacks.classifier import Classifier, check_inputs, expect_logits
from ddefense.attacks.loss_gradient import LOSSES, Loss, LossGradient, loss_gradient
from ddefense.settings import (
    Count,
    Natural,
    OneOf,
    Positive,
    Switch,
    checked,
    expect,
    setting,
)

Images = npt.NDArray[np.float32]
Classes = npt.NDArray[np.integer]

BATCH_SIZE = 256
"""Images attacked together, of which these attacks need little memory each."""


@checked
class SignAttack:
    """Settings of `fgsm`, and what those of `pgd_linf` begin with."""

    epsilon: Positive = setting("Most that a feature may change, in units of the images.")
    loss: Annotated[Loss, OneOf(LOSSES)] = setting(
        "Whose gradient is taken; see `loss_gradient`.", default="softmax"
    )
    temperature: Positive = setting(
        "By which `logits` divides the logits; 1 with `softmax`.", default=1.0
    )

    def __post_init__(self) -> None:
        """Checks what a bound does not say.

        Raises:
            ConfigError: naming the field, what was received and what was expected.
        """
        expect(
            self.temperature == 1 or self.loss == "logits",
            "temperature",
            "1 with loss='softmax', the softmax of the deployed network (loss='logits' divides the "
            "logits by a temperature)",
            self.temperature,
        )


@checked
class PGD(SignAttack):
    """Settings of `pgd_linf`."""

    steps: Count = setting("Gradient steps.", default=40)
    step_size: Positive | None = setting(
        "Change of a feature in one step, in units of the images; None for 2.5 * epsilon / steps "
        "(Madry et al. 2018).",
        default=None,
    )
    restarts: Count = setting("Random starts.", default=1)
    random_start: Switch = setting(
        "Whether it starts anywhere in the ball, or at the image.", default=True
    )
    seed: Natural = setting("Of the random starts.", default=0)

    def __post_init__(self) -> None:
        """Checks what a bound does not say."""
        super().__post_init__()
        expect(
            self.restarts == 1 or self.random_start,
            "restarts",
            "1 with random_start=False, because all would be the same",
            self.restarts,
        )


def check(
    attacked: Classifier,
    images: Images,
    labels: Classes,
    targets: Classes | None,
    settings: SignAttack,
    batch_size: int,
) -> None:
    """Checks what these attacks take, before any long work.

    Raises:
        ValueError: naming what was received and what was expected.
    """
    check_inputs(attacked, images, labels, targets, batch_size)
    if settings.loss == "logits":
        expect_logits(attacked, "loss='logits'")


@dataclasses.dataclass(frozen=True)
class Ball:
    """Where an attack may go, inside a graph: an L-infinity ball within bounds.

    Attributes:
        images: its centres, shape [N, H, W, C].
        epsilon: its radius, a scalar.
        bounds: smallest and largest value of a feature, shape [2].
    """

    images: tf.Tensor
    epsilon: tf.Tensor
    bounds: tf.Tensor

    def clip(self, points: tf.Tensor) -> tf.Tensor:
        """Clips points to the ball and the bounds; those inside keep their bits."""
        low, high = self.images - self.epsilon, self.images + self.epsilon
        return self._within_bounds(tf.clip_by_value(points, low, high))

    def project(self, points: tf.Tensor) -> tf.Tensor:
        """The same up to rounding: clips the change, not the point.

        Rounded so, paths are those of Foolbox bit for bit; the last bit of one feature can change
        the sign of another one's gradient, and with it the rest of the path.
        """
        change = tf.clip_by_value(points - self.images, -self.epsilon, self.epsilon)
        return self._within_bounds(self.images + change)

    def _within_bounds(self, points: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(points, self.bounds[0], self.bounds[1])


def sign_steps(
    gradient: LossGradient,
    ball: Ball,
    start: tf.Tensor,
    classes: tf.Tensor,
    step: tf.Tensor,
    num_steps: tf.Tensor,
) -> tf.Tensor:
    r"""Steps along the sign of a gradient, inside a graph.

    $$x \leftarrow \Pi(x + \alpha\,\mathrm{sign}(\nabla_x L))$$

    Args:
        gradient: from `loss_gradient`.
        ball: onto which Pi projects.
        start: images to start at, clipped to the ball first, shape [N, H, W, C].
        classes: whose loss is meant, int32, shape [N].
        step: alpha, a scalar; negative to descend.
        num_steps: a scalar, int32.

    Returns:
        The images after all steps. A feature whose gradient is exactly zero does not move.
    """

    def take(i: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        moved = ball.project(x + step * tf.sign(gradient(x, classes)))
        return i + 1, tf.ensure_shape(moved, start.shape)

    first = (tf.constant(0), ball.clip(start))
    return tf.while_loop(lambda i, _: i < num_steps, take, first)[1]


def default_step_size(epsilon: Any, steps: int) -> Any:
    """2.5 * epsilon / steps: the border of the ball can be reached from everywhere in it."""
    return 2.5 * epsilon / steps


@dataclasses.dataclass(frozen=True)
class Graphs:
    """The graphs of one loss on one network.

    Attributes:
        attack: (images, start, classes, epsilon, step, number of steps, bounds) -> images.
        predict: images -> classes, int64 [N].
    """

    attack: Callable[..., tf.Tensor]
    predict: Callable[[tf.Tensor], tf.Tensor]


def _graphs(attacked: Classifier, settings: SignAttack) -> Graphs:
    """The graphs of a network, traced when a loss is first asked for.

    Everything but loss and temperature is fed to them, so all settings share them.
    """
    loss, temperature = settings.loss, settings.temperature
    return attacked.compiled(
        ("sign attack", loss, temperature), lambda: _trace(attacked, loss, temperature)
    )


def _trace(attacked: Classifier, loss: Loss, temperature: float) -> Graphs:
    gradient = loss_gradient(attacked, loss, temperature=temperature)
    cut = attacked.passes
    images_spec = tf.TensorSpec([None, *attacked.image_shape], tf.float32)
    scalar = tf.TensorSpec([], tf.float32)

    @tf.function(
        input_signature=[
            images_spec,
            images_spec,
            tf.TensorSpec([None], tf.int32),
            scalar,
            scalar,
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([2], tf.float32),
        ]
    )
    def attack(
        images: tf.Tensor,
        start: tf.Tensor,
        classes: tf.Tensor,
        epsilon: tf.Tensor,
        step: tf.Tensor,
        num_steps: tf.Tensor,
        bounds: tf.Tensor,
    ) -> tf.Tensor:
        ball = Ball(images, epsilon, bounds)
        return sign_steps(gradient, ball, start, classes, step, num_steps)

    @tf.function(input_signature=[images_spec])
    def predict(images: tf.Tensor) -> tf.Tensor:
        return tf.argmax(cut.tail(cut.head(images)), axis=1)

    return Graphs(attack.get_concrete_function(), predict.get_concrete_function())


def run(
    attacked: Classifier,
    images: Images,
    start: Images,
    classes: Classes,
    settings: SignAttack,
    batch_size: int,
    *,
    steps: int,
    step_size: float,
) -> Images:
    """Takes all steps from one start, batch by batch.

    Args:
        attacked: the network.
        images: centres of the balls, shape [N >= 1, H, W, C].
        start: where to start, clipped to the balls first, shape [N, H, W, C].
        classes: whose loss is meant, shape [N].
        settings: epsilon, loss and temperature.
        batch_size: images attacked together.
        steps: how many to take.
        step_size: change of a feature in one of them; negative to descend.

    Raises:
        StoppedError: if the run was asked to stop.
    """
    graphs = _graphs(attacked, settings)
    scalars = (
        tf.constant(settings.epsilon, tf.float32),
        tf.constant(step_size, tf.float32),
        tf.constant(steps, tf.int32),
        tf.constant(attacked.bounds, tf.float32),
    )

    def attack(images: Images, start: Images, classes: Classes) -> tf.Tensor:
        classes = tf.constant(classes, tf.int32)
        return graphs.attack(tf.constant(images), tf.constant(start), classes, *scalars)

    made: Images = _in_batches(attack, batch_size, images, start, classes)
    return made


def predict(
    attacked: Classifier, images: Images, settings: SignAttack, batch_size: int
) -> npt.NDArray[np.int64]:
    """The classes that the network gives images, shape [N].

    Raises:
        StoppedError: if the run was asked to stop.
    """
    graphs = _graphs(attacked, settings)
    return _in_batches(lambda x: graphs.predict(tf.constant(x)), batch_size, images)


def _in_batches(
    function: Callable[..., tf.Tensor], batch_size: int, *arrays: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    results = []
    for first in range(0, len(arrays[0]), batch_size):
        interruption.check()
        results.append(function(*(array[first : first + batch_size] for array in arrays)).numpy())
    return np.concatenate(results)
