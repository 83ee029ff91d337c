"""Writing a self-contained, versioned SavedModel, verified before it is seen."""

import dataclasses
import errno
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense import files, networks
from ddefense.datasets.decoding import decodable
from ddefense.exporting import signatures, warm_up
from ddefense.exporting.signatures import DEFAULT, ENCODED, LABELS, LOGITS, UINT8, Contract
from ddefense.maths.ranges import from_unit
from ddefense.records import RunError
from ddefense.serving import checksums
from ddefense.serving.fresh_process import FailedError, ask
from ddefense.serving.versions import next_version
from ddefense.settings import is_range

_TOLERANCE = 1e-6
_REFERENCE_IMAGES = 8
_BISECTIONS = 30
NOTES = "assets.extra"
"""Folder of a version in which servers ignore what they do not know."""

Arrays = dict[str, Any]
"""NumPy arrays by name."""


class ExportError(RunError):
    """An export that cannot be written, or does not give the network's own answers."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """A verified SavedModel.

    Attributes:
        path: its version directory, `<base>/<version>`.
        max_difference: largest abs difference between its probabilities (and logits, if exposed),
            reloaded by TensorFlow's C++ runtime alone, and the network's.
    """

    path: pathlib.Path
    max_difference: float


def export_for_serving(
    network: keras.Model,
    base: pathlib.Path,
    *,
    class_names: tuple[str, ...] | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    expose_logits: bool = False,
    notes: Mapping[str, str | bytes] | None = None,
) -> Exported:
    """Exports a deployed network as the next version below `base`.

    The SavedModel runs in any TensorFlow runtime from 2.16 on, without Keras or this package. All
    signatures are at T = 1 and take any number of images N >= 1:

    - `serving_default`: `images`, float32 in [0, 1], shape [N, H, W, C] -> `probabilities`,
      float32, shape [N, classes], and `classes`, int64, shape [N];
    - `serving_uint8`: `images`, uint8 in 0-255 -> the same;
    - `serving_encoded`: `image_bytes`, string, shape [N], PNG or JPEG files of any size and number
      of channels, decoded and resized -> the same;
    - `serving_labels`: `image_bytes` -> `labels`, string, shape [N], and `probabilities`;
    - `logits`, if exposed: `images` as in the first -> `logits`, float32, shape [N, classes].

    Images that are out of range, not finite, of another shape or no images are refused with
    INVALID_ARGUMENT (but integers beyond uint8 are wrapped by TF Serving before they get here). A
    network of other than 1 or 3 channels has no signatures for encoded images.

    A server that watches `base` never sees half a model: the directory is written under a hidden
    name, verified there in a fresh process, and renamed.

    Args:
        network: ends in `TemperatureSoftmax` at T = 1; see `networks.with_temperature`.
        base: the model's directory; its children with integer names are versions.
        class_names: one per class, for `serving_labels`; by default the classes' indices.
        value_range: of a feature, as the network was trained; what clients send, [0, 1], is brought
            to it in the graph.
        expose_logits: adds the signature `logits`. Gradients of logits do not vanish, so who has
            them needs no trick to attack a distilled network.
        notes: contents for files in `assets.extra/`, by name; servers ignore them, people find
            them.

    Returns:
        The new version.

    Raises:
        ValueError: if the network's temperature is not 1, it does not take images of a fixed shape,
            or the class names or the range do not fit.
        ExportError: if it cannot be written, or the reloaded model disagrees with the network.
        StoppedError: if the run was asked to stop.
    """
    contract = _contract(network, class_names, value_range, expose_logits)
    served = signatures.Served(network, contract)
    path = next_version(base)
    try:
        with files.atomic_directory(path) as temporary:
            traced = served.signatures()
            inputs, expected = _reference(network, contract, list(traced))
            _write(served, traced, inputs, temporary)
            for name, content in (notes or {}).items():
                data = content.encode() if isinstance(content, str) else content
                (temporary / NOTES / name).write_bytes(data)
            allowed = tolerance(network, inputs[f"{DEFAULT}/images/0"], contract.value_range)
            difference = _verify(temporary, contract, inputs, expected, allowed)
            checksums.write(temporary)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise ExportError(
                f"Expected {path} to be free, as it was when this export began, but another one "
                "has taken it. That one is untouched; export again for the next version."
            ) from error
        raise
    return Exported(path, difference)


def check(
    network: keras.Model, class_names: tuple[str, ...], value_range: tuple[float, float]
) -> None:
    """Refuses a network that `export_for_serving` refuses, by the same errors, before any work."""
    _reference(network, _contract(network, class_names, value_range, False), [DEFAULT])


def tolerance(
    network: keras.Model, images: npt.NDArray[np.float32], value_range: tuple[float, float]
) -> float:
    """By how much probabilities may differ between two ways to run a network, rounding alone.

    float32 rounds logits in proportion to their size, and distillation at a high temperature makes
    them large. A probability moves by at most half of what each logit moves by.

    Args:
        network: ends in `TemperatureSoftmax` at T = 1.
        images: in [0, 1], shape [N, H, W, C].
        value_range: of a feature, as the network was trained.

    Returns:
        1e-6, or half of 1e-6 of the largest abs logit if that is more.
    """
    logits = networks.predict(networks.logits_of(network), from_unit(images, value_range))
    return _TOLERANCE * max(1.0, float(np.abs(logits).max()) / 2)


def _write(
    served: signatures.Served, traced: dict[str, Any], inputs: Arrays, directory: pathlib.Path
) -> None:
    try:
        tf.saved_model.save(served, str(directory), signatures=traced)
        warm_up.write(directory, _warm_up_batches(inputs))
    except (tf.errors.OpError, AssertionError) as error:
        # A full disk; or a layer that keeps a table or another resource.
        raise ExportError(
            f"Expected to write the network as a SavedModel in {directory}, but: "
            f"{files.reason(error)}"
        ) from error


def _contract(
    network: keras.Model,
    class_names: tuple[str, ...] | None,
    value_range: tuple[float, float],
    expose_logits: bool,
) -> Contract:
    temperature = networks.temperature_of(network)
    if temperature != 1.0:
        raise ValueError(
            f"Expected a network at temperature 1, as deployed; received temperature "
            f"{temperature:g}. Use `networks.with_temperature(network, 1.0)`."
        )
    shape = network.input_shape[1:]
    if len(shape) != 3 or None in shape:
        raise ValueError(
            f"Expected a network that takes images [N, H, W, C] of a fixed shape; received one "
            f"that takes {network.input_shape}. Grey images have C = 1: put a Reshape before it "
            "where the network wants them without."
        )
    num_classes = network.output_shape[-1]
    names = signatures.default_class_names(num_classes) if class_names is None else class_names
    if len(names) != num_classes or len(set(names)) < len(names) or not all(names):
        raise ValueError(
            f"Expected a name for each of the network's {num_classes} classes, none empty, all "
            f"different; received {len(names)}: {list(names)}."
        )
    low, high = value_range
    if not is_range(low, high):
        raise ValueError(
            "Expected a value range of two finite numbers, the lower first; received "
            f"{value_range}."
        )
    return Contract(tuple(shape), tuple(names), (float(low), float(high)), expose_logits)


def _reference(
    network: keras.Model, contract: Contract, wanted: list[str]
) -> tuple[Arrays, Arrays]:
    """What to ask the export, and what the network itself answers.

    Returns:
        Questions by `<signature>/<input>/<n>`, and probabilities (or logits) by `<signature>/<n>`.
        Question 0 is a batch, 1 its last image alone: rounding depends on the batch size, so like
        is compared with like.
    """
    images = _reference_images(network, contract)
    pixels = np.rint(images * 255).astype(np.uint8)
    inputs: Arrays = {}
    expected: Arrays = {}
    for i, part in enumerate([slice(None), slice(-1, None)]):
        floats, integers = images[part], pixels[part]
        # By signature: its input, what to send, and the floats that this stands for.
        asked: dict[str, tuple[str, npt.NDArray[np.generic], npt.NDArray[np.float32]]] = {
            DEFAULT: ("images", floats, floats),
            UINT8: ("images", integers, integers.astype(np.float32) / np.float32(255)),
            LOGITS: ("images", floats, floats),
        }
        if decodable(contract.image_shape[-1]):
            encoded = np.array([tf.io.encode_png(image).numpy() for image in integers])
            asked |= dict.fromkeys((ENCODED, LABELS), ("image_bytes", encoded, asked[UINT8][2]))
        for signature in wanted:
            name, question, seen = asked[signature]
            answering = networks.logits_of(network) if signature == LOGITS else network
            answer = networks.predict(answering, from_unit(seen, contract.value_range))
            try:
                # The first of them is black.
                networks.check_finite(answer, network=network)
            except ValueError as error:
                raise ExportError(f"{error}") from error
            inputs[f"{signature}/{name}/{i}"] = question
            expected[f"{signature}/{i}"] = answer
    return inputs, expected


def _reference_images(network: keras.Model, contract: Contract) -> npt.NDArray[np.float32]:
    """Images in [0, 1] to compare on, the last of which is on a decision boundary if one is found.

    A network distilled at a high temperature is certain of almost every image at T = 1. Only next
    to a boundary would a wrong temperature or slightly wrong weights show in its probabilities.
    """

    def classify(batch: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        return networks.predict(network, from_unit(batch, contract.value_range)).argmax(axis=1)

    shape = (_REFERENCE_IMAGES, *contract.image_shape)
    scales = np.linspace(0, 1, _REFERENCE_IMAGES).reshape(-1, *[1] * (len(shape) - 1))
    images = (np.random.default_rng(0).uniform(size=shape) * scales).astype(np.float32)
    classes = classify(images)
    others = np.flatnonzero(classes != classes[0])
    if not len(others):
        return images
    near, far = images[0], images[others[0]]
    for _ in range(_BISECTIONS):
        middle = (near + far) / 2
        if classify(middle[None])[0] == classes[0]:
            near = middle
        else:
            far = middle
    return np.concatenate([images, far[None]])


def _warm_up_batches(inputs: Arrays) -> dict[str, dict[str, list[tf.Tensor]]]:
    batches: dict[str, dict[str, list[tf.Tensor]]] = {}
    for key, array in inputs.items():
        signature, name, _ = key.split("/")
        batches.setdefault(signature, {}).setdefault(name, []).append(tf.constant(array))
    return batches


def _verify(
    directory: pathlib.Path,
    contract: Contract,
    inputs: Arrays,
    expected: Arrays,
    allowed: float,
) -> float:
    """Loads the export in a fresh process as TF Serving does, and compares its answers.

    Args:
        directory: of the version.
        contract: of its signatures.
        inputs: questions, by `_reference`.
        expected: the network's answers to them.
        allowed: by how much a probability may differ, by `tolerance`.

    Returns:
        The largest abs difference of a probability (or logit).
    """
    try:
        found = ask(directory, inputs)
    except FailedError as error:
        raise ExportError(
            f"Expected {directory} to load and answer in a fresh process, but: {error}"
        ) from error
    largest = 0.0
    for key, values in expected.items():
        signature, i = key.split("/")
        output, bound = "probabilities", allowed
        if signature == LOGITS:
            output, bound = "logits", _TOLERANCE * max(1.0, float(np.abs(values).max()))
        answered = found[f"{signature}/{output}/{i}"]
        difference = float(np.abs(answered - values).max())
        if not difference <= bound:  # catches NaN too
            raise ExportError(
                f"Expected the reloaded SavedModel to give the network's {output} within "
                f"{bound:.3g}, but in {signature} they differ by {difference:g}."
            )
        largest = max(largest, difference)
        if signature == LOGITS:
            continue
        if signature == LABELS:
            names = [name.encode() for name in contract.class_names]
            chosen = np.array([names.index(label) for label in found[f"{signature}/labels/{i}"]])
        else:
            chosen = found[f"{signature}/classes/{i}"]
        # Not the same class: on a boundary, rounding decides.
        lacking = values.max(axis=1) - np.take_along_axis(values, chosen[:, None], axis=1)[:, 0]
        if lacking.max() > allowed:
            raise ExportError(
                f"Expected {signature} of the reloaded SavedModel to name the most probable class, "
                f"but it named one whose probability is {lacking.max():g} less."
            )
    return largest
