"""Stages that attack with a norm: one attack on one network, in resumable shards."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic
from pydantic.dataclasses import dataclass

from ddefense import attacks, files, measurements, networks, records
from ddefense.attack_catalog import SIGN_ATTACKS
from ddefense.config import Config, chosen
from ddefense.datasets import Dataset
from ddefense.experiments.adopting import load_classifier, load_outputs
from ddefense.experiments.attacking import damaged_shard, load_samples, shards
from ddefense.experiments.outliers import Attempts, outlier_class
from ddefense.experiments.pair import Trained
from ddefense.experiments.stages import SCRATCH, Artefact, Part, Stages, reading

_RECORD = "attack.json"
_IMAGES = "adversarial.npz"
_TRANSFER = "transfer.json"
_CRAFTED = "crafted.npz"
_REPLAYED = "replayed.npz"
_SHARD = "shard.npz"

Images = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]
Craft = Callable[[attacks.Classifier, Images, Classes, Classes | None, int], Images]
Targets = Literal["untargeted", "random", "all"]

# Of `CarliniWagner`, what an attack takes: `cw_linf` has its own learning rate and constants.
_TAKES = {
    "cw_l2": ("kappa", "steps", "search_steps", "learning_rate", "initial_c"),
    "cw_l0": ("kappa", "steps", "learning_rate", "initial_c"),
    "cw_linf": ("kappa", "steps"),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one attack is run on one network.

    Attributes:
        craft: (network, images, labels, targets, number of the first row) -> adversarial images.
        norm: in which its perturbations are measured.
        targets: which classes it aims at.
        samples: how many of the attacked images, the first ones.
        settings: what the results call its parameters.
        identity: those of them that are not at their default, as what determines the attack.
        epsilon: bound that success is held against, if it has one.
    """

    craft: Craft
    norm: Literal["l0", "l2", "linf"]
    targets: Targets
    samples: int
    settings: dict[str, int | float | str | bool]
    identity: dict[str, Any]
    epsilon: float | None = None


def plan_of(
    name: str,
    config: Config,
    bounds: tuple[float, float],
    num_classes: int,
    *,
    temperature: float,
    every_target: bool = False,
) -> Plan:
    """How an attack that is measured by a norm is run.

    Args:
        name: one of `config.NORM_ATTACKS`, but for `transfer_cw_l2`.
        config: its settings.
        bounds: smallest and largest value of a feature.
        num_classes: of the dataset; one more of the network is for outliers.
        temperature: T > 0 by which attacks on logits / T divide.
        every_target: whether `cw_l2` aims at every wrong class.
    """
    if name in SIGN_ATTACKS:
        return _sign_plan(name, config, bounds, temperature)
    if name == "labels_only":
        return _labels_only_plan(config, bounds, num_classes)
    norms: dict[str, Literal["l0", "l2", "linf"]] = {"cw_l0": "l0", "cw_linf": "linf"}
    everywhere = name == "cw_l2" and every_target
    settings = _carlini_wagner(config)
    return Plan(
        craft=_by_logits(name, config, bounds, settings),
        norm=norms.get(name, "l2"),
        targets="all" if everywhere else "random",
        samples=config.cw_samples if name == "cw_l2" else config.costly_samples,
        settings={field: getattr(settings, field) for field in _TAKES[name]},
        identity=chosen(settings, *_TAKES[name]),
    )


def _carlini_wagner(config: Config, kappa: float = 0.0) -> attacks.CarliniWagner:
    return attacks.CarliniWagner(
        kappa=kappa,
        steps=config.cw_steps,
        search_steps=config.cw_search_steps,
        learning_rate=config.cw_learning_rate,
        initial_c=config.cw_initial_c,
    )


def _by_logits(
    name: str, config: Config, bounds: tuple[float, float], settings: attacks.CarliniWagner
) -> Craft:
    attack = {"cw_l2": attacks.cw_l2, "cw_l0": attacks.cw_l0, "cw_linf": attacks.cw_linf}[name]
    return _whatever_the_row(
        functools.partial(
            attack,
            bounds=bounds,
            settings=settings,
            batch_size=config.attack_batch_size,
        )
    )


def _whatever_the_row(attack: Callable[..., Images]) -> Craft:
    """An attack in which nothing is random."""
    return lambda attacked, images, labels, targets, _: attack(attacked, images, labels, targets)


