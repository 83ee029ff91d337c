"""Samples are attacked towards every class but their own, or towards one of these at random."""

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


# --- one class per sample -------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("seed", [0, 1])
def test_one_target_is_never_the_label(classes, seed):
    labels = np.random.default_rng(5).integers(0, classes, 200)
    target = attacks.one_wrong_class(labels, classes, seed)
    assert target.dtype == np.int64
    assert target.shape == labels.shape
    assert not (target == labels).any()
    assert target.min() >= 0
    assert target.max() < classes
    if classes == 2:
        assert (target == 1 - labels).all()


def test_every_wrong_class_is_as_likely():
    target = attacks.one_wrong_class(np.full(3000, 2), 4, seed=7)
    counts = np.bincount(target, minlength=4)
    assert counts[2] == 0
    # 1000 of each, with a standard deviation of 26.
    assert np.abs(counts[[0, 1, 3]] - 1000).max() < 110


def test_the_seed_determines_the_targets():
    labels = np.arange(50) % 10
    first = attacks.one_wrong_class(labels, 10, seed=3)
    np.random.default_rng(0).random(5)
    assert first.tolist() == attacks.one_wrong_class(labels, 10, seed=3).tolist()
    assert first.tolist() != attacks.one_wrong_class(labels, 10, seed=4).tolist()


def test_fewer_samples_have_the_same_targets():
    labels = np.random.default_rng(0).integers(0, 10, 40)
    targets = attacks.one_wrong_class(labels, 10, seed=3)
    for count in (0, 1, 17):
        assert attacks.one_wrong_class(labels[:count], 10, seed=3).tolist() == (
            targets[:count].tolist()
        )


def test_equal_labels_do_not_share_a_target():
    assert len(set(attacks.one_wrong_class(np.zeros(20, np.int64), 10, seed=0).tolist())) > 3
