"""Measurements that need only a network's logits on a split."""

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.special
import scipy.stats

from ddefense.records import LogitRecord, SoftLabelRecord

Floats = npt.NDArray[np.floating]
Classes = npt.NDArray[np.integer]


def accuracy(logits: Floats, labels: Classes) -> float:
    """Share of images whose arg-max is the label; shapes [N, classes] and [N]."""
    return float((logits.argmax(axis=1) == labels).mean())


def agreement(logits: Floats, others: Floats) -> float:
    """Share of images on which two networks predict the same class; shapes [N, classes]."""
    return float((logits.argmax(axis=1) == others.argmax(axis=1)).mean())


def confidence(logits: Floats, labels: Classes) -> float:
    r"""Mean over images of $\max_i F_i(x)$ at T = 1 if the prediction is right, else 0.

    Args:
        logits: shape [N, classes].
        labels: shape [N].
    """
    largest = scipy.special.softmax(logits.astype(np.float64), axis=1).max(axis=1)
    return float(np.where(logits.argmax(axis=1) == labels, largest, 0.0).mean())


def logit_scale(logits: Floats) -> LogitRecord:
    """Mean and deviation of abs(z), and the median gap between the two largest logits."""
    ordered = np.sort(logits.astype(np.float64), axis=1)
    return LogitRecord(
        mean_abs=float(np.abs(ordered).mean()),
        std_abs=float(np.abs(ordered).std()),
        median_top_two_gap=float(np.median(ordered[:, -1] - ordered[:, -2])),
    )


def soft_label_summary(soft_labels: Floats, labels: Classes) -> SoftLabelRecord:
    """Entropy (nats) of soft labels and how they relate to the hard ones.

    Args:
        soft_labels: rows that sum to 1, shape [N, classes].
        labels: shape [N].
    """
    return SoftLabelRecord(
        mean_entropy=float(scipy.stats.entropy(soft_labels.astype(np.float64), axis=1).mean()),
        mean_largest=float(soft_labels.max(axis=1).astype(np.float64).mean()),
        agreement_with_hard=accuracy(soft_labels, labels),
    )


def soft_labels_by_window(
    soft_labels: Callable[[int], Floats], labels: Classes, window: int
) -> SoftLabelRecord:
    """The same of soft labels that are read window by window.

    Args:
        soft_labels: number of a window -> its rows, shape [window, classes].
        labels: of all images, shape [N].
        window: images in every window but the last.
    """
    parts = [
        (len(part), soft_label_summary(soft_labels(number), part))
        for number, part in enumerate(
            labels[start : start + window] for start in range(0, len(labels), window)
        )
    ]
    weights = [count for count, _ in parts]
    return SoftLabelRecord(
        **{
            field.name: float(
                np.average([getattr(found, field.name) for _, found in parts], weights=weights)
            )
            for field in dataclasses.fields(SoftLabelRecord)
        }
    )
