"""Image folders: which files, which classes, which pixels."""

import hashlib
import io
import os
import pathlib
import re
import socket
import struct

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from ddefense.settings import ConfigError

from ddefense import networks
from ddefense.datasets import folders, streaming
from ddefense.datasets.checking import Declared
from ddefense.exporting.signatures import Contract, Served
from ddefense.maths.ranges import to_unit
from ddefense.records import RunError

SHAPE = (6, 5, 3)


def pixels(number, shape=SHAPE):
    return np.random.default_rng(number).integers(0, 256, shape).astype(np.uint8)


def write(path, image, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image.squeeze()).save(path, **settings)


@pytest.fixture
def root(tmp_path):
    """Three classes of four PNG images each."""
    for i, name in enumerate(("dog", "cat", "owl")):
        for j in range(4):
            write(tmp_path / "photos" / name / f"{j}.png", pixels(10 * i + j))
    return tmp_path / "photos"


def find(root, **declared):
    return folders.find(root, Declared(**declared))


def load(files, shape=SHAPE, value_range=(0.0, 1.0)):
    source = folders.source_of(files, shape, value_range)
    return streaming.load(source, Declared(value_range=value_range))[0]


def refused(root, **declared):
    with pytest.raises(ConfigError) as caught:
        find(root, **declared)
    return str(caught.value)


class TestFind:
    def test_sorted_names_are_the_classes(self, root):
        folder = find(root)
        assert folder.class_names == ("cat", "dog", "owl")
        assert folder.test is None
        assert sorted(folder.train.names) == [
            f"{name}/{j}.png" for name in folder.class_names for j in range(4)
        ]
        for name, label in zip(folder.train.names, folder.train.labels, strict=True):
            assert folder.class_names[label] == name.split("/")[0]

    def test_the_order_follows_from_the_names_alone(self, root):
        names = find(root).train.names
        assert list(names) == sorted(names, key=lambda n: hashlib.sha256(n.encode()).digest())
        write(root / "cat" / "new.png", pixels(99))
        assert [n for n in find(root).train.names if n != "cat/new.png"] == list(names)

    def test_what_is_no_image_is_left_out(self, root, caplog):
        for name in ("notes.txt", "Thumbs.db", ".hidden.png", ".cache/a.png"):
            path = root / "cat" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"no image")
        (root / ".git").mkdir()
        assert len(find(root).train) == 12
        (record,) = caplog.records
        assert re.search(r"^2 files in .*: cat/Thumbs\.db; cat/notes\.txt\.$", record.getMessage())

    def test_an_image_without_an_ending_is_one(self, root):
        os.rename(root / "cat" / "0.png", root / "cat" / "first")
        assert "cat/first" in find(root).train.names

    def test_folders_in_a_class_folder_are_read(self, root):
        write(root / "cat" / "more" / "a.PNG", pixels(1))
        assert "cat/more/a.PNG" in find(root).train.names

    @pytest.mark.parametrize("name", ["test", "val", "validation"])
    def test_a_folder_that_is_split(self, root, tmp_path, name):
        os.renames(root, tmp_path / "data" / "train")
        write(tmp_path / "data" / name / "owl" / "x.png", pixels(1))
        folder = find(tmp_path / "data")
        assert folder.class_names == ("cat", "dog", "owl")
        assert len(folder.train) == 12
        assert (folder.test.names, folder.test.labels.tolist()) == (("owl/x.png",), [2])

    def test_the_test_set_goes_before_the_validation_set(self, root, tmp_path, caplog):
        os.renames(root, tmp_path / "data" / "train")
        write(tmp_path / "data" / "test" / "owl" / "x.png", pixels(1))
        write(tmp_path / "data" / "val" / "owl" / "y.png", pixels(1))
        assert find(tmp_path / "data").test.names == ("owl/x.png",)
        assert "val is not read" in caplog.text

    def test_a_class_may_be_called_train(self, root):
        write(root / "train" / "ice.png", pixels(1))
        assert find(root).class_names == ("cat", "dog", "owl", "train")


