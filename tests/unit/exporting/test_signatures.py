"""What an exported graph answers and refuses, asked through TensorFlow's C++ runtime."""

import io
import struct

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from ddefense import networks
from ddefense.layers import TemperatureSoftmax
from ddefense.serving.runtime import StatusError

INVALID_ARGUMENT = 3


def png(image):
    return tf.io.encode_png(image).numpy()


def jpeg(image, **settings):
    return tf.io.encode_jpeg(image, **settings).numpy()


def strings(*values):
    found = np.empty(len(values), object)
    found[:] = values
    return found


def refusal(model, signature, name, array):
    with pytest.raises(StatusError) as caught:
        model.run(signature, {name: array})
    assert caught.value.code == INVALID_ARGUMENT
    return caught.value.message


@pytest.fixture(scope="module")
def photo_network(make_photo_network):
    return make_photo_network()


@pytest.fixture(scope="module")
def photo_model(photo_network, open_export):
    return open_export(photo_network, class_names=("cat", "chien", "Käfer"))


@pytest.fixture(scope="module")
def grey_model(make_tiny_network, open_export):
    return open_export(make_tiny_network(), expose_logits=True)


class TestSignatures:
    def test_without_logits_unless_asked_for(self, photo_model, grey_model):
        usual = {"serving_default", "serving_uint8", "serving_encoded", "serving_labels"}
        assert set(photo_model.signatures) == usual
        assert set(grey_model.signatures) == usual | {"logits"}

    def test_names_types_and_shapes(self, grey_model):
        def described(tensors):
            return {
                name: (tensor.dtype, [dim.size for dim in tensor.tensor_shape.dim])
                for name, tensor in tensors.items()
            }

        float32, uint8, string, int64 = 1, 4, 7, 9
        answers = {"probabilities": (float32, [-1, 3]), "classes": (int64, [-1])}
        labels = {"probabilities": (float32, [-1, 3]), "labels": (string, [-1])}
        expected = {
            "serving_default": ({"images": (float32, [-1, 4, 4, 1])}, answers),
            "serving_uint8": ({"images": (uint8, [-1, 4, 4, 1])}, answers),
            "serving_encoded": ({"image_bytes": (string, [-1])}, answers),
            "serving_labels": ({"image_bytes": (string, [-1])}, labels),
            "logits": ({"images": (float32, [-1, 4, 4, 1])}, {"logits": (float32, [-1, 3])}),
        }
        for name, (inputs, outputs) in expected.items():
            signature = grey_model.signatures[name]
            assert described(signature.inputs) == inputs
            assert described(signature.outputs) == outputs
            assert signature.method_name == "tensorflow/serving/predict"

    def test_two_channels_have_no_encoded_images(self, make_photo_network, open_export):
        model = open_export(make_photo_network(channels=2))
        assert set(model.signatures) == {"serving_default", "serving_uint8"}

    @pytest.mark.parametrize("size", [1, 3, 128])
    def test_probabilities_are_the_softmax_of_the_logits(self, grey_model, size):
        images = np.random.default_rng(size).uniform(size=(size, 4, 4, 1)).astype(np.float32)
        answer = grey_model.run("serving_default", {"images": images})
        logits = grey_model.run("logits", {"images": images})["logits"].astype(np.float64)
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(answer["probabilities"], expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(answer["classes"], logits.argmax(axis=1))

    def test_logits_are_the_networks(self, make_tiny_network, grey_model, tiny_images):
        expected = networks.predict(networks.logits_of(make_tiny_network()), tiny_images)
        answer = grey_model.run("logits", {"images": tiny_images})["logits"]
        np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-6)

    def test_uint8_is_the_default_of_a_255th(self, photo_model, photos):
        every_value = np.arange(3 * 90, dtype=np.uint8).reshape(3, 6, 5, 3)
        for pixels in (photos, every_value):
            answer = photo_model.run("serving_uint8", {"images": pixels})
            floats = pixels.astype(np.float32) / np.float32(255)
            expected = photo_model.run("serving_default", {"images": floats})
            # Bit for bit: the large logits of a distilled network would magnify a rounding.
            np.testing.assert_array_equal(answer["probabilities"], expected["probabilities"])
            np.testing.assert_array_equal(answer["classes"], expected["classes"])

    def test_labels_are_the_names_of_the_classes(self, photo_model, photos):
        files = strings(*map(png, photos))
        answer = photo_model.run("serving_labels", {"image_bytes": files})
        classes = photo_model.run("serving_encoded", {"image_bytes": files})["classes"]
        names = np.array(["cat", "chien", "Käfer"])[classes]
        assert [label.decode() for label in answer["labels"]] == names.tolist()

    def test_labels_without_names_are_indices(self, grey_model, tiny_images):
        image = (tiny_images[0] * 255).astype(np.uint8)
        answer = grey_model.run("serving_labels", {"image_bytes": strings(png(image))})
        assert int(answer["labels"][0]) == answer["probabilities"][0].argmax()

    def test_images_are_brought_to_the_range_of_the_network(self, make_photo_network, open_export):
        network = make_photo_network()
        model = open_export(network, value_range=(-3.0, 5.0))
        images = np.random.default_rng(2).uniform(size=(5, 6, 5, 3)).astype(np.float32)
        answer = model.run("serving_default", {"images": images})["probabilities"]
        np.testing.assert_allclose(answer, networks.predict(network, images * 8 - 3), atol=1e-6)
        assert np.abs(answer - networks.predict(network, images)).max() > 0.1


