"""Every sample is attacked towards every class but its own."""

import numpy as np
import pytest

from ddefense import attacks


def test_by_hand():
    sample, target = attacks.every_wrong_class(np.array([1, 0, 2]), 3)
    assert sample.tolist() == [0, 0, 1, 1, 2, 2]
    assert target.tolist() == [0, 2, 1, 2, 0, 1]


@pytest.mark.parametrize("classes", [2, 5, 10, 43])
def test_any_number_of_classes(classes):
    labels = np.random.default_rng(0).integers(0, classes, 20)
    sample, target = attacks.every_wrong_class(labels, classes)
    assert sample.dtype == target.dtype == np.int64
    assert len(sample) == len(target) == 20 * (classes - 1)
    assert len(set(zip(sample.tolist(), target.tolist(), strict=True))) == len(sample)
    assert not (labels[sample] == target).any()
    assert target.min() >= 0
    assert target.max() < classes
    assert (np.diff(sample) >= 0).all()


def test_no_labels_give_no_pairs():
    sample, target = attacks.every_wrong_class(np.array([], np.int64), 10)
    assert len(sample) == len(target) == 0