def _labels_only_plan(config: Config, bounds: tuple[float, float], num_classes: int) -> Plan:
    def craft(
        attacked: attacks.Classifier,
        images: Images,
        labels: Classes,
        _: Classes | None,
        first_row: int,
    ) -> Images:
        return attacks.labels_only(
            attacked,
            images,
            labels,
            bounds=bounds,
            queries=config.labels_only_queries,
            seed=config.seed,
            first_row=first_row,
            outlier_class=num_classes if attacked.num_classes > num_classes else None,
        )

    return Plan(
        craft=craft,
        norm="l2",
        targets="untargeted",
        samples=config.costly_samples,
        settings={"queries": config.labels_only_queries, "seed": config.seed},
        identity=chosen(config, "labels_only_queries"),
    )


def _all_targets(config: Config, trained: Trained) -> bool:
    if trained.defense == "none":
        return bool(config.cw_all_targets_at)
    return trained.defense == "distillation" and trained.temperature in config.cw_all_targets_at


def _sign_plan(name: str, config: Config, bounds: tuple[float, float], temperature: float) -> Plan:
    settings = attacks.SignAttack(
        epsilon=config.epsilon,
        steps=config.pgd_steps,
        step_size=attacks.default_step_size(config.epsilon, config.pgd_steps),
        loss="logits" if "temperature" in name else "softmax",
        temperature=temperature if "temperature" in name else 1.0,
        seed=config.seed,
    )

    def from_random_starts(
        attacked: attacks.Classifier,
        images: Images,
        labels: Classes,
        targets: Classes | None,
        first_row: int,
    ) -> Images:
        return attacks.pgd_linf(
            attacked,
            images,
            labels,
            targets,
            bounds=bounds,
            settings=settings,
            start=attacks.random_start(images, settings, first_row=first_row),
        )

    craft: Craft = from_random_starts
    taken = tuple(vars(settings))
    if name.startswith("fgsm"):
        fgsm = functools.partial(attacks.fgsm, bounds=bounds, settings=settings)
        craft, taken = _whatever_the_row(fgsm), ("epsilon", "loss", "temperature")
    return Plan(
        craft=craft,
        norm="linf",
        targets="all" if name.endswith("_targeted") else "untargeted",
        samples=config.samples,
        settings={field: getattr(settings, field) for field in taken},
        identity=chosen(settings, *taken),
        epsilon=config.epsilon,
    )


def attack(
    stages: Stages, config: Config, dataset: Dataset, trained: Trained, samples: Artefact, name: str
) -> Artefact:
    """Attacks one network with one attack, shard by shard, and judges the result afresh."""
    plan = plan_of(
        name,
        config,
        dataset.value_range,
        dataset.num_classes,
        temperature=trained.temperature,
        every_target=_all_targets(config, trained),
    )

    count = min(plan.samples, config.samples)
    each = dataset.num_classes - 1 if plan.targets == "all" else 1

    def attempts_on(first: int, stop: int) -> _Attempts:
        return _attempts(config, dataset, load_samples(samples), plan.targets, first, stop)

    def attack_shard(first: int, directory: pathlib.Path) -> None:
        stop = min(first + config.shard_samples, count)
        _craft(
            attempts_on(first, stop), dataset, trained.network, plan.craft, first * each, directory
        )

    def join(directory: pathlib.Path) -> None:
        attempts = attempts_on(0, count)
        logits = load_outputs(trained.network)
        made = _join(directory, parts)
        outcome = measurements.judge_norm(
            logits,
            attempts.images,
            made,
            labels=attempts.labels,
            targets=attempts.targets,
            bounds=dataset.value_range,
            norm=plan.norm,
            epsilon=plan.epsilon,
            outlier_class=outlier_class(trained.network, dataset),
        )
        chosen = None if attempts.targets is None else attempts.targets == attempts.chosen
        record = measurements.norm_record(
            outcome,
            attempts.sample,
            settings=plan.settings,
            targets=plan.targets,
            random_target_rows=chosen,
            seed=config.seed,
        )
        records.dump(record, directory / _RECORD)
        made_of = outcome.attempts(attempts.sample, attempts.targets, chosen)
        np.savez_compressed(directory / _IMAGES, images=made, **vars(made_of))

    settings = {
        "attack": name,
        "settings": plan.identity,
        "targets": plan.targets,
        "samples": plan.samples,
        **chosen(config, "seed", "shard_samples", "attack_batch_size"),
    }
    parts = shards(config, count, each, attack_shard)
    stage = f"{name}_on_{trained.name}"
    inputs = [trained.network, samples]
    return stages.run(stage, settings, inputs, join, kind="attack", parts=parts)


