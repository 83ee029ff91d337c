"""The embedded digits: one fixed split, resized as stated."""

import hashlib

import numpy as np
import sklearn.datasets

HASH = "48090de4b71f943b6b9c0731e2387ea827b46dca1ab710b3d27471d73272c7ff"


def test_the_split_never_changes(digits):
    # Weights of the interpolation are multiples of 1/14 along each axis and pixels of 1/16, so
    # that pixels times 3136 are integers, whatever the rounding of a platform.
    found = hashlib.sha256()
    for split in (digits.train, digits.test):
        scaled = split.images.astype(np.float64) * 3136
        np.testing.assert_allclose(scaled, np.round(scaled), atol=1e-3)
        found.update(np.round(scaled).astype("<i4").tobytes())
        found.update(split.labels.astype("<i8").tobytes())
    assert found.hexdigest() == HASH


def test_all_of_the_source_is_used_once(digits):
    raw = sklearn.datasets.load_digits()
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    np.testing.assert_array_equal(np.bincount(labels), np.bincount(raw.target))
    # The mean survives the resizing, as every source pixel has 3.5 x 3.5 of weight.
    images = np.concatenate([digits.train.images, digits.test.images])
    np.testing.assert_allclose(
        np.sort(images.mean(axis=(1, 2, 3))),
        np.sort(raw.images.mean(axis=(1, 2)) / 16),
        atol=0.01,
    )


def test_half_of_the_images_have_another_class_within_0_65(digits):
    """Why epsilon is smaller on digits: from 0.33 on, balls around such images overlap."""
    nearest = [
        np.abs(digits.train.images[digits.train.labels != label] - image).max(axis=(1, 2, 3)).min()
        for image, label in zip(digits.test.images, digits.test.labels, strict=True)
    ]
    assert 0.645 < np.median(nearest) < 0.655
