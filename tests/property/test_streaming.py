"""Properties of streams: whatever the windows are, they hold the images of the array."""

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ddefense.datasets import arrays, splitting, streaming
from ddefense.datasets.checking import Declared

COUNT = 23
IMAGES = np.random.default_rng(0).uniform(size=(COUNT, 2, 3, 1)).astype(np.float32)
LABELS = np.arange(COUNT) % 3

windows = st.integers(1, COUNT + 2)


def make(window):
    """The source of an array has windows of a size of its own: cut them smaller here."""

    def read(first):
        for start in range(first * window, COUNT, window):
            yield IMAGES[start : start + window], LABELS[start : start + window]

    source = dataclasses.replace(arrays.source_of((IMAGES, LABELS)), read=read, window=window)
    return streaming.survey(source, Declared())[0]


@given(windows, st.integers(0, COUNT - 1), st.integers(1, COUNT), st.integers(0, COUNT))
def test_windows_of_any_part_from_any_start_are_those_of_the_array(window, start, length, first):
    stop = min(start + length, COUNT)
    part = make(window).part(start, stop)
    found = list(part.windows(first))
    rest = IMAGES[start:stop][first * window :]
    assert [len(w) for w in found] == [
        len(rest[i : i + window]) for i in range(0, len(rest), window)
    ]
    np.testing.assert_array_equal(np.concatenate([IMAGES[:0], *found]), rest)
    np.testing.assert_array_equal(part.labels, LABELS[start:stop])
    assert len(part) == len(part.labels) == len(part.fingerprints) == stop - start


@given(windows, st.integers(0, COUNT - 2), st.integers(2, COUNT), windows)
def test_a_part_of_a_part_is_a_part(window, start, length, inner):
    stop = min(start + length, COUNT)
    inner = min(inner, stop - start)
    whole = make(window)
    found, expected = whole.part(start, stop).part(0, inner), whole.part(start, start + inner)
    np.testing.assert_array_equal(
        splitting.in_memory(found).images, splitting.in_memory(expected).images
    )


@given(st.integers(2, 60), st.integers(2, 5), st.floats(0.01, 0.99), st.integers(0, 5))
def test_every_image_is_on_one_side_of_a_hold_out(count, classes, share, seed):
    images = np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1)
    labels = np.random.default_rng(count).integers(0, classes, count)
    split = streaming.split_of(images, arrays.labelling.read(labels))
    kept, apart = splitting.hold_out(split, share, seed)
    both = np.concatenate([kept.images, apart.images]).ravel()
    np.testing.assert_array_equal(np.sort(both), images.ravel())
    for part in (kept, apart):
        assert len(part) >= 1
        np.testing.assert_array_equal(part.labels, labels[part.images.ravel().astype(int)])
    assert abs(len(apart) - share * count) <= 1
    for label in range(classes):
        of_class = np.sum(labels == label)
        # As near as whole images can be: a class is off by less than one, and one is cut.
        assert abs(np.sum(apart.labels == label) - share * of_class) <= 1.5
