"""Exports one saved network, with what is known of it."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import numpy.typing as npt
from absl import logging

from ddefense import datasets, exporting, interruption, networks, records
from ddefense.experiments import environment
from ddefense.experiments.dataset_record import dataset_record
from ddefense.experiments.evaluating import LOW_ACCURACY
from ddefense.experiments.known_results import Known, KnownDistillation, KnownResults
from ddefense.exporting import quantized, scaling, signatures
from ddefense.maths.ranges import from_unit, to_unit
from ddefense.settings import ConfigError

_LOGITS_WARNING = (
    "WARNING: --expose_logits: whoever can ask for logits attacks a distilled network with no "
    "trick at all. Defensive distillation makes the gradients of its probabilities vanish, and "
    "never those of its logits."
)
_OTHER_RESULTS = (
    "Give the results of this network, or none (a network outside a run's networks/ has none)."
)
_BY_NAME = (
    "The results hold no digest of the weights that were measured: they are taken to be about this "
    "network by its name."
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
    results: Known | None = None
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
        range_given: whether the range that the network was trained on was given, and not assumed.
    """

    exported: exporting.Exported
    card: records.ModelCard
    test_accuracy: float | None
    range_given: bool


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
    caveats = _check_weights(network, asked.network, asked.results)
    told = _told(asked.results)
    dataset = _dataset(network, asked, outlier_class=told.outlier_class)
    class_names = _class_names(asked, network, told.class_names, dataset)
    value_range = _value_range(asked, told.dataset, dataset)
    range_given = value_range is not None
    if value_range is None:
        value_range = (0.0, 1.0)
        caveats.append(_assumed_range(network))
    try:
        exporting.check(network, class_names, value_range)
    except (ValueError, exporting.ExportError) as error:
        raise ConfigError("network", f"{asked.network}: {error}") from error
    logging.info("exporting %s as the next version of %s", asked.network, asked.base)
    if asked.results is not None:
        logging.info("results about it: %s", asked.results.path)
    logging.info(
        "classes %s; clients send features in [0, 1], which the network gets in [%g, %g]",
        ", ".join(class_names),
        *value_range,
    )
    if asked.expose_logits:
        logging.warning("%s", _LOGITS_WARNING)
    interruption.check()
    measured = None if dataset is None else _accuracy(network, dataset, value_range)
    findings = _findings(asked, told, dataset, measured, caveats)
    card = _card(network, asked, findings, class_names, value_range)
    accuracy = measured
    if accuracy is None and card.measured is not None:
        accuracy = card.measured.test_accuracy
    files: dict[str, bytes] = {}
    if dataset is not None and measured is not None and asked.quantize:
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
        raise ConfigError("network", f"{asked.network}: {error}") from error
    return Done(exported, card, accuracy, range_given)


def _load(path: pathlib.Path) -> keras.Model:
    """The deployed network, and a line on the temperature if that changes what it answers."""
    saved = networks.load(path, "network")
    try:
        deployed = networks.deployed(saved)
    except ValueError as error:
        raise ConfigError("network", f"{path}: {error}") from error
    try:
        temperature = networks.temperature_of(saved)
    except ValueError:  # an ordinary softmax, or none
        return deployed
    if temperature != 1.0:
        logging.info("%s is saved at T = %g; exported at T = 1, as deployed", path, temperature)
    return deployed


def _check_weights(network: keras.Model, path: pathlib.Path, known: Known | None) -> list[str]:
    """Refuses results of a network with other weights; what remains to be said of them."""
    if known is None:
        return []
    if isinstance(known, KnownDistillation) or known.weights_sha256 is not None:
        if exporting.weights_of(network)[1] != known.weights_sha256:
            raise ConfigError(
                "results",
                f"expected results about the weights of {path}; {known.path} is about a "
                f"{known.name} with others, of another SHA-256. {_OTHER_RESULTS}",
            )
        return []
    if not path.samefile(known.network):
        received, expected = (
            [keras.ops.convert_to_numpy(variable) for variable in networks.logits_of(model).weights]
            for model in (network, _load(known.network))
        )
        if len(received) != len(expected) or not all(map(np.array_equal, received, expected)):
            raise ConfigError(
                "results",
                f"expected results about the weights of {path}; {known.path} is about "
                f"those of {known.network}, which are others. {_OTHER_RESULTS}",
            )
    logging.info(
        "%s holds no digest of the weights: it is taken to be about this network by its name, %s",
        known.path,
        known.name,
    )
    return [_BY_NAME]


def _told(known: Known | None) -> exporting.Findings:
    """What results say of a network."""
    if isinstance(known, KnownResults):
        return exporting.findings_in(known.results, known.name)
    if isinstance(known, KnownDistillation):
        return _distilled(known)
    return exporting.Findings()


def _distilled(known: KnownDistillation) -> exporting.Findings:
    record, trained = known.record, known.trained
    distilled = known.name == "distilled"
    outlier_class = distilled and record.method == "extended"
    measured = None
    if trained.test_accuracy is not None:
        measured = _accuracy_alone(trained.test_accuracy)
    return exporting.Findings(
        defense="distillation" if distilled else "none",
        temperature=trained.training.temperature,
        dataset=record.dataset,
        training=trained.training,
        seed=record.settings["seed"],
        measured=measured,
        environment=record.environment,
        caveats=(exporting.REFUSES,) if outlier_class else (),
        outlier_class=outlier_class,
        weights_sha256=trained.weights_sha256,
    )


def _accuracy_alone(accuracy: float) -> records.MeasuredRecord:
    return records.MeasuredRecord(test_accuracy=accuracy, attacks={}, transfer=[])


