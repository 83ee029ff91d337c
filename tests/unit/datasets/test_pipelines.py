"""`tf.data` pipelines of users as streams."""

import re

import numpy as np
import pytest
import tensorflow as tf
from ddefense.settings import ConfigError

from ddefense.datasets import pipelines, streaming
from ddefense.datasets.checking import Declared
from ddefense.datasets.labelling import label_rows
from ddefense.records import RunError

COUNT = 23
IMAGES = np.random.default_rng(0).uniform(size=(COUNT, 4, 5, 3)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 3, COUNT)
PAIRS = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS))


def survey(dataset, *, window=8, **declared):
    source = pipelines.source_of(dataset, window=window)
    return streaming.survey(source, Declared(**declared))[0]


def refused(dataset, **declared):
    with pytest.raises(ConfigError) as caught:
        survey(dataset, **declared)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def from_generator(make, image_shape=(4, 5, 3), label_shape=()):
    return tf.data.Dataset.from_generator(
        make,
        output_signature=(
            tf.TensorSpec(image_shape, tf.float32),
            tf.TensorSpec(label_shape, tf.int64),
        ),
    )


def same(stream, images, labels):
    """Whether it gives these images from whatever window on, eight at a time."""
    assert (len(stream), stream.image_shape) == (COUNT, (4, 5, 3))
    np.testing.assert_array_equal(stream.labels, labels)
    for first in range(4):
        found = list(stream.windows(first))
        assert [len(w) for w in found] == [8, 8, 7][first:]
        assert all(w.dtype == np.float32 for w in found)
        np.testing.assert_array_equal(np.concatenate([images[:0], *found]), images[8 * first :])


class TestForms:
    @pytest.mark.parametrize("size", [1, 5, 8, 100])
    def test_in_batches_or_not(self, size):
        same(survey(PAIRS), IMAGES, LABELS)
        same(survey(PAIRS.batch(size)), IMAGES, LABELS)

    def test_shuffled_once(self):
        shuffled = PAIRS.shuffle(COUNT, seed=0, reshuffle_each_iteration=False)
        images, labels = zip(*shuffled.as_numpy_iterator(), strict=True)
        assert not np.array_equal(labels, LABELS)
        same(survey(shuffled), np.stack(images), labels)
        same(survey(shuffled.batch(5)), np.stack(images), labels)

    @pytest.mark.parametrize("shape", [(4, 5, 3), (None, None, 3), (None, None, None), None])
    def test_from_a_generator(self, shape):
        pairs = list(zip(IMAGES, LABELS, strict=True))
        same(survey(from_generator(lambda: pairs, shape)), IMAGES, LABELS)

    @pytest.mark.slow
    @pytest.mark.parametrize("shape", [(None, 4, 5, 3), (None, None, None, None), None])
    def test_uneven_batches_from_a_generator(self, shape):
        pairs = [(IMAGES[:9], LABELS[:9]), (IMAGES[9:], LABELS[9:])]
        same(survey(from_generator(lambda: pairs, shape, [None])), IMAGES, LABELS)
        same(survey(from_generator(lambda: pairs, shape, None)), IMAGES, LABELS)

    @pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "bfloat16", "float64"])
    @pytest.mark.parametrize("batch", [0, 5])
    def test_numbers_of_any_type(self, dtype, batch):
        pixels = np.arange(COUNT * 60).reshape(COUNT, 4, 5, 3) % 251
        dataset = tf.data.Dataset.from_tensor_slices((tf.cast(pixels, dtype), LABELS))
        stream = survey(dataset.batch(batch) if batch else dataset, value_range=(0, 255))
        found = np.concatenate(list(stream.windows()))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, pixels)

    @pytest.mark.parametrize("batch", [0, 5])
    def test_rows_of_probabilities(self, batch):
        rows = np.eye(3, dtype=np.float32)[LABELS] * 0.7 + 0.1
        dataset = tf.data.Dataset.from_tensor_slices((IMAGES, rows))
        stream = survey(dataset.batch(batch) if batch else dataset)
        np.testing.assert_array_equal(label_rows(stream), rows)
        np.testing.assert_array_equal(stream.labels, LABELS)

    @pytest.mark.parametrize("batch", [0, 5])
    def test_a_column_of_labels(self, batch):
        dataset = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS[:, None]))
        stream = survey(dataset.batch(batch) if batch else dataset)
        np.testing.assert_array_equal(stream.labels, LABELS)

    def test_the_number_of_images_where_it_is_known(self):
        assert pipelines.source_of(PAIRS).count == COUNT
        assert pipelines.source_of(PAIRS.batch(5)).count is None
        assert pipelines.source_of(PAIRS.filter(lambda *pair: True)).count is None


