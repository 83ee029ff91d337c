"""Model cards: what is known of a network, gathered for those who find its export."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from ddefense import evidence, files, measurements, records
from ddefense.datasets.decoding import decodable
from ddefense.exporting import signatures
from ddefense.exporting.card_text import markdown
from ddefense.networks import logits_of

JSON, MARKDOWN = "model_card.json", "MODEL_CARD.md"
"""File names of a card's two forms."""
WARNINGS: dict[records.Defense, str] = {
    "none": (
        "Nothing defends this network: small perturbations of an image, made for it, change its "
        "class. Do not rely on its answers where somebody may choose the image."
    ),
    "distillation": (
        "Defensive distillation has been broken since 2016: adaptive attacks succeed against it "
        "(Carlini and Wagner 2016, 2017). Do not rely on it."
    ),
    "adversarial_training": (
        "Adversarial training resists the perturbations that it was trained on, and these to the "
        "degree measured. Do not rely on it against others."
    ),
    "unknown": (
        "Whether anything defends this network is not known. Do not rely on it to resist "
        "perturbations that were made to change its class."
    ),
}
"""What a defence is worth."""
DID_NOT_LEARN = (
    "This network did not learn: its accuracy is that of guessing, or less than half of what the "
    "undistilled network reaches, so nothing measured on it is evidence for or against a defence."
)
"""Stands before that of a network which did not learn, or was distilled from one."""
OUTLIER = "outlier"
"""Name of the class by which a network refuses images."""
REFUSES = "Its last class is none of the data's: an image that gets it is refused."
"""Caveat of a network with such a class."""
OF_OTHERS = "the distilled networks of its run, not this one"
"""To whom the verdict of a run applies, on the card of a network that was not distilled."""

