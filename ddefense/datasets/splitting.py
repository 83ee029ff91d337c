"""Parts of labelled images: some kept apart for testing or validation, some in memory."""

import math
from typing import overload

import numpy as np
import numpy.typing as npt

from ddefense.datasets.examples import Examples, Split
from ddefense.datasets.labelling import SoftSplit, label_rows
from ddefense.datasets.streaming import Stream
from ddefense.settings import ConfigError


@overload
def hold_out(examples: Split, share: float, seed: int) -> tuple[Split, Split]: ...
@overload
def hold_out(examples: Stream, share: float, seed: int) -> tuple[Stream, Stream]: ...
@overload
def hold_out(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]: ...
def hold_out(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """Keeps a share of the images apart.

    Args:
        examples: images in memory, or a stream.
        share: of the images, in (0, 1); at least one image is on either side.
        seed: of the permutation of images in memory; a stream has none.

    Returns:
        The rest, and what was kept apart: in memory the same share of every class as nearly as it
        can be, both with the classes in mixed order; of a stream the last images.

    Raises:
        ConfigError: if there is no such share, or fewer than two images.
    """
    if not 0 < share < 1:
        raise ConfigError("share", f"expected a number in (0, 1); received {share}.")
    if len(examples) < 2:
        raise ConfigError(
            "images", f"expected at least two, to keep one of them apart; received {len(examples)}."
        )
    kept = len(examples) - min(len(examples) - 1, max(1, round(share * len(examples))))
    if isinstance(examples, Stream):
        return examples.part(0, kept), examples.part(kept, len(examples))
    split = in_memory(examples)
    order = np.random.default_rng(seed).permutation(len(split))
    # Sorted by place within the class, any stretch of the order has all classes in proportion.
    order = order[np.argsort(_place_in_class(split.labels[order]), kind="stable")]
    return take(split, order[:kept]), take(split, order[kept:])


def take(split: Split, indices: npt.NDArray[np.integer]) -> Split:
    """Some images in memory, in the order of `indices`, with their labels."""
    rows = label_rows(split)
    images, labels = split.images[indices], split.labels[indices]
    return Split(images, labels) if rows is None else SoftSplit(images, labels, rows[indices])


def in_memory(examples: Examples, limit: int | None = None) -> Split:
    """The first images as arrays.

    Args:
        examples: images in memory, or a stream.
        limit: how many; all if None.

    Returns:
        Not more than `limit` images, in their order.

    Raises:
        RunError: if a stream is no longer what it was.
    """
    count = len(examples) if limit is None else min(limit, len(examples))
    if isinstance(examples, Split):
        return examples if count == len(examples) else take(examples, np.arange(count))
    parts = [np.empty((0, *examples.image_shape), np.float32)]
    windows = examples.windows()
    for _ in range(math.ceil(count / examples.window)):
        parts.append(next(windows))
    images, rows = np.concatenate(parts)[:count], label_rows(examples)
    labels = examples.labels[:count]
    return Split(images, labels) if rows is None else SoftSplit(images, labels, rows[:count])


def _place_in_class(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Where each image stands among those of its class, in (0, 1)."""
    places = np.empty(len(labels))
    for label in np.unique(labels):
        (members,) = np.nonzero(labels == label)
        places[members] = (np.arange(len(members)) + 0.5) / len(members)
    return places
