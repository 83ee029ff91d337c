"""`open_data`: every form of data, and every error before anything is done with it."""

import pathlib
import re
import zipfile

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from ddefense.settings import ConfigError

from ddefense import datasets
from ddefense.datasets import sources, splitting
from ddefense.datasets.labelling import label_rows
from ddefense.datasets.sources import open_data
from ddefense.datasets.streaming import Stream

COUNT = 20
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(COUNT, 4, 5, 1)).astype(np.float32)
LABELS = np.arange(COUNT) % 4
TEST = (RNG.uniform(size=(6, 4, 5, 1)).astype(np.float32), np.arange(6) % 4)
PAIRS = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS))
TEST_PAIRS = tf.data.Dataset.from_tensor_slices(TEST)


def refused(data, **settings):
    with pytest.raises(ConfigError) as caught:
        open_data(data, **settings)
    message = str(caught.value)
    assert re.match(r"[a-z_]+: expected ", message)
    assert "\n" not in message
    return message


def images_of(examples):
    return splitting.in_memory(examples).images


class TestArrays:
    def test_a_pair_is_split(self):
        data = open_data((IMAGES, LABELS))
        assert (data.name, data.class_names) == ("arrays", ("0", "1", "2", "3"))
        assert (data.num_classes, data.image_shape) == (4, (4, 5, 1))
        assert (len(data.train), len(data.test)) == (16, 4)
        assert sorted(data.test.labels) == [0, 1, 2, 3]
        both = np.concatenate([data.train.images, data.test.images])
        np.testing.assert_array_equal(np.sort(both.ravel()), np.sort(IMAGES.ravel()))

    def test_nothing_is_kept_apart(self):
        data = open_data((IMAGES, LABELS), test_share=0)
        assert data.test is None
        assert data.train.images is IMAGES  # nor copied
        np.testing.assert_array_equal(data.train.labels, LABELS)

    def test_everything_is_for_testing(self):
        data = open_data((IMAGES[:3], LABELS[:3]), test_share=1, num_classes=7)
        assert data.test.images is not None
        np.testing.assert_array_equal(data.test.labels, [0, 1, 2])
        assert (len(data.train), data.train.image_shape) == (0, (4, 5, 1))
        assert data.num_classes == 7
        assert len(open_data((IMAGES[:1], LABELS[:1]), test_share=1, num_classes=2).test) == 1

    @pytest.mark.parametrize(
        "data", [((IMAGES, LABELS), TEST), [[IMAGES, LABELS], [*TEST]], (IMAGES, LABELS, *TEST)]
    )
    @pytest.mark.parametrize("share", [0, 0.5, 1])
    def test_its_own_test_set(self, data, share):
        found = open_data(data, test_share=share)
        np.testing.assert_array_equal(found.test.images, TEST[0])
        np.testing.assert_array_equal(found.test.labels, TEST[1])
        assert len(found.train) == (0 if share == 1 else COUNT)

    def test_lists_of_two_are_images_and_labels(self):
        found = open_data(([IMAGES[0], IMAGES[1]], [0, 1]), test_share=0)
        np.testing.assert_array_equal(found.train.images, IMAGES[:2])
        found = open_data(([IMAGES[0], IMAGES[1]], [[0.9, 0.1], [0, 1]]), test_share=0)
        np.testing.assert_allclose(label_rows(found.train), [[0.9, 0.1], [0, 1]])

    def test_tensors(self):
        found = open_data((tf.constant(IMAGES), tf.constant(LABELS)), test_share=0)
        np.testing.assert_array_equal(found.train.images, IMAGES)

    def test_bytes_in_their_range(self):
        pixels = (IMAGES * 255).astype(np.uint8)
        found = open_data((pixels, LABELS), value_range=(0, 255), test_share=0)
        assert found.value_range == (0, 255)
        assert found.train.images.dtype == np.float32
        np.testing.assert_array_equal(found.train.images, pixels)

    def test_one_hot_rows_tell_the_number_of_classes(self):
        message = refused((IMAGES, np.eye(5)[LABELS]))
        assert "each of the 5 classes; received none of class 4" in message

    def test_streamed(self):
        data = open_data((IMAGES, LABELS), stream=True)
        assert isinstance(data.train, Stream)
        np.testing.assert_array_equal(images_of(data.train), IMAGES[:16])
        np.testing.assert_array_equal(images_of(data.test), IMAGES[16:])

    def test_streamed_if_they_are_large(self, monkeypatch):
        monkeypatch.setattr(sources, "STREAM_BYTES", IMAGES.nbytes)
        assert not isinstance(open_data((IMAGES, LABELS)).train, Stream)
        monkeypatch.setattr(sources, "STREAM_BYTES", IMAGES.nbytes - 1)
        assert isinstance(open_data((IMAGES, LABELS)).train, Stream)
        assert not isinstance(open_data((IMAGES, LABELS), stream=False).train, Stream)

    def test_the_digest_is_of_all(self):
        data = (IMAGES, LABELS)
        assert open_data(data).digest == open_data((IMAGES.copy(), list(LABELS))).digest
        others = [
            open_data((IMAGES * np.float32(0.5), LABELS)),
            open_data((IMAGES, LABELS[::-1])),
            open_data(data, test_share=0.3),
            open_data(data, test_share=0),
            open_data(data, test_share=1),
            open_data((data, TEST)),
        ]
        assert len({open_data(data).digest, *(x.digest for x in others)}) == 7


