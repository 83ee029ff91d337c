"""A dataset's statistics, and that a new dataset is a module and a line."""

import dataclasses
import pathlib
import sys

import numpy as np
import pytest

from ddefense import datasets

# Two images of 1x2 pixels: means 0.5 and 0.25, variances 0.25 and 0.0625.
TRAIN = np.array([[[[0.0], [0.5]]], [[[1.0], [0.0]]]], np.float32)
TEST = np.array([[[[0.9], [0.9]]]], np.float32)


def make(train=TRAIN, **changes):
    dataset = datasets.Dataset(
        name="tiny",
        network="mnist",
        train=datasets.Split(train, np.zeros(len(train), np.int64)),
        test=datasets.Split(TEST, np.zeros(1, np.int64)),
        class_names=("zero", "one"),
    )
    return dataclasses.replace(dataset, **changes)


def test_statistics_by_hand():
    mean, variance = make(standardized=True).feature_statistics()
    np.testing.assert_array_equal(mean, [[[0.5], [0.25]]])
    np.testing.assert_array_equal(variance, [[[0.25], [0.0625]]])


def test_a_dataset_is_not_standardised_unless_it_says_so():
    assert make().feature_statistics() is None
    assert make(standardized=False).feature_statistics() is None


def test_statistics_are_of_the_training_images_alone():
    dataset = make(standardized=True)
    other = dataclasses.replace(dataset, test=datasets.Split(1 - TEST, dataset.test.labels))
    for found, expected in zip(
        other.feature_statistics(), dataset.feature_statistics(), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_every_feature_has_its_own():
    images = np.random.default_rng(0).uniform(size=(9, 3, 4, 2)).astype(np.float32)
    mean, variance = make(images, standardized=True).feature_statistics()
    assert mean.shape == variance.shape == (3, 4, 2)
    for row, column, channel in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (2, 3, 1)):
        values = images[:, row, column, channel].astype(np.float64)
        average = sum(values) / 9
        assert mean[row, column, channel] == pytest.approx(average, rel=1e-6)
        expected = sum((values - average) ** 2) / 9  # of the population, not of a sample
        assert variance[row, column, channel] == pytest.approx(expected, rel=1e-6)


def test_statistics_are_summed_in_float64():
    # Alternately 0.9 and 0.9 + 2**-10, in float32 without rounding of the difference.
    low = np.float32(0.9)
    images = np.full((40_000, 1, 4, 1), low, np.float32)
    images[1::2] += np.float32(2**-10)
    expected = float(low) + 2**-11, 2**-22
    mean, variance = make(images, standardized=True).feature_statistics()
    assert (mean.dtype, variance.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-7)
    np.testing.assert_allclose(variance, expected[1], rtol=1e-6)
    # Sums in float32 would not do.
    assert abs(images.mean(axis=0, dtype=np.float32) / expected[0] - 1).max() > 1e-6
    assert abs(images.var(axis=0, dtype=np.float32) / expected[1] - 1).max() > 1e-3


@pytest.fixture
def stripes(tmp_path, monkeypatch):
    """A dataset of one's own: a module, and a line in the table."""
    (tmp_path / "stripes.py").write_text(
        """
import numpy as np
from ddefense.datasets.dataset import Dataset
from ddefense.datasets.examples import Split

def load(data_dir):
    images = np.zeros((2, 28, 28, 1), np.float32)
    images[1, ::2] = 1.0
    split = Split(images, np.array([0, 1]))
    return Dataset(str(data_dir), "mnist", split, split, ("plain", "striped"))
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(datasets._LOADERS, "stripes", "stripes")
    yield "stripes"
    sys.modules.pop("stripes", None)


def test_a_dataset_is_a_module_and_a_line(stripes):
    dataset = datasets.load(stripes, data_dir=pathlib.Path("/data"))
    assert dataset.name == "/data"  # where it is told to look
    assert (dataset.num_classes, dataset.image_shape) == (2, (28, 28, 1))
    assert len(dataset.train) == 2
    assert datasets.load(stripes).name == "None"


def test_a_dataset_is_imported_only_when_it_is_loaded(stripes):
    assert "stripes" not in sys.modules
    datasets.load("digits")
    assert "stripes" not in sys.modules
    datasets.load(stripes)
    assert "stripes" in sys.modules
