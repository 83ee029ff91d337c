"""Stages that attack: which samples, and each attack on each network in resumable shards."""

import dataclasses
import math
import pathlib
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from ddefense import attacks, files, measurements, networks, records
from ddefense.config import COLOUR_EPSILON, Config, ConfigError
from ddefense.datasets import NAMES as DATASETS
from ddefense.datasets import Dataset
from ddefense.experiments.adopting import load_classifier, load_outputs
from ddefense.experiments.outliers import Attempts
from ddefense.experiments.pair import Trained
from ddefense.experiments.stages import SCRATCH, Artefact, Stages, reading
from ddefense.progress import Progress

_INDICES = "indices.npy"
_RECORD = "attack.json"
_ROBUSTNESS = "robustness.json"
_SAMPLES = "samples.npz"
_COLOURS = 3


def check_installed(config: Config) -> None:
    """Refuses attacks that cannot be run here, before any work.

    Raises:
        ConfigError: if `labels_only` is asked for and its library is not installed.
    """
    if "labels_only" in config.attacks and not attacks.labels_only_available():
        others = ",".join(name for name in config.attacks if name != "labels_only")
        raise ConfigError(
            "attacks: labels_only expects the library of the extra labels-only, which is not "
            "installed. Install it with: pip install 'ddefense[labels-only]'; or leave it out"
            + (f": --attacks={others}" if others else ".")
        )


def check_fits(config: Config, dataset: Dataset) -> None:
    """Refuses settings that no image or test set of the dataset can meet.

    Raises:
        ConfigError: naming the setting and its limit.
    """
    features = math.prod(dataset.image_shape)
    for name, limit, what in (
        ("samples", len(dataset.test), "the test images"),
        ("max_features", features, "the features of an image"),
    ):
        received = getattr(config, name)
        if received > limit:
            raise ConfigError(
                f"{name}: expected at most {limit}, {what} of {dataset.name}; received {received}."
            )


def fitted(config: Config, dataset: Dataset, asked: Collection[str] = ()) -> Config:
    """Brings settings that nobody asked for to what the dataset allows.

    Args:
        config: whose `samples`, `max_features` and `epsilon` were chosen for other datasets.
        dataset: to be attacked.
        asked: names of settings that stay as they are.

    Returns:
        The configuration, with fewer samples or features where there are not as many, and
        `config.COLOUR_EPSILON` for colour images of which nobody chose another.
    """
    features = math.prod(dataset.image_shape)
    limits = {"samples": len(dataset.test), "max_features": features - features % 2}
    changes: dict[str, Any] = {
        name: limit
        for name, limit in limits.items()
        if name not in asked and getattr(config, name) > limit
    }
    for name, limit in changes.items():
        logging.info("%s: %d, all that there are.", name, limit)
    of_a_user = dataset.name not in DATASETS
    if "epsilon" not in asked and of_a_user and dataset.image_shape[-1] == _COLOURS:
        changes["epsilon"] = COLOUR_EPSILON
        logging.info("epsilon: %.4g, as is usual for colour images.", COLOUR_EPSILON)
    return dataclasses.replace(config, **changes)


def choose_samples(stages: Stages, config: Config, dataset: Dataset, baseline: Trained) -> Artefact:
    """Finds the first test images that the undistilled network gets right.

    The same list serves every network, whatever it makes of these images.

    Raises:
        RunError: if there are fewer such images than the configuration asks for.
    """

    def work(directory: pathlib.Path) -> None:
        logits = load_outputs(baseline.network)
        predicted = networks.predict(logits, dataset.test.images).argmax(axis=1)
        right = np.flatnonzero(predicted == dataset.test.labels)
        if len(right) < config.samples:
            raise records.RunError(
                f"--samples: expected at most {len(right)}, the test images that {baseline.name} "
                f"gets right of {len(dataset.test)}; received {config.samples}. Lower it or train "
                "for longer."
            )
        np.save(directory / _INDICES, right[: config.samples])

    return stages.run("samples", {"samples": config.samples}, [baseline.network], work)


def load_samples(artefact: Artefact) -> npt.NDArray[np.int64]:
    """Positions of the attacked images in the test set."""
    with reading(artefact):
        indices: npt.NDArray[np.int64] = np.load(artefact.directory / _INDICES)
    return indices


