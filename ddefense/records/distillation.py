"""What `bin/distill` leaves beside its networks: the schema of `distillation.json`."""

import dataclasses
from typing import Any, Literal

import pydantic
from pydantic.dataclasses import dataclass

from ddefense.records.results import DatasetRecord, SoftLabelRecord, TrainingRecord

DISTILLATION_SCHEMA_VERSION: Literal[1] = 1

_STRICT = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(config=_STRICT, kw_only=True)
class CostRecord:
    """What a network takes, whatever its accuracy.

    Attributes:
        parameters: weights, those that are not trained included.
        weight_bytes: that they take.
        latency_seconds: of a compiled call, the median, by the number of images in it.
    """

    parameters: int
    weight_bytes: int
    latency_seconds: dict[int, float]


@dataclass(config=_STRICT, kw_only=True)
class TrainedRecord:
    """One of the two networks of a distillation, deployed at T = 1.

    Attributes:
        training: how its training went.
        validation_loss: of each epoch, of the objective, in nats; empty without a validation set.
        validation_accuracy: of each epoch, against the true classes; empty likewise.
        test_accuracy: on the test set; null without one.
        cost: its size and speed.
        weights_sha256: of its weights, of the bytes that `ModelCard.weights_sha256` names.
    """

    training: TrainingRecord
    validation_loss: list[float]
    validation_accuracy: list[float]
    test_accuracy: float | None
    cost: CostRecord
    weights_sha256: str


@dataclass(config=_STRICT, kw_only=True)
class DistillationRecord:
    """One distillation of a network on a user's data.

    Attributes:
        schema_version: of this schema.
        method: `defensive` (Papernot et al. 2016; with a student or alpha, Hinton et al. 2015) or
            `extended` (Papernot and McDaniel 2017).
        network: what was distilled, a file or a name.
        student: what it was distilled into; null if that has the same architecture.
        dataset: what it was distilled on.
        data_sha256: stands for the images and labels of the training set, in their order.
        settings: that determined the result, by name.
        initial: the network that the soft labels are of.
        distilled: the network that learnt from them.
        agreement: share of test images on which both predict the same class; null without a test
            set.
        soft_labels: what was handed on.
        given_accuracy: of the network as it was given, on the test set; null of one made by name.
        environment: versions, device, command and date.
        timings: seconds of each part.
    """

    schema_version: Literal[1] = DISTILLATION_SCHEMA_VERSION
    method: Literal["defensive", "extended"]
    network: str
    student: str | None
    dataset: DatasetRecord
    data_sha256: str
    settings: dict[str, Any]
    initial: TrainedRecord
    distilled: TrainedRecord
    agreement: float | None
    soft_labels: SoftLabelRecord
    given_accuracy: float | None = None
    environment: dict[str, Any] = dataclasses.field(default_factory=dict)
    timings: dict[str, float] = dataclasses.field(default_factory=dict)
