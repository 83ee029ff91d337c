r"""Extended defensive distillation: what its second network learns from.

Papernot and McDaniel, "Extending Defensive Distillation" (2017, arXiv:1705.05264), the successor
of defensive distillation. A first network of K classes is trained with dropout on hard labels. How
much its outputs vary under dropout is its uncertainty $\sigma(x)$ about a training image, see
`networks.uncertainty`. A second network of K + 1 classes then learns, where $y$ is the true class
of x,

$$k_y(x) = 1 - \alpha \frac{\sigma(x)}{\max_{x'} \sigma(x')}, \quad
  k_{K}(x) = \alpha \frac{\sigma(x)}{\max_{x'} \sigma(x')}, \quad k_i(x) = 0 \text{ elsewhere}$$

with the maximum over the training set. Both trainings are at T = 1. Class K, the last, is for
outliers: a network that gives it refuses to classify the image.

These formulas are UNVERIFIED: the paper's text was not at hand. They are our reading of it from
memory and from a public implementation, SergioYF/defensive-distillation-papernot, which takes the
variance of the logits, 20 passes and alpha = 0.9, as are the defaults here. It has a third term in
its loss, against large gaps between logits, which is left out because nothing else at hand speaks
of it. The variance of the logits may be largest where the network is most certain; that of the
probabilities is there to compare.
"""

import pathlib

import keras
import numpy as np
import numpy.typing as npt

from ddefense import files
from ddefense.datasets import Examples
from ddefense.networks.uncertainty import Outputs, dropout_variance
from ddefense.progress import Progress
from ddefense.records import RunError
from ddefense.training import Labels

_UNCERTAINTY = "uncertainty"