def attack(
    stages: Stages,
    config: Config,
    dataset: Dataset,
    trained: Trained,
    samples: Artefact,
    name: str,
    *,
    logit_scale: float = 1.0,
) -> Artefact:
    """Attacks one network with one reading of JSMA, shard by shard, and judges the result afresh.

    `logit_scale` multiplies the network's logits, which leaves its predictions as they are: the
    control for a protection that is numerical alone.

    A shard runs from its start or not at all, because floating-point results depend on what
    shares a batch: a resumed run gives the same bits.
    """
    # The paper's units of theta are unknown where the input is standardised, so a second one
    # stands beside the configured one.
    theta = 1.0 if name == "jsma_f_theta_1" else config.theta
    settings: dict[str, Any] = {
        "attack": name,
        "temperature": trained.temperature,
        "theta": theta,
        "max_features": config.max_features,
        "shard_samples": config.shard_samples,
        "batch_size": config.attack_batch_size,
    }
    stage = f"{name}_on_{trained.name}"
    if logit_scale != 1.0:
        settings["logit_scale"] = logit_scale
        stage = f"{name}_on_{trained.name}_times_{logit_scale:g}"

    def work(directory: pathlib.Path) -> None:
        indices = load_samples(samples)
        images, labels = dataset.test.images[indices], dataset.test.labels[indices]
        sample, target = attacks.every_wrong_class(labels, dataset.num_classes)
        logits = load_outputs(trained.network)
        attacked = load_classifier(trained.network, dataset.value_range)
        if logit_scale != 1.0:
            logits = networks.with_scaled_logits(logits, logit_scale)
            attacked = attacks.classifier(logits, bounds=dataset.value_range)
        derivative = attacks.forward_derivative(attacked, name, temperature=trained.temperature)
        shards = []
        label = stage.replace("_on_", " on ").replace("_times_", " times ")
        with Progress(label, len(sample), "attack") as progress:
            for first in range(0, len(images), config.shard_samples):
                rows = np.flatnonzero((sample >= first) & (sample < first + config.shard_samples))
                path = directory / SCRATCH / f"shard_{first:05d}.npz"
                if not path.exists():
                    made = attacks.jsma(
                        derivative,
                        images[sample[rows]],
                        target[rows],
                        bounds=dataset.value_range,
                        theta=theta,
                        max_features=config.max_features,
                        batch_size=config.attack_batch_size,
                    )
                    _save(made, path)
                shards.append(path)
                progress.update(len(rows))
        made = _join([_load(path) for path in shards])
        outcome = measurements.judge(
            logits,
            images[sample],
            made,
            sample,
            target,
            max_features=config.max_features,
            bounds=dataset.value_range,
        )
        num_features = int(np.prod(dataset.image_shape))
        records.dump(
            measurements.success_record(
                outcome,
                made,
                theta=theta,
                max_features=config.max_features,
                num_features=num_features,
                seed=config.seed,
            ),
            directory / _RECORD,
        )
        records.dump(
            measurements.robustness(
                outcome, max_features=config.max_features, num_features=num_features
            ),
            directory / _ROBUSTNESS,
        )
        records.Samples(images, labels, indices, {(trained.name, name): outcome}).save(
            directory / _SAMPLES
        )

    return stages.run(stage, settings, [trained.network, samples], work)


def load_attack(
    artefact: Artefact,
) -> tuple[records.AttackRecord, records.RobustnessRecord, records.Samples]:
    """What an attack stage left."""
    directory = artefact.directory
    with reading(artefact):
        return (
            records.load(records.AttackRecord, directory / _RECORD),
            records.load(records.RobustnessRecord, directory / _ROBUSTNESS),
            records.Samples.load(directory / _SAMPLES),
        )


def load_attempts(artefact: Artefact) -> Attempts:
    """The adversarial images that an attack stage left."""
    found = load_attack(artefact)[2]
    ((key, outcome),) = found.outcomes.items()
    images = [found.adversarial(*key, pair) for pair in range(len(outcome.sample))]
    return Attempts(np.stack(images), outcome.sample, found.labels[outcome.sample], outcome.target)


def _save(made: attacks.AdversarialSamples, path: pathlib.Path) -> None:
    with files.atomic_file(path) as temporary:
        np.savez_compressed(
            temporary, images=made.images, num_features=made.num_features, stop=made.stop
        )


def _load(path: pathlib.Path) -> attacks.AdversarialSamples:
    try:
        with files.read_npz(path) as arrays:
            return attacks.AdversarialSamples(
                arrays["images"], arrays["num_features"], arrays["stop"]
            )
    except files.DamagedError as error:
        raise records.RunError(
            f"Expected a shard of an attack at {path}, but it cannot be read: {error}. Delete that "
            "file to attack the shard again."
        ) from error


def _join(parts: list[attacks.AdversarialSamples]) -> attacks.AdversarialSamples:
    return attacks.AdversarialSamples(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.num_features for part in parts]),
        np.concatenate([part.stop for part in parts]),
    )
