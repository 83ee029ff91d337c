"""Datasets of TFDS beyond the named ones: small ones, really prepared."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from ddefense.settings import ConfigError

from ddefense.datasets import sources, splitting
from ddefense.datasets.sources import open_data
from ddefense.datasets.streaming import Stream


def pixels(number, shape=(4, 5, 3)):
    return np.random.default_rng(number).integers(0, 256, shape).astype(np.uint8)


class _Tiny(tfds.core.GeneratorBasedBuilder):
    """Images of two classes."""

    SKIP_REGISTERING = True
    VERSION = tfds.core.Version("1.0.0")
    SPLITS = ("train", "test")
    COUNTS = (12, 4)
    SHAPE = (4, 5, 3)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=self.SHAPE),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {n: self._examples(c) for n, c in zip(self.SPLITS, self.COUNTS, strict=True)}

    def _generate_examples(self):
        raise NotImplementedError

    def _examples(self, count):
        for i in range(count):
            yield i, {"image": self.image(100 * count + i), "label": i % 2}

    def image(self, number):
        return pixels(number)


class TinyTested(_Tiny):
    """With a test split."""


class TinyValidated(_Tiny):
    """With a validation split."""

    SPLITS = ("train", "validation")


class TinyTrained(_Tiny):
    """With a training split alone."""

    SPLITS = ("train",)
    COUNTS = (20,)


class TinyUntrained(_Tiny):
    """Without a training split."""

    SPLITS = ("test",)
    COUNTS = (4,)


class TinyMixed(TinyTrained):
    """Of images of several sizes."""

    SHAPE = (None, None, 3)

    def image(self, number):
        return pixels(number, (4 + number % 3, 5, 3))


class TinyBoxes(_Tiny):
    """Not for classification."""

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(4, 5, 3)),
            "boxes": tfds.features.Tensor(shape=(4,), dtype=np.float32),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _examples(self, count):
        for i in range(count):
            yield i, {"image": self.image(i), "boxes": np.zeros(4, np.float32)}


@pytest.fixture(scope="module", autouse=True)
def data_dir(tmp_path_factory):
    """A folder with all of them, as TFDS writes them."""
    folder = tmp_path_factory.mktemp("tfds")
    kinds = (TinyTested, TinyValidated, TinyTrained, TinyUntrained, TinyMixed, TinyBoxes)
    for kind in kinds:
        kind(data_dir=folder).download_and_prepare()
    return folder


def images_of(name, split, folder):
    builder = tfds.builder(name, data_dir=folder)
    return [example["image"] for example in tfds.as_numpy(builder.as_dataset(split=split))]


def test_train_and_test(data_dir):
    data = open_data("tiny_tested", data_dir=data_dir)
    assert (data.name, data.class_names) == ("tiny_tested", ("cat", "dog"))
    assert (len(data.train), len(data.test)) == (12, 4)
    for split, examples in (("train", data.train), ("test", data.test)):
        expected = np.stack(images_of("tiny_tested", split, data_dir)).astype(np.float32)
        np.testing.assert_array_equal(examples.images, expected / np.float32(255))
        assert set(examples.labels) == {0, 1}


def test_a_version(data_dir):
    assert len(open_data("tiny_tested:1.0.0", data_dir=data_dir).train) == 12


def test_a_validation_split_is_for_testing(data_dir):
    assert len(open_data("tiny_validated", data_dir=data_dir).test) == 4


def test_a_share_where_there_is_no_other_split(data_dir):
    data = open_data("tiny_trained", data_dir=data_dir)
    assert (len(data.train), len(data.test)) == (16, 4)
    assert open_data("tiny_trained", data_dir=data_dir, test_share=0).test is None


def test_are_brought_to_the_range_and_shape_of_the_network(data_dir):
    data = open_data("tiny_tested", data_dir=data_dir, value_range=(-1, 1), image_shape=(2, 2, 1))
    expected = [
        tf.image.resize(tf.image.rgb_to_grayscale(image), (2, 2), antialias=True) / 255 * 2 - 1
        for image in images_of("tiny_tested", "test", data_dir)
    ]
    np.testing.assert_allclose(data.test.images, expected, atol=1e-6)


def test_several_sizes_are_resized(data_dir):
    data = open_data("tiny_mixed", data_dir=data_dir, image_shape=(4, 5, 3), test_share=0)
    originals = images_of("tiny_mixed", "train", data_dir)
    same = [i for i, image in enumerate(originals) if image.shape == (4, 5, 3)]
    assert 0 < len(same) < len(originals)
    for i in same:
        np.testing.assert_allclose(data.train.images[i] * 255, originals[i], atol=1e-4)


def test_streamed_if_it_is_large(data_dir, monkeypatch):
    whole = open_data("tiny_tested", data_dir=data_dir)
    monkeypatch.setattr(sources, "STREAM_BYTES", 4 * 4 * 5 * 3 * 4)
    data = open_data("tiny_tested", data_dir=data_dir)
    assert isinstance(data.train, Stream)
    assert not isinstance(data.test, Stream)
    assert data.digest == whole.digest
    np.testing.assert_array_equal(splitting.in_memory(data.train).images, whole.train.images)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny_mixed", "image_shape: expected the shape to bring the images of tiny_mixed to"),
        ("tiny_boxes", "received tiny_boxes with image, boxes."),
        ("tiny_untrained", "a split named 'train'; received tiny_untrained with test."),
    ],
)
def test_refused(data_dir, name, message):
    with pytest.raises(ConfigError) as caught:
        open_data(name, data_dir=data_dir)
    assert message in str(caught.value)


def test_mnist_as_any_other(load_prepared, mnist_data):
    """The general way, in windows, gives what the named dataset has."""
    from ddefense.datasets import catalog, prepared
    from ddefense.datasets.checking import Declared

    builder = prepared.prepare("mnist", None)
    source = catalog._source(builder, "test", (28, 28, 1), Declared())
    position = 0
    for images, labels in source.read(0):
        window = slice(position, position + len(images))
        np.testing.assert_array_equal(images, mnist_data.test.images[window])
        np.testing.assert_array_equal(labels, mnist_data.test.labels[window])
        position += len(images)
    assert position == source.count == 10_000
