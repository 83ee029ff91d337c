"""Classifiers of other makers: a SavedModel as attacks and measurements take networks.

A SavedModel is a program. Loading one runs its initialisers, calling it the graph of one signature,
and no Python code; but a graph may hold any operation, those that read and write files among them.
Attack only what you would run.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense.attacks.input_gradient import gradient_of
from ddefense.maths.ranges import from_unit
from ddefense.networks import check_finite
from ddefense.records import SavedModelRecord
from ddefense.settings import ConfigError

DEFAULT_SIGNATURE = "serving_default"

ImageShape = tuple[int, int, int]
Arrays = dict[str, npt.NDArray[Any]]

# Rounding of a float32 softmax over many classes, and room to spare.
_SUM_TOLERANCE = 1e-3
_NOISE_IMAGES = 8
_MAX_CAUSE = 300
"""Characters of TensorFlow's own message, which may hold a trace of the whole graph."""


@dataclasses.dataclass(frozen=True)
class Signature:
    """A signature of a loaded SavedModel that takes images and nothing else.

    Attributes:
        name: its name.
        input: name of its input.
        shape: declared of the input, [N, height, width, channels]; None for what is not said.
        dtype: of the input.
        function: images by the input's name -> outputs by name.
        model: what was loaded, which keeps the variables.
    """

    name: str
    input: str
    shape: tuple[int | None, ...]
    dtype: tf.DType
    function: Any
    model: Any

    @property
    def image_shape(self) -> ImageShape | None:
        """(height, width, channels); None unless all of them are declared."""
        height, width, channels = self.shape[1:]
        if height is None or width is None or channels is None:
            return None
        return height, width, channels

    @property
    def num_classes(self) -> int | None:
        """Classes that the outputs of shape [N, classes] declare; None unless all agree."""
        declared = {
            spec.shape[1]
            for spec in self.function.structured_outputs.values()
            if spec.dtype.is_floating and spec.shape.rank == 2
        }
        return declared.pop() if len(declared) == 1 else None

    def __call__(self, images: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """Its outputs by name, on images in the range that the model takes."""
        return self.function(**{self.input: tf.cast(images, self.dtype)})


def load_signature(path: pathlib.Path, name: str = DEFAULT_SIGNATURE) -> Signature:
    """Loads a SavedModel for one of its signatures.

    Args:
        path: the folder with `saved_model.pb`.
        name: of the signature.

    Returns:
        The signature.

    Raises:
        ConfigError: if there is no SavedModel that TensorFlow can load, or it has no signature of
            that name which takes a batch of floating-point images alone; the message names what
            there is.
    """
    with _explained(f"model: expected a SavedModel that TensorFlow can load, received {path}"):
        model = tf.saved_model.load(str(path))
    signatures = getattr(model, "signatures", {})
    if name not in signatures:
        raise ConfigError(
            "signature",
            f"expected one of {sorted(signatures)}, the signatures of {path}; received {name!r}.",
        )
    function = signatures[name]
    inputs: dict[str, tf.TensorSpec] = function.structured_input_signature[1]
    images = [key for key, spec in inputs.items() if _takes_images(spec)]
    if len(inputs) != 1 or not images:
        raise ConfigError(
            "signature",
            "expected one with a single input, floating-point images of shape "
            f"[N, height, width, channels]; received {name!r} of {path}, which takes "
            f"{_listed(inputs)}. Its signatures are {sorted(signatures)}.",
        )
    spec = inputs[images[0]]
    shape = (None,) * 4 if spec.shape.rank is None else tuple(spec.shape)
    return Signature(name, images[0], shape, spec.dtype, function, model)


def describe(
    signature: Signature,
    *,
    image_shape: ImageShape,
    num_classes: int,
    value_range: tuple[float, float] = (0.0, 1.0),
    logits_output: str | None = None,
    probabilities_output: str | None = None,
) -> SavedModelRecord:
    """Finds the output to attack, by trying the signature on noise, and whether it has gradients.

    Args:
        signature: of a loaded SavedModel.
        image_shape: (height, width, channels) of the images.
        num_classes: of the data.
        value_range: smallest and largest value of a feature, as the model takes it.
        logits_output: name of the output that is logits; None for a model that gives
            probabilities.
        probabilities_output: name of the output that is probabilities; None for the only one.

    Returns:
        How the model is run. A gradient that is zero everywhere is one: whether it tells anything
        is for the check for zero gradients to say.

    Raises:
        ConfigError: if the signature does not take such images, or has no such output, or several;
            the message names those there are.
    """
    if not _fits(signature.shape[1:], image_shape):
        raise ConfigError(
            "model",
            f"expected a signature for images of shape {image_shape}; {signature.name!r} "
            f"takes {signature.shape[1:]}.",
        )
    record = SavedModelRecord(
        signature=signature.name,
        input=signature.input,
        output="",
        outputs="probabilities" if logits_output is None else "logits",
        image_shape=image_shape,
        num_classes=num_classes,
        value_range=value_range,
    )
    found = _outputs_on_noise(signature, record)
    classes = {name: rows for name, rows in found.items() if _is_of_classes(rows, num_classes)}
    if not classes:
        raise ConfigError(
            "model",
            f"expected an output of shape [N, {num_classes}], a number for each class of "
            f"the data; {signature.name!r} gives {_listed(found)}.",
        )
    if logits_output is not None:
        output = _named("logits_output", logits_output, classes)
        _expect_logits(output, classes[output])
    else:
        output = _probabilities(probabilities_output, classes)
    record = dataclasses.replace(record, output=output)
    return dataclasses.replace(record, no_gradients=_why_no_gradients(signature, record))


def network_of(signature: Signature, record: SavedModelRecord) -> keras.Model:
    """A loaded signature as a network.

    Args:
        signature: that the record is about.
        record: how it is run.

    Returns:
        A model images in [0, 1], shape [N, H, W, C] -> float32 logits or probabilities, as the
        record says, shape [N, classes]. It cannot be saved, and has no weights of its own.
    """
    images = keras.Input(record.image_shape, name="images")
    return keras.Model(images, _Served(signature, record)(images), name="saved_model")


class _Served(keras.layers.Layer):
    """Calls a signature.

    Args:
        signature: of a loaded SavedModel.
        record: how it is run.
    """

    def __init__(self, signature: Signature, record: SavedModelRecord) -> None:
        super().__init__(name="signature", dtype="float32", trainable=False)
        self._signature, self._record = signature, record

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Images in [0, 1] -> outputs."""
        batch_size = self._signature.shape[0]
        if batch_size is None:
            return self._outputs(images)
        # As many batches as it takes, the last one filled up with the first image.
        count = tf.shape(images)[0]
        filling = tf.repeat(images[:1], -count % batch_size, axis=0)
        batches = tf.reshape(
            tf.concat([images, filling], axis=0), [-1, batch_size, *self._record.image_shape]
        )
        outputs = tf.map_fn(
            self._outputs,
            batches,
            fn_output_signature=tf.TensorSpec([batch_size, self._record.num_classes], tf.float32),
        )
        return tf.reshape(outputs, [-1, self._record.num_classes])[:count]

    def _outputs(self, images: tf.Tensor) -> tf.Tensor:
        found = self._signature(from_unit(images, self._record.value_range))
        outputs = tf.cast(found[self._record.output], tf.float32)
        return tf.ensure_shape(outputs, [None, self._record.num_classes])

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        """[N, classes]."""
        return input_shape[0], self._record.num_classes


@contextlib.contextmanager
def _explained(message: str) -> Iterator[None]:
    """What TensorFlow raises in the block, which can be anything, as one line.

    Raises:
        ConfigError: with the message and the cause.
    """
    try:
        yield
    except Exception as error:
        raise ConfigError(message, f"{_cause(error)}.") from error


def _cause(error: Exception) -> str:
    """The line of TensorFlow's message that says what was wrong."""
    lines = [line.strip() for line in str(error).splitlines()]
    # Of a graph the cause comes last, but for the place where it happened.
    telling = [line for line in lines if line and not line.startswith("[[")]
    of_graph = bool(telling) and telling[0].startswith("Graph execution error")
    found = telling[-1 if of_graph else 0] if telling else type(error).__name__
    return found[:_MAX_CAUSE].rstrip(".: ")


def _takes_images(spec: Any) -> bool:
    rank = spec.shape.rank
    return bool(spec.dtype.is_floating and rank in (None, 4))


def _listed(tensors: Mapping[str, Any]) -> str:
    """Names of tensors with type and shape, as `images (float32, [None, 28, 28, 1])`."""
    return ", ".join(
        f"{name} ({getattr(tensor.dtype, 'name', tensor.dtype)}, {_shape_text(tensor.shape)})"
        for name, tensor in tensors.items()
    )


def _shape_text(shape: Any) -> str:
    unknown = isinstance(shape, tf.TensorShape) and shape.rank is None
    return "any shape" if unknown else f"{list(shape)}"


def _fits(declared: tuple[int | None, ...], received: ImageShape) -> bool:
    return all(size in (None, got) for size, got in zip(declared, received, strict=True))


def _noise(record: SavedModelRecord, count: int) -> tf.Tensor:
    """Images in [0, 1]."""
    rng = np.random.default_rng(0)
    return tf.constant(rng.uniform(size=(count, *record.image_shape)), tf.float32)


def _outputs_on_noise(signature: Signature, record: SavedModelRecord) -> Arrays:
    """The signature's floating-point outputs on random images, those of a row each."""
    low, high = record.value_range
    count = signature.shape[0] or _NOISE_IMAGES
    images = _noise(record, count)
    with _explained(
        f"model: expected {signature.name!r} to take images of shape {record.image_shape} in "
        f"[{low:g}, {high:g}] (value_range says of another range); it failed"
    ):
        found = signature(from_unit(images, record.value_range))
        return {name: np.asarray(values) for name, values in found.items()}


def _is_of_classes(rows: npt.NDArray[Any], num_classes: int) -> bool:
    floating = tf.as_dtype(rows.dtype).is_floating
    return bool(floating and rows.ndim == 2 and rows.shape[1] == num_classes)


def _named(flag: str, name: str, classes: Arrays) -> str:
    """The name of an output, if it is one of those with a number for each class."""
    if name not in classes:
        raise ConfigError(
            flag,
            f"expected one of {sorted(classes)}, the outputs with a number for each class; "
            f"received {name!r}.",
        )
    return name


def _check_finite(flag: str, name: str, rows: npt.NDArray[Any]) -> None:
    try:
        check_finite(rows)
    except ValueError as error:
        raise ConfigError(flag, f"{name}: {error}") from error


def _expect_logits(name: str, rows: npt.NDArray[Any]) -> None:
    _check_finite("logits_output", name, rows)
    if _are_probabilities(rows):
        raise ConfigError(
            "logits_output",
            f"expected logits; received {name!r}, whose rows are >= 0 and sum to 1: "
            "these are probabilities. Leave logits_output out.",
        )


def _probabilities(asked: str | None, classes: Arrays) -> str:
    """The name of the output that is probabilities."""
    found = [name for name, rows in classes.items() if _are_probabilities(rows)]
    if asked is not None:
        name = _named("probabilities_output", asked, classes)
        if name in found:
            return name
    elif len(found) == 1:
        return found[0]
    elif found:
        raise ConfigError(
            "probabilities_output",
            f"expected one of {sorted(found)}, all of which are probabilities; received none.",
        )
    names = sorted(classes) if asked is None else [asked]
    for name in names:
        _check_finite("model", name, classes[name])
    raise ConfigError(
        "model",
        f"expected probabilities in {' or '.join(names)}, but rows are negative or do not "
        "sum to 1. If these are logits, say so: logits_output with the name.",
    )


def _are_probabilities(rows: npt.NDArray[Any]) -> bool:
    sums = rows.astype(np.float64).sum(axis=1)
    return bool(np.all(rows >= 0) and np.all(np.abs(sums - 1) <= _SUM_TOLERANCE))


def _why_no_gradients(signature: Signature, record: SavedModelRecord) -> str:
    """Why no gradient can be taken through a model; empty where one can, be it all zero."""
    images = _noise(record, _NOISE_IMAGES)
    try:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            # Not as a layer, in whose errors Keras puts its own words first.
            first = tf.reduce_sum(_Served(signature, record).call(images)[:, 0])
        gradient_of(tape, first, images)
    except Exception as error:  # an operation that refuses its gradient fails in any way
        return f"{type(error).__name__}: {_cause(error)}"
    return ""