class TestEncoded:
    def same(self, model, files, pixels):
        answer = model.run("serving_encoded", {"image_bytes": strings(*files)})
        expected = model.run("serving_uint8", {"images": np.asarray(pixels)})
        np.testing.assert_array_equal(answer["probabilities"], expected["probabilities"])
        np.testing.assert_array_equal(answer["classes"], expected["classes"])

    def test_png_of_the_right_size_is_taken_as_it_is(self, photo_model, photos):
        self.same(photo_model, map(png, photos), photos)

    def test_jpeg_is_decoded(self, photo_model, photos):
        files = [jpeg(photo, quality=90) for photo in photos]
        self.same(photo_model, files, [tf.io.decode_jpeg(file, 3).numpy() for file in files])

    def test_png_and_jpeg_in_one_batch(self, photo_model, photos):
        other = jpeg(photos[1])
        self.same(photo_model, [png(photos[0]), other], [photos[0], tf.io.decode_jpeg(other)])

    def test_grey_becomes_rgb(self, photo_model, photos):
        grey = photos[0][:, :, :1]
        self.same(photo_model, [png(grey)], [np.repeat(grey, 3, axis=2)])

    def test_alpha_is_dropped(self, photo_model, photos):
        opaque = np.concatenate([photos[0], photos[1][:, :, :1]], axis=2)
        self.same(photo_model, [png(opaque)], [photos[0]])

    def test_16_bits_become_8(self, photo_model, photos):
        deep = photos[0].astype(np.uint16) * 256 + 7
        self.same(photo_model, [png(deep)], [photos[0]])

    def test_grey_stays_grey(self, grey_model):
        levels = np.arange(256, dtype=np.uint8).reshape(16, 4, 4, 1)
        self.same(grey_model, map(png, levels), levels)
        self.same(grey_model, [png(np.repeat(image, 3, axis=2)) for image in levels], levels)

    def test_rgb_becomes_grey_by_luma(self, grey_model):
        # Of pure red, green and blue: 29.9, 58.7 and 11.4 % of 255.
        for channel, level in enumerate((76, 149, 29)):
            image = np.zeros((4, 4, 3), np.uint8)
            image[:, :, channel] = 255
            self.same(grey_model, [png(image)], [np.full((4, 4, 1), level, np.uint8)])

    @pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_jpeg_of_any_kind(self, photo_model, grey_model, mode, progressive):
        image = PIL.Image.new("RGB", (40, 40), (200, 40, 90)).convert(mode)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=95, progressive=progressive)
        for model, shape, wanted in ((photo_model, (6, 5, 3), "RGB"), (grey_model, (4, 4, 1), "L")):
            answer = model.run("serving_encoded", {"image_bytes": strings(file.getvalue())})
            color = np.asarray(image.convert("RGB").convert(wanted)).reshape(40, 40, -1)[0, 0]
            expected = model.run(
                "serving_uint8", {"images": np.broadcast_to(color, (1, *shape)).copy()}
            )
            np.testing.assert_allclose(
                answer["probabilities"], expected["probabilities"], atol=0.03
            )

    @pytest.mark.parametrize("mode", ["1", "P", "LA"])
    def test_png_of_any_kind(self, photo_model, mode):
        image = PIL.Image.new("RGB", (5, 6), (255, 255, 255)).convert(mode)
        file = io.BytesIO()
        image.save(file, "PNG")
        self.same(photo_model, [file.getvalue()], [np.full((6, 5, 3), 255, np.uint8)])

    def test_other_sizes_are_averaged_down(self, photo_model, photos):
        # Each pixel four times as wide and high, with a pattern that only averaging removes.
        large = np.kron(photos[0], np.ones((40, 40, 1))).astype(np.uint8)
        answer = photo_model.run("serving_encoded", {"image_bytes": strings(png(large))})
        image = tf.image.resize(large, [6, 5], antialias=True).numpy()[None] / 255
        expected = photo_model.run("serving_default", {"images": image.astype(np.float32)})
        np.testing.assert_allclose(answer["probabilities"], expected["probabilities"], atol=1e-6)

    def test_a_fine_pattern_becomes_its_mean(self, photo_model):
        stripes = np.zeros((60, 50, 3), np.uint8)
        stripes[::2] = 200
        answer = photo_model.run("serving_encoded", {"image_bytes": strings(png(stripes))})
        grey = np.full((1, 6, 5, 3), 100 / 255, np.float32)
        expected = photo_model.run("serving_default", {"images": grey})
        np.testing.assert_allclose(answer["probabilities"], expected["probabilities"], atol=0.03)

    def test_each_size_of_a_batch_on_its_own(self, photo_model, photos):
        files = [png(photos[0]), png(np.kron(photos[1], np.ones((3, 2, 1))).astype(np.uint8))]
        together = photo_model.run("serving_encoded", {"image_bytes": strings(*files)})
        alone = photo_model.run("serving_encoded", {"image_bytes": strings(files[1])})
        np.testing.assert_allclose(
            together["probabilities"][1], alone["probabilities"][0], atol=1e-6
        )


