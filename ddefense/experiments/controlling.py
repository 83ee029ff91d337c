"""Stages that check for masked gradients, and the verdict that is drawn from a whole run."""

import dataclasses
import pathlib

import pydantic
from pydantic.dataclasses import dataclass

from ddefense import attacks, measurements, records
from ddefense.attack_catalog import ITERATIVE, ONE_STEP
from ddefense.config import Config
from ddefense.datasets import Dataset
from ddefense.experiments.attacking import load_network, load_samples
from ddefense.experiments.pair import Trained
from ddefense.pipeline.stages import Artefact, Stages, reading

_RECORD = "rates.json"


@dataclass(config=pydantic.ConfigDict(frozen=True, extra="forbid"), kw_only=True)
class SignRates:
    """Success of `pgd_linf` under the settings of the controls, as shares of the samples.

    Attributes:
        samples: images attacked that the network does not get wrong unchanged.
        one_start: from one random start, within epsilon.
        restarts: random starts of the next.
        many_starts: from that many random starts, within epsilon.
        unbounded: from one random start, anywhere within the bounds of the images.
    """

    samples: int
    one_start: float
    restarts: int
    many_starts: float
    unbounded: float


def attack(
    stages: Stages, config: Config, dataset: Dataset, trained: Trained, samples: Artefact
) -> Artefact:
    """Runs PGD on the loss through the softmax from many starts, and without a bound."""
    low, high = dataset.value_range
    one = attacks.PGD(epsilon=config.epsilon, steps=config.pgd_steps, seed=config.seed)
    settings = {
        "one_start": one,
        "many_starts": dataclasses.replace(one, restarts=config.pgd_restarts),
        "unbounded": dataclasses.replace(one, epsilon=high - low),
    }

    def work(directory: pathlib.Path) -> None:
        indices = load_samples(samples)
        images, labels = dataset.test.images[indices], dataset.test.labels[indices]
        network, attacked = load_network(trained.network, dataset)
        rates = {}
        # The outlier class of a network counts here as any other: these checks are about whether
        # gradients lead anywhere.
        for name, setting in settings.items():
            made = attacks.pgd_linf(attacked, images, labels, settings=setting)
            outcome = measurements.judge(
                network,
                images,
                made.images,
                labels=labels,
                targets=None,
                bounds=dataset.value_range,
                norm="linf",
                budget=setting.epsilon,
            )
            counted = ~outcome.started
            rates[name] = float(outcome.success[counted].mean()) if counted.any() else 0.0
        records.dump(
            SignRates(samples=int(counted.sum()), restarts=config.pgd_restarts, **rates),
            directory / _RECORD,
        )

    return stages.run(
        f"controls_on_{trained.name}",
        settings,
        [trained.network, samples],
        work,
        kind="attack",
    )


def load_rates(artefact: Artefact) -> SignRates:
    """What a stage of controls left."""
    with reading(artefact):
        return records.load(SignRates, artefact.directory / _RECORD)


def controls(
    network: records.NetworkRecord,
    zero_gradients: records.ControlRecord | None,
    rates: SignRates | None,
    undistilled: records.AttackRecord | None,
    scaled: records.AttackRecord | None,
) -> list[records.ControlRecord]:
    """The controls of one network, as far as they were measured.

    Args:
        network: its record.
        zero_gradients: of it, if it has gradients.
        rates: of PGD, if it was run.
        undistilled: `jsma_f` on the undistilled network, if it was run.
        scaled: the same on its logits times this network's temperature, if it was run.
    """
    found = [] if zero_gradients is None else [zero_gradients]
    found += _own_controls(network, rates)
    before = None if undistilled is None else undistilled.success_rate
    after = None if scaled is None else scaled.success_rate
    if before is not None and after is not None and scaled is not None:
        scaling = measurements.scaled_logits(
            network.name, network.temperature, before, after, scaled.samples
        )
        found.insert(1, scaling)
    return found


def _own_controls(
    network: records.NetworkRecord, rates: SignRates | None
) -> list[records.ControlRecord]:
    """The controls by attacks that need no other network, as far as they were measured."""
    name, attacked, outliers = network.name, network.attacks, network.outliers

    def moved(attack: str) -> float | None:
        success = attacked[attack].success_rate if attack in attacked else None
        if success is None or outliers is None:
            return success
        # Gradients that lead to the outlier class are not masked.
        return success + outliers.attacks[attack].detection

    found = []
    fgsm, pgd = moved(ONE_STEP), moved(ITERATIVE)
    if fgsm is not None and pgd is not None:
        attempts = attacked[ITERATIVE].attempts
        found.append(measurements.iterative_beats_one_step(name, fgsm, pgd, attempts))
    if rates is not None and rates.samples:
        found += [
            measurements.unbounded_reaches_all(name, rates.unbounded, rates.samples),
            measurements.random_restarts(
                name, rates.one_start, rates.many_starts, rates.restarts, rates.samples
            ),
        ]
    return found
