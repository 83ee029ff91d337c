"""The stage that measures a trained network without attacking it."""

import dataclasses
import pathlib

import keras
import numpy as np
import numpy.typing as npt
import pydantic
from pydantic.dataclasses import dataclass

from ddefense import exporting, measurements, networks, records
from ddefense.config import Config, chosen
from ddefense.datasets import Dataset
from ddefense.experiments.adopting import load_outputs, load_record
from ddefense.experiments.pair import Trained, load_soft_labels, load_training
from ddefense.pipeline.stages import Artefact, Stages, reading

_RECORD = "measurements.json"
_PROBABILITIES = "probabilities.npy"


@dataclass(config=pydantic.ConfigDict(frozen=True, extra="forbid"), kw_only=True)
class Measurements:
    """Part of a `NetworkRecord`; the attacks make the rest.

    Attributes:
        test_accuracy: of the test set.
        confidence: of the test set.
        logits: their scale; null for a SavedModel that gives probabilities.
        gradients: their amplitude; null likewise.
        initial: the network it was distilled from; null unless distilled by the run.
        zero_share: share of images whose float32 Jacobian of the probabilities is all 0; null
            unless the network gives nothing else, and has gradients.
        zero_samples: images of which.
        weights_sha256: of the network, as on its model card; null for a SavedModel.
    """

    test_accuracy: float
    confidence: float
    logits: records.LogitRecord | None
    gradients: records.GradientsRecord | None
    initial: records.InitialRecord | None
    zero_share: float | None = None
    zero_samples: int = 0
    weights_sha256: str | None = None


def measure(stages: Stages, config: Config, dataset: Dataset, trained: Trained) -> Artefact:
    """Accuracy, confidence, logit scale and gradient amplitude on the test set."""

    def work(directory: pathlib.Path) -> None:
        network = load_outputs(trained.network)
        outputs = networks.predict(network, dataset.test.images)
        try:
            networks.check_finite(outputs, network=network, images="test images")
        except ValueError as error:
            raise records.RunError(f"{trained.name}: {error}") from error
        model = load_record(trained.network)
        if model is not None:
            found = _of_saved_model(network, outputs, model, config, dataset, trained.temperature)
        else:
            found = _of_logits(network, outputs, config, dataset, trained.temperature)
            initial = _initial(dataset, trained, outputs)
            found = dataclasses.replace(
                found, initial=initial, weights_sha256=exporting.weights_of(network)[1]
            )
        as_they_are = model is not None and model.outputs == "probabilities"
        np.save(
            directory / _PROBABILITIES,
            outputs if as_they_are else measurements.probabilities_of(outputs),
        )
        records.dump(found, directory / _RECORD)

    inputs = [trained.network, trained.initial, trained.soft_labels]
    return stages.run(
        f"measure_{trained.name}",
        chosen(config, "gradient_samples"),
        [artefact for artefact in inputs if artefact is not None],
        work,
    )


def load_measurements(artefact: Artefact) -> Measurements:
    """What a measuring stage left."""
    with reading(artefact):
        return records.load(Measurements, artefact.directory / _RECORD)


def load_probabilities(artefact: Artefact) -> npt.NDArray[np.float32] | None:
    """What the network gives each test image at T = 1, shape [N, classes].

    None of a stage that a version finished which did not keep it.
    """
    with reading(artefact):
        path = artefact.directory / _PROBABILITIES
        if not path.exists():
            return None
        found: npt.NDArray[np.float32] = np.load(path)
    return found


def zero_gradients(name: str, measured: Measurements) -> records.ControlRecord | None:
    """The check for gradients that are 0 everywhere; None where there are no gradients."""
    if measured.gradients is not None:
        return measurements.zero_gradients(name, measured.gradients)
    if measured.zero_share is None:
        return None
    return measurements.zero_share(name, measured.zero_share, measured.zero_samples)


def _of_logits(
    network: keras.Model,
    logits: npt.NDArray[np.float32],
    config: Config,
    dataset: Dataset,
    temperature: float,
) -> Measurements:
    labels = dataset.test.labels
    return Measurements(
        test_accuracy=measurements.accuracy(logits, labels),
        confidence=measurements.confidence(logits, labels),
        logits=measurements.logit_scale(logits),
        gradients=_gradients(network, config, dataset, temperature),
        initial=None,
    )


def _of_saved_model(
    network: keras.Model,
    outputs: npt.NDArray[np.float32],
    model: records.SavedModelRecord,
    config: Config,
    dataset: Dataset,
    temperature: float,
) -> Measurements:
    """As far as its outputs and its gradients go."""
    if model.outputs == "logits" and not model.no_gradients:
        return _of_logits(network, outputs, config, dataset, temperature)
    labels = dataset.test.labels
    # The logarithm of probabilities is as good as logits where only their softmax is looked at.
    of_softmax = np.log(np.maximum(outputs, np.finfo(np.float32).tiny))
    measured = Measurements(
        test_accuracy=measurements.accuracy(outputs, labels),
        confidence=measurements.confidence(
            outputs if model.outputs == "logits" else of_softmax, labels
        ),
        logits=measurements.logit_scale(outputs) if model.outputs == "logits" else None,
        gradients=None,
        initial=None,
    )
    if model.no_gradients:
        return measured
    images = dataset.test.images[: config.gradient_samples]
    return dataclasses.replace(
        measured,
        zero_share=measurements.zero_jacobians(network, images),
        zero_samples=len(images),
    )


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
    network = load_outputs(trained.initial)
    initial_logits = networks.predict(network, dataset.test.images)
    return records.InitialRecord(
        temperature=trained.temperature,
        test_accuracy=measurements.accuracy(initial_logits, dataset.test.labels),
        agreement=measurements.agreement(initial_logits, logits),
        training=load_training(trained.initial),
        logits=measurements.logit_scale(initial_logits),
        soft_labels=measurements.soft_label_summary(
            load_soft_labels(trained.soft_labels, dataset), dataset.train.labels
        ),
    )
