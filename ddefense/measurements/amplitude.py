"""Amplitude of adversarial gradients (the paper, section V-C and Fig. 9)."""

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense import interruption
from ddefense.maths import gradients
from ddefense.records import GradientRecord

# The paper's ranges as remembered, not verified: 0, 1e-40, 1e-35, ..., 1e-5, 1e-3, 1.
EDGES_LOG10 = (-40.0, -35.0, -30.0, -25.0, -20.0, -15.0, -10.0, -5.0, -3.0)
_BATCH = 64


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
    features = int(np.prod(images.shape[1:]))

    @tf.function(input_signature=[tf.TensorSpec([None, *images.shape[1:]], tf.float32)])
    def jacobians(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(batch)
            logits = tf.cast(logits_network(batch, training=False), tf.float32)
            outputs = [logits] + [tf.nn.softmax(logits / t) for t in temperatures]
            columns = [tf.unstack(output, num=classes, axis=1) for output in outputs]

        def rows(of: list[tf.Tensor]) -> tf.Tensor:
            found = [tf.reshape(tape.gradient(output, batch), [-1, features]) for output in of]
            return tf.stack(found, axis=1)

        return logits, rows(columns[0]), [rows(column) for column in columns[1:]]

    compiled = jacobians.get_concrete_function()
    exact: list[list[npt.NDArray[np.float64]]] = [[] for _ in temperatures]
    mean32: list[list[npt.NDArray[np.float64]]] = [[] for _ in temperatures]
    zeros32: list[list[npt.NDArray[np.float64]]] = [[] for _ in temperatures]
    for start in range(0, len(images), _BATCH):
        interruption.check()
        logits, logit_rows, probability_rows = compiled(tf.constant(images[start : start + _BATCH]))
        for k, temperature in enumerate(temperatures):
            exact[k].append(
                gradients.log10_mean_abs_jacobian(logits.numpy(), logit_rows.numpy(), temperature)
            )
            rows = np.abs(probability_rows[k].numpy().astype(np.float64))
            mean32[k].append(rows.mean(axis=(1, 2)))
            zeros32[k].append((rows == 0).mean(axis=(1, 2)))
    return [
        _summary(t, np.concatenate(exact[k]), np.concatenate(mean32[k]), np.concatenate(zeros32[k]))
        for k, t in enumerate(temperatures)
    ]


def _summary(
    temperature: float,
    log10: npt.NDArray[np.float64],
    mean32: npt.NDArray[np.float64],
    zeros32: npt.NDArray[np.float64],
) -> GradientRecord:
    median32 = float(np.median(mean32))
    counts = np.bincount(np.searchsorted(EDGES_LOG10, log10), minlength=len(EDGES_LOG10) + 1)
    # A dead network has an exact zero, whose logarithm JSON cannot hold; two of them must add up.
    finite = np.maximum(log10, np.finfo(np.float64).min / 4)
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
