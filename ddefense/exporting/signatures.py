"""The graph of an exported network: what it takes, what it refuses, what it answers.

Everything here is TensorFlow's own: no custom op, nothing that needs Keras or this package to run.
"""

import dataclasses
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from ddefense import networks
from ddefense.datasets import decoding
from ddefense.datasets.decoding import decodable, decoded, scaled
from ddefense.maths.ranges import from_unit

DEFAULT, UINT8, ENCODED, LABELS, LOGITS = (
    "serving_default",
    "serving_uint8",
    "serving_encoded",
    "serving_labels",
    "logits",
)
"""Names of the signatures."""

Outputs = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Contract:
    """What clients see of a network.

    Attributes:
        image_shape: (height, width, channels).
        class_names: one per class.
        value_range: of a feature, as the network was trained; clients send [0, 1] whatever it is.
        expose_logits: whether there is a signature that gives logits.
    """

    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    value_range: tuple[float, float] = (0.0, 1.0)
    expose_logits: bool = False


class Served(tf.Module):
    """A network with its signatures, ready for `tf.saved_model.save`.

    Args:
        network: images -> probabilities at T = 1, with a layer named `logits`.
        contract: what clients see.
    """

    def __init__(self, network: keras.Model, contract: Contract) -> None:
        super().__init__(name="served")
        self._contract = contract
        logits_network = networks.logits_of(network)
        # Only what a SavedModel tracks is written with it; tracking the network would write the
        # weights a second time.
        self._weights = [variable.value for variable in logits_network.variables]

        # One function for all signatures: the graph holds the network once.
        @tf.function(input_signature=[tf.TensorSpec([None, *contract.image_shape], tf.float32)])
        def logits(images: tf.Tensor) -> tf.Tensor:
            inside = from_unit(images, contract.value_range)
            return tf.cast(logits_network(inside, training=False), tf.float32)

        self._logits = logits

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """The signatures by name, traced. Their inputs are called as the parameters are."""
        shape = [None, *self._contract.image_shape]
        floats = tf.TensorSpec(shape, tf.float32, name="images")
        integers = tf.TensorSpec(shape, tf.uint8, name="images")
        encoded = tf.TensorSpec([None], tf.string, name="image_bytes")
        wanted: dict[str, tuple[Callable[..., Outputs], tf.TensorSpec]] = {
            DEFAULT: (lambda images: self._predict(self._from_floats(images)), floats),
            UINT8: (lambda images: self._predict(self._from_uint8(images)), integers),
        }
        if decodable(self._contract.image_shape[-1]):
            wanted |= {
                ENCODED: (lambda image_bytes: self._predict(self._decode(image_bytes)), encoded),
                LABELS: (lambda image_bytes: self._label(self._decode(image_bytes)), encoded),
            }
        if self._contract.expose_logits:
            wanted[LOGITS] = (
                lambda images: {"logits": self._finite_logits(self._from_floats(images))},
                floats,
            )
        return {
            name: tf.function(serve).get_concrete_function(spec)
            for name, (serve, spec) in wanted.items()
        }

    def _finite_logits(self, images: tf.Tensor) -> tf.Tensor:
        """The logits, unless one is NaN or infinite, of which a softmax makes nonsense."""
        logits = self._logits(images)
        finite = tf.reduce_all(tf.math.is_finite(logits))
        message = "images: the network has no finite logits for one of them, so no answer either."
        with tf.control_dependencies([tf.debugging.Assert(finite, [message])]):
            return tf.identity(logits)

    def _predict(self, images: tf.Tensor) -> Outputs:
        logits = self._finite_logits(images)
        return {"probabilities": tf.nn.softmax(logits), "classes": tf.argmax(logits, axis=1)}

    def _label(self, images: tf.Tensor) -> Outputs:
        found = self._predict(images)
        names = tf.constant(self._contract.class_names)
        return {
            "labels": tf.gather(names, found["classes"]),
            "probabilities": found["probabilities"],
        }

    def _from_floats(self, images: tf.Tensor) -> tf.Tensor:
        images = _shaped(images, "images", list(self._contract.image_shape))
        inside = tf.reduce_all((images >= 0.0) & (images <= 1.0))  # false where one is NaN
        # Made only where it is needed: the passes over the images take time.
        message = tf.cond(inside, lambda: tf.constant(""), lambda: _out_of_range(images))
        with tf.control_dependencies([tf.debugging.Assert(inside, [message])]):
            return tf.identity(images)

    def _from_uint8(self, images: tf.Tensor) -> tf.Tensor:
        return scaled(_shaped(images, "images", list(self._contract.image_shape)))

    def _decode(self, image_bytes: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(
            self._decode_one,
            _shaped(image_bytes, "image_bytes", []),
            # One after another: each may take the memory of the largest image.
            parallel_iterations=1,
            fn_output_signature=tf.TensorSpec(self._contract.image_shape, tf.float32),
        )

    def _decode_one(self, image_bytes: tf.Tensor) -> tf.Tensor:
        size = tf.strings.length(image_bytes)
        is_png = decoding.begins_as(decoding.PNG, image_bytes)
        is_jpeg = decoding.begins_as(decoding.JPEG, image_bytes)
        message = tf.strings.format(
            "image_bytes: expected the bytes of a PNG or JPEG file; received {} bytes that are "
            "neither. In JSON send them in base64, under the key b64.",
            size,
        )
        with tf.control_dependencies([tf.debugging.Assert(is_png | is_jpeg, [message])]):
            image_bytes = tf.identity(image_bytes)
        pixels = tf.cond(
            is_png,
            lambda: decoding.png_pixels(image_bytes),
            lambda: decoding.jpeg_pixels(image_bytes),
        )
        height, width, _ = self._contract.image_shape
        limit = decoding.most_pixels(self._contract.image_shape)
        too_large = tf.strings.format(
            f"image_bytes: expected an image of 1 to {limit} pixels for a network of "
            f"{height}x{width}; received one of {{}}. Make it smaller first.",
            pixels,
        )
        fits = (pixels > 0) & (pixels <= limit)
        with tf.control_dependencies([tf.debugging.Assert(fits, [too_large])]):
            image_bytes = tf.identity(image_bytes)
        return decoded(image_bytes, self._contract.image_shape)


def _out_of_range(images: tf.Tensor) -> tf.Tensor:
    return tf.strings.format(
        "images: expected finite float32 values in [0, 1]; received values from {} to {}, {} "
        f"of them NaN or infinite. Divide 0-255 images by 255, or send them to {UINT8}.",
        (
            tf.reduce_min(images),
            tf.reduce_max(images),
            tf.math.count_nonzero(~tf.math.is_finite(images)),
        ),
    )


def _shaped(batch: tf.Tensor, name: str, shape: list[int]) -> tf.Tensor:
    """A batch of at least one, if its members have the declared shape.

    The runtime takes the declared shape of an input for granted: it never compares, and makes
    constants of what follows from that shape, such as the rank in a check of it. So the dimensions
    are compared as text, from which nothing follows.
    """
    dimensions = tf.shape(batch)
    text = tf.strings.reduce_join(tf.strings.as_string(dimensions), separator=", ")
    right = tf.strings.regex_full_match(text, ", ".join(["[1-9][0-9]*", *map(str, shape)]))
    declared = ", ".join(["N", *map(str, shape)])
    message = tf.strings.join(
        [f"{name}: expected shape [{declared}] with N >= 1; received [", text, "]."]
    )
    with tf.control_dependencies([tf.debugging.Assert(right, [message])]):
        return tf.identity(batch)


def default_class_names(num_classes: int) -> Sequence[str]:
    """Names for classes that have none: their indices."""
    return [str(i) for i in range(num_classes)]
