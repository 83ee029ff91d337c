"""Stages that attack: which samples, and each attack on each network in resumable shards."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from absl import logging

from ddefense import attacks, files, measurements, networks, records
from ddefense.config import COLOUR_EPSILON, JSMA_ATTACKS, Config, chosen
from ddefense.datasets import NAMES as DATASETS
from ddefense.datasets import Dataset
from ddefense.experiments.adopting import load_classifier, load_outputs, load_record
from ddefense.experiments.outliers import Attempts
from ddefense.experiments.pair import Trained
from ddefense.experiments.stages import SCRATCH, Artefact, Part, Stages, kept, reading
from ddefense.settings import ConfigError

_INDICES = "indices.npy"
_RECORD = "attack.json"
_ROBUSTNESS = "robustness.json"
_OUTCOME = "outcome.npz"
_SHARD = "shard.npz"
_COLOURS = 3


def check_installed(config: Config) -> None:
    """Refuses attacks that cannot be run here, before any work.

    Raises:
        ConfigError: if `labels_only` is asked for and its library is not installed.
    """
    if "labels_only" in config.attacks and not attacks.labels_only_available():
        others = ",".join(name for name in config.attacks if name != "labels_only")
        raise ConfigError(
            "attacks",
            "labels_only expects the library of the extra labels-only, which is not "
            "installed. Install it with: pip install 'ddefense[labels-only]'; or leave it out"
            + (f": --attacks={others}" if others else "."),
        )


def check_fits(config: Config, dataset: Dataset) -> None:
    """Refuses settings that no image or test set of the dataset can meet.

    Raises:
        ConfigError: naming the setting and its limit.
    """
    check_pairs(config, dataset)
    features = math.prod(dataset.image_shape)
    for name, limit, what in (
        ("samples", len(dataset.test), "the test images"),
        ("max_features", max(2, features), "the features of an image"),
    ):
        received = getattr(config, name)
        if received > limit:
            raise ConfigError(
                name, f"expected at most {limit}, {what} of {dataset.name}; received {received}."
            )


def check_pairs(config: Config, dataset: Dataset) -> None:
    """Refuses attacks that change features in pairs on images of a single feature.

    Raises:
        ConfigError: naming the attacks.
    """
    names = [name for name in config.attacks if name in JSMA_ATTACKS]
    if names and math.prod(dataset.image_shape) < 2:
        raise ConfigError(
            "attacks",
            "expected images of at least two features with "
            f"{', '.join(names)}, because JSMA changes features in pairs; received images of shape "
            f"{dataset.image_shape}. Leave them out.",
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
    limits = {"samples": len(dataset.test), "max_features": max(2, features - features % 2)}
    changes: dict[str, Any] = {
        name: limit
        for name, limit in limits.items()
        if name not in asked and getattr(config, name) > limit
    }
    for name, limit in changes.items():
        logging.info(
            "%s: lowered to %d, for %d test images of shape %s.",
            *(name, limit, len(dataset.test), dataset.image_shape),
        )
    of_a_user = dataset.name not in DATASETS
    if "epsilon" not in asked and of_a_user and dataset.image_shape[-1] == _COLOURS:
        changes["epsilon"] = COLOUR_EPSILON
        logging.info("epsilon: %.4g, as is usual for colour images.", COLOUR_EPSILON)
    return dataclasses.replace(config, **changes)


def choose_samples(stages: Stages, config: Config, dataset: Dataset, baseline: Trained) -> Artefact:
    """Finds the first test images that the undistilled network gets right, or just the first.

    The same list serves every network, whatever it makes of these images.

    Raises:
        RunError: if there are fewer such images than the configuration asks for.
    """

    def work(directory: pathlib.Path) -> None:
        found = np.arange(len(dataset.test))
        if not config.misclassified:
            logits = load_outputs(baseline.network)
            outputs = networks.predict(logits, dataset.test.images)
            predicted = networks.predicted_classes(outputs)
            found = np.flatnonzero(predicted == dataset.test.labels)
        if len(found) < config.samples:
            raise records.RunError(
                f"--samples: expected at most {len(found)}, the test images that {baseline.name} "
                f"gets right of {len(dataset.test)}; received {config.samples}. Lower it, train "
                "for longer, or attack the others too: --misclassified."
            )
        np.save(directory / _INDICES, found[: config.samples])

    settings = chosen(config, "samples", "misclassified")
    return stages.run("samples", settings, [baseline.network], work)


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
    """
    # The paper's units of theta are unknown where the input is standardised, so a second one
    # stands beside the configured one.
    theta = 1.0 if name == "jsma_f_theta_1" else config.theta
    settings: dict[str, Any] = {
        "attack": name,
        "temperature": trained.temperature,
        "theta": theta,
        **chosen(config, "max_features", "shard_samples", "attack_batch_size"),
    }
    stage = f"{name}_on_{trained.name}"
    if logit_scale != 1.0:
        settings["logit_scale"] = logit_scale
        stage = f"{name}_on_{trained.name}_times_{logit_scale:g}"

    def attack_shard(first: int, directory: pathlib.Path) -> None:
        indices = load_samples(samples)[first : first + config.shard_samples]
        images, labels = dataset.test.images[indices], dataset.test.labels[indices]
        sample, target = attacks.every_wrong_class(labels, dataset.num_classes)
        model = load_record(trained.network)
        logits, derivative = _load_derivative(
            trained.network, dataset.value_range, name, trained.temperature, logit_scale
        )
        made = attacks.jsma(
            derivative,
            images[sample],
            target,
            bounds=dataset.value_range,
            theta=theta,
            max_features=config.max_features,
            batch_size=config.attack_batch_size,
        )
        outcome = measurements.judge(
            logits,
            images[sample],
            made,
            first + sample,
            target,
            max_features=config.max_features,
            bounds=dataset.value_range,
            gives_probabilities=model is not None and model.outputs == "probabilities",
        )
        _save(outcome, made, directory / _SHARD)

    def join(directory: pathlib.Path) -> None:
        found = [_load(directory / SCRATCH / shard.name / _SHARD) for shard in parts]
        outcome = records.AttackOutcome.join([outcome for outcome, _, _ in found])
        num_features = int(np.prod(dataset.image_shape))
        records.dump(
            measurements.success_record(
                outcome,
                stop=np.concatenate([stop for _, stop, _ in found]),
                steps=sum(steps for _, _, steps in found),
                theta=theta,
                max_features=config.max_features,
                num_features=num_features,
                seed=config.seed,
            ),
            directory / _RECORD,
        )
        robustness = measurements.robustness(
            outcome, max_features=config.max_features, num_features=num_features
        )
        if robustness is not None:
            records.dump(robustness, directory / _ROBUSTNESS)
        np.savez_compressed(directory / _OUTCOME, allow_pickle=False, **outcome.arrays())

    parts = shards(config, config.samples, dataset.num_classes - 1, attack_shard)
    inputs = [trained.network, samples]
    return stages.run(stage, settings, inputs, join, kind="attack", parts=parts)