def _dataset(
    network: keras.Model, asked: Export, *, outlier_class: bool
) -> datasets.Dataset | None:
    """What is measured on, if anything."""
    if asked.dataset is None:
        return None
    dataset = datasets.load(asked.dataset, data_dir=asked.data_dir)
    _check_fits(network, dataset, outlier_class=outlier_class)
    return dataset


def _check_fits(network: keras.Model, dataset: datasets.Dataset, *, outlier_class: bool) -> None:
    expected = (dataset.image_shape, dataset.num_classes + outlier_class)
    received = (tuple(network.input_shape[1:]), network.output_shape[-1])
    if received != expected:
        raise ConfigError(
            "dataset",
            f"expected one that the network was trained on, with images of shape "
            f"{received[0]} and {received[1]} classes; received {dataset.name}, with {expected[0]} "
            f"and {expected[1]}.",
        )


def _class_names(
    asked: Export,
    network: keras.Model,
    told: tuple[str, ...] | None,
    dataset: datasets.Dataset | None,
) -> tuple[str, ...]:
    num_classes = network.output_shape[-1]
    names = told if asked.class_names is None else asked.class_names
    if names is None and dataset is not None:
        names = dataset.class_names
    if names is None:
        return tuple(signatures.default_class_names(num_classes))
    if len(names) != num_classes:
        raise ConfigError(
            "class_names",
            f"expected one name for each of the network's {num_classes} classes; "
            f"received {len(names)}: {', '.join(names)}.",
        )
    return names


def _value_range(
    asked: Export, told: records.DatasetRecord | None, dataset: datasets.Dataset | None
) -> tuple[float, float] | None:
    """The range that the network was trained on; None if nobody says."""
    used = None if dataset is None else dataset.value_range
    if told is not None:
        used = told.value_range
    if asked.results is not None and used is not None and asked.value_range not in (None, used):
        raise ConfigError(
            "value_range",
            f"expected {used[0]:g},{used[1]:g}, with which the network was measured "
            f"in {asked.results.path}; received "
            f"{','.join(f'{end:g}' for end in asked.value_range or ())}.",
        )
    return used if asked.value_range is None else asked.value_range


def _assumed_range(network: keras.Model) -> str:
    """What the card says of a range that was not given; a warning where it is likely wrong."""
    caveat = "The range of the features that it was trained on was not given; [0, 1] was assumed"
    layer = scaling.wide_input_layer(network)
    if layer is None:
        return f"{caveat}."
    logging.warning(
        "WARNING: the network's layer %r scales features as of a wider range than [0, 1], such as "
        "0-255, and no --value_range says which: the network gets [0, 1], and its answers are "
        "probably wrong. Give the range that it was trained on, such as --value_range=0,255.",
        layer,
    )
    return f"{caveat}, though its layer `{layer}` looks made for a wider range."


def _findings(
    asked: Export,
    told: exporting.Findings,
    dataset: datasets.Dataset | None,
    accuracy: float | None,
    caveats: Sequence[str],
) -> exporting.Findings:
    """What is known of the network: from its results, or measured now."""
    known = asked.results
    if told.dataset is not None:
        findings = told
    elif dataset is None or accuracy is None:
        return exporting.Findings(caveats=caveats)
    else:
        # How the network standardises its features, if at all, is not known.
        described = dataclasses.replace(dataset_record(dataset), standardized_range=None)
        findings = dataclasses.replace(_measured_now(accuracy), dataset=described)
    if known is not None and dataset is not None and accuracy is not None:
        _check_accuracy(findings, known, dataset, accuracy)
    return dataclasses.replace(findings, caveats=[*findings.caveats, *caveats])


def _measured_now(accuracy: float) -> exporting.Findings:
    return exporting.Findings(
        measured=_accuracy_alone(accuracy), environment=environment.describe()
    )


def _check_accuracy(
    findings: exporting.Findings, known: Known, dataset: datasets.Dataset, accuracy: float
) -> None:
    """Refuses results with another accuracy than the network has now."""
    recorded = accuracy if findings.measured is None else findings.measured.test_accuracy
    # Other hardware rounds otherwise, by which an image on a boundary may change sides.
    if round(abs(accuracy - recorded) * len(dataset.test)) > 1:
        raise ConfigError(
            "results",
            f"expected the accuracy that the network has, {100 * accuracy:.2f} % of the "
            f"test images of {dataset.name}; {known.path} says {100 * recorded:.2f} %, so it is "
            f"about other weights. {_OTHER_RESULTS}",
        )


def _card(
    network: keras.Model,
    asked: Export,
    findings: exporting.Findings,
    class_names: tuple[str, ...],
    value_range: tuple[float, float],
) -> records.ModelCard:
    known = asked.results
    try:
        return exporting.card_of(
            network,
            name=known.name if isinstance(known, KnownResults) else asked.base.name,
            environment=environment.describe(),
            findings=findings,
            class_names=class_names,
            value_range=value_range,
            expose_logits=asked.expose_logits,
            keras_file=asked.network,
        )
    except ValueError as error:
        raise ConfigError("results", f"{error}") from error


def _seen(
    images: npt.NDArray[np.float32], dataset: datasets.Dataset, value_range: tuple[float, float]
) -> npt.NDArray[np.float32]:
    """Images of a dataset in the range that the network was trained on."""
    if dataset.value_range == value_range:
        return images
    seen: npt.NDArray[np.float32] = from_unit(to_unit(images, dataset.value_range), value_range)
    return seen.astype(np.float32)


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
    pixels = np.rint(to_unit(dataset.test.images, dataset.value_range) * 255).astype(np.uint8)
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
