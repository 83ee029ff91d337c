"""Streams: read anew in every pass, compared with the first, and never all in memory."""

import dataclasses
import itertools

import numpy as np
import pytest
from ddefense.settings import ConfigError

from ddefense import interruption
from ddefense.datasets import arrays, splitting, streaming
from ddefense.datasets.checking import Declared
from ddefense.datasets.fingerprints import digest, fingerprints
from ddefense.datasets.labelling import label_rows
from ddefense.datasets.streaming import Source
from ddefense.records import RunError

COUNT, WINDOW = 10, 4
IMAGES = np.random.default_rng(0).uniform(size=(COUNT, 2, 3, 1)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])


def source_of(*passes, labels=LABELS, window=WINDOW, count=COUNT):
    """Reads the first array in the first pass, and so on; the last one for ever."""
    left = list(passes)

    def read(first):
        images = left.pop(0) if len(left) > 1 else left[0]
        for start in range(first * window, len(images), window):
            stop = min(start + window, len(images))
            yield images[start:stop], labels[start:stop]

    return Source(read, window, images_shape(passes[0]), count)


def images_shape(images):
    height, width, channels = images.shape[1:]
    return height, width, channels


def survey(*passes, declared=None, **settings):
    return streaming.survey(source_of(*passes, **settings), declared or Declared())[0]


def changed(number):
    images = IMAGES.copy()
    images[number, 1, 2, 0] = np.nextafter(images[number, 1, 2, 0], np.float32(2))
    return images


class TestReading:
    def test_is_examples_as_in_memory(self):
        stream = survey(IMAGES)
        assert (len(stream), stream.window, stream.image_shape) == (10, 4, (2, 3, 1))
        np.testing.assert_array_equal(stream.labels, LABELS)
        assert stream.labels.dtype == np.int64
        found = list(stream.windows())
        assert [len(window) for window in found] == [4, 4, 2]
        np.testing.assert_array_equal(np.concatenate(found), IMAGES)

    def test_later_windows_alone(self):
        stream = survey(IMAGES)
        np.testing.assert_array_equal(np.concatenate(list(stream.windows(1))), IMAGES[4:])
        assert list(stream.windows(3)) == []

    def test_bytes_become_floats(self):
        pixels = np.arange(60, dtype=np.uint8).reshape(10, 2, 3, 1)
        stream = survey(pixels, declared=Declared(value_range=(0, 255)))
        found = np.concatenate(list(stream.windows()))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, pixels)

    def test_soft_labels_stay_with_their_images(self):
        rows = np.full((COUNT, 2), 0.5, np.float32)
        rows[3] = [0.25, 0.75]
        stream = survey(IMAGES, labels=rows)
        np.testing.assert_array_equal(stream.label_rows, rows)
        np.testing.assert_array_equal(stream.part(3, 5).label_rows, rows[3:5])
        assert stream.labels.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
        assert label_rows(splitting.in_memory(stream)).shape == (COUNT, 2)

    def test_in_memory_is_the_same(self):
        loaded, num_classes = streaming.load(source_of(IMAGES), Declared())
        np.testing.assert_array_equal(loaded.images, IMAGES)
        np.testing.assert_array_equal(loaded.labels, LABELS)
        assert num_classes == 3
        assert digest(loaded) == digest(survey(IMAGES))

    def test_part_outside(self):
        with pytest.raises(ValueError, match="received 4 and 11"):
            survey(IMAGES).part(4, 11)
        with pytest.raises(ValueError, match="received 4 and 4"):
            survey(IMAGES).part(4, 4)


class TestEveryPassIsTheSame:
    def test_another_order_is_found_before_anything_else_is_done(self):
        order = [0, 1, 3, 2, 4, 5, 6, 7, 8, 9]
        with pytest.raises(ConfigError, match="another image number 2 than") as caught:
            survey(IMAGES, IMAGES[order])
        for hint in ("soft labels", ".shuffle", "reshuffle_each_iteration", "augmentation"):
            assert hint in str(caught.value)

    def test_one_changed_feature_is_found(self):
        with pytest.raises(ConfigError, match="image number 7 "):
            survey(IMAGES, changed(7))

    @pytest.mark.parametrize("number", [0, 3, 4, 9])
    def test_later_passes_are_compared_too(self, number):
        stream = survey(IMAGES, IMAGES, changed(number))
        with pytest.raises(RunError, match=f"image number {number} "):
            list(stream.windows())

    def test_windows_before_the_change_are_given(self):
        windows = survey(IMAGES, IMAGES, changed(9)).windows()
        assert [len(w) for w in itertools.islice(windows, 2)] == [4, 4]
        with pytest.raises(RunError, match="image number 9 "):
            next(windows)

    def test_a_window_is_compared_wherever_reading_begins(self):
        stream = survey(IMAGES, IMAGES, changed(5), changed(5))
        assert len(list(stream.windows(2))) == 1
        with pytest.raises(RunError, match="image number 5 "):
            list(stream.windows(1))

    @pytest.mark.parametrize("length", [0, 1, 4, 8, 9])
    def test_fewer_images(self, length):
        stream = survey(IMAGES, IMAGES, IMAGES[:length])
        with pytest.raises(RunError, match=f"expected 10 in every pass.*received {length}. "):
            list(stream.windows())

    @pytest.mark.parametrize("count", [8, 10])
    def test_more_images(self, count):
        longer = np.concatenate([IMAGES, IMAGES])
        stream = survey(
            IMAGES[:count], IMAGES[:count], longer, labels=np.resize(LABELS, 20), count=None
        )
        with pytest.raises(RunError, match=f"expected {count} in every pass.*received more"):
            list(stream.windows())

    def test_a_generator_that_is_used_up(self):
        with pytest.raises(ConfigError, match=r"received 0\. .*used up"):
            survey(IMAGES, IMAGES[:0])

    def test_parts_are_compared_with_the_same_numbers(self):
        part = survey(IMAGES, IMAGES, changed(5)).part(3, 10)
        with pytest.raises(RunError, match="image number 5 "):
            list(part.windows())

    def test_a_part_does_not_read_on(self):
        part = survey(IMAGES, IMAGES, changed(9)).part(0, 6)
        np.testing.assert_array_equal(np.concatenate(list(part.windows())), IMAGES[:6])


