"""Image files as the features that a network takes: one graph for training and for serving."""

import tensorflow as tf

from ddefense.datasets.checking import ImageShape


def decodable(channels: int) -> bool:
    """Whether image files can be brought to so many channels: grey and RGB only."""
    return channels in (1, 3)


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
