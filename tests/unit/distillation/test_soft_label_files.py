"""Soft labels on disk come back as they were, aligned with their images."""

import numpy as np
import pytest
import tensorflow as tf

from ddefense import distillation, networks
from ddefense.datasets import Split
from ddefense.distillation.soft_label_files import SoftLabelFiles
from ddefense.records import RunError


class Windowed:
    """Images in memory that are read in windows, as a stream of them is."""

    def __init__(self, images, window):
        self.images, self.window, self.read = images, window, []
        self.labels = np.zeros(len(images), np.int64)

    def __len__(self):
        return len(self.images)

    def windows(self, first=0):
        for start in range(first * self.window, len(self.images), self.window):
            self.read.append(start // self.window)
            yield self.images[start : start + self.window]


@pytest.fixture
def initial(make_tiny_network):
    return make_tiny_network(20.0)


@pytest.fixture
def expected(initial, tiny_images):
    return distillation.soft_labels(initial, tiny_images, 20.0)


@pytest.mark.parametrize("window", [1, 3, 5, 10, 64])
def test_every_window_has_the_rows_of_its_images(initial, tiny_images, expected, tmp_path, window):
    files = SoftLabelFiles(tmp_path, Windowed(tiny_images, window), 3)
    files.write(initial, 20.0)
    starts = range(0, len(tiny_images), window)
    assert len(list(tmp_path.glob("*.tfrecord"))) == len(starts)
    for i, start in enumerate(starts):
        # Rounding depends on what shares a batch.
        np.testing.assert_allclose(files(i), expected[start : start + window], rtol=1e-6)


def test_images_in_memory_are_one_window(initial, tiny_images, expected, tmp_path):
    examples = Split(tiny_images, np.zeros(len(tiny_images), np.int64))
    files = SoftLabelFiles(tmp_path, examples, 3)
    files.write(initial, 20.0)
    np.testing.assert_array_equal(files(0), expected)


def test_anybody_can_read_the_files(initial, tiny_images, expected, tmp_path):
    SoftLabelFiles(tmp_path, Windowed(tiny_images, 4), 3).write(initial, 20.0)
    found = [
        tf.train.Example.FromString(record.numpy()).features.feature
        for record in tf.data.TFRecordDataset(sorted(map(str, tmp_path.glob("*.tfrecord"))))
    ]
    assert [f["index"].int64_list.value[:] for f in found] == [[i] for i in range(10)]
    rows = [f["probabilities"].float_list.value[:] for f in found]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


def test_windows_that_were_written_are_not_made_again(initial, tiny_images, tmp_path):
    examples = Windowed(tiny_images, 3)
    SoftLabelFiles(tmp_path, examples, 3).write(initial, 20.0)
    paths = sorted(tmp_path.glob("*.tfrecord"))
    kept = paths[0].read_bytes()
    for path in paths[2:]:
        path.unlink()
    examples.read.clear()
    files = SoftLabelFiles(tmp_path, examples, 3)
    files.write(networks.with_temperature(initial, 20.0), 20.0)
    assert examples.read == [2, 3]
    assert paths[0].read_bytes() == kept
    assert len(files(3)) == 1


def test_a_missing_file_is_named(tiny_images, tmp_path):
    with pytest.raises(RunError, match=r"Expected soft labels at .*soft_labels_000000.tfrecord"):
        SoftLabelFiles(tmp_path, Windowed(tiny_images, 3), 3)(0)


def test_a_file_cut_short_is_named(initial, tiny_images, tmp_path):
    files = SoftLabelFiles(tmp_path, Windowed(tiny_images, 5), 3)
    files.write(initial, 20.0)
    path = sorted(tmp_path.glob("*.tfrecord"))[1]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(RunError, match=r"soft_labels_000001.tfrecord, but they cannot be read"):
        files(1)


def test_rows_of_other_images_are_refused(initial, tiny_images, tmp_path):
    files = SoftLabelFiles(tmp_path, Windowed(tiny_images, 5), 3)
    files.write(initial, 20.0)
    first, second = sorted(tmp_path.glob("*.tfrecord"))
    second.write_bytes(first.read_bytes())
    with pytest.raises(RunError, match=r"of images 5 to 9 .* received 5 rows, of images 0 to 4"):
        files(1)
    whole = SoftLabelFiles(tmp_path, Windowed(tiny_images, 10), 3)
    with pytest.raises(RunError, match="received 5 rows"):
        whole(0)


def test_another_number_of_classes_is_refused(initial, tiny_images, tmp_path):
    examples = Windowed(tiny_images, 5)
    SoftLabelFiles(tmp_path, examples, 3).write(initial, 20.0)
    with pytest.raises(RunError, match="cannot be read"):
        SoftLabelFiles(tmp_path, examples, 4)(0)


def rewrite(path, change):
    """Leaves other rows, each with the checksums that make a whole TFRecord of them."""
    with_index = [
        tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))
    ]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in with_index:
            values = example.features.feature["probabilities"].float_list.value
            values[:] = change(np.array(values))
            writer.write(example.SerializeToString())


def test_rows_that_were_written_otherwise_are_refused(initial, tiny_images, tmp_path):
    files = SoftLabelFiles(tmp_path, Windowed(tiny_images, 5), 3)
    files.write(initial, 20.0)
    second = sorted(tmp_path.glob("*.tfrecord"))[1]
    rewrite(second, lambda row: np.roll(row, 1))
    with pytest.raises(RunError, match="another SHA-256") as caught:
        files(1)
    assert str(second) in str(caught.value)
    assert len(files(0)) == 5
    # Deleted as the message says, it is made again.
    second.unlink()
    files.write(initial, 20.0)
    assert len(files(1)) == 5


def test_a_window_without_a_digest_is_made_again(initial, tiny_images, tmp_path):
    """As a killed process, or an earlier version, leaves it."""
    examples = Windowed(tiny_images, 5)
    SoftLabelFiles(tmp_path, examples, 3).write(initial, 20.0)
    (tmp_path / "soft_labels.json").unlink()
    examples.read.clear()
    files = SoftLabelFiles(tmp_path, examples, 3)
    files.write(initial, 20.0)
    assert examples.read == [0, 1]
    assert len(files(1)) == 5


def test_rows_that_are_no_probabilities_are_refused_even_with_their_digest(
    initial, tiny_images, tmp_path
):
    files = SoftLabelFiles(tmp_path, Windowed(tiny_images, 5), 3)
    files.write(initial, 20.0)
    second = sorted(tmp_path.glob("*.tfrecord"))[1]
    rewrite(second, lambda row: 6.72 * row)
    files._note(second)
    with pytest.raises(RunError, match=r"sum to 1 .* 6\.72"):
        files(1)
