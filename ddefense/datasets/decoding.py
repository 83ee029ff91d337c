"""Image files as the features that a network takes: one graph for training and for serving."""

import tensorflow as tf

from ddefense.datasets.checking import ImageShape


def decodable(channels: int) -> bool:
    """Whether image files can be brought to so many channels: grey and RGB only."""
    return channels in (1, 3)


MOST_PIXELS, LEAST_LIMIT, PER_INPUT_PIXEL = 2**26, 2**22, 2**10

PNG, JPEG, GIF, BMP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM"
"""How files of these kinds begin."""
# Bytes up to the end of the size that a file declares. JPEG has its own elsewhere.
_LEAST = {PNG: 33, JPEG: len(JPEG), GIF: 10, BMP: 26}


def most_pixels(image_shape: ImageShape | None) -> int:
    """Most pixels of an image file that is decoded: a small file may fill the memory.

    Decoding and resizing take about 16 bytes for a pixel.

    Args:
        image_shape: (height, width, channels) that it is brought to, or None if it stays as it is.

    Returns:
        32 times the height and width: a photo of 50 megapixels for a network of 224x224. At least
        4 megapixels (2^22), at most 67 (2^26), and never less than the network's own input.
    """
    if image_shape is None:
        return MOST_PIXELS
    own = image_shape[0] * image_shape[1]
    return max(own, LEAST_LIMIT, min(PER_INPUT_PIXEL * own, MOST_PIXELS))


def begins_as(kind: bytes, image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether a file, a scalar, begins as its kind does, with a whole header; bool."""
    length = tf.strings.length(image_bytes)
    start = tf.strings.substr(image_bytes, 0, tf.minimum(len(kind), length))
    return (start == kind) & (length >= _LEAST[kind])


def png_pixels(image_bytes: tf.Tensor) -> tf.Tensor:
    """Pixels of a PNG file, by its header; int64, not above 0 where that is damaged."""
    return _sides(image_bytes, 16, tf.int32, little_endian=False)


def jpeg_pixels(image_bytes: tf.Tensor) -> tf.Tensor:
    """Pixels of a JPEG file, by its header; int64."""
    return tf.reduce_prod(tf.image.extract_jpeg_shape(image_bytes, tf.int64)[:2])


def _sides(
    image_bytes: tf.Tensor, start: int, dtype: tf.DType, *, little_endian: bool
) -> tf.Tensor:
    size = tf.strings.substr(image_bytes, start, 2 * dtype.size)
    sides = tf.io.decode_raw(size, dtype, little_endian=little_endian)
    return tf.reduce_prod(tf.cast(sides, tf.int64))


def checked(image_bytes: tf.Tensor, limit: int) -> tf.Tensor:
    """A PNG, JPEG, BMP or GIF file, unless its header has more pixels than are allowed.

    Args:
        image_bytes: a scalar; what is none of these is left to the decoder.
        limit: pixels.
    """
    pixels_of = {
        PNG: lambda: png_pixels(image_bytes),
        JPEG: lambda: jpeg_pixels(image_bytes),
        GIF: lambda: _sides(image_bytes, 6, tf.uint16, little_endian=True),
        # The height of one that is stored from its top is negative.
        BMP: lambda: tf.abs(_sides(image_bytes, 18, tf.int32, little_endian=True)),
    }
    pixels = tf.case(
        [(begins_as(kind, image_bytes), pixels) for kind, pixels in pixels_of.items()],
        default=lambda: tf.constant(0, tf.int64),
    )
    message = tf.strings.format(f"expected at most {limit} pixels, received {{}}", pixels)
    fits = (pixels >= 0) & (pixels <= limit)
    with tf.control_dependencies([tf.debugging.Assert(fits, [message])]):
        return tf.identity(image_bytes)


def decoded(image_bytes: tf.Tensor, image_shape: ImageShape) -> tf.Tensor:
    """Decodes and resizes one image.

    Args:
        image_bytes: the bytes of a PNG, JPEG, BMP or GIF file, a scalar; of a moving GIF the first
            picture counts.
        image_shape: (height, width, channels) to bring it to; channels are 1 or 3.

    Returns:
        float32 in [0, 1] of that shape.
    """
    # Always as RGB: the decoder makes no grey image of a CMYK file.
    image = tf.io.decode_image(image_bytes, channels=3, expand_animations=False, dtype=tf.uint8)
    return resized(tf.ensure_shape(image, [None, None, 3]), image_shape)


def resized(image: tf.Tensor, image_shape: ImageShape) -> tf.Tensor:
    """Brings one image to a shape, bilinearly and without aliasing; the aspect ratio may change.

    Args:
        image: uint8, shape [H, W, 1 or 3]; the channels are known to the graph.
        image_shape: (height, width, channels) to bring it to; channels are 1 or 3.

    Returns:
        float32 in [0, 1] of that shape.
    """
    height, width, channels = image_shape
    if (image.shape[-1], channels) == (3, 1):
        image = tf.image.rgb_to_grayscale(image)
    elif (image.shape[-1], channels) == (1, 3):
        image = tf.image.grayscale_to_rgb(image)
    smooth = tf.image.resize(image, [height, width], antialias=True)
    # Rounding of the resizing may leave the box by an ulp.
    return tf.clip_by_value(scaled(smooth), 0.0, 1.0)


def scaled(pixels: tf.Tensor) -> tf.Tensor:
    """Pixels in 0-255 as float32 in [0, 1], each the float32 nearest to a 255th of it.

    In float64 on the way: the runtime turns a division by a constant into a multiplication by its
    inverse, which in float32 is another number for some pixels than a client's own division.
    """
    return tf.cast(tf.cast(pixels, tf.float64) / 255.0, tf.float32)
