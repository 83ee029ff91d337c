"""Images kept apart, and the first of a stream in memory."""

import numpy as np
import pytest
from ddefense.settings import ConfigError

from ddefense.datasets import Split, arrays, splitting, streaming
from ddefense.datasets.checking import Declared
from ddefense.datasets.labelling import SoftSplit, label_rows

IMAGES = np.linspace(0, 1, 20, dtype=np.float32).reshape(20, 1, 1, 1)
LABELS = np.array([0] * 10 + [1] * 10)
SPLIT = Split(IMAGES, LABELS)


def stream():
    return streaming.survey(arrays.source_of((IMAGES, LABELS)), Declared())[0]


def test_every_class_has_its_share():
    kept, apart = splitting.hold_out(SPLIT, 0.2, seed=0)
    assert np.bincount(kept.labels).tolist() == [8, 8]
    assert np.bincount(apart.labels).tolist() == [2, 2]


def test_classes_are_mixed_on_both_sides():
    for part in splitting.hold_out(SPLIT, 0.5, seed=0):
        for pair in part.labels.reshape(-1, 2):
            assert sorted(pair) == [0, 1]


def test_a_class_of_one_image_is_trained_on():
    labels = np.array([0] * 9 + [1])
    kept, apart = splitting.hold_out(Split(IMAGES[:10], labels), 0.3, seed=3)
    assert 1 in kept.labels
    assert len(apart) == 3


def test_the_seed_alone_decides():
    one, again, other = (splitting.hold_out(SPLIT, 0.3, seed=s)[1].images for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(np.sort(one.ravel()), np.sort(other.ravel()))


def test_of_a_stream_the_last():
    kept, apart = splitting.hold_out(stream(), 0.25, seed=0)
    np.testing.assert_array_equal(np.concatenate(list(kept.windows())), IMAGES[:15])
    np.testing.assert_array_equal(np.concatenate(list(apart.windows())), IMAGES[15:])


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_neither_side_is_empty(share):
    assert min(len(part) for part in splitting.hold_out(SPLIT, share, seed=0)) == 1
    assert min(len(part) for part in splitting.hold_out(stream(), share, seed=0)) == 1


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_no_share(share):
    with pytest.raises(ConfigError, match=r"share: expected a number in \(0, 1\); received"):
        splitting.hold_out(SPLIT, share, seed=0)


def test_one_image_cannot_be_split():
    with pytest.raises(ConfigError, match=r"expected at least two.*received 1"):
        splitting.hold_out(splitting.take(SPLIT, np.array([0])), 0.5, seed=0)


def test_soft_labels_go_with_their_images():
    rows = np.stack([IMAGES.ravel(), 1 - IMAGES.ravel()], axis=1)
    soft = SoftSplit(IMAGES, rows.argmax(axis=1), rows)
    for part in (*splitting.hold_out(soft, 0.3, seed=0), splitting.in_memory(soft, 4)):
        np.testing.assert_array_equal(label_rows(part)[:, 0], part.images.ravel())
    assert label_rows(SPLIT) is None


class TestInMemory:
    @pytest.mark.parametrize("limit", [None, 0, 1, 19, 20, 100])
    def test_of_a_stream(self, limit):
        found = splitting.in_memory(stream(), limit)
        np.testing.assert_array_equal(found.images, IMAGES[:limit])
        np.testing.assert_array_equal(found.labels, LABELS[:limit])

    def test_what_is_there_is_not_copied(self):
        assert splitting.in_memory(SPLIT) is SPLIT
        assert splitting.in_memory(SPLIT, 20) is SPLIT
        assert len(splitting.in_memory(SPLIT, 3)) == 3