class TestSurvey:
    def test_windows_are_numbered_in_messages(self):
        bad = IMAGES.copy()
        bad[6, 0, 0, 0] = np.nan
        with pytest.raises(ConfigError, match="received NaN or infinity in image 6"):
            survey(bad)
        with pytest.raises(ConfigError, match=r"labels: .* received 5 for image 9"):
            survey(
                IMAGES,
                labels=np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 5]),
                declared=Declared(num_classes=3),
            )

    def test_no_images(self):
        with pytest.raises(ConfigError, match="images: expected at least one image"):
            survey(IMAGES[:0])

    def test_stops_when_asked(self, monkeypatch):
        monkeypatch.setattr(interruption, "asked", lambda: True)
        with pytest.raises(interruption.StoppedError):
            survey(IMAGES)

    @pytest.mark.parametrize("labels", [[0] * 5 + [1] * 5, [1] * 5 + [0] * 5])
    def test_warns_of_classes_in_order(self, labels, caplog):
        survey(IMAGES, labels=np.array(labels))
        (record,) = caplog.records
        assert "first 8 images come sorted by class" in record.getMessage()

    def test_does_not_warn_of_mixed_classes_or_one_window(self, caplog):
        survey(IMAGES)
        survey(IMAGES, labels=np.sort(LABELS), window=16)
        assert not caplog.records

    def test_warns_of_a_range_that_is_hardly_used(self, caplog):
        survey(IMAGES, declared=Declared(value_range=(0, 255)))
        (record,) = caplog.records
        assert "a small part of the declared range 0 to 255" in record.getMessage()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((28, 28, 1), 16384), ((32, 32, 3), 4096), ((64, 64, 3), 1024), ((224, 224, 3), 128)],
)
def test_windows_hold_64_mib_or_128_images(shape, expected):
    assert streaming.window_size(shape) == expected


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 8, 1), (1000, 1000, 3)])
def test_windows_are_never_too_small_or_too_large(shape):
    assert streaming.window_size(shape) == (128 if shape[0] == 1000 else 16384)


class TestFingerprints:
    def test_equal_images_alone_have_equal_ones(self):
        images = np.concatenate([IMAGES, IMAGES[:2], changed(4)[4:5]])
        found = fingerprints(images)
        assert found.dtype == np.uint64
        assert len(set(found.tolist())) == COUNT + 1
        assert found[:2].tolist() == found[COUNT : COUNT + 2].tolist()
        assert found[4] != found[-1]

    def test_do_not_depend_on_what_else_is_there(self):
        many = np.random.default_rng(1).uniform(size=(1500, 2, 2, 1))
        np.testing.assert_array_equal(
            fingerprints(many), [fingerprints(many[i : i + 1])[0] for i in range(1500)]
        )

    def test_of_a_view(self):
        np.testing.assert_array_equal(
            fingerprints(IMAGES[:, ::-1]), fingerprints(IMAGES[:, ::-1].copy())
        )

    def test_digest_tells_apart_what_differs(self):
        split = streaming.load(source_of(IMAGES), Declared())[0]
        soft = np.eye(3, dtype=np.float32)[LABELS] * 0.9 + 1 / 30
        others = [
            dataclasses.replace(split, images=changed(1)),
            dataclasses.replace(split, labels=split.labels[::-1].copy()),
            dataclasses.replace(split, images=IMAGES.reshape(10, 3, 2, 1)),
            arrays.split((IMAGES, soft), Declared())[0],
            splitting.take(split, np.arange(9)),
        ]
        digests = [digest(x) for x in (split, *others)]
        digests += [digest(split, split), digest(split, None), digest(None, split)]
        assert len(set(digests)) == len(digests)
        assert digest(split) == digest(dataclasses.replace(split, images=IMAGES.copy()))