class TestPipelines:
    def test_one_is_streamed(self):
        data = open_data(PAIRS)
        assert data.name == "tf.data"
        assert isinstance(data.train, Stream)
        np.testing.assert_array_equal(images_of(data.train), IMAGES[:16])
        np.testing.assert_array_equal(images_of(data.test), IMAGES[16:])
        assert data.digest == open_data((IMAGES, LABELS), stream=True).digest

    def test_one_for_testing(self):
        data = open_data((PAIRS, TEST_PAIRS.batch(4)))
        assert len(data.train) == COUNT
        np.testing.assert_array_equal(images_of(data.test), TEST[0])
        assert len(open_data((PAIRS, TEST_PAIRS), test_share=1).test) == 6

    def test_in_memory_if_asked_for(self):
        data = open_data(PAIRS, stream=False)
        assert data.digest == open_data((IMAGES, LABELS)).digest
        np.testing.assert_array_equal(data.train.images, open_data((IMAGES, LABELS)).train.images)

    def test_soft_labels(self):
        rows = np.eye(4, dtype=np.float32)[LABELS] * 0.8 + 0.05
        data = open_data(tf.data.Dataset.from_tensor_slices((IMAGES, rows)))
        np.testing.assert_array_equal(label_rows(data.train), rows[:16])
        np.testing.assert_array_equal(label_rows(data.test), rows[16:])

    def test_errors_name_the_test_set(self):
        assert refused((PAIRS, TEST_PAIRS.map(lambda x, y: (x * 9, y)))).startswith("test_images")
        assert refused((PAIRS, TEST_PAIRS.map(lambda x, y: (x, y + 4)))).startswith("test_labels")
        assert refused((PAIRS, TEST_PAIRS.repeat())).startswith("test_data")