class TestNames:
    def test_folders_in_the_order_that_is_declared(self, root):
        folder = find(root, class_names=("owl", "dog", "cat"))
        assert folder.class_names == ("owl", "dog", "cat")
        for name, label in zip(folder.train.names, folder.train.labels, strict=True):
            assert folder.class_names[label] == name.split("/")[0]

    def test_new_names_for_the_folders_in_their_order(self, root):
        folder = find(root, class_names=("Katze", "Hund", "Eule"))
        assert folder.class_names == ("Katze", "Hund", "Eule")
        np.testing.assert_array_equal(folder.train.labels, find(root).train.labels)

    def test_classes_without_a_folder_keep_their_place(self, root):
        folder = find(root, class_names=("ape", "cat", "dog", "owl"), num_classes=4)
        assert set(folder.train.labels) == {1, 2, 3}

    @pytest.mark.parametrize("names", [("cat", "Hund", "owl"), ("a", "b"), tuple("abcd")])
    def test_names_that_fit_no_folders(self, root, names):
        assert "or one new name for each; received " in refused(root, class_names=names)

    def test_another_number_of_classes_than_the_network(self, root):
        message = refused(root, num_classes=4)
        assert "expected 4 class folders" in message
        assert "received 3: cat, dog, owl. If classes are missing, name all" in message


class TestRefused:
    def test_no_folder(self, tmp_path):
        assert "which is none" in refused(tmp_path / "nothing")

    def test_an_empty_folder(self, tmp_path):
        assert f"per class in {tmp_path}; received an empty folder" in refused(tmp_path)

    def test_files_without_class_folders(self, tmp_path):
        write(tmp_path / "a.png", pixels(0))
        assert "received 1 files and no folder. Put the images of each" in refused(tmp_path)

    def test_a_class_folder_without_images(self, root):
        (root / "bat").mkdir()
        (root / "bat" / "notes.txt").write_text("none yet")
        message = refused(root)
        assert f"in the class folder {root / 'bat'}; received none" in message

    def test_images_of_another_kind(self, root):
        (root / "cat" / "x.webp").write_bytes(b"RIFF")
        assert f"received {root / 'cat' / 'x.webp'}. Convert it" in refused(root)

    def test_a_class_that_is_tested_alone(self, root, tmp_path):
        os.renames(root, tmp_path / "data" / "train")
        write(tmp_path / "data" / "test" / "yak" / "x.png", pixels(1))
        assert "received yak" in refused(tmp_path / "data")


class TestHoldOut:
    def test_photos_that_are_added_move_no_old_one(self, tmp_path):
        def sides():
            train, test = folders.hold_out(find(tmp_path).train, 0.3)
            return set(train.names), set(test.names)

        for name in ("a", "b"):
            for i in range(20):
                write(tmp_path / name / f"{i}.png", pixels(0))
        train, test = sides()
        assert len(train) + len(test) == 40
        for name in ("a", "b"):
            for i in range(20, 60):
                write(tmp_path / name / f"{i}.png", pixels(0))
        more_train, more_test = sides()
        assert train < more_train
        assert test < more_test
        assert 0.2 < len(more_test) / 120 < 0.4
        for name in ("a", "b"):
            assert 0.15 < sum(n.startswith(name) for n in more_test) / 60 < 0.45

    @pytest.mark.parametrize("share", [0.0001, 0.9999])
    def test_every_class_is_on_both_sides(self, root, share):
        train, test = folders.hold_out(find(root).train, share)
        for side in (train, test):
            assert set(side.labels) == {0, 1, 2}
        assert {len(train), len(test)} == {3, 9}
        assert not set(train.names) & set(test.names)

    def test_one_image_alone(self, root):
        write(root / "yak" / "x.png", pixels(1))
        with pytest.raises(ConfigError, match=r"at least two images of every class.*one of yak"):
            folders.hold_out(find(root).train, 0.2)


