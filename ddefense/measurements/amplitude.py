"""Amplitude of adversarial gradients (the paper, section V-C and Fig. 9)."""

import math
from collections.abc import Callable

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense import interruption
from ddefense.attacks.input_gradient import gradient_of
from ddefense.maths import gradients
from ddefense.records import GradientRecord

# The paper's ranges as remembered, not verified: 0, 1e-40, 1e-35, ..., 1e-5, 1e-3, 1.
EDGES_LOG10 = (-40.0, -35.0, -30.0, -25.0, -20.0, -15.0, -10.0, -5.0, -3.0)
_BATCH = 64
_MOST_UNROLLED = 32
"""Classes whose gradients are in one graph: its size grows with them."""
_MOST_ENTRIES = 2**25
"""Of the Jacobians of a batch, each of which is held several times: fewer images fit if larger."""

Rows = npt.NDArray[np.float32]
Jacobians = Callable[[Rows], tuple[Rows, Rows, list[Rows]]]
"""Images -> logits [N, classes]; the Jacobian of the logits [N, classes, features], and of the
softmax at each temperature."""


def gradient_amplitude(
    logits_network: keras.Model, images: npt.NDArray[np.float32], temperatures: list[float]
) -> list[GradientRecord]:
    """Measures the mean of abs(dF_i/dx_j) per image, exactly and as float32 sees it.

    Args:
        logits_network: a model images -> logits.
        images: shape [N, H, W, C].
        temperatures: T at which F = softmax(z / T) is evaluated; the exact amplitudes of all
            come from one pass.

    Returns:
        One record per temperature.

    Raises:
        StoppedError: if the run was asked to stop.
    """
    classes = logits_network.output_shape[-1]
    make = _unrolled if classes <= _MOST_UNROLLED else _row_by_row
    jacobians = make(logits_network, images.shape[1:], temperatures)
    batch = _batch_size(images.shape[1:], classes)
    exact: list[list[npt.NDArray[np.float64]]] = [[] for _ in temperatures]
    mean32: list[list[npt.NDArray[np.float64]]] = [[] for _ in temperatures]
    zeros32: list[list[npt.NDArray[np.float64]]] = [[] for _ in temperatures]
    for start in range(0, len(images), batch):
        interruption.check()
        logits, logit_rows, probability_rows = jacobians(images[start : start + batch])
        for k, temperature in enumerate(temperatures):
            exact[k].append(gradients.log10_mean_abs_jacobian(logits, logit_rows, temperature))
            rows = np.abs(probability_rows[k].astype(np.float64))
            mean32[k].append(rows.mean(axis=(1, 2)))
            zeros32[k].append((rows == 0).mean(axis=(1, 2)))
    return [
        _summary(t, np.concatenate(exact[k]), np.concatenate(mean32[k]), np.concatenate(zeros32[k]))
        for k, t in enumerate(temperatures)
    ]