def shards(
    config: Config, samples: int, attempts: int, work: Callable[[int, pathlib.Path], None]
) -> list[Part]:
    """The parts of a stage that attacks.

    A part runs from its start or not at all, because floating-point results depend on what shares
    a batch: a resumed run, or one on several machines, gives the same bits.

    Args:
        config: says how many samples a part has.
        samples: attacked in all.
        attempts: on each sample.
        work: called with the number of the first sample and the directory to fill.
    """
    return [
        Part(
            f"shard_{first:05d}",
            attempts * min(config.shard_samples, samples - first),
            "attack",
            functools.partial(work, first),
        )
        for first in range(0, samples, config.shard_samples)
    ]


# Its compiled functions serve every shard.
@kept
def _load_derivative(
    network: Artefact,
    bounds: tuple[float, float],
    name: str,
    temperature: float,
    logit_scale: float,
) -> tuple[keras.Model, attacks.ForwardDerivative]:
    """The network that judges, and what one reading of JSMA takes of it."""
    logits = load_outputs(network)
    attacked = load_classifier(network, bounds)
    if logit_scale != 1.0:
        logits = networks.with_scaled_logits(logits, logit_scale)
        attacked = attacks.classifier(logits, bounds=bounds)
    return logits, attacks.forward_derivative(attacked, name, temperature=temperature)


def load_attack(
    artefact: Artefact,
) -> tuple[records.AttackRecord, records.RobustnessRecord | None, records.AttackOutcome]:
    """What an attack stage left; no robustness if every attempt starts in its target."""
    directory = artefact.directory
    with reading(artefact), files.read_npz(directory / _OUTCOME) as arrays:
        record = records.load(records.AttackRecord, directory / _RECORD)
        robustness = None
        if record.attempts:
            robustness = records.load(records.RobustnessRecord, directory / _ROBUSTNESS)
        return record, robustness, records.AttackOutcome.of_arrays(arrays)


def load_attempts(artefact: Artefact, dataset: Dataset, samples: Artefact) -> Attempts:
    """The adversarial images that an attack stage left.

    Args:
        artefact: of the stage.
        dataset: attacked.
        samples: the stage that chose the images.
    """
    outcome, indices = load_attack(artefact)[2], load_samples(samples)
    found = records.Samples(
        dataset.test.images[indices], dataset.test.labels[indices], indices, {("", ""): outcome}
    )
    images = [found.adversarial("", "", pair) for pair in range(len(outcome.sample))]
    labels = found.labels[outcome.sample]
    return Attempts(np.stack(images), outcome.sample, labels, outcome.target, outcome.started)


def _save(
    outcome: records.AttackOutcome, made: attacks.AdversarialSamples, path: pathlib.Path
) -> None:
    with files.atomic_file(path) as temporary:
        np.savez_compressed(
            temporary,
            allow_pickle=False,
            **outcome.arrays(),
            stop=made.stop,
            steps=int(made.num_features.sum()) // 2,
        )


def _load(path: pathlib.Path) -> tuple[records.AttackOutcome, npt.NDArray[np.integer], int]:
    """Outcome, reasons to stop and steps of a shard."""
    try:
        with files.read_npz(path) as arrays:
            return records.AttackOutcome.of_arrays(arrays), arrays["stop"], int(arrays["steps"])
    except files.DamagedError as error:
        raise damaged_shard(path, error) from error


def damaged_shard(path: pathlib.Path, error: files.DamagedError) -> records.RunError:
    """What to do about it."""
    return records.RunError(
        f"Expected a shard of an attack at {path}, but it cannot be read: {error}. Delete "
        f"{path.parent} to attack the shard again."
    )
