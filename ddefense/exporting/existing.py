"""Taking over a version that is already there, instead of writing the same once more."""

import contextlib
import hashlib
import itertools
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from ddefense import files, networks, records
from ddefense.exporting.card import JSON
from ddefense.exporting.saved_model import NOTES, Exported, ExportError, tolerance
from ddefense.exporting.signatures import DEFAULT, UINT8
from ddefense.maths.ranges import from_unit
from ddefense.serving import checksums, runtime
from ddefense.serving.versions import versions


def adopt(network: keras.Model, base: pathlib.Path, card: records.ModelCard) -> Exported | None:
    """The newest version below `base`, if it is an export of this network with this card.

    A process that is killed after it wrote a version, and before it noted so, would write another
    when it is started again.

    Args:
        network: as it would be exported.
        base: the model's directory.
        card: of that export.

    Returns:
        The version, whose answers to its own warm-up requests have been compared with the
        network's; None if it is another, damaged, or there is none. An older version will not do:
        servers take the newest.
    """
    for path in versions(base)[-1:]:
        if is_export_of(path, card):
            compared = list(_compared(network, path, card.value_range))
            if compared and all(found <= allowed for found, allowed in compared):
                return Exported(path, max(found for found, _ in compared))
    return None


def is_export_of(path: pathlib.Path, card: records.ModelCard) -> bool:
    """Whether a version has exactly this card, its weights, and the files written with it."""
    try:
        if (path / NOTES / JSON).read_text() != records.card_json(card):
            return False
        checksums.check(path)
        check_weights(path)
    except (OSError, UnicodeDecodeError, records.RunError):
        return False
    return True


def check_weights(path: pathlib.Path) -> None:
    """Compares the weights of a version with its card; one without a card is let pass.

    Args:
        path: of a version whose files are as they were written.

    Raises:
        ExportError: if the card is about other weights.
    """
    card = path / NOTES / JSON
    if not card.exists():
        return
    try:
        expected = json.loads(card.read_text())["weights_sha256"]
        received = _weights_sha256(path)
    except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        raise ExportError(
            f"Expected to compare the weights in {path} with its model card, but one of them "
            f"cannot be read: {files.reason(error)}"
        ) from error
    if received != expected:
        raise ExportError(
            f"Expected the weights in {path} to be those of its model card, of SHA-256 {expected}; "
            f"received others, of SHA-256 {received}: its figures are about another network. Do "
            "not serve it; export it again."
        )


def _weights_sha256(path: pathlib.Path) -> str:
    """`weights_sha256` of what a version holds; `exporting.weights_of` says it of a network."""
    found = hashlib.sha256()
    checkpoint = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    types = checkpoint.get_variable_to_dtype_map()
    names = (f"_weights/{i}/.ATTRIBUTES/VARIABLE_VALUE" for i in itertools.count())
    for name in itertools.takewhile(types.__contains__, names):
        if types[name].is_floating:
            found.update(np.asarray(checkpoint.get_tensor(name), "<f4").tobytes())
    return found.hexdigest()


def _compared(
    network: keras.Model, path: pathlib.Path, value_range: tuple[float, float]
) -> Iterator[tuple[float, float]]:
    """For each warm-up request, how far a probability is from the network's, and how far it may be.

    The distance is infinite if no answer is given, and NaN where the answer is.
    """
    try:
        with contextlib.closing(runtime.SavedModel(path)) as model:
            for signature, images in _requests(path):
                answers = model.run(signature, {"images": images}, ["probabilities"])
                scale = 255 if images.dtype == np.uint8 else 1
                seen = images.astype(np.float32) / np.float32(scale)
                inside = from_unit(seen, value_range).astype(np.float32)
                expected = networks.predict(network, inside)
                difference = float(np.abs(answers["probabilities"] - expected).max())
                yield difference, tolerance(network, seen, value_range)
    except (OSError, KeyError, runtime.StatusError):
        yield math.inf, 0.0


def _requests(path: pathlib.Path) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Signature and images of the version's warm-up requests that need no decoding."""
    for record in runtime.read_records(path / runtime.WARM_UP):
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        signature = request.model_spec.signature_name
        if signature in (DEFAULT, UINT8):
            yield signature, tf.make_ndarray(request.inputs["images"])
