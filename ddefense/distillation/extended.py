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

import numpy as np
import numpy.typing as npt

from ddefense.datasets import Examples
from ddefense.training import Labels


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