class TestPixels:
    def test_images_of_the_right_size_are_taken_as_they_are(self, root):
        files = find(root).train
        found = load(files)
        numbers = {"dog": 0, "cat": 10, "owl": 20}
        for image, name in zip(found.images, files.names, strict=True):
            folder, file = name.split("/")
            expected = pixels(numbers[folder] + int(file[0])).astype(np.float32) / np.float32(255)
            np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(found.labels, files.labels)

    @pytest.mark.parametrize("value_range", [(0.0, 255.0), (-1.0, 1.0)])
    def test_are_brought_to_the_range_of_the_network(self, root, value_range):
        files = find(root).train
        found = load(files, value_range=value_range).images
        np.testing.assert_allclose(to_unit(found, value_range), load(files).images, atol=1e-6)
        assert found.min() < value_range[0] + 10 * (value_range[1] - value_range[0]) / 255
        assert found.max() > value_range[1] - 10 * (value_range[1] - value_range[0]) / 255

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF"])
    def test_by_content_whatever_the_ending(self, tmp_path, kind):
        for name in ("a", "b"):
            write(tmp_path / name / "x.png", np.full((8, 8, 3), 255, np.uint8), format=kind)
        np.testing.assert_allclose(load(find(tmp_path).train).images, 1.0, atol=0.02)

    def test_of_a_moving_gif_the_first_picture(self, tmp_path):
        frames = [PIL.Image.new("RGB", (5, 6), color) for color in ("white", "black")]
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            frames[0].save(tmp_path / name / "x.gif", save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(load(find(tmp_path).train).images, 1.0)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("shape", "value_range"),
        [((4, 4, 1), (0.0, 1.0)), ((4, 4, 3), (0.0, 1.0)), ((4, 4, 1), (-1.0, 2.0))],
    )
    def test_serving_sees_the_same(self, root, shape, value_range):
        """A file, and the pixels that training makes of it, get the same answer bit for bit."""
        write(root / "cat" / "large.jpg", pixels(7, (40, 30, 3)), quality=95)
        write(root / "cat" / "grey.png", pixels(8, (9, 9, 1)))
        files = find(root).train
        images = keras.Input(shape, name="images")
        logits = keras.layers.Dense(3, name="logits")(keras.layers.Flatten()(images))
        network = networks.with_temperature(keras.Model(images, logits), 1.0)
        served = Served(network, Contract(shape, files_names(root), value_range)).signatures()
        content = [(root / name).read_bytes() for name in files.names]
        expected = served["serving_encoded"](image_bytes=tf.constant(content))
        unit = load(files, shape).images
        found = served["serving_default"](images=tf.constant(unit))
        np.testing.assert_array_equal(found["probabilities"], expected["probabilities"])
        ours = networks.predict(network, load(files, shape, value_range).images)
        np.testing.assert_allclose(ours, expected["probabilities"], atol=1e-6)

    def test_a_stream_gives_the_same_in_every_pass(self, root):
        files = find(root).train
        stream, num_classes = streaming.survey(
            folders.source_of(files, (4, 4, 1), (0.0, 1.0)), Declared()
        )
        np.testing.assert_array_equal(
            np.concatenate(list(stream.windows())), load(files, (4, 4, 1)).images
        )
        assert num_classes == 3

    def test_other_channels_than_files_have(self, root):
        with pytest.raises(ConfigError, match="image_shape: expected 1 or 3 channels"):
            folders.source_of(find(root).train, (4, 4, 2), (0.0, 1.0))


def files_names(root):
    return find(root).class_names


class TestDamaged:
    def damage(self, root):
        path = root / "dog" / "2.png"
        path.write_bytes(path.read_bytes()[:40])
        return path

    def test_is_named(self, root):
        path = self.damage(root)
        for read in (lambda f: load(f), folders.common_shape):
            with pytest.raises(ConfigError, match=re.escape(f"received {path}: ")) as caught:
                read(find(root).train)
            assert "Repair that file" in str(caught.value)
            assert "\n" not in str(caught.value)

    def test_text_with_the_ending_of_an_image(self, root):
        (root / "dog" / "note.png").write_text("not really")
        with pytest.raises(ConfigError, match=r"dog/note\.png: "):
            load(find(root).train)

    def test_an_empty_file(self, root):
        (root / "dog" / "none.jpg").touch()
        with pytest.raises(ConfigError, match=r"dog/none\.jpg: "):
            load(find(root).train)

    def test_later(self, root):
        files = find(root).train
        stream, _ = streaming.survey(folders.source_of(files, SHAPE, (0.0, 1.0)), Declared())
        path = self.damage(root)
        with pytest.raises(RunError, match=re.escape(f"received {path}: ")):
            list(stream.windows())
        path.unlink()
        with pytest.raises(RunError, match=re.escape(f"received {path}: ")):
            list(stream.windows())
        write(path, pixels(55))
        number = files.names.index("dog/2.png")
        with pytest.raises(RunError, match=f"image number {number} "):
            list(stream.windows())


def header_png(height, width):
    """A PNG file that declares so many pixels and has none."""
    header = struct.pack(">II", width, height) + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + bytes(4)


def header_jpeg(height, width):
    content = io.BytesIO()
    PIL.Image.new("RGB", (5, 6)).save(content, "JPEG")
    whole = content.getvalue()
    start = whole.index(b"\xff\xc0") + 5  # after the marker, its length and the precision
    return whole[:start] + struct.pack(">HH", height, width) + whole[start + 4 :]