def uncertainty(
    network: keras.Model,
    examples: Examples,
    *,
    num_passes: int = 20,
    seed: int = 0,
    outputs: Outputs = "logits",
    checkpoint: pathlib.Path | None = None,
    label: str = "uncertainty",
) -> npt.NDArray[np.float32]:
    """A trained network's uncertainty about every image; see `networks.uncertainty`.

    Args:
        network: the first network, trained with dropout.
        examples: images in the network's range.
        num_passes: evaluations of each image with dropout on, >= 2.
        seed: of the draws, >= 0.
        outputs: which vary: the `logits`, or the `probabilities`.
        checkpoint: an .npz file, written after every window; the same call goes on from it.
        label: what progress calls it.

    Returns:
        The summed variances of its outputs, >= 0, in the order of the images, float32, shape [N].
        They are small: they stay in memory, whatever the images do.

    Raises:
        ValueError: if the network has no dropout, or an argument is out of its range.
        RunError: if the checkpoint is damaged, of other images, or the images are no longer what
            they were.
        StoppedError: if the run was asked to stop; whole windows are kept in the checkpoint.
    """
    variance = dropout_variance(network, num_passes=num_passes, seed=seed, outputs=outputs)
    found = _stored(checkpoint, examples)
    with Progress(label, len(examples), "image", done=len(found)) as progress:
        if len(found) == len(examples):
            return found
        for images in examples.windows(len(found) // examples.window):
            found = np.concatenate([found, variance(images, len(found))])
            if checkpoint is not None:
                with files.atomic_file(checkpoint) as temporary:
                    np.savez(temporary, allow_pickle=False, **{_UNCERTAINTY: found})
            progress.update(len(images))
    return found


def outlier_labels(
    labels: npt.NDArray[np.integer],
    sigma: npt.NDArray[np.floating],
    num_classes: int,
    alpha: float = 0.9,
    *,
    largest: float | None = None,
) -> npt.NDArray[np.float32]:
    """What the second network learns from; the formula at the top of this module, unverified.

    Args:
        labels: true classes, shape [N].
        sigma: the first network's uncertainty about each image, finite and >= 0, shape [N].
        num_classes: K >= 2, without the outlier class.
        alpha: share that the most uncertain image gives to the outlier class, in (0, 1].
        largest: uncertainty that counts as the most, > 0: that of the whole training set. None for
            the largest of these. Where an image has more, as one outside of the training set may,
            its share is alpha.

    Returns:
        Rows that sum to 1, float32, shape [N, K + 1].

    Raises:
        ValueError: if an argument is out of its range, or nothing is uncertain.
    """
    sigma = np.asarray(sigma, np.float64)
    most = float(sigma.max(initial=0.0)) if largest is None else largest
    _check(labels, sigma, num_classes, alpha, most)
    share = alpha * np.minimum(sigma / most, 1.0)
    rows = np.zeros((len(labels), num_classes + 1), np.float32)
    rows[np.arange(len(labels)), labels] = 1 - share
    rows[:, num_classes] = share
    return rows


def outlier_labels_by_window(
    examples: Examples,
    sigma: npt.NDArray[np.floating],
    num_classes: int,
    alpha: float = 0.9,
    *,
    largest: float | None = None,
) -> Labels:
    """The same rows for `training.fit`, made as they are asked for.

    Args:
        examples: whose labels and windows count.
        sigma: the first network's uncertainty about each of their images, shape [N].
        num_classes: K, without the outlier class.
        alpha: see `outlier_labels`.
        largest: see `outlier_labels`; for images that validate, the largest of the training set.

    Returns:
        Number of a window -> its rows, shape [window, K + 1].

    Raises:
        ValueError: if an argument is out of its range, or nothing is uncertain.
    """
    most = float(sigma.max(initial=0.0)) if largest is None else largest
    _check(examples.labels, sigma, num_classes, alpha, most)

    def window(number: int) -> npt.NDArray[np.float32]:
        part = slice(number * examples.window, (number + 1) * examples.window)
        return outlier_labels(examples.labels[part], sigma[part], num_classes, alpha, largest=most)

    return window


def _check(
    labels: npt.NDArray[np.integer],
    sigma: npt.NDArray[np.floating],
    num_classes: int,
    alpha: float,
    largest: float,
) -> None:
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha: expected a number in (0, 1]; received {alpha!r}.")
    if labels.ndim != 1 or sigma.shape != labels.shape:
        raise ValueError(
            "sigma: expected an uncertainty for each label, of shape [N]; received the shapes "
            f"{sigma.shape} and {labels.shape}."
        )
    if not np.all(np.isfinite(sigma) & (sigma >= 0)):
        row = int(np.argmin(np.isfinite(sigma) & (sigma >= 0)))
        raise ValueError(
            f"sigma: expected finite numbers >= 0; received {sigma[row]!r} at row {row}."
        )
    if not 0 < largest < np.inf:
        raise ValueError(
            f"largest: expected an uncertainty > 0; received {largest!r}. Where every pass with "
            "dropout on gives the same logits there is nothing to learn of outliers: is this a "
            "trained network, and its rate of dropout > 0?"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels: expected classes in 0..{num_classes - 1}; received "
            f"{labels.min()}..{labels.max()}. The outlier class is no label."
        )


def _stored(checkpoint: pathlib.Path | None, examples: Examples) -> npt.NDArray[np.float32]:
    """What an interrupted run has found: whole windows."""
    if checkpoint is None or not checkpoint.exists():
        return np.zeros(0, np.float32)
    try:
        with files.read_npz(checkpoint) as arrays:
            found = np.asarray(arrays[_UNCERTAINTY])
    except files.DamagedError as error:
        raise RunError(
            f"Expected the uncertainty about images at {checkpoint}, but it cannot be used: "
            f"{error}. Delete that file to find it again."
        ) from error
    whole = len(found) % examples.window == 0 or len(found) == len(examples)
    if found.ndim != 1 or found.dtype != np.float32 or len(found) > len(examples) or not whole:
        raise RunError(
            f"Expected the uncertainty about {len(examples)} images at {checkpoint}, or about the "
            f"first windows of {examples.window} of them; received an array of shape {found.shape} "
            f"and type {found.dtype}. Delete that file to find it again."
        )
    return found
