"""Stages that transfer: adversarial samples of a substitute, replayed on other networks."""

import dataclasses
import pathlib

import pydantic
from pydantic.dataclasses import dataclass

from ddefense import attacks, measurements, records
from ddefense.attack_catalog import TRANSFER
from ddefense.config import Config, chosen
from ddefense.datasets import Dataset
from ddefense.experiments import adversarial, attacking
from ddefense.experiments.adversarial import Adversarial
from ddefense.experiments.pair import Trained
from ddefense.pipeline.stages import Artefact, Stages, reading

_RECORD = "transfer.json"
_REPLAYED = "replayed.npz"


@dataclass(config=pydantic.ConfigDict(frozen=True, extra="forbid"), kw_only=True)
class Transfer:
    """What replaying the substitute's adversarial samples gave."""

    attack: records.AttackRecord
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


def _with_kappa(config: Config, kappa: float) -> attacks.Prepared:
    prepared = attacks.prepare(TRANSFER, config, temperature=1.0)
    settings = dataclasses.replace(prepared.settings, kappa=kappa)
    return dataclasses.replace(prepared, settings=settings)


def craft_on_substitute(
    stages: Stages, config: Config, dataset: Dataset, substitute: Trained, samples: Artefact
) -> Crafted:
    """Adversarial samples of the substitute by `cw_l2`, one random target each, at every kappa."""
    by_kappa = {
        kappa: [
            dataclasses.replace(shard, name=f"kappa_{kappa:g}_{shard.name}")
            for shard in attacking.shards(
                config, dataset, substitute.network, samples, _with_kappa(config, kappa)
            )
        ]
        for kappa in config.kappas
    }

    def join(directory: pathlib.Path) -> None:
        for kappa, parts in by_kappa.items():
            adversarial.save(attacking.join_shards(directory, parts), directory / _file(kappa))

    prepared = _with_kappa(config, 0.0)
    settings = {
        "settings": prepared.settings,
        "samples": prepared.samples,
        **chosen(config, "kappas", "seed", "shard_samples", "attack_batch_size"),
    }
    artefact = stages.run(
        f"{TRANSFER}_from_{substitute.name}",
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
        originals = attacking.originals(dataset, samples)
        network, attacked = attacking.load_network(trained.network, dataset)
        by_kappa = []
        for kappa in config.kappas:
            made = _load_crafted(crafted, kappa)
            # Untargeted, as it is replayed: any wrong class is a success.
            attempts = adversarial.Attempts(
                originals[made.original], made.labels, None, made.original, made.chosen
            )
            replayed = adversarial.judged(network, attacked, attempts, made.images, norm="l2")
            by_kappa.append(
                measurements.transfer_record(
                    made.predicted, replayed, made.aims, kappa, config.seed
                )
            )
        last = _with_kappa(config, config.kappas[-1]).settings
        record = adversarial.record_of(
            replayed,
            settings={**dataclasses.asdict(last), "crafted_on": crafted.substitute.name},
            targets="untargeted",
            seed=config.seed,
        )
        records.dump(Transfer(attack=record, by_kappa=by_kappa), directory / _RECORD)
        adversarial.save(replayed, directory / _REPLAYED)

    inputs = [trained.network, crafted.artefact, samples]
    return stages.run(f"{TRANSFER}_on_{trained.name}", {}, inputs, work)


def load_transfer(artefact: Artefact) -> Transfer:
    """What a transfer stage says of the attack."""
    with reading(artefact):
        return records.load(Transfer, artefact.directory / _RECORD)


def load_attempts(artefact: Artefact) -> Adversarial:
    """What a transfer stage replayed at the highest kappa."""
    with reading(artefact):
        return adversarial.load(artefact.directory / _REPLAYED)


def _load_crafted(crafted: Crafted, kappa: float) -> Adversarial:
    with reading(crafted.artefact):
        return adversarial.load(crafted.artefact.directory / _file(kappa))


def _file(kappa: float) -> str:
    return f"kappa_{kappa:g}.npz"
