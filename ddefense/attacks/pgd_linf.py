"""Projected gradient descent within an L-infinity ball (PGD), as an attack and for training.

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (ICLR 2018): from a
random point of the ball, steps along the sign of the loss gradient, each projected back.
"""

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense.attack_catalog import AttackSpec
from ddefense.attacks import sign_attack
from ddefense.attacks.classifier import AdversarialSamples, Classifier, classifier
from ddefense.attacks.loss_gradient import loss_gradient
from ddefense.attacks.sign_attack import (
    BATCH_SIZE,
    PGD,
    Ball,
    Classes,
    Images,
    default_step_size,
    sign_steps,
)
from ddefense.config import Config
from ddefense.training.steps import Perturb


def pgd_linf(
    attacked: Classifier,
    images: Images,
    labels: Classes,
    targets: Classes | None = None,
    *,
    settings: PGD,
    batch_size: int = BATCH_SIZE,
    first_row: int = 0,
    start: Images | None = None,
) -> AdversarialSamples:
    r"""Takes many small steps up the loss of the label, or down that of the target.

    $$x \leftarrow \Pi(x + \alpha\,\mathrm{sign}(\nabla_x L(x, y)))$$

    where $\Pi$ clips to the ball around the image and to the bounds. All steps of a restart are
    taken, whether or not the network already errs. Further restarts attack only the images on
    which the earlier ones failed, and are kept where they succeed.

    A feature whose gradient is exactly zero does not move; with `settings.loss` = `softmax` that
    is every feature of an image on which the network's float32 softmax saturates.

    Args:
        attacked: the network.
        images: float32, shape [N, H, W, C], within the bounds of the network.
        labels: true classes, shape [N].
        targets: classes to reach, shape [N]; None to leave the label.
        settings: of the attack.
        batch_size: images attacked together; the last bits of a gradient depend on it.
        first_row: number of the first image, if the images are part of a longer list: each has
            the random starts that it has there.
        start: where the first restart starts, float32, of the shape of `images`; clipped to the
            ball and the bounds. None for what `settings.random_start` says.

    Returns:
        Images within the ball and the bounds of the network.

    Raises:
        ValueError: if an argument is out of its range, naming what was received and expected.
        StoppedError: if the run was asked to stop.
    """
    sign_attack.check(attacked, images, labels, targets, settings, batch_size)
    size = default_step_size(settings.epsilon, settings.steps)
    step_size = size if settings.step_size is None else settings.step_size
    if start is None and settings.random_start:
        start = random_start(images, settings, first_row=first_row)
    elif start is None:
        start = images
    if start.shape != images.shape or start.dtype != np.float32:
        raise ValueError(
            f"start: expected float32 of the shape of images, {images.shape}, received "
            f"{start.dtype} of shape {start.shape}."
        )

    def attack(rows: npt.NDArray[np.integer], start: Images) -> Images:
        return sign_attack.run(
            *(attacked, images[rows], start, classes[rows], settings, batch_size),
            steps=settings.steps,
            step_size=step_size if targets is None else -step_size,
        )

    def hit(rows: npt.NDArray[np.integer], tried: Images) -> npt.NDArray[np.bool_]:
        predicted = sign_attack.predict(attacked, tried, settings, batch_size)
        return predicted != classes[rows] if targets is None else predicted == classes[rows]

    classes = labels if targets is None else targets
    rows = np.arange(len(images))
    made = attack(rows, start)
    if settings.restarts > 1:
        rows = rows[~hit(rows, made)]
    for restart in range(1, settings.restarts):
        if not len(rows):
            break
        tried = attack(rows, random_start(images, settings, restart, first_row)[rows])
        succeeds = hit(rows, tried)
        made[rows[succeeds]] = tried[succeeds]
        rows = rows[~succeeds]
    return AdversarialSamples(made)


def random_start(images: Images, settings: PGD, restart: int = 0, first_row: int = 0) -> Images:
    """A point of each ball, which does not depend on the images behind.

    Args:
        images: centres, float32, shape [N, H, W, C].
        settings: epsilon and seed count here.
        restart: which of several points.
        first_row: number of the first image, if the images are part of a longer list: each has
            the point that it has there.

    Returns:
        Like `images`; bounds of the images do not count yet.
    """
    generator = np.random.default_rng([settings.seed, restart])
    for _ in range(first_row):  # one by one: many may not fit in memory
        generator.random(images.shape[1:], np.float32)
    moved = (2 * generator.random(images.shape, np.float32) - 1) * np.float32(settings.epsilon)
    return images + moved


def pgd_perturbation(
    attacked: keras.Model | Classifier,
    *,
    epsilon: float,
    steps: int,
    bounds: tuple[float, float] = (0.0, 1.0),
    seed: int,
    ramp_steps: int = 0,
) -> Perturb:
    r"""Makes the perturbation of adversarial training (Madry et al. 2018), for `training.fit`.

    Before each optimizer step its images are attacked by PGD on the network as it is then, dropout
    off: up the cross-entropy of the logits at T = 1, from a random start, in steps of
    $2.5\,\varepsilon / \text{steps}$.

    Args:
        attacked: the network under training, up to its logits.
        epsilon: most that a feature may change, > 0, in units of the images.
        steps: of PGD.
        bounds: smallest and largest value of a feature.
        seed: of the random starts, >= 0; together with the optimizer step it determines them, so a
            resumed run goes on as if it had not been stopped.
        ramp_steps: optimizer steps over which epsilon rises linearly from 0. From the start at its
            full size it can keep a network from learning anything.

    Returns:
        (images, labels [N, classes], optimizer step) -> images, inside a graph. The class of an
        image is the arg-max of its label.

    Raises:
        ValueError: if an argument is out of its range or the network does not give logits.
    """
    settings = PGD(epsilon=epsilon, steps=steps, seed=seed, loss="logits")
    if not isinstance(ramp_steps, int) or isinstance(ramp_steps, bool) or ramp_steps < 0:
        raise ValueError(f"ramp_steps: expected an integer >= 0, received {ramp_steps!r}.")
    if not isinstance(attacked, Classifier):
        attacked = classifier(attacked, bounds=bounds)
    gradient = loss_gradient(attacked, settings.loss)

    def perturb(images: tf.Tensor, labels: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        classes = tf.argmax(labels, axis=1, output_type=tf.int32)
        risen = tf.minimum(1.0, tf.cast(step, tf.float32) / ramp_steps) if ramp_steps else 1.0
        size = tf.constant(settings.epsilon, tf.float32) * risen
        ball = Ball(images, size, tf.constant(bounds, tf.float32))
        # Named, because the default generator may be another one on another device.
        noise = tf.random.stateless_uniform(
            tf.shape(images),
            tf.stack([tf.constant(settings.seed, tf.int64), tf.cast(step, tf.int64)]),
            minval=-1.0,
            maxval=1.0,
            alg="philox",
        )
        start = images + size * noise
        change = default_step_size(size, settings.steps)
        return sign_steps(gradient, ball, start, classes, change, tf.constant(settings.steps))

    return perturb


def settings_of(config: Config, spec: AttackSpec, temperature: float) -> PGD:
    """The settings of the attack in a run; see `prepared.prepare`."""
    scaled = spec.gradient == "logits / T"
    return PGD(
        epsilon=config.epsilon,
        loss="logits" if scaled else "softmax",
        temperature=temperature if scaled else 1.0,
        steps=config.pgd_steps,
        step_size=default_step_size(config.epsilon, config.pgd_steps),
        seed=config.seed,
    )