HEADERS = {
    "png": header_png,
    "jpg": header_jpeg,
    "gif": lambda height, width: b"GIF89a" + struct.pack("<HH", width, height) + bytes(20),
    "bmp": lambda height, width: b"BM" + bytes(16) + struct.pack("<ii", width, -height) + bytes(30),
}


class TestLargeImages:
    @pytest.mark.slow
    @pytest.mark.parametrize("ending", HEADERS)
    def test_more_pixels_than_the_network_needs(self, root, ending):
        (root / "dog" / f"large.{ending}").write_bytes(HEADERS[ending](2049, 2048))
        with pytest.raises(
            ConfigError,
            match=rf"dog/large\.{ending}: expected at most 4194304 pixels, received 4196352",
        ):
            load(find(root).train)

    def test_a_size_that_no_image_has(self, root):
        (root / "dog" / "large.png").write_bytes(header_png(28, 2**32 - 1))
        with pytest.raises(
            ConfigError, match=r"dog/large\.png: expected .* pixels, received -28\."
        ):
            load(find(root).train)

    def test_of_no_given_size(self, root):
        (root / "dog" / "large.png").write_bytes(header_png(8193, 8192))
        with pytest.raises(ConfigError, match=r"dog/large\.png: .*at most 67108864 pixels"):
            folders.common_shape(find(root).train)

    def test_the_largest_that_is_taken(self, root):
        write(root / "dog" / "0.png", np.full((2048, 2048, 1), 255, np.uint8))
        files = find(root).train
        found = load(files).images[files.names.index("dog/0.png")]
        np.testing.assert_allclose(found, 1, atol=1e-4)


class TestCommonShape:
    def test_of_colors_or_greys(self, root, tmp_path):
        assert folders.common_shape(find(root).train) == SHAPE
        for name in ("a", "b"):
            write(tmp_path / "grey" / name / "x.png", pixels(0, (6, 5, 1)))
        assert folders.common_shape(find(tmp_path / "grey").train) == (6, 5, 1)

    def test_one_color_image_makes_all_color(self, root):
        write(root / "cat" / "grey.png", pixels(0, (6, 5, 1)))
        assert folders.common_shape(find(root).train) == SHAPE

    def test_alpha_is_no_color(self, root):
        write(root / "cat" / "alpha.png", pixels(0, (6, 5, 4)))
        assert folders.common_shape(find(root).train) == SHAPE

    def test_two_sizes(self, root):
        write(root / "cat" / "large.png", pixels(0, (7, 5, 3)))
        with pytest.raises(ConfigError) as caught:
            folders.common_shape(find(root).train)
        message = str(caught.value)
        assert "6x5" in message
        assert "cat/large.png of 7x5" in message
        assert "image_shape" in message


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.close()


ODD = {
    "a FIFO": make_fifo,
    "a socket": make_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to(path.with_name("gone")),
    "a link to a folder": lambda path: path.symlink_to(path.parent),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_is_named_and_never_opened(root, caplog, kind, monkeypatch):
    monkeypatch.chdir(root / "cat")  # the path of a socket must be short
    ODD[kind](pathlib.Path("9.png"))
    with caplog.at_level("WARNING"):
        found = find(root)
    assert len(found.train) == 12
    assert f"1 files in {root} are no images of a class and are left out: cat/9.png, {kind}." in (
        caplog.text
    )
    assert load(found.train).images.shape == (12, *SHAPE)


def test_what_lies_beside_the_classes_is_named(root, caplog):
    (root / "labels.csv").write_text("no image")
    write(root / "loose.png", pixels(1))
    os.mkfifo(root / "pipe.png")
    (root / ".hidden").touch()
    with caplog.at_level("WARNING"):
        find(root)
    assert f"3 files in {root} are " in caplog.text
    assert "labels.csv; loose.png; pipe.png, a FIFO." in caplog.text


def test_a_jpeg_of_another_size_is_averaged_down(tmp_path):
    # A pattern of black and white pixels that only averaging turns grey.
    board = np.indices((60, 50)).sum(axis=0) % 2 * 255
    for name in ("a", "b"):
        content = io.BytesIO()
        PIL.Image.fromarray(board.astype(np.uint8)).save(content, "PNG")
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(content.getvalue())
    np.testing.assert_allclose(load(find(tmp_path).train).images, 0.5, atol=0.05)
