"""The stage that sorts the answers of a network with an outlier class: recovered, detected, fooled.

It looks again at the images that every attack on the network has left, and at the clean ones.
"""

import pathlib
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ddefense import measurements, networks, records
from ddefense.config import Config, chosen
from ddefense.datasets import Dataset
from ddefense.experiments.adopting import load_outputs
from ddefense.experiments.adversarial import Adversarial
from ddefense.experiments.pair import Trained
from ddefense.pipeline.stages import Artefact, Stages, reading

_RECORD = "outliers.json"


def outlier_class(network: Artefact, dataset: Dataset) -> int | None:
    """The class by which a network refuses images: one more than the dataset has; None without."""
    outputs = load_outputs(network).output_shape[-1]
    return dataset.num_classes if outputs == dataset.num_classes + 1 else None


def measure(
    stages: Stages,
    config: Config,
    dataset: Dataset,
    trained: Trained,
    attempts: Mapping[str, Callable[[], Adversarial]],
    inputs: list[Artefact],
) -> Artefact:
    """Recovery, detection and success of every attack on one network.

    An attack of which every attempt starts where it aims at is left out.

    Args:
        stages: runs it.
        config: of the run.
        dataset: attacked.
        trained: a network with an outlier class.
        attempts: read what was made, by name of the attack.
        inputs: the stages that made it.
    """

    def work(directory: pathlib.Path) -> None:
        logits = load_outputs(trained.network)

        def predicted(images: npt.NDArray[np.float32]) -> npt.NDArray[np.integer]:
            found = networks.predicted_classes(networks.predict(logits, images))
            # No answer is a refusal too.
            return np.where(found == networks.NO_CLASS, dataset.num_classes, found)

        def rates(made: Adversarial) -> records.OutlierAttackRecord:
            return measurements.outlier_rates(
                predicted(made.images),
                made.labels,
                made.targets,
                made.original,
                num_classes=dataset.num_classes,
                seed=config.seed,
            )

        counted = ((name, _counted(read())) for name, read in attempts.items())
        found = measurements.outlier_record(
            predicted(dataset.test.images),
            dataset.test.labels,
            dataset.num_classes,
            {name: rates(made) for name, made in counted if len(made.images)},
        )
        records.dump(found, directory / _RECORD)

    return stages.run(
        f"outliers_of_{trained.name}", chosen(config, "seed"), [trained.network, *inputs], work
    )


def _counted(made: Adversarial) -> Adversarial:
    """The attempts that do not start where they aim at."""
    return made.of(~made.started)


def load(artefact: Artefact) -> records.OutlierRecord:
    """What such a stage left."""
    with reading(artefact):
        return records.load(records.OutlierRecord, artefact.directory / _RECORD)