_TRAINED: dict[records.Defense, str] = {
    "none": "trained without a defence (undistilled)",
    "distillation": "trained by defensive distillation",
    "adversarial_training": "trained adversarially, on images that PGD perturbed",
    "unknown": "how it was trained is not known",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """What is known of a network beside its weights. By default nothing is.

    Attributes:
        defense: how it is meant to resist.
        temperature: T it was trained at.
        dataset: what it was measured on, and trained on where `training` is known.
        training: how its training went.
        seed: of its training.
        measured: what was measured on it.
        initial_accuracy: test accuracy of the network that it was distilled from.
        undistilled: the same of the undistilled network of its run, if that is another.
        controls: checks of it for masked gradients.
        verdict: what the defence is worth.
        about: to which networks the verdict applies.
        environment: of the process that finished the measurements, as in `records.Results`.
        caveats: sentences on what makes the above doubtful.
        outlier_class: whether the network has one class more than the dataset, the last one, by
            which it refuses images.
        weights_sha256: of the network that was measured, as on its card; None if nothing was, or it
            was not noted.
    """

    defense: records.Defense = "unknown"
    temperature: float | None = None
    dataset: records.DatasetRecord | None = None
    training: records.TrainingRecord | None = None
    seed: int | None = None
    measured: records.MeasuredRecord | None = None
    initial_accuracy: float | None = None
    undistilled: records.MeasuredRecord | None = None
    controls: Sequence[records.ControlRecord] = ()
    verdict: records.VerdictRecord | None = None
    about: str | None = None
    environment: Mapping[str, Any] | None = None
    caveats: Sequence[str] = ()
    outlier_class: bool = False
    weights_sha256: str | None = None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One per class of the network; None if the dataset is not known."""
        if self.dataset is None:
            return None
        return (*self.dataset.class_names, *((OUTLIER,) if self.outlier_class else ()))


def findings_of(
    name: str,
    *,
    dataset: records.DatasetRecord,
    networks: Sequence[records.NetworkRecord],
    comparisons: Sequence[records.ComparisonRecord],
    controls: Sequence[records.ControlRecord],
    environment: Mapping[str, Any],
) -> Findings:
    """What a run found out about one of its networks.

    Args:
        name: of the network.
        dataset: of the run.
        networks: of the run.
        comparisons: of the run.
        controls: of the run.
        environment: of the run.

    Returns:
        The findings. The verdict is about a distilled network itself, compared with the
        undistilled one; any other network has the verdict of its run, and `about` says so.

    Raises:
        ValueError: if the run has no network of that name.
    """
    found = next((network for network in networks if network.name == name), None)
    if found is None:
        raise ValueError(
            f"Expected the name of a network in the results, one of "
            f"{[network.name for network in networks]}; received {name!r}."
        )
    distilled = found.defense == "distillation"
    undistilled = next((n for n in networks if n.defense == "none" and n.name != name), None)
    compared = [n for n in networks if n.defense == "none" or n is found]
    return Findings(
        defense=found.defense,
        temperature=found.temperature,
        dataset=dataset,
        training=found.training,
        seed=found.seed,
        measured=_measured(found),
        initial_accuracy=None if found.initial is None else found.initial.test_accuracy,
        undistilled=None if undistilled is None else _measured(undistilled),
        controls=[control for control in controls if control.network == name],
        verdict=measurements.verdict(
            compared if distilled else networks, comparisons, controls, dataset
        ),
        about=name if distilled else OF_OTHERS,
        environment=environment,
        caveats=(
            *environment.get("warnings", ()),
            *(() if found.outliers is None else (_refuses(found.outliers),)),
        ),
        outlier_class=found.outliers is not None,
        weights_sha256=found.weights_sha256,
    )


def findings_in(results: records.Results, name: str) -> Findings:
    """What finished results say about one of their networks; see `findings_of`."""
    return findings_of(
        name,
        dataset=results.dataset,
        networks=results.networks,
        comparisons=results.comparisons,
        controls=results.controls,
        environment=results.environment,
    )


def card_of(
    network: keras.Model,
    *,
    name: str,
    environment: Mapping[str, Any],
    findings: Findings | None = None,
    class_names: Sequence[str] | None = None,
    value_range: tuple[float, float] | None = None,
    expose_logits: bool = False,
    keras_file: pathlib.Path | None = None,
) -> records.ModelCard:
    """The card of a network that is exported with `export_for_serving`.

    Files that are made of the SavedModel come later: add them with
    `dataclasses.replace(card, extra_files=[...])`.

    Args:
        network: as exported, at T = 1, with a layer named `logits`.
        name: of the network.
        environment: of this process, as in `records.Results`: versions and device.
        findings: what is known of it; None for a network of which nothing is.
        class_names: as exported; by default the dataset's, or the classes' indices.
        value_range: as exported; by default the dataset's, or [0, 1].
        expose_logits: as exported.
        keras_file: the file that the network was loaded from, if it was.

    Returns:
        The card. The same arguments give the same card.

    Raises:
        ValueError: if the findings or the class names are those of another network.
    """
    known = Findings() if findings is None else findings
    shape, num_classes = tuple(network.input_shape[1:]), network.output_shape[-1]
    dataset, names = known.dataset, known.class_names
    if dataset is not None and names is not None:
        expected, received = (shape, num_classes), (dataset.image_shape, len(names))
        if received != expected:
            raise ValueError(
                f"Expected results of this network, which takes images of shape {expected[0]} and "
                f"gives {expected[1]} classes; received results on {dataset.name}, with images of "
                f"shape {received[0]} and {received[1]} classes."
            )
        class_names = names if class_names is None else class_names
        value_range = dataset.value_range if value_range is None else value_range
    if class_names is None:
        class_names = signatures.default_class_names(num_classes)
    if len(class_names) != num_classes:
        raise ValueError(
            f"Expected a class name for each of the network's {num_classes} classes; received "
            f"{len(class_names)}: {list(class_names)}."
        )
    weights, digest = weights_of(network)
    if known.weights_sha256 not in (None, digest):
        raise ValueError(
            f"Expected results about the weights of this network, of SHA-256 {digest}; received "
            f"results about others, of SHA-256 {known.weights_sha256}."
        )
    return records.ModelCard(
        name=name,
        description=_description(shape, num_classes, known),
        warning=" ".join([*_doubts(known), WARNINGS[known.defense]]),
        defense=known.defense,
        temperature=known.temperature,
        dataset=dataset,
        training=known.training,
        seed=known.seed,
        measured=known.measured,
        undistilled=known.undistilled,
        controls=list(known.controls),
        verdict=known.verdict,
        about=known.about,
        class_names=list(class_names),
        value_range=(0.0, 1.0) if value_range is None else value_range,
        signatures=_signatures(shape, num_classes, expose_logits),
        logits_exposed=expose_logits,
        weights=weights,
        weights_sha256=digest,
        keras_sha256=None if keras_file is None else files.sha256(keras_file),
        versions=_versions(environment),
        measured_with=None if known.environment is None else _versions(known.environment),
        caveats=list(known.caveats),
    )


def notes(card: records.ModelCard) -> dict[str, str]:
    """Both forms of a card by file name, for the `notes` of `export_for_serving`."""
    return {JSON: records.card_json(card), MARKDOWN: markdown(card)}


def weights_of(network: keras.Model) -> tuple[list[records.WeightRecord], str]:
    """The variables of a network with a hash of each, and one of all.

    Args:
        network: with a layer named `logits`.

    Returns:
        `weights` and `weights_sha256` of its card; `records.ModelCard` says of which bytes.
    """
    found, together = [], hashlib.sha256()
    for variable in logits_of(network).variables:
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        data = np.asarray(keras.ops.convert_to_numpy(variable), "<f4").tobytes()
        together.update(data)
        found.append(
            records.WeightRecord(
                name=variable.path,
                shape=list(variable.shape),
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )
    return found, together.hexdigest()


def _doubts(known: Findings) -> list[str]:
    """That a network did not learn, or lost much accuracy, if that is known."""
    if known.measured is None or known.dataset is None:
        return []
    own = known.measured.test_accuracy
    before = None if known.undistilled is None else known.undistilled.test_accuracy
    if not evidence.learnt(
        [own, *([] if known.initial_accuracy is None else [known.initial_accuracy])],
        images=known.dataset.num_test,
        classes=len(known.dataset.class_names),
        undistilled=before,
    ):
        return [DID_NOT_LEARN]
    lost = None if before is None else before - own
    if not evidence.costly(lost):
        return []
    return [f"{evidence.loss_in_words(lost).capitalize()} against the undistilled network."]


def _refuses(found: records.OutlierRecord) -> str:
    rate = f"{100 * found.false_detections:.2f} %"
    return f"{REFUSES} That befalls {rate} of the clean test images."


def _measured(network: records.NetworkRecord) -> records.MeasuredRecord:
    return records.MeasuredRecord(
        test_accuracy=network.test_accuracy,
        attacks=network.attacks,
        transfer=network.transfer,
    )


def _description(shape: tuple[int, ...], num_classes: int, known: Findings) -> str:
    images = " x ".join(map(str, shape))
    dataset = None if known.training is None else known.dataset
    trained_for = "" if dataset is None else f" for {dataset.name}"
    at = f" at T = {known.temperature:g}" if known.defense == "distillation" else ""
    return (
        f"An image classifier{trained_for}, from images of {images} to {num_classes} classes; "
        f"{_TRAINED[known.defense]}{at}; deployed at T = 1."
    )


def _signatures(
    shape: tuple[int, ...], num_classes: int, expose_logits: bool
) -> dict[str, records.SignatureRecord]:
    tensor, signature = records.TensorRecord, records.SignatureRecord
    images, each = [None, *shape], [None, num_classes]
    floats = {"images": tensor(dtype="float32", shape=images, content="features in [0, 1]")}
    integers = {"images": tensor(dtype="uint8", shape=images, content="features in 0-255")}
    encoded = {
        "image_bytes": tensor(
            dtype="string",
            shape=[None],
            content="PNG or JPEG files, any size and number of channels; resized",
        )
    }
    probabilities = {
        "probabilities": tensor(
            dtype="float32", shape=each, content="softmax at T = 1, in [0, 1], sum 1"
        )
    }
    classes = {
        "classes": tensor(dtype="int64", shape=[None], content="index of the most probable class")
    }
    labels = {
        "labels": tensor(dtype="string", shape=[None], content="name of the most probable class")
    }
    found = {
        signatures.DEFAULT: signature(inputs=floats, outputs=probabilities | classes),
        signatures.UINT8: signature(inputs=integers, outputs=probabilities | classes),
    }
    if decodable(shape[-1]):
        found[signatures.ENCODED] = signature(inputs=encoded, outputs=probabilities | classes)
        found[signatures.LABELS] = signature(inputs=encoded, outputs=labels | probabilities)
    if expose_logits:
        logits = tensor(dtype="float32", shape=each, content="before the softmax; any number")
        found[signatures.LOGITS] = signature(inputs=floats, outputs={"logits": logits})
    return found


def _versions(environment: Mapping[str, Any]) -> records.VersionsRecord:
    def version(key: str) -> str | None:
        found = environment.get(key)
        return None if found is None else str(found)

    gpus = environment.get("gpus") or []
    return records.VersionsRecord(
        python=version("python"),
        tensorflow=version("tensorflow"),
        keras=version("keras"),
        numpy=version("numpy"),
        ddefense=version("ddefense"),
        device=str(gpus[0]) if gpus else version("cpu"),
    )