def zero_jacobians(network: keras.Model, images: npt.NDArray[np.float32]) -> float:
    """Share of images on which the whole float32 Jacobian of a network's own outputs is 0.

    Args:
        network: a model images -> outputs, shape [N, classes]; of probabilities it is what
            `GradientRecord.float32_zero_samples` is of the softmax of logits.
        images: shape [N >= 1, H, W, C].

    Raises:
        StoppedError: if the run was asked to stop.
    """

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *images.shape[1:]], tf.float32),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def moves(batch: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(batch)
            output = tf.gather(network(batch, training=False), index, axis=1)
        return tf.reduce_any(tf.not_equal(gradient_of(tape, output, batch), 0.0), axis=[1, 2, 3])

    compiled = moves.get_concrete_function()
    nonzero = 0
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        moved = np.zeros(len(batch), np.bool_)
        for index in range(network.output_shape[-1]):
            if moved.all():
                break
            interruption.check()
            moved |= compiled(tf.constant(batch), tf.constant(index)).numpy()
        nonzero += int(moved.sum())
    return 1.0 - nonzero / len(images)


def _batch_size(image_shape: tuple[int, ...], classes: int) -> int:
    """Images whose Jacobians are held at a time: 64, or fewer where they are large."""
    entries = classes * math.prod(image_shape)
    return max(1, min(_BATCH, _MOST_ENTRIES // entries))


def _unrolled(
    logits_network: keras.Model, image_shape: tuple[int, ...], temperatures: list[float]
) -> Jacobians:
    """The gradients of all classes in one graph, from one forward pass."""
    classes, features = logits_network.output_shape[-1], math.prod(image_shape)

    @tf.function(input_signature=[tf.TensorSpec([None, *image_shape], tf.float32)])
    def jacobians(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(batch)
            logits = tf.cast(logits_network(batch, training=False), tf.float32)
            outputs = [logits] + [tf.nn.softmax(logits / t) for t in temperatures]
            columns = [tf.unstack(output, num=classes, axis=1) for output in outputs]

        def rows(of: list[tf.Tensor]) -> tf.Tensor:
            found = [tf.reshape(gradient_of(tape, output, batch), [-1, features]) for output in of]
            return tf.stack(found, axis=1)

        return logits, rows(columns[0]), [rows(column) for column in columns[1:]]

    compiled = jacobians.get_concrete_function()

    def evaluate(images: Rows) -> tuple[Rows, Rows, list[Rows]]:
        logits, logit_rows, probability_rows = compiled(tf.constant(images))
        return logits.numpy(), logit_rows.numpy(), [rows.numpy() for rows in probability_rows]

    return evaluate


def _row_by_row(
    logits_network: keras.Model, image_shape: tuple[int, ...], temperatures: list[float]
) -> Jacobians:
    """The gradients of one class after the other, from a forward pass each."""
    classes, features = logits_network.output_shape[-1], math.prod(image_shape)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *image_shape], tf.float32),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def row(batch: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(batch)
            logits = tf.cast(logits_network(batch, training=False), tf.float32)
            outputs = [logits] + [tf.nn.softmax(logits / t) for t in temperatures]
            columns = [tf.gather(output, index, axis=1) for output in outputs]
        found = [tf.reshape(gradient_of(tape, column, batch), [-1, features]) for column in columns]
        return logits, found

    compiled = row.get_concrete_function()

    def evaluate(images: Rows) -> tuple[Rows, Rows, list[Rows]]:
        batch = tf.constant(images)
        kinds = 1 + len(temperatures)
        rows = [np.empty((len(images), classes, features), np.float32) for _ in range(kinds)]
        for index in range(classes):
            interruption.check()
            logits, found = compiled(batch, tf.constant(index))
            for k, gradient in enumerate(found):
                rows[k][:, index] = gradient.numpy()
        return logits.numpy(), rows[0], rows[1:]

    return evaluate


def _summary(
    temperature: float,
    log10: npt.NDArray[np.float64],
    mean32: npt.NDArray[np.float64],
    zeros32: npt.NDArray[np.float64],
) -> GradientRecord:
    median32 = float(np.median(mean32))
    counts = np.bincount(np.searchsorted(EDGES_LOG10, log10), minlength=len(EDGES_LOG10) + 1)
    # A dead network has an exact zero, whose logarithm JSON cannot hold, nor TensorBoard anything
    # beyond float32.
    finite = np.maximum(log10, np.finfo(np.float32).min)
    return GradientRecord(
        temperature=temperature,
        samples=len(log10),
        median_log10=float(np.median(finite)),
        quantiles_log10=[float(q) for q in np.quantile(finite, (0.05, 0.25, 0.75, 0.95))],
        histogram_edges_log10=list(EDGES_LOG10),
        histogram=[float(c) / len(log10) for c in counts],
        float32_median_log10=float(np.log10(median32)) if median32 > 0 else None,
        float32_zero_samples=float((mean32 == 0).mean()),
        float32_zero_entries=float(zeros32.mean()),
    )
