"""The stage that measures a trained network without attacking it."""

import pathlib

import keras
import numpy as np
import numpy.typing as npt
import pydantic
from pydantic.dataclasses import dataclass

from ddefense import measurements, networks, records
from ddefense.config import Config
from ddefense.datasets import Dataset
from ddefense.experiments.pair import Trained, load_logits, load_soft_labels, load_training
from ddefense.experiments.stages import Artefact, Stages, reading

_RECORD = "measurements.json"


@dataclass(config=pydantic.ConfigDict(frozen=True, extra="forbid"), kw_only=True)
class Measurements:
    """Part of a `NetworkRecord`; the attacks make the rest."""

    test_accuracy: float
    confidence: float
    logits: records.LogitRecord
    gradients: records.GradientsRecord
    initial: records.InitialRecord | None


def measure(stages: Stages, config: Config, dataset: Dataset, trained: Trained) -> Artefact:
    """Accuracy, confidence, logit scale and gradient amplitude on the test set."""

    def work(directory: pathlib.Path) -> None:
        logits_network = load_logits(trained.network)
        logits = networks.predict(logits_network, dataset.test.images)
        records.dump(
            Measurements(
                test_accuracy=measurements.accuracy(logits, dataset.test.labels),
                confidence=measurements.confidence(logits, dataset.test.labels),
                logits=measurements.logit_scale(logits),
                gradients=_gradients(logits_network, config, dataset, trained.temperature),
                initial=_initial(dataset, trained, logits),
            ),
            directory / _RECORD,
        )

    inputs = [trained.network, trained.initial, trained.soft_labels]
    return stages.run(
        f"measure_{trained.name}",
        {"gradient_samples": config.gradient_samples},
        [artefact for artefact in inputs if artefact is not None],
        work,
    )


def load_measurements(artefact: Artefact) -> Measurements:
    """What a measuring stage left."""
    with reading(artefact):
        return records.load(Measurements, artefact.directory / _RECORD)


def _gradients(
    logits_network: keras.Model, config: Config, dataset: Dataset, temperature: float
) -> records.GradientsRecord:
    temperatures = [1.0] if temperature == 1.0 else [1.0, temperature]
    found = measurements.gradient_amplitude(
        logits_network, dataset.test.images[: config.gradient_samples], temperatures
    )
    return records.GradientsRecord(deployed=found[0], training=found[-1])


def _initial(
    dataset: Dataset, trained: Trained, logits: npt.NDArray[np.float32]
) -> records.InitialRecord | None:
    if trained.initial is None or trained.soft_labels is None:
        return None
    network = load_logits(trained.initial)
    initial_logits = networks.predict(network, dataset.test.images)
    return records.InitialRecord(
        temperature=trained.temperature,
        test_accuracy=measurements.accuracy(initial_logits, dataset.test.labels),
        agreement=measurements.agreement(initial_logits, logits),
        training=load_training(trained.initial),
        logits=measurements.logit_scale(initial_logits),
        soft_labels=measurements.soft_label_summary(
            load_soft_labels(trained.soft_labels), dataset.train.labels
        ),
    )
