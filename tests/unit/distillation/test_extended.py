"""What the second network of extended defensive distillation learns from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddefense.datasets import Split
from ddefense.distillation.extended import (
    outlier_labels,
    outlier_labels_by_window,
    uncertainty,
)
from ddefense.interruption import StoppedError
from ddefense.networks.uncertainty import dropout_variance
from ddefense.records import RunError

# The same examples in every run, as long as they need.
SAME = settings(deadline=None, derandomize=True, database=None, max_examples=60)

LABELS = np.array([2, 0, 1, 1])
SIGMA = np.array([0.0, 4.0, 1.0, 2.0], np.float32)


class Windowed:
    """Images in memory that are read in windows, as a stream of them is."""

    def __init__(self, images, window, stop_before=None):
        self.images, self.window, self.stop_before, self.read = images, window, stop_before, []
        self.labels = np.arange(len(images)) % 3

    def __len__(self):
        return len(self.images)

    def windows(self, first=0):
        for number in range(first, -(-len(self.images) // self.window)):
            if number == self.stop_before:
                raise StoppedError
            self.read.append(number)
            yield self.images[number * self.window : (number + 1) * self.window]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(size=(600, 4, 4, 1)).astype(np.float32)


@pytest.fixture
def network(make_tiny_network):
    return make_tiny_network(dropout=0.5)


def test_labels_by_hand():
    np.testing.assert_allclose(
        outlier_labels(LABELS, SIGMA, 3, 0.8),
        [[0, 0, 1, 0], [0.2, 0, 0, 0.8], [0, 0.8, 0, 0.2], [0, 0.6, 0, 0.4]],
        atol=1e-7,
    )


def test_the_largest_may_be_that_of_other_images():
    found = outlier_labels(LABELS, SIGMA, 3, 0.8, largest=2.0)
    # The second is beyond it.
    np.testing.assert_allclose(found[:, 3], [0, 0.8, 0.4, 0.8], atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1), np.ones(4), atol=1e-7)


@SAME
@given(
    sigma=st.lists(
        st.floats(0, 2.0**99, width=32, allow_subnormal=False), min_size=1, max_size=20
    ).filter(any),
    num_classes=st.integers(2, 7),
    alpha=st.floats(0, 1, exclude_min=True),
)
def test_every_row_is_a_distribution_over_two_classes(sigma, num_classes, alpha):
    sigma = np.array(sigma, np.float32)
    labels = np.arange(len(sigma)) % num_classes
    rows = outlier_labels(labels, sigma, num_classes, alpha)
    assert rows.dtype == np.float32
    assert rows.shape == (len(sigma), num_classes + 1)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-6)
    assert rows.min() >= 0
    assert rows[:, -1].max() == pytest.approx(alpha)
    assert (np.delete(rows, num_classes, axis=1).argmax(axis=1) == labels)[rows[:, -1] < 1].all()
    # More uncertain images give more to the outlier class.
    assert (np.diff(rows[np.argsort(sigma), -1]) >= 0).all()


@pytest.mark.parametrize("window", [1, 2, 3, 4, 9])
def test_windows_are_parts_of_the_whole(window):
    examples = Windowed(np.zeros((4, 1, 1, 1)), window)
    examples.labels = LABELS
    read = outlier_labels_by_window(examples, SIGMA, 3, 0.8)
    rows = np.concatenate([read(number) for number in range(-(-4 // window))])
    np.testing.assert_array_equal(rows, outlier_labels(LABELS, SIGMA, 3, 0.8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 0.0}, r"alpha: expected a number in \(0, 1\]; received 0.0"),
        ({"alpha": 1.1}, "alpha: .*received 1.1"),
        ({"alpha": np.nan}, "alpha: .*received nan"),
        ({"sigma": SIGMA[:3]}, r"sigma: .*the shapes \(3,\) and \(4,\)"),
        ({"sigma": np.array([0, np.nan, 1, 1])}, r"sigma: .*received .*nan.* at row 1"),
        ({"sigma": np.array([0, 1, -1, 1])}, "sigma: .*at row 2"),
        ({"sigma": np.zeros(4)}, "largest: expected an uncertainty > 0; received 0.0"),
        ({"largest": -1.0}, "largest: .*received -1.0"),
        ({"labels": np.array([0, 1, 2, 3])}, r"labels: expected classes in 0..2; received 0..3"),
        ({"labels": np.array([0, 1, 2, -1])}, r"labels: .*received -1..2"),
    ],
)
def test_bad_labels_are_refused(changes, message):
    arguments = {"labels": LABELS, "sigma": SIGMA, "num_classes": 3, "alpha": 0.9} | changes
    with pytest.raises(ValueError, match=message):
        outlier_labels(**arguments)
    labels = arguments.pop("labels")
    with pytest.raises(ValueError, match=message):
        outlier_labels_by_window(Split(np.zeros((4, 1, 1, 1)), labels), **arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("window", "outputs"), [(128, "logits"), (256, "probabilities"), (600, "logits")]
)
def test_a_stream_has_the_uncertainty_of_its_images_in_memory(network, images, window, outputs):
    settings = {"num_passes": 5, "seed": 2, "outputs": outputs}
    expected = dropout_variance(network, **settings)(images, 0)
    found = uncertainty(network, Windowed(images, window), **settings)
    assert found.shape == (600,)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    assert len(set(found.tolist())) > 500


def test_an_interrupted_run_goes_on_from_its_last_window(network, images, tmp_path):
    path = tmp_path / "uncertainty.npz"
    expected = uncertainty(network, Windowed(images, 128))
    stopped = Windowed(images, 128, stop_before=3)
    with pytest.raises(StoppedError):
        uncertainty(network, stopped, checkpoint=path)
    assert stopped.read == [0, 1, 2]
    resumed = Windowed(images, 128)
    np.testing.assert_array_equal(uncertainty(network, resumed, checkpoint=path), expected)
    assert resumed.read == [3, 4]
    again = Windowed(images, 128)
    np.testing.assert_array_equal(uncertainty(network, again, checkpoint=path), expected)
    assert again.read == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (b"no archive", "cannot be used: .*Delete that file"),
        ({"sigma": np.zeros(128, np.float32)}, "cannot be used"),
        ({"uncertainty": np.zeros(601, np.float32)}, r"about 600 images .*shape \(601,\)"),
        ({"uncertainty": np.zeros(100, np.float32)}, "first windows of 128 of them"),
        ({"uncertainty": np.zeros((128, 2), np.float32)}, r"shape \(128, 2\)"),
        ({"uncertainty": np.zeros(128)}, "type float64"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(network, images, tmp_path, stored, message):
    path = tmp_path / "uncertainty.npz"
    if isinstance(stored, bytes):
        path.write_bytes(stored)
    else:
        np.savez(path, **stored)
    with pytest.raises(RunError, match=message):
        uncertainty(network, Windowed(images, 128), checkpoint=path)


def test_a_network_without_dropout_is_refused(make_tiny_network, images):
    examples = Windowed(images, 128)
    with pytest.raises(ValueError, match="a dropout layer of a rate > 0"):
        uncertainty(make_tiny_network(), examples)
    assert examples.read == []