def load_attack(artefact: Artefact) -> tuple[records.NormAttackRecord, records.Attempts]:
    """What an attack stage left."""
    with reading(artefact), files.read_npz(artefact.directory / _IMAGES) as arrays:
        record = records.load(records.NormAttackRecord, artefact.directory / _RECORD)
        return record, records.Attempts.of_arrays(arrays)


def load_attempts(artefact: Artefact, labels: Classes) -> Attempts:
    """The adversarial images that an attack stage left.

    Args:
        artefact: of the stage.
        labels: true classes of all attacked images, of which it may have taken the first.
    """
    record, made = load_attack(artefact)
    with reading(artefact), files.read_npz(artefact.directory / _IMAGES) as arrays:
        images = arrays["images"]
    targets = None if record.targets == "untargeted" else made.target
    return Attempts(images, made.sample, labels[made.sample], targets, made.started)


@dataclasses.dataclass(frozen=True)
class _Attempts:
    """What is attacked, one row per attempt.

    Attributes:
        images: shape [P, H, W, C].
        labels: shape [P].
        targets: shape [P]; None if untargeted.
        sample: row of the image among the attacked ones, shape [P].
        chosen: the sample's one random target, shape [P].
    """

    images: Images
    labels: Classes
    targets: Classes | None
    sample: Classes
    chosen: Classes


def _attempts(
    config: Config,
    dataset: Dataset,
    indices: npt.NDArray[np.int64],
    targets: Targets,
    first: int,
    stop: int,
) -> _Attempts:
    """The attempts on some of the attacked images, from `first` up to `stop`."""
    # Those before are drawn too, so that it does not depend on how they are divided.
    labels = dataset.test.labels[indices[:stop]]
    chosen = attacks.one_wrong_class(labels, dataset.num_classes, config.seed)[first:]
    images, labels = dataset.test.images[indices[first:stop]], labels[first:]
    rows = np.arange(first, first + len(images))
    if targets == "all":
        inside, target = attacks.every_wrong_class(labels, dataset.num_classes)
        return _Attempts(images[inside], labels[inside], target, rows[inside], chosen[inside])
    return _Attempts(images, labels, chosen if targets == "random" else None, rows, chosen)


def _craft(
    attempts: _Attempts,
    dataset: Dataset,
    network: Artefact,
    craft: Craft,
    first_row: int,
    directory: pathlib.Path,
) -> None:
    """Attacks a network and leaves the adversarial images."""
    attacked = load_classifier(network, dataset.value_range)
    made = craft(attacked, attempts.images, attempts.labels, attempts.targets, first_row)
    np.savez_compressed(directory / _SHARD, images=made)


def _join(directory: pathlib.Path, parts: Sequence[Part]) -> Images:
    """The adversarial images of all shards."""
    return np.concatenate(
        [_load_images(directory / SCRATCH / part.name / _SHARD) for part in parts]
    )


def _load_images(path: pathlib.Path) -> Images:
    try:
        with files.read_npz(path) as arrays:
            images: Images = arrays["images"]
            return images
    except files.DamagedError as error:
        raise damaged_shard(path, error) from error


@dataclass(config=pydantic.ConfigDict(frozen=True, extra="forbid"), kw_only=True)
class Transfer:
    """What replaying the substitute's adversarial samples gave."""

    attack: records.NormAttackRecord
    by_kappa: list[records.TransferRecord]


@dataclasses.dataclass(frozen=True)
class Crafted:
    """Adversarial samples of a substitute.

    Attributes:
        substitute: the network they were made on.
        artefact: the stage that holds them.
    """

    substitute: Trained
    artefact: Artefact


