"""Labelled images that are read in windows, in every pass anew, and are the same in every pass."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from ddefense import interruption
from ddefense.datasets import labelling
from ddefense.datasets.checking import Declared, ImageShape, check_images, warn_of_range
from ddefense.datasets.examples import Split
from ddefense.datasets.fingerprints import fingerprints
from ddefense.datasets.labelling import Labels, SoftSplit
from ddefense.progress import Progress
from ddefense.records import RunError
from ddefense.settings import ConfigError

STREAM_BYTES = 2**31
"""Images that would take more than this as float32 are streamed unless the user says otherwise."""

_WINDOW_BYTES = 2**26
_FEWEST, _MOST = 128, 16_384

Window = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Images of any numeric type, shape [n, H, W, C], and their labels, as the user has them."""


class ReadingError(Exception):
    """Images that cannot be read; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where images and labels are read from, again and again.

    Attributes:
        read: number of a window -> that window and all later ones. It raises `ReadingError` where
            it cannot.
        window: images in every window but the last.
        image_shape: (height, width, channels).
        count: number of images, if it is known before they are read.
    """

    read: Callable[[int], Iterator[Window]]
    window: int
    image_shape: ImageShape
    count: int | None


@dataclasses.dataclass(frozen=True)
class _Survey:
    """What the first pass found."""

    source: Source
    labels: Labels
    fingerprints: npt.NDArray[np.uint64]

    def images(self, first: int) -> Iterator[npt.NDArray[np.float32]]:
        """Reads windows and compares them with the first pass."""
        position = first * self.source.window
        try:
            for images, _ in self.source.read(first):
                self._compare(images, position)
                position += len(images)
                yield images.astype(np.float32, copy=False)
        except ReadingError as error:
            raise RunError(f"{error}") from error
        if position != len(self.labels):
            raise RunError(
                f"images: expected {len(self.labels)} in every pass, as in the first; received "
                f"{position}. Make the dataset of something that can be read again: a generator "
                "that is used up gives nothing the second time."
            )

    def _compare(self, images: npt.NDArray[Any], position: int) -> None:
        expected = self.fingerprints[position : position + len(images)]
        if len(expected) < len(images):
            raise RunError(
                f"images: expected {len(self.labels)} in every pass, as in the first; received "
                "more. Make every pass over the dataset give the same images."
            )
        changed = fingerprints(images) != expected
        if changed.any():
            number = position + int(np.argmax(changed))
            raise RunError(
                "images: expected the same images in the same order in every pass, because soft "
                f"labels belong to images; received another image number {number} than the first "
                "time. Drop .shuffle from the dataset, or pass it reshuffle_each_iteration=False "
                "and a seed; drop random augmentation too, or make it a layer of the network."
            )


