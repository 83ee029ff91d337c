"""Compiled optimizer steps."""

import functools
from collections.abc import Callable

import keras
import tensorflow as tf

from ddefense.training.devices import make_mirrored_step
from ddefense.training.objective import Objective, Targets

TrainSteps = Callable[[tf.Tensor, Targets, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

Perturb = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
"""(images [N, H, W, C], labels [N, classes], optimizer steps taken before, int64) -> images."""


def make_train_steps(
    logits_network: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    temperature: float,
    batch_size: int,
    jit_compile: bool = False,
    perturb: Perturb | None = None,
    objective: Objective | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> TrainSteps:
    """Compiles a function that takes several optimizer steps in one call.

    One call for many steps spares a round trip to Python per step, which is what makes this loop
    faster than `model.fit`. As there, what the network's layers add to the loss (regularizers of
    weights and activities) is minimised too; it is no part of the loss that is returned, which
    stays comparable between networks and with ln(classes).

    Args:
        logits_network: images -> logits.
        optimizer: built here on the network's trainable weights.
        temperature: T > 0 of the loss.
        batch_size: images per step; the last step of `order` takes what is left.
        jit_compile: compile each step with XLA.
        perturb: what to make of the images of each step before it is taken, a part of its graph.
        objective: the loss; None for the cross-entropy with the labels at T.
        strategy: of the devices that split each step, in whose scope the network and the optimizer
            were built; nothing is perturbed then. None for one device.

    Returns:
        A function (images, targets, order) -> (losses, correct): it takes one step for
        each `batch_size` entries of `order` (int32 indices of images) and returns the loss of
        each step, float32 [steps], and the number of images whose prediction was the arg-max of
        their label. The targets are the labels; with an objective that uses the true classes they
        are the pair of the two.
    """
    weights = logits_network.trainable_variables
    if not optimizer.built:
        optimizer.build(weights)
    minimised = objective or Objective()

    @tf.function(jit_compile=jit_compile, autograph=False)
    def train_step(images: tf.Tensor, targets: Targets) -> tuple[tf.Tensor, tf.Tensor]:
        labels = targets[0] if minimised.uses_classes else targets
        if perturb is not None:
            images = perturb(images, labels, tf.cast(optimizer.iterations, tf.int64))
        with tf.GradientTape() as tape:
            logits = logits_network(images, training=True)
            loss = minimised.loss(targets, logits, temperature)
            penalties = [tf.cast(penalty, loss.dtype) for penalty in logits_network.losses]
            # Scaled only by optimizers for float16, whose small gradients would vanish.
            total = optimizer.scale_loss(tf.add_n([loss, *penalties]) if penalties else loss)
        optimizer.apply_gradients(zip(tape.gradient(total, weights), weights, strict=True))
        hits = tf.argmax(logits, axis=1) == tf.argmax(labels, axis=1)
        return loss, tf.math.count_nonzero(hits, dtype=tf.int32)

    if strategy is not None:
        train_step = make_mirrored_step(
            logits_network, optimizer, temperature, jit_compile, minimised, strategy
        )

    labels_spec = tf.TensorSpec([None, logits_network.output_shape[-1]], tf.float32)
    indices_spec = tf.TensorSpec([None], tf.int32)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *logits_network.input_shape[1:]], tf.float32),
            (labels_spec, indices_spec) if minimised.uses_classes else labels_spec,
            indices_spec,
        ]
    )
    def train_steps(
        images: tf.Tensor, targets: Targets, order: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        num_steps = -(-tf.size(order) // batch_size)
        losses = tf.TensorArray(tf.float32, size=num_steps)
        correct = tf.constant(0, tf.int32)
        for step in tf.range(num_steps):
            batch = order[step * batch_size : (step + 1) * batch_size]
            take = functools.partial(tf.gather, indices=batch)
            loss, hits = train_step(take(images), tf.nest.map_structure(take, targets))
            losses = losses.write(step, loss)
            correct += hits
        return losses.stack(), correct

    # A concrete function: tracing happens here, once.
    return train_steps.get_concrete_function()
