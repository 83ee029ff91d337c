"""What tells whether images are the same ones as before, without keeping them."""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense.datasets.examples import Examples
from ddefense.datasets.labelling import label_rows

_TOGETHER = 1024


def fingerprints(images: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """A 64-bit fingerprint (FarmHash) of every image.

    Args:
        images: numbers, shape [N, ...].

    Returns:
        Shape [N]. Equal images of one type have equal fingerprints; the chance that two of a
        million different ones have the same is 3 in 10^8.
    """
    parts = [np.zeros(0, "<u8")]
    with tf.device("CPU"):
        for start in range(0, len(images), _TOGETHER):
            found = tf.raw_ops.Fingerprint(
                data=images[start : start + _TOGETHER], method=b"farmhash64"
            )
            parts.append(found.numpy().view("<u8")[:, 0])
    return np.concatenate(parts)


def digest(*sets: Examples | None) -> str:
    """The identity of labelled images: SHA-256 over shapes, labels and fingerprints.

    Args:
        sets: of images; None is one of its own.

    Returns:
        The same text for the same images and labels in the same order, in hexadecimal.
    """
    found = hashlib.sha256()
    for examples in sets:
        if examples is None:
            found.update(b"none")
            continue
        rows = label_rows(examples)
        found.update(f"{examples.image_shape} {len(examples)} {rows is not None} ".encode())
        found.update(examples.labels.astype("<i8").tobytes())
        if rows is not None:
            found.update(rows.astype("<f4").tobytes())
        found.update(_all_fingerprints(examples).astype("<u8").tobytes())
    return found.hexdigest()


def _all_fingerprints(examples: Examples) -> npt.NDArray[np.uint64]:
    known: npt.NDArray[np.uint64] | None = getattr(examples, "fingerprints", None)
    if known is not None:
        return known
    return np.concatenate(
        [np.zeros(0, np.uint64), *(fingerprints(window) for window in examples.windows())]
    )
