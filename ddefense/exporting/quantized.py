"""A network in 8-bit integers, as a TFLite file for small devices, and its own accuracy."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense import files, interruption, networks
from ddefense.maths.ranges import from_unit, to_unit
from ddefense.records import RunError

Images = npt.NDArray[np.float32]

CALIBRATION_IMAGES = 200
"""Training images from which the ranges of the activations are taken; more changed nothing."""

_BATCH = 256


class QuantizationError(RunError):
    """A network that TFLite does not convert as promised."""


def convert(
    network: keras.Model, calibration: Images, *, value_range: tuple[float, float] = (0.0, 1.0)
) -> bytes:
    """Converts a deployed network to integers only.

    Weights are int8 with a scale per channel, activations int8 with a scale per tensor (Jacob et
    al. 2018, as TFLite does it); input and output are uint8.

    Args:
        network: images -> probabilities at T = 1, with a layer named `logits`.
        calibration: images like those that it will see, such as its training images, in
            `value_range`; `CALIBRATION_IMAGES` of them are used, evenly spaced.
        value_range: of a feature, as the network was trained; the file takes pixels whatever it is.

    Returns:
        A TFLite file. It takes `images`, uint8 in 0-255, shape [1, H, W, C], and gives
        probabilities as uint8 in units of 1/256, shape [1, classes]. For N images at once, resize
        its input.

    Raises:
        QuantizationError: if TFLite cannot convert the network.
    """
    logits_network = networks.logits_of(network)
    shape = [None, *network.input_shape[1:]]

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="images")])
    def serve(images: tf.Tensor) -> tf.Tensor:
        inside = from_unit(images, value_range)
        return tf.nn.softmax(tf.cast(logits_network(inside, training=False), tf.float32))

    module = tf.Module()
    module.serve = serve
    # TFLite saves and loads what it converts, and only what a module tracks comes along.
    module.tracked = [variable.value for variable in logits_network.variables]
    places = np.linspace(0, len(calibration) - 1, min(len(calibration), CALIBRATION_IMAGES))
    seen = to_unit(calibration[places.astype(int)], value_range).astype(np.float32)
    # The file's input gets scale and offset from the values seen. With both ends among them it
    # takes 0-255 as they come.
    seen[0, 0, 0, 0], seen[0, -1, -1, -1] = 0.0, 1.0
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [serve.get_concrete_function()], module
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in seen)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    try:
        with _quiet():
            content: bytes = converter.convert()
    except Exception as error:  # among others a class of its own that is not public
        raise QuantizationError(
            "Expected a network that TFLite can convert to 8-bit integers; it says: "
            f"{files.reason(error)}. Leave out --quantize."
        ) from error
    return content


def predict(content: bytes, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """What a quantized network answers, by the TFLite interpreter.

    Args:
        content: of the file.
        images: uint8 in 0-255, shape [N, H, W, C].

    Returns:
        Probabilities in units of 1/256, shape [N, classes].
    """
    with _quiet():
        # Without delegates: the reference kernels are the same on every machine.
        interpreter = tf.lite.Interpreter(
            model_content=content,
            experimental_op_resolver_type=(
                tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            ),
        )
        answers = []
        for start in range(0, len(images), _BATCH):
            interruption.check()
            answers.append(_answer(interpreter, images[start : start + _BATCH]))
    return np.concatenate(answers)


def _answer(interpreter: Any, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    asked, answered = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    if tuple(asked["shape"]) != batch.shape:
        interpreter.resize_tensor_input(asked["index"], batch.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(asked["index"], batch)
    interpreter.invoke()
    answer: npt.NDArray[np.uint8] = interpreter.get_tensor(answered["index"])
    return answer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what TFLite prints, and its notice that the interpreter will move to a new package."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