class Stream:
    """Images that are larger than memory: `Examples` of which one window is held at a time.

    The labels stay in memory, and so does a 64-bit fingerprint of every image, by which each later
    pass is compared with the first. `survey` makes one.

    Args:
        survey: what the first pass found.
        start: number of the first image.
        stop: number behind the last.
    """

    def __init__(self, survey: _Survey, start: int, stop: int) -> None:
        """Reads nothing."""
        self._survey, self._start, self._stop = survey, start, stop

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class indices, shape [N]."""
        return self._survey.labels.classes[self._start : self._stop]

    @property
    def label_rows(self) -> npt.NDArray[np.float32] | None:
        """Probabilities, shape [N, classes], if they are the labels."""
        rows = self._survey.labels.rows
        return None if rows is None else rows[self._start : self._stop]

    @property
    def fingerprints(self) -> npt.NDArray[np.uint64]:
        """Of every image, shape [N]."""
        return self._survey.fingerprints[self._start : self._stop]

    @property
    def image_shape(self) -> ImageShape:
        """(height, width, channels)."""
        return self._survey.source.image_shape

    @property
    def window(self) -> int:
        """Images in every window but the last."""
        return self._survey.source.window

    def __len__(self) -> int:
        """Number of images."""
        return self._stop - self._start

    def part(self, start: int, stop: int) -> "Stream":
        """Some of the images in their order: from number `start` to before number `stop`."""
        if not 0 <= start < stop <= len(self):
            raise ValueError(
                f"Expected 0 <= start < stop <= {len(self)}, the number of images; received "
                f"{start} and {stop}."
            )
        return Stream(self._survey, self._start + start, self._start + stop)

    def windows(self, first: int = 0) -> Iterator[npt.NDArray[np.float32]]:
        """Reads the images, shape [window, H, W, C], from window number `first` on.

        Raises:
            RunError: if they are no longer what they were when they were first read, naming the
                image.
        """
        begin = self._start + first * self.window
        if begin >= self._stop:
            return
        number, skipped = divmod(begin, self.window)
        position = begin - skipped
        # Windows of a part lie across those of the whole: `rest` is what the last one left.
        rest = np.empty((0, *self.image_shape), np.float32)
        for read in self._survey.images(number):
            images = read[skipped : self._stop - position]
            position, skipped = position + len(read), 0
            rest = np.concatenate([rest, images]) if len(rest) else images
            if len(rest) >= self.window:
                yield rest[: self.window]
                rest = rest[self.window :]
            if self._stop <= position < len(self._survey.labels):
                break  # what follows is none of this part
        if len(rest):
            yield rest


def window_size(image_shape: ImageShape) -> int:
    """How many images a window holds: about 64 MiB of float32.

    A pass holds some four windows at a time: the one in use, one being made of what is read, one
    read ahead and a copy on the device. A power of two, so that usual batch sizes divide it. Not
    fewer than 128 images, because training shuffles within a window; not more than 16,384, so that
    small images show progress too.

    Args:
        image_shape: (height, width, channels).

    Returns:
        A power of two from 128 to 16,384.
    """
    fitting = _WINDOW_BYTES // float_bytes(1, image_shape)
    return 2 ** int(math.log2(min(max(fitting, _FEWEST), _MOST)))


def float_bytes(count: int, image_shape: ImageShape) -> int:
    """What images take in memory as float32."""
    return count * math.prod(image_shape) * np.dtype(np.float32).itemsize


def survey(source: Source, declared: Declared, *, name: str = "images") -> tuple[Stream, int]:
    """Reads all images once, checks them, and starts a second pass to see that it is the same.

    Args:
        source: where they are read from.
        declared: what they should be.
        name: of the argument, for messages.

    Returns:
        The images and labels, and the number of classes that the labels tell of.

    Raises:
        ConfigError: if they are not what they should be, or not the same in the second pass.
        StoppedError: if the run was asked to stop.
    """
    labels: list[Labels] = []
    found: list[npt.NDArray[np.uint64]] = []
    for images, part in _checked(source, declared, name):
        labels.append(part)
        found.append(fingerprints(images))
    whole = _Survey(source, labelling.joined(labels), np.concatenate(found))
    _warn_if_sorted(whole.labels.classes, source.window)
    stream = Stream(whole, 0, len(whole.labels))
    try:
        # Two windows: a shuffled pipeline differs in the first, and one window has an end.
        for _ in itertools.islice(stream.windows(), 2):
            interruption.check()
    except RunError as error:
        raise ConfigError(f"{error}") from error
    return stream, whole.labels.count_classes()


def load(source: Source, declared: Declared, *, name: str = "images") -> tuple[Split, int]:
    """Reads all images once, checks them, and keeps them.

    Args:
        source: where they are read from.
        declared: what they should be.
        name: of the argument, for messages.

    Returns:
        The images and labels, a `SoftSplit` if the labels are probabilities; and the number of
        classes that the labels tell of.

    Raises:
        ConfigError: if they are not what they should be.
        StoppedError: if the run was asked to stop.
    """
    parts: list[Labels] = []
    windows: list[npt.NDArray[np.float32]] = []
    # Where their number is known, the images are never in memory twice.
    whole = np.empty((source.count or 0, *source.image_shape), np.float32)
    for images, part in _checked(source, declared, name):
        if source.count is None:
            windows.append(images.astype(np.float32, copy=False))
        else:
            start = len(parts) * source.window
            whole[start : start + len(images)] = images
        parts.append(part)
    labels = labelling.joined(parts)
    kept = np.concatenate(windows) if windows else whole[: len(labels)]
    return split_of(kept, labels), labels.count_classes()


def split_of(images: npt.NDArray[np.float32], labels: Labels) -> Split:
    """Images and checked labels in memory."""
    if labels.rows is None:
        return Split(images, labels.classes)
    return SoftSplit(images, labels.classes, labels.rows)


def _checked(
    source: Source, declared: Declared, name: str
) -> Iterator[tuple[npt.NDArray[Any], Labels]]:
    """Every window of the first pass, checked."""
    position, smallest, largest = 0, math.inf, -math.inf
    labels_name = name.replace("images", "labels")
    try:
        with Progress(f"reading {name}", source.count, "image") as progress:
            for images, labels in source.read(0):
                interruption.check()
                least, most = check_images(images, declared, first=position, name=name)
                found = labelling.read(
                    labels, num_classes=declared.known_classes, first=position, name=labels_name
                )
                yield images, found
                smallest, largest = min(smallest, least), max(largest, most)
                position += len(images)
                progress.update(len(images))
    except ReadingError as error:
        raise ConfigError(f"{error}") from error
    if not position:
        raise ConfigError(name, "expected at least one image; received none.")
    warn_of_range(smallest, largest, declared.value_range)


def _warn_if_sorted(classes: npt.NDArray[np.int64], window: int) -> None:
    """Warns of images that come class by class, because training shuffles within a window."""
    steps = np.diff(classes[: 2 * window])
    if len(classes) > window and ((steps >= 0).all() or (steps <= 0).all()):
        logging.warning(
            "The first %d images come sorted by class. Images of a stream are shuffled only within "
            "windows of %d, and a network that sees one class at a time learns badly: write the "
            "images in mixed order.",
            *(len(steps) + 1, window),
        )
