"""Stages that attack: which samples, and each attack on each network in resumable shards."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from absl import logging

from ddefense import attacks, files, networks, records
from ddefense.attack_catalog import ATTACKS, JSMA_ATTACKS
from ddefense.config import COLOUR_EPSILON, Config, check_temperature, chosen
from ddefense.datasets import NAMES as DATASETS
from ddefense.datasets import Dataset
from ddefense.experiments import adversarial
from ddefense.experiments.adopting import in_unit_range, load_attacked, load_outputs, of_unit_images
from ddefense.experiments.adversarial import Adversarial
from ddefense.experiments.pair import Trained
from ddefense.maths.ranges import from_unit
from ddefense.pipeline.stages import SCRATCH, Artefact, Part, Stages, reading
from ddefense.settings import ConfigError

_INDICES = "indices.npy"
_RECORD = "attack.json"
_MADE = "adversarial.npz"
_SHARD = "shard.npz"
_COLOURS = 3


def check_installed(config: Config) -> None:
    """Refuses attacks that cannot be run here, before any work.

    Raises:
        ConfigError: if the library of one is not installed.
    """
    for name in config.attacks:
        spec = ATTACKS[name]
        if spec.library is not None and not spec.installed:
            others = ",".join(other for other in config.attacks if other != name)
            extra = spec.library[1]
            raise ConfigError(
                "attacks",
                f"{name} expects the library of the extra {extra}, which is not installed. Install "
                f"it with: pip install 'ddefense[{extra}]'; or leave it out"
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
                f"samples: expected at most {len(found)}, the test images that {baseline.name} "
                f"gets right of {len(dataset.test)}; received {config.samples}. Lower it, train "
                "for longer, or attack the others too: misclassified."
            )
        np.save(directory / _INDICES, found[: config.samples])

    settings = chosen(config, "samples", "misclassified")
    return stages.run("samples", settings, [baseline.network], work)


def load_samples(artefact: Artefact) -> npt.NDArray[np.int64]:
    """Positions of the attacked images in the test set."""
    with reading(artefact):
        indices: npt.NDArray[np.int64] = np.load(artefact.directory / _INDICES)
    return indices


def originals(dataset: Dataset, samples: Artefact) -> npt.NDArray[np.float32]:
    """The attacked images, shape [S, H, W, C]."""
    found: npt.NDArray[np.float32] = dataset.test.images[load_samples(samples)]
    return found


def load_network(
    artefact: Artefact, dataset: Dataset, logit_scale: float = 1.0
) -> tuple[keras.Model, attacks.Classifier]:
    """The network that judges, and the same as attacks take it.

    Args:
        artefact: of its stage.
        dataset: to be attacked.
        logit_scale: by which to multiply its logits.
    """
    return load_attacked(artefact, dataset.value_range, dataset.num_classes, logit_scale)


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
    """Attacks one network with one attack, shard by shard, and judges the result afresh.

    `logit_scale` multiplies the network's logits, which leaves its predictions as they are: the
    control for a protection that is numerical alone.
    """
    prepared = _prepared(config, trained, name)
    settings: dict[str, Any] = {
        "attack": name,
        "settings": prepared.settings,
        "targets": prepared.targets,
        "samples": prepared.samples,
        **chosen(config, "seed", "shard_samples", "attack_batch_size"),
    }
    stage = f"{name}_on_{trained.name}"
    if logit_scale != 1.0:
        settings["logit_scale"] = logit_scale
        stage = f"{name}_on_{trained.name}_times_{logit_scale:g}"
    parts = shards(config, dataset, trained.network, samples, prepared, logit_scale)

    def join(directory: pathlib.Path) -> None:
        made = join_shards(directory, parts)
        record = adversarial.record_of(
            made,
            settings=dataclasses.asdict(prepared.settings),
            targets=prepared.targets,
            seed=config.seed,
        )
        records.dump(record, directory / _RECORD)
        adversarial.save(made, directory / _MADE)

    inputs = [trained.network, samples]
    return stages.run(stage, settings, inputs, join, kind="attack", parts=parts)


def _prepared(config: Config, trained: Trained, name: str) -> attacks.Prepared:
    prepared = attacks.prepare(name, config, temperature=trained.temperature)
    if ATTACKS[name].takes("cw_all_targets_at") and _all_targets(config, trained):
        return dataclasses.replace(prepared, targets="all")
    return prepared


def _all_targets(config: Config, trained: Trained) -> bool:
    if trained.defense == "none":
        return bool(config.cw_all_targets_at)
    return trained.defense == "distillation" and trained.temperature in config.cw_all_targets_at


def shards(
    config: Config,
    dataset: Dataset,
    network: Artefact,
    samples: Artefact,
    prepared: attacks.Prepared,
    logit_scale: float = 1.0,
) -> list[Part]:
    """The parts of a stage that attacks.

    A part runs from its start or not at all, because floating-point results depend on what shares
    a batch: a resumed run, or one on several machines, gives the same bits.

    Args:
        config: says how many samples a part has.
        dataset: attacked.
        network: the stage of the attacked network.
        samples: the stage that chose the images.
        prepared: the attack.
        logit_scale: by which to multiply the network's logits.
    """
    count = min(prepared.samples, config.samples)
    each = dataset.num_classes - 1 if prepared.targets == "all" else 1

    def attack_shard(first: int, directory: pathlib.Path) -> None:
        indices = load_samples(samples)[: min(first + config.shard_samples, count)]
        attempts = adversarial.attempts_on(
            dataset.test.images[indices],
            dataset.test.labels[indices],
            prepared.targets,
            num_classes=dataset.num_classes,
            seed=config.seed,
            first=first,
        )
        judge, attacked = load_network(network, dataset, logit_scale)
        made = adversarial.craft(prepared, judge, attacked, attempts, first * each)
        adversarial.save(made, directory / _SHARD)

    return [
        Part(
            f"shard_{first:05d}",
            each * min(config.shard_samples, count - first),
            "attack",
            functools.partial(attack_shard, first),
        )
        for first in range(0, count, config.shard_samples)
    ]


def join_shards(directory: pathlib.Path, parts: Sequence[Part]) -> Adversarial:
    """What all shards of a stage made."""
    found = []
    for part in parts:
        path = directory / SCRATCH / part.name / _SHARD
        try:
            found.append(adversarial.load(path))
        except files.DamagedError as error:
            raise records.RunError(
                f"Expected a shard of an attack at {path}, but it cannot be read: {error}. Delete "
                f"{path.parent} to attack the shard again."
            ) from error
    return Adversarial.join(found)


def craft(
    network: keras.Model,
    dataset: Dataset,
    name: str,
    config: Config,
    *,
    targets: npt.NDArray[np.integer] | None = None,
    temperature: float = 1.0,
    outlier_class: bool = False,
) -> Adversarial:
    """Attacks every test image of a dataset, in memory and without a run around it.

    Args:
        network: see `networks.without_softmax`; attacked at T = 1.
        dataset: whose test images to attack, in the network's range.
        name: one of `attack_catalog.ATTACKS`, but for `transfer_cw_l2`.
        config: the attack's settings, in units of images in [0, 1].
        targets: the class to reach for each image, shape [N]; None for what the attack does
            otherwise: every wrong class (JSMA and `_targeted`), one random wrong class (C&W), or
            any wrong class.
        temperature: T > 0 by which attacks on logits / T divide.
        outlier_class: whether the network's last class is none of the dataset's, but for outliers:
            no success of an attack.

    Returns:
        The adversarial images, sample by sample.

    Raises:
        ValueError: if an argument is not what it should be.
        StoppedError: if the run was asked to stop.
    """
    check_temperature(temperature)
    check_pairs(config, dataset)
    unit = in_unit_range(dataset)
    logits = of_unit_images(networks.without_softmax(network), dataset)
    images, labels = unit.test.images, unit.test.labels
    try:
        attacked = attacks.classifier(
            logits,
            bounds=unit.value_range,
            outlier_class=unit.num_classes if outlier_class else None,
        )
        networks.check_finite(networks.predict(logits, images), network=logits, images="images")
    except ValueError as error:
        raise ConfigError("network", f"{error}") from error
    prepared = attacks.prepare(name, config, temperature=temperature)
    if targets is None:
        attempts = adversarial.attempts_on(
            images, labels, prepared.targets, num_classes=unit.num_classes, seed=config.seed
        )
    else:
        rows = np.arange(len(images))
        aims = np.asarray(targets, np.int64)
        attempts = adversarial.Attempts(images, labels, aims, rows, np.ones(len(rows), np.bool_))
    made = adversarial.craft(prepared, logits, attacked, attempts)
    in_range = from_unit(made.images, dataset.value_range).astype(np.float32)
    return dataclasses.replace(made, images=in_range)


def load_attack(artefact: Artefact) -> records.AttackRecord:
    """What an attack stage says of the attack."""
    with reading(artefact):
        return records.load(records.AttackRecord, artefact.directory / _RECORD)


def load_attempts(artefact: Artefact) -> Adversarial:
    """What an attack stage made."""
    with reading(artefact):
        return adversarial.load(artefact.directory / _MADE)