class TestArchives:
    def write(self, path, **arrays):
        np.savez_compressed(path, **arrays)
        return path

    @pytest.mark.parametrize(
        "names", [("images", "labels"), ("x_train", "y_train")], ids=["plain", "keras"]
    )
    def test_images_and_labels(self, tmp_path, names):
        path = self.write(
            tmp_path / "shapes.npz", **dict(zip(names, (IMAGES, LABELS), strict=True))
        )
        for form in (path, str(path)):
            data = open_data(form)
            assert data.name == "shapes"
            assert data.digest == open_data((IMAGES, LABELS)).digest

    @pytest.mark.parametrize(
        "names",
        [
            ("images", "labels", "test_images", "test_labels"),
            ("x_train", "y_train", "x_test", "y_test"),
        ],
        ids=["plain", "keras"],
    )
    def test_with_a_test_set(self, tmp_path, names):
        arrays = dict(zip(names, (IMAGES, LABELS, *TEST), strict=True))
        data = open_data(self.write(tmp_path / "a.npz", **arrays))
        assert data.digest == open_data(((IMAGES, LABELS), TEST)).digest

    def test_class_names(self, tmp_path):
        names = ["a", "b", "c", "d"]
        path = self.write(tmp_path / "a.npz", images=IMAGES, labels=LABELS, class_names=names)
        assert open_data(path).class_names == tuple(names)
        assert open_data(path, class_names="efgh").class_names == tuple("efgh")
        assert "received 4 in" in refused(path, num_classes=5)
        assert "class_names for 3" in refused(path, class_names=["x", "y", "z"])

    def test_what_is_none(self, tmp_path):
        assert "received" in refused(tmp_path / "missing.npz")
        (tmp_path / "text.npz").write_text("no archive")
        assert "expected an .npz file; received" in refused(tmp_path / "text.npz")
        path = self.write(tmp_path / "other.npz", pictures=IMAGES)
        assert "`images` and `labels` (or `x_train` and `y_train`)" in refused(path)
        assert "received pictures." in refused(path)
        path = self.write(tmp_path / "half.npz", images=IMAGES, labels=LABELS, test_images=IMAGES)
        assert "both or none of `test_images` and `test_labels`" in refused(path)

    def test_members_that_are_no_arrays_are_refused(self, tmp_path):
        path = self.write(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("class_names.npy", "a\nb\nc\nd\n")
        assert "class_names: expected at least two names" in refused(path)

    def test_pickles_are_not_opened(self, tmp_path):
        path = self.write(tmp_path / "a.npz", images=IMAGES, labels=np.array([print], object))
        assert "allow_pickle=False" in refused(path)


@pytest.fixture
def photos(tmp_path):
    for i, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for j in range(10):
            pixels = np.random.default_rng(10 * i + j).integers(0, 256, (6, 5, 3)).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{j}.png")
    return tmp_path / "photos"


class TestFolders:
    @pytest.mark.slow
    def test_one(self, photos):
        for form in (photos, str(photos), f"{photos}/"):
            data = open_data(form, image_shape=(4, 4, 1))
            assert (data.name, data.class_names) == ("photos", ("cat", "dog"))
            assert data.image_shape == (4, 4, 1)
            assert len(data.train) + len(data.test) == 20
            assert set(data.train.labels) == set(data.test.labels) == {0, 1}

    def test_the_shape_is_that_of_the_images(self, photos):
        assert open_data(photos).image_shape == (6, 5, 3)

    def test_all_for_training_or_testing(self, photos):
        trained, tested = (open_data(photos, test_share=share) for share in (0, 1))
        assert (len(trained.train), trained.test) == (20, None)
        assert (len(tested.train), len(tested.test)) == (0, 20)
        np.testing.assert_array_equal(trained.train.images, tested.test.images)

    @pytest.mark.slow
    def test_streamed_if_it_is_large(self, photos, monkeypatch):
        whole = open_data(photos)
        monkeypatch.setattr(sources, "STREAM_BYTES", 1000)
        data = open_data(photos)
        assert isinstance(data.train, Stream)
        assert data.digest == whole.digest
        np.testing.assert_array_equal(images_of(data.train), whole.train.images)

    def test_a_set_of_its_own_for_testing(self, photos, tmp_path):
        photos.rename(tmp_path / "train")
        (tmp_path / "test").mkdir()
        (tmp_path / "train" / "cat").rename(tmp_path / "test" / "cat")
        (tmp_path / "train" / "cat").mkdir()
        (tmp_path / "test" / "cat" / "0.png").rename(tmp_path / "train" / "cat" / "0.png")
        data = open_data(tmp_path)
        assert (len(data.train), len(data.test)) == (11, 9)
        assert set(data.test.labels) == {0}

    def test_range_and_names(self, photos):
        data = open_data(photos, value_range=(-1, 1), class_names=("dog", "cat"))
        assert data.class_names == ("dog", "cat")
        assert data.value_range == (-1, 1)
        assert data.train.images.min() < -0.9

    def test_a_class_without_a_folder(self, photos):
        message = refused(photos, class_names=("ape", "cat", "dog"))
        assert "received none of class 0 (ape). Add images" in message
        assert open_data(photos, class_names=("ape", "cat", "dog"), test_share=1).num_classes == 3


class TestNamed:
    def test_the_same_names_in_another_order(self, digits):
        names = digits.class_names[::-1]
        assert "expected those of digits in their order" in refused("digits", class_names=names)

    def test_digits(self, digits):
        data = open_data("digits")
        assert data.class_names == digits.class_names
        assert data.name == "digits"
        assert data.train.images.tobytes() == digits.train.images.tobytes()
        assert data.test.images.tobytes() == digits.test.images.tobytes()
        assert open_data(digits).digest == data.digest

    def test_in_another_range(self, digits):
        data = open_data("digits", value_range=(0, 255))
        np.testing.assert_allclose(data.test.images, digits.test.images * 255, rtol=1e-6)

    def test_tested_alone(self, digits):
        data = open_data("digits", test_share=1)
        assert (len(data.train), len(data.test)) == (0, len(digits.test))

    @pytest.mark.slow
    def test_mnist(self, mnist_data):
        data = open_data("mnist")
        assert (len(data.train), len(data.test)) == (60_000, 10_000)
        np.testing.assert_array_equal(data.test.images, mnist_data.test.images)

    def test_a_network_for_others(self):
        assert "received (28, 28, 1)" in refused("digits", image_shape=(32, 32, 3))
        assert "received 10 in digits, and a network for 12" in refused("digits", num_classes=12)
        assert "class_names for 2" in refused("digits", class_names=("a", "b"))

    def test_a_name_of_nothing(self, tmp_path):
        message = refused("nonesuch")
        assert "received 'nonesuch': Dataset nonesuch not found." in message
        assert "received 'no/such/folder': " in refused("no/such/folder")
        assert "received 'no such folder': " in refused("no such folder")
        assert all(name in message for name in datasets.NAMES)
        assert "received" in refused(tmp_path / "nowhere")
        assert "received" in refused(str(tmp_path / "nowhere"))


class TestRefused:
    @pytest.mark.parametrize("data", [5, None, IMAGES, (IMAGES,), (IMAGES, LABELS, IMAGES), {}])
    def test_another_form(self, data):
        assert refused(data).startswith("data: expected (images, labels), ")

    @pytest.mark.parametrize(
        ("images", "labels", "message"),
        [
            (IMAGES, LABELS[:-1], "labels: expected one per image, 20; received 19."),
            (IMAGES[:0], LABELS[:0], "images: expected at least one image; received"),
            (IMAGES, LABELS * 0, "received 16 of class 0 (0) alone"),
            (IMAGES, LABELS * 2, "received none of 1, 3, 5."),
            (IMAGES, LABELS + 1, "subtract 1"),
            (IMAGES, LABELS - 1, "received -1 for image 0."),
            (IMAGES, LABELS + 0.5, "received 0.5 for image 0."),
            (IMAGES, np.eye(4)[LABELS] * 2, "with the sum 2 and"),
            (IMAGES[..., 0], LABELS, "images: expected images of shape (height, width, channels)"),
            (IMAGES[..., 0], LABELS, "images[..., None]"),
            (IMAGES[:, 0, 0], LABELS, "received (1,)"),
            (np.array(["x"] * 20), LABELS, "images: expected numbers; received <U1 values."),
            (
                IMAGES * 255,
                LABELS,
                "If the network takes these values, say so: value_range=(0, 255)",
            ),
            (IMAGES * 2 - 1, LABELS, "say so: value_range=(-1, 1)"),
            (IMAGES * 9000, LABELS, "Scale the images, or declare"),
        ],
    )
    def test_arrays(self, images, labels, message):
        assert message in refused((images, labels))

    def test_not_finite(self):
        for value in (np.nan, np.inf, -np.inf):
            bad = IMAGES.copy()
            bad[13, 0, 0, 0] = value
            assert "received NaN or infinity in image 13." in refused((bad, LABELS))

    def test_what_rounding_adds_is_none_of_it(self):
        for low, high in ((0.1, 0.7), (0.7, 0.8), (-3, 1 / 3)):
            inside = np.float32(low) + IMAGES.clip(0, 1) * np.float32(high - low)
            inside[0, 0, 0, 0], inside[1, 0, 0, 0] = low, high
            assert open_data((inside, LABELS), value_range=(low, high)).value_range == (low, high)
        outside = IMAGES.copy()
        outside[2, 0, 0, 0] = 1.00001
        assert "first in image 2." in refused((outside, LABELS))

    def test_the_first_value_outside_the_range(self):
        bad = IMAGES.copy()
        bad[7, 1, 1, 0], bad[9, 0, 0, 0] = -0.5, 1.5
        assert "[0, 1]; received -0.5 to 1.5, first in image 7. " in refused((bad, LABELS))

    def test_mixed_shapes_name_two(self):
        images = [*IMAGES[:3], np.zeros((4, 4, 1)), *IMAGES[4:]]
        assert "received (4, 5, 1) for image 0 and (4, 4, 1) for image 3" in refused(
            (images, LABELS)
        )

    def test_more_classes_in_the_network_than_in_the_data(self):
        assert "none of 4, 5. Add images" in refused((IMAGES, LABELS), num_classes=6)
        assert "none of 4 (e), 5 (f). Add" in refused((IMAGES, LABELS), class_names="abcdef")

    def test_fewer_classes_in_the_network_than_in_the_data(self):
        message = refused((IMAGES, LABELS), num_classes=3)
        assert "labels: expected class indices, 0 to 2; received 3 for image 3." in message

    def test_another_shape_than_the_network_takes(self):
        message = refused((IMAGES, LABELS), image_shape=(4, 5, 3))
        assert "(4, 5, 3), as the network takes them; received (4, 5, 1)" in message

    def test_a_test_set_unlike_the_training_set(self):
        images, labels = TEST
        assert refused(((IMAGES, LABELS), (images[:, :3], labels))).startswith("test_images: ")
        message = refused(((IMAGES, LABELS), (images, labels + 1)))
        assert message == ("test_labels: expected class indices, 0 to 3; received 4 for image 3.")

    @pytest.mark.parametrize(
        "settings",
        [
            {"value_range": (1, 0)},
            {"value_range": (0, float("inf"))},
            {"value_range": (float("nan"), 1)},
            {"class_names": ("a",)},
            {"class_names": ("a", "a")},
            {"class_names": ("a", "b"), "num_classes": 3},
            {"num_classes": 1},
            {"image_shape": (4, 5)},
            {"image_shape": (4, 0, 1)},
            {"test_share": -0.1},
            {"test_share": 1.1},
            {"test_share": float("nan")},
        ],
    )
    def test_settings(self, settings):
        assert refused((IMAGES, LABELS), **settings).split(":")[0] in settings


def test_paths_are_told_from_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("digits").mkdir()
    assert open_data("digits", test_share=1).name == "digits"
    assert "received an empty folder" in refused("./digits")
    assert "received an empty folder" in refused(pathlib.Path("digits"))