class TestRefused:
    def test_one_that_never_ends(self):
        for endless in (PAIRS.repeat(), PAIRS.batch(4).repeat()):
            assert "repeats for ever. Drop .repeat()" in refused(endless)

    @pytest.mark.parametrize("batch", [0, 5])
    def test_shuffled_anew_in_every_pass(self, batch):
        shuffled = PAIRS.shuffle(COUNT, seed=0)
        message = refused(shuffled.batch(batch) if batch else shuffled)
        assert "in the same order in every pass" in message
        assert "reshuffle_each_iteration=False" in message

    def test_random_augmentation(self):
        generator = tf.random.Generator.from_seed(1)
        noisy = PAIRS.map(lambda image, label: (image * generator.uniform([], 0.5, 1.0), label))
        assert "drop random augmentation too" in refused(noisy)

    def test_a_generator_that_is_used_up(self):
        pairs = iter(list(zip(IMAGES, LABELS, strict=True)))
        assert "expected 23 in every pass" in refused(from_generator(lambda: pairs))

    def test_a_length_that_changes(self):
        lengths = iter([23, 23, 20])

        def make():
            yield from list(zip(IMAGES, LABELS, strict=True))[: next(lengths)]

        stream = survey(from_generator(make))
        with pytest.raises(RunError, match=r"expected 23 in every pass.*received 20\."):
            list(stream.windows())

    def test_none(self):
        assert "expected at least one image; received" in refused(PAIRS.take(0))
        assert "received an empty dataset" in refused(from_generator(lambda: [], None, None))

    def test_images_without_labels(self):
        message = refused(tf.data.Dataset.from_tensor_slices(IMAGES))
        assert "expected a dataset of pairs (image, label); received elements" in message

    def test_dictionaries(self):
        message = refused(PAIRS.map(lambda image, label: {"image": image, "label": label}))
        assert "Bring them to pairs with .map" in message

    def test_weights(self):
        assert "pairs" in refused(PAIRS.map(lambda image, label: (image, label, 1.0)))

    def test_encoded_images(self):
        files = PAIRS.map(lambda image, label: (tf.constant("bytes"), label))
        assert "received string. Decode files" in refused(files)

    @pytest.mark.parametrize("batch", [0, 5])
    def test_grey_images_without_a_channel(self, batch):
        grey = tf.data.Dataset.from_tensor_slices((np.zeros((10, 8, 9)), np.zeros(10)))
        message = refused(grey.batch(batch) if batch else grey)
        assert "received (8, 9). Give grey images their channel" in message

    @pytest.mark.parametrize("batch", [0, 1])
    def test_mixed_shapes(self, batch):
        images = [*IMAGES[:10], np.zeros((4, 6, 3), np.float32)]
        mixed = from_generator(lambda: ((image, 0) for image in images), (None, None, 3))
        message = refused(mixed.batch(batch) if batch else mixed)
        assert "of images of one shape; received an error at images 8 to 15: " in message
        assert "[4,6,3]" in message.replace("[1,4,6,3]", "[4,6,3]")
        assert "{{" not in message

    def test_fewer_labels_than_images(self):
        pairs = [(IMAGES[:9], LABELS[:8])]
        message = refused(from_generator(lambda: pairs, (None, 4, 5, 3), [None]))
        assert message.endswith("Component 0 had size 9 but component 1 had size, 8.")

    def test_an_error_of_the_pipeline_itself(self):
        def make():
            yield IMAGES[0], 0
            raise OSError("the disk is gone")

        message = refused(from_generator(make))
        assert "the disk is gone" in message

    def test_values_and_labels_are_checked(self):
        bright = PAIRS.map(lambda image, label: (image * 2, label))
        assert re.search(r"expected values in \[0, 1\]; received .* in image \d", refused(bright))
        assert "received 2 for image" in refused(PAIRS, num_classes=2)

    def test_another_shape_than_the_network_takes(self):
        assert "received (4, 5, 3)" in refused(PAIRS, image_shape=(4, 4, 3))
