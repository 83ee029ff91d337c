"""Exports one saved network, with what is known of it."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping

import keras
import numpy as np
import numpy.typing as npt
from absl import logging

from ddefense import datasets, exporting, interruption, networks, records
from ddefense.config import ConfigError
from ddefense.experiments import environment
from ddefense.experiments.attacking_saved import LOW_ACCURACY
from ddefense.experiments.known_results import KnownResults
from ddefense.exporting import quantized

_LOGITS_WARNING = (
    "WARNING: --expose_logits: whoever can ask for logits attacks a distilled network with no "
    "trick at all. Defensive distillation makes the gradients of its probabilities vanish, and "
    "never those of its logits."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """How to export a network.

    Attributes:
        network: a `.keras` file.
        base: the model's directory, to which a version is added.
        class_names: one per class; None for those of the results or of the dataset, else indices.
        value_range: of a feature, as the network was trained; None for that of the results or of
            the dataset, else [0, 1].
        expose_logits: whether clients may ask for logits.
        results: about the network, if there are any.
        dataset: to measure on, if any: one of `datasets.NAMES`.
        data_dir: folder of prepared TFDS data.
        quantize: whether to add an 8-bit TFLite file, calibrated and measured on the dataset.
    """

    network: pathlib.Path
    base: pathlib.Path
    class_names: tuple[str, ...] | None = None
    value_range: tuple[float, float] | None = None
    expose_logits: bool = False
    results: KnownResults | None = None
    dataset: str | None = None
    data_dir: pathlib.Path | None = None
    quantize: bool = False


@dataclasses.dataclass(frozen=True)
class Done:
    """A network exported.

    Attributes:
        exported: the version.
        card: of the network.
        test_accuracy: of the network on the test set, a share: measured now if there was a dataset,
            else by the run that trained it; None if neither.
    """

    exported: exporting.Exported
    card: records.ModelCard
    test_accuracy: float | None


def run(asked: Export) -> Done:
    """Exports a saved network as the next version of a model, at T = 1 whatever it was saved at.

    Returns:
        What was exported.

    Raises:
        ConfigError: if the network cannot be exported so, or what else was given does not fit it.
        RunError: if the export cannot go on; the message says why.
        StoppedError: if the run was asked to stop.
    """
    network = _load(asked.network)
    if asked.results is not None:
        _check_weights(network, asked.network, asked.results)
    dataset = None
    if asked.dataset is not None:
        dataset = datasets.load(asked.dataset, data_dir=asked.data_dir)
        _check_fits(network, dataset)
    class_names = _class_names(asked, network, dataset)
    value_range = _value_range(asked, dataset)
    logging.info(
        "classes %s; clients send features in [0, 1], which the network gets in [%g, %g]",
        ", ".join(class_names),
        *value_range,
    )
    if asked.expose_logits:
        logging.warning("%s", _LOGITS_WARNING)
    interruption.check()
    card = _card(network, asked, class_names, value_range)
    accuracy = None if card.measured is None else card.measured.test_accuracy
    files: dict[str, bytes] = {}
    if dataset is not None:
        accuracy = measured = _accuracy(network, dataset, value_range)
        if asked.quantize:
            content, record = _quantize(network, asked.base.name, dataset, value_range, measured)
            files[record.name] = content
            card = dataclasses.replace(card, extra_files=[record])
    interruption.check()
    notes: Mapping[str, str | bytes] = {**exporting.notes(card), **files}
    try:
        exported = exporting.export_for_serving(
            network,
            asked.base,
            class_names=class_names,
            value_range=value_range,
            expose_logits=asked.expose_logits,
            notes=notes,
        )
    except ValueError as error:
        raise ConfigError(f"network: {asked.network}: {error}") from error
    return Done(exported, card, accuracy)


def _load(path: pathlib.Path) -> keras.Model:
    """The deployed network, and a line on the temperature if that changes what it answers."""
    try:
        saved = networks.load(path)
    except ValueError as error:
        raise ConfigError(f"network{str(error).removeprefix('path')}") from error
    try:
        deployed = networks.deployed(saved)
    except ValueError as error:
        raise ConfigError(f"network: {path}: {error}") from error
    try:
        temperature = networks.temperature_of(saved)
    except ValueError:  # an ordinary softmax, or none
        return deployed
    if temperature != 1.0:
        logging.info("%s is saved at T = %g; exported at T = 1, as deployed", path, temperature)
    return deployed


def _check_weights(network: keras.Model, path: pathlib.Path, known: KnownResults) -> None:
    """Refuses results of a network with other weights."""
    if path.samefile(known.network):
        return
    received, expected = (
        [keras.ops.convert_to_numpy(variable) for variable in networks.logits_of(model).weights]
        for model in (network, _load(known.network))
    )
    if len(received) != len(expected) or not all(map(np.array_equal, received, expected)):
        raise ConfigError(
            f"results: expected results about the weights of {path}; {known.path} is about those "
            f"of {known.network}, which are others. Give the results of this network, or none."
        )


def _check_fits(network: keras.Model, dataset: datasets.Dataset) -> None:
    expected = (dataset.image_shape, dataset.num_classes)
    received = (tuple(network.input_shape[1:]), network.output_shape[-1])
    if received != expected:
        raise ConfigError(
            f"dataset: expected one that the network was trained on, with images of shape "
            f"{received[0]} and {received[1]} classes; received {dataset.name}, with {expected[0]} "
            f"and {expected[1]}."
        )


def _class_names(
    asked: Export, network: keras.Model, dataset: datasets.Dataset | None
) -> tuple[str, ...]:
    num_classes = network.output_shape[-1]
    names = asked.class_names
    if names is None and asked.results is not None:
        names = tuple(asked.results.results.dataset.class_names)
    if names is None and dataset is not None:
        names = dataset.class_names
    if names is None:
        return tuple(str(i) for i in range(num_classes))
    if len(names) != num_classes:
        raise ConfigError(
            f"class_names: expected one name for each of the network's {num_classes} classes; "
            f"received {len(names)}: {', '.join(names)}."
        )
    return names


def _value_range(asked: Export, dataset: datasets.Dataset | None) -> tuple[float, float]:
    if asked.results is not None:
        known = asked.results.results.dataset.value_range
        if asked.value_range not in (None, known):
            raise ConfigError(
                f"value_range: expected {known[0]:g},{known[1]:g}, on which the network was "
                f"trained by {asked.results.path}; received "
                f"{','.join(f'{end:g}' for end in asked.value_range or ())}."
            )
        return known
    if asked.value_range is not None:
        return asked.value_range
    return (0.0, 1.0) if dataset is None else dataset.value_range


def _card(
    network: keras.Model,
    asked: Export,
    class_names: tuple[str, ...],
    value_range: tuple[float, float],
) -> records.ModelCard:
    known = asked.results
    try:
        return exporting.card_of(
            network,
            name=asked.base.name if known is None else known.name,
            environment=environment.describe(),
            findings=None if known is None else exporting.findings_in(known.results, known.name),
            class_names=class_names,
            value_range=value_range,
            expose_logits=asked.expose_logits,
            keras_file=asked.network,
        )
    except ValueError as error:
        raise ConfigError(f"results: {error}") from error


def _seen(
    images: npt.NDArray[np.float32], dataset: datasets.Dataset, value_range: tuple[float, float]
) -> npt.NDArray[np.float32]:
    """Images of a dataset in the range that the network was trained on."""
    if dataset.value_range == value_range:
        return images
    (low, high), (lowest, highest) = value_range, dataset.value_range
    shares = (images - lowest) / (highest - lowest)
    return (low + shares * (high - low)).astype(np.float32)


def _accuracy(
    network: keras.Model, dataset: datasets.Dataset, value_range: tuple[float, float]
) -> float:
    answers = networks.predict(network, _seen(dataset.test.images, dataset, value_range))
    accuracy = float((answers.argmax(axis=1) == dataset.test.labels).mean())
    if accuracy < LOW_ACCURACY:
        logging.warning(
            "WARNING: the network gets only %.2f %% of the test images of %s right. Was it trained "
            "on another dataset? Does it expect features in another --value_range than %g,%g?",
            100 * accuracy,
            dataset.name,
            *value_range,
        )
    return accuracy


def _quantize(
    network: keras.Model,
    name: str,
    dataset: datasets.Dataset,
    value_range: tuple[float, float],
    float_accuracy: float,
) -> tuple[bytes, records.ExtraFileRecord]:
    """The TFLite file, and its entry on the card."""
    content = quantized.convert(
        network, _seen(dataset.train.images, dataset, value_range), value_range=value_range
    )
    low, high = dataset.value_range
    pixels = np.rint((dataset.test.images - low) / (high - low) * 255).astype(np.uint8)
    right = quantized.predict(content, pixels).argmax(axis=1) == dataset.test.labels
    record = records.ExtraFileRecord(
        name=f"{name}_int8.tflite",
        content=(
            "TFLite in 8-bit integers: images as uint8 0-255 -> probabilities as uint8, in units "
            f"of 1/256; the network itself gets {100 * float_accuracy:.2f} % of the same "
            f"{len(right)} test images of {dataset.name} right"
        ),
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        test_accuracy=float(right.mean()),
    )
    return content, record