class TestRefusals:
    @pytest.mark.parametrize("value", [-0.001, 1.001, 255.0, np.inf, -np.inf, np.nan])
    def test_values_out_of_range(self, photo_model, value):
        images = np.full((2, 6, 5, 3), 0.5, np.float32)
        images[1, 2, 3, 1] = value
        message = refusal(photo_model, "serving_default", "images", images)
        assert "images: expected finite float32 values in [0, 1]; received" in message
        assert f"{int(not np.isfinite(value))} of them NaN or infinite" in message
        assert "Divide 0-255 images by 255, or send them to serving_uint8." in message

    def test_logits_are_no_way_round(self, grey_model):
        images = np.full((1, 4, 4, 1), np.nan, np.float32)
        assert "in [0, 1]" in refusal(grey_model, "logits", "images", images)

    @pytest.mark.parametrize(
        "shape",
        [(), (6,), (6, 5, 3), (1, 5, 6, 3), (1, 6, 5, 1), (1, 90), (2, 6, 5, 3, 1), (1, 12, 5, 3)],
    )
    @pytest.mark.parametrize(
        ("signature", "dtype"), [("serving_default", np.float32), ("serving_uint8", np.uint8)]
    )
    def test_another_shape(self, photo_model, signature, dtype, shape):
        message = refusal(photo_model, signature, "images", np.zeros(shape, dtype))
        received = ", ".join(map(str, shape))
        assert f"expected shape [N, 6, 5, 3] with N >= 1; received [{received}]." in message

    @pytest.mark.parametrize(
        ("signature", "name", "array"),
        [
            ("serving_default", "images", np.zeros((0, 6, 5, 3), np.float32)),
            ("serving_uint8", "images", np.zeros((0, 6, 5, 3), np.uint8)),
            ("serving_encoded", "image_bytes", np.zeros(0, object)),
            ("serving_labels", "image_bytes", np.zeros(0, object)),
        ],
    )
    def test_no_image_at_all(self, photo_model, signature, name, array):
        assert "with N >= 1; received [0" in refusal(photo_model, signature, name, array)

    def test_another_shape_of_strings(self, photo_model, photos):
        one = np.array(png(photos[0]), object)
        for array, received in [(one, "[]"), (one[None, None], "[1, 1]")]:
            message = refusal(photo_model, "serving_encoded", "image_bytes", array)
            assert f"image_bytes: expected shape [N] with N >= 1; received {received}." in message

    def test_another_type(self, photo_model):
        images = np.zeros((1, 6, 5, 3), np.float32)
        assert "uint8" in refusal(photo_model, "serving_uint8", "images", images)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x89PNG",
            b"hello world",
            b"GIF89a" + bytes(40),
            b"BM" + bytes(60),
            b"RIFF0000WEBP",
        ],
    )
    @pytest.mark.parametrize("signature", ["serving_encoded", "serving_labels"])
    def test_bytes_that_are_no_image(self, photo_model, signature, content):
        message = refusal(photo_model, signature, "image_bytes", strings(content))
        expected = "image_bytes: expected the bytes of a PNG or JPEG file; received"
        assert f"{expected} {len(content)} bytes that are neither." in message

    @pytest.mark.parametrize("kept", [8, 16, 24, 32])
    def test_the_beginning_of_a_png(self, photo_model, photos, kept):
        cut = png(photos[0])[:kept]
        message = refusal(photo_model, "serving_encoded", "image_bytes", strings(cut))
        assert f"received {kept} bytes that are neither" in message

    @pytest.mark.parametrize("encode", [png, jpeg])
    @pytest.mark.parametrize("kept", [0.3, 0.7, 0.95])
    def test_half_an_image(self, photo_model, encode, kept):
        whole = encode(np.random.default_rng(0).integers(256, size=(60, 50, 3)).astype(np.uint8))
        cut = whole[: int(kept * len(whole))]
        refusal(photo_model, "serving_encoded", "image_bytes", strings(cut))

    def test_one_bad_image_refuses_its_batch(self, photo_model, photos):
        files = strings(png(photos[0]), b"no image", png(photos[1]))
        message = refusal(photo_model, "serving_encoded", "image_bytes", files)
        assert "received 8 bytes that are neither" in message

    def test_a_png_that_would_fill_the_memory(self, photo_model):
        header = struct.pack(">II", 100_000, 100_000) + bytes([8, 2, 0, 0, 0])
        bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + bytes(4)
        message = refusal(photo_model, "serving_encoded", "image_bytes", strings(bomb))
        assert (
            "of 1 to 4194304 pixels for a network of 6x5; received one of 10000000000." in message
        )

    def test_a_jpeg_that_would_fill_the_memory(self, photo_model, photos):
        whole = jpeg(photos[0])
        start = whole.index(b"\xff\xc0") + 5  # after the marker, its length and the precision
        bomb = whole[:start] + struct.pack(">HH", 60_000, 50_000) + whole[start + 4 :]
        message = refusal(photo_model, "serving_encoded", "image_bytes", strings(bomb))
        assert "network of 6x5; received one of 3000000000." in message

    def test_the_largest_image_that_is_taken(self, photo_model):
        side = 2048
        white = tf.io.encode_png(np.full((side, side, 1), 255, np.uint8), compression=1).numpy()
        answer = photo_model.run("serving_encoded", {"image_bytes": strings(white)})
        images = np.ones((1, 6, 5, 3), np.float32)
        expected = photo_model.run("serving_default", {"images": images})
        # A mean of a million weights is 1 up to its rounding.
        np.testing.assert_allclose(answer["probabilities"], expected["probabilities"], atol=1e-4)
        more = tf.io.encode_png(np.zeros((side + 1, side, 1), np.uint8), compression=1).numpy()
        message = refusal(photo_model, "serving_encoded", "image_bytes", strings(more))
        assert "received one of 4196352." in message

    @pytest.mark.slow
    def test_an_image_of_which_the_network_makes_nan(self, open_export):
        images = keras.Input((4, 4, 1))
        x = keras.layers.Flatten()(images)
        # Overflows for an image that is white all over, and for no other.
        x = keras.layers.Dense(
            2, activation=keras.ops.exp, kernel_initializer="ones", bias_initializer="zeros"
        )(keras.layers.Rescaling(88.73 / 16)(x))
        x = keras.layers.Dense(3, kernel_initializer="ones", name="logits")(x)
        model = open_export(keras.Model(images, TemperatureSoftmax()(x)), expose_logits=True)
        white = np.ones((1, 4, 4, 1), np.float32)
        for signature in ("serving_default", "logits"):
            model.run(signature, {"images": white / 2})
            message = refusal(model, signature, "images", white)
            assert "the network has no finite logits for one of them" in message
        file = strings(png(np.full((4, 4, 1), 255, np.uint8)))
        assert "no finite logits" in refusal(model, "serving_labels", "image_bytes", file)

    def test_the_next_batch_is_answered_as_if_nothing_had_been(self, photo_model, photos):
        before = photo_model.run("serving_uint8", {"images": photos})["probabilities"]
        refusal(photo_model, "serving_uint8", "images", photos[0])
        after = photo_model.run("serving_uint8", {"images": photos})["probabilities"]
        np.testing.assert_array_equal(before, after)
