"""Compiled optimizer steps."""

from collections.abc import Callable

import keras
import tensorflow as tf

from ddefense.maths.losses import soft_label_cross_entropy

TrainSteps = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

Perturb = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
"""(images [N, H, W, C], labels [N, classes], optimizer steps taken before, int64) -> images."""


def make_train_steps(
    logits_network: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    temperature: float,
    batch_size: int,
    jit_compile: bool = False,
    perturb: Perturb | None = None,
) -> TrainSteps:
    """Compiles a function that takes several optimizer steps in one call.

    One call for many steps spares a round trip to Python per step, which is what makes this loop
    faster than `model.fit`.

    Args:
        logits_network: images -> logits.
        optimizer: built here on the network's trainable weights.
        temperature: T > 0 of the loss.
        batch_size: images per step; the last step of `order` takes what is left.
        jit_compile: compile each step with XLA.
        perturb: what to make of the images of each step before it is taken, a part of its graph.

    Returns:
        A function (images, labels, order) -> (losses, correct): it takes one step for
        each `batch_size` entries of `order` (int32 indices of images) and returns the loss of
        each step, float32 [steps], and the number of images whose prediction was the arg-max of
        their label.
    """
    weights = logits_network.trainable_variables
    if not optimizer.built:
        optimizer.build(weights)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def train_step(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if perturb is not None:
            images = perturb(images, labels, tf.cast(optimizer.iterations, tf.int64))
        with tf.GradientTape() as tape:
            logits = logits_network(images, training=True)
            loss = soft_label_cross_entropy(labels, logits, temperature)
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        hits = tf.argmax(logits, axis=1) == tf.argmax(labels, axis=1)
        return loss, tf.math.count_nonzero(hits, dtype=tf.int32)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *logits_network.input_shape[1:]], tf.float32),
            tf.TensorSpec([None, logits_network.output_shape[-1]], tf.float32),
            tf.TensorSpec([None], tf.int32),
        ]
    )
    def train_steps(
        images: tf.Tensor, labels: tf.Tensor, order: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        num_steps = -(-tf.size(order) // batch_size)
        losses = tf.TensorArray(tf.float32, size=num_steps)
        correct = tf.constant(0, tf.int32)
        for step in tf.range(num_steps):
            batch = order[step * batch_size : (step + 1) * batch_size]
            loss, hits = train_step(tf.gather(images, batch), tf.gather(labels, batch))
            losses = losses.write(step, loss)
            correct += hits
        return losses.stack(), correct

    # A concrete function: tracing happens here, once.
    return train_steps.get_concrete_function()