def craft_on_substitute(
    stages: Stages, config: Config, dataset: Dataset, substitute: Trained, samples: Artefact
) -> Crafted:
    """Adversarial samples of the substitute by `cw_l2`, one random target each, at every kappa."""
    settings = {
        "settings": _carlini_wagner(config),
        "samples": config.cw_samples,
        **chosen(config, "kappas", "seed", "shard_samples", "attack_batch_size"),
    }

    def attack_shard(kappa: float, first: int, directory: pathlib.Path) -> None:
        craft = _by_logits("cw_l2", config, dataset.value_range, _carlini_wagner(config, kappa))
        stop = min(first + config.shard_samples, count)
        attempts = _attempts(config, dataset, load_samples(samples), "random", first, stop)
        _craft(attempts, dataset, substitute.network, craft, first, directory)

    def join(directory: pathlib.Path) -> None:
        arrays = {f"{kappa:g}": _join(directory, parts) for kappa, parts in by_kappa.items()}
        np.savez_compressed(directory / _CRAFTED, allow_pickle=False, **arrays)

    count = min(config.cw_samples, config.samples)
    by_kappa = {
        kappa: [
            dataclasses.replace(shard, name=f"kappa_{kappa:g}_{shard.name}")
            for shard in shards(config, count, 1, functools.partial(attack_shard, kappa))
        ]
        for kappa in config.kappas
    }
    artefact = stages.run(
        f"transfer_cw_l2_from_{substitute.name}",
        settings,
        [substitute.network, samples],
        join,
        kind="attack",
        parts=[part for parts in by_kappa.values() for part in parts],
    )
    return Crafted(substitute, artefact)


def transfer(
    stages: Stages,
    config: Config,
    dataset: Dataset,
    trained: Trained,
    crafted: Crafted,
    samples: Artefact,
) -> Artefact:
    """Replays the substitute's adversarial samples on one network."""

    def work(directory: pathlib.Path) -> None:
        count = min(config.cw_samples, config.samples)
        attempts = _attempts(config, dataset, load_samples(samples), "random", 0, count)
        logits = load_outputs(trained.network)
        makers = load_outputs(crafted.substitute.network)
        by_kappa, refused = [], outlier_class(trained.network, dataset)
        made = {kappa: _load_crafted(crafted, kappa) for kappa in config.kappas}
        for kappa, images in made.items():
            # Untargeted, as it is replayed: any wrong class is a success.
            outcome = measurements.judge_norm(
                logits,
                attempts.images,
                images,
                labels=attempts.labels,
                targets=None,
                bounds=dataset.value_range,
                norm="l2",
                outlier_class=refused,
            )
            by_kappa.append(
                measurements.transfer_record(
                    networks.predicted_classes(networks.predict(makers, images)),
                    outcome,
                    attempts.chosen,
                    kappa,
                    config.seed,
                )
            )
        record = measurements.norm_record(
            outcome,
            attempts.sample,
            settings={
                **dataclasses.asdict(_carlini_wagner(config, config.kappas[-1])),
                "crafted_on": crafted.substitute.name,
            },
            targets="untargeted",
            random_target_rows=None,
            seed=config.seed,
        )
        records.dump(Transfer(attack=record, by_kappa=by_kappa), directory / _TRANSFER)
        made_of = outcome.attempts(attempts.sample, None)
        np.savez_compressed(directory / _REPLAYED, allow_pickle=False, **vars(made_of))

    inputs = [trained.network, crafted.artefact, samples]
    return stages.run(f"transfer_cw_l2_on_{trained.name}", {}, inputs, work)


def load_replayed(
    config: Config, crafted: Crafted, replayed: Artefact, labels: Classes
) -> Attempts:
    """The substitute's adversarial images of the highest kappa, which any wrong class will do.

    Args:
        config: of the run.
        crafted: what the substitute's stage left.
        replayed: the stage that replayed them on a network.
        labels: true classes of all attacked images, of which it may have taken the first.
    """
    images, made = _load_crafted(crafted, config.kappas[-1]), load_transfer(replayed)[1]
    return Attempts(images, made.sample, labels[made.sample], None, made.started)


def _load_crafted(crafted: Crafted, kappa: float) -> Images:
    source = crafted.artefact
    with reading(source), files.read_npz(source.directory / _CRAFTED) as arrays:
        images: Images = arrays[f"{kappa:g}"]
        return images


def load_transfer(artefact: Artefact) -> tuple[Transfer, records.Attempts]:
    """What a transfer stage left, with the attempts at the highest kappa."""
    with reading(artefact), files.read_npz(artefact.directory / _REPLAYED) as arrays:
        transfer = records.load(Transfer, artefact.directory / _TRANSFER)
        return transfer, records.Attempts.of_arrays(arrays)
