"""The card that goes with an exported network: what it is, what it takes, what breaks it.

A card holds no date and no path, so that the same network and the same results give the same card,
byte for byte, on one machine. Two exports with one card are exports of one thing.
"""

import dataclasses
from typing import Literal

import pydantic
from pydantic.dataclasses import dataclass

from ddefense.records.results import (
    AttackRecord,
    ControlRecord,
    DatasetRecord,
    TrainingRecord,
    TransferRecord,
    VerdictRecord,
)

CARD_SCHEMA_VERSION: Literal[3] = 3

Defense = Literal["none", "distillation", "adversarial_training", "unknown"]

_STRICT = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(config=_STRICT, kw_only=True)
class TensorRecord:
    """One input or output of a signature.

    Attributes:
        dtype: as TensorFlow names it.
        shape: null for the number of images, which is any from 1 on.
        content: what the values are and in which range.
    """

    dtype: Literal["float32", "uint8", "int64", "string"]
    shape: list[int | None]
    content: str


@dataclass(config=_STRICT, kw_only=True)
class SignatureRecord:
    """One signature of a SavedModel.

    Attributes:
        inputs: by name.
        outputs: by name.
    """

    inputs: dict[str, TensorRecord]
    outputs: dict[str, TensorRecord]


@dataclass(config=_STRICT, kw_only=True)
class WeightRecord:
    """One variable.

    Attributes:
        name: the layer's name and the variable's, as `conv_1_1/kernel`.
        shape: of the variable.
        sha256: of its values; `ModelCard.weights_sha256` says of which bytes.
    """

    name: str
    shape: list[int]
    sha256: str


@dataclass(config=_STRICT, kw_only=True)
class MeasuredRecord:
    """What was measured on one deployed (T = 1) network; empty where no such attack was run.

    Attributes:
        test_accuracy: on the whole test set, a share.
        attacks: by name.
        transfer: by rising kappa.
    """

    test_accuracy: float
    attacks: dict[str, AttackRecord]
    transfer: list[TransferRecord]


@dataclass(config=_STRICT, kw_only=True)
class VersionsRecord:
    """What a process ran on; null where it is not known.

    Attributes:
        python: version.
        tensorflow: version.
        keras: version.
        numpy: version.
        ddefense: version.
        device: the model of the GPU, or of the CPU where there was none.
    """

    python: str | None
    tensorflow: str | None
    keras: str | None
    numpy: str | None
    ddefense: str | None
    device: str | None


@dataclass(config=_STRICT, kw_only=True)
class ExtraFileRecord:
    """A file beside the SavedModel that holds the network in another form.

    Attributes:
        name: of the file.
        content: what it is, in a few words.
        size_bytes: of the file.
        sha256: of the file.
        test_accuracy: measured on the file itself, a share; null if not measured.
    """

    name: str
    content: str
    size_bytes: int
    sha256: str
    test_accuracy: float | None


@dataclass(config=_STRICT, kw_only=True)
class ModelCard:
    """The whole of `model_card.json`.

    Attributes:
        schema_version: of this record.
        name: of the network.
        description: what it is, in one sentence.
        warning: what its defence is worth, in words that need no other context.
        defense: how it is meant to resist; `unknown` where nothing is known of its training.
        temperature: T it was trained at, or is said to have been; null if not known.
        deployed_temperature: T of the softmax that is served.
        dataset: what it was measured on, and trained on where `training` is known; null if not
            known.
        training: how its training went; null if not known.
        seed: of its training; null if not known.
        measured: what was measured on it; null if nothing was.
        undistilled: the same of the undistilled network of its run; null if there is none or it is
            this one.
        controls: checks of this network for masked gradients.
        verdict: what the defence is worth; null if too little was measured.
        about: to which networks the verdict applies; null without a verdict.
        class_names: one per class, in the order of the outputs.
        value_range: of a feature, as the network was trained; clients send [0, 1] whatever it is.
        signatures: of the SavedModel, by name.
        logits_exposed: whether there is a signature that gives logits.
        weights: every variable of floating-point type up to the logits, in the order of Keras's
            `variables`. Counters and states of random generators are not among them, nor are
            constants of the architecture.
        weights_sha256: of all of them together: of the values as little-endian float32 in C order,
            one variable after the other, without anything between. A variable's own hash is of its
            part of these bytes.
        keras_sha256: of the `.keras` file from which it was exported; null if it came from none.
        versions: of the process that exported it.
        measured_with: of the process that finished the measurements; null if nothing was measured.
        extra_files: other forms of the network beside the SavedModel.
        caveats: sentences on what makes the rest doubtful.
    """

    name: str
    description: str
    warning: str
    defense: Defense
    temperature: float | None
    deployed_temperature: float = 1.0
    dataset: DatasetRecord | None
    training: TrainingRecord | None
    seed: int | None
    measured: MeasuredRecord | None
    undistilled: MeasuredRecord | None
    controls: list[ControlRecord]
    verdict: VerdictRecord | None
    about: str | None
    class_names: list[str]
    value_range: tuple[float, float]
    signatures: dict[str, SignatureRecord]
    logits_exposed: bool
    weights: list[WeightRecord]
    weights_sha256: str
    keras_sha256: str | None
    versions: VersionsRecord
    measured_with: VersionsRecord | None
    extra_files: list[ExtraFileRecord] = dataclasses.field(default_factory=list)
    caveats: list[str] = dataclasses.field(default_factory=list)
    schema_version: Literal[3] = CARD_SCHEMA_VERSION


def card_json(card: ModelCard) -> str:
    """The card as indented JSON; `records.load(ModelCard, path)` reads it back."""
    return pydantic.TypeAdapter(ModelCard).dump_json(card, indent=1).decode() + "\n"
