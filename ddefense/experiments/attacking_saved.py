"""Attacks on one saved network, without the experiment around it."""

import dataclasses
import pathlib

from absl import logging

from ddefense import datasets, evidence, records
from ddefense.attack_catalog import GRADIENT_FREE_ATTACKS, PROBABILITY_ATTACKS
from ddefense.config import Config
from ddefense.experiments import (
    adopting,
    attacking,
    controlling,
    environment,
    measuring,
    workdir,
)
from ddefense.experiments.adopting import Source
from ddefense.experiments.assessing import NetworkAttacks
from ddefense.experiments.stages import Stages
from ddefense.settings import ConfigError

LOW_ACCURACY = 0.5
"""Test accuracy below which the network is doubted, a share; or, of many classes, below five times
that of guessing."""


def run(
    config: Config,
    directory: pathlib.Path,
    *,
    network: Source,
    substitute: pathlib.Path | None = None,
    temperature: float | None = None,
    dataset: datasets.Dataset | None = None,
    data_dir: pathlib.Path | None = None,
    command: str = "",
) -> records.AttackRun:
    """Attacks a saved network with everything the configuration names; finished stages are skipped.

    With the attacks go the checks for masked gradients that need no other network, whichever
    attacks were asked for; `iterative_beats_one_step` compares two of them, `fgsm` and `pgd_linf`,
    and goes with both. A network through which no gradient can be taken is checked for none.

    Images are attacked in [0, 1], whatever range the network takes.

    Args:
        config: which attacks, with which settings; those that concern training are not used.
            `cw_l2` aims at every wrong class if `temperature` is in `cw_all_targets_at`.
        directory: the run directory, made if needed; receives `attack.json`.
        network: a `.keras` file or a network that ends in logits or in a softmax, or a SavedModel.
        substitute: a `.keras` file for `transfer_cw_l2`.
        temperature: T > 0 that the network was trained at, by which attacks on logits / T divide;
            None if it is not known.
        dataset: whose test images are attacked, in the range that the network takes; None for
            the dataset that the configuration names.
        data_dir: folder of prepared TFDS data.
        command: recorded with the results.

    Returns:
        The results, as written to `attack.json`.

    Raises:
        RunError: if the run cannot go on; the message says why.
        ConfigError: if the network cannot be attacked, or does not fit the dataset.
        StoppedError: if the run was asked to stop.
    """
    check_attacks(config, substitute=substitute is not None, temperature=temperature)
    attacking.check_installed(config)
    workdir.check(directory, config)
    data = None
    if dataset is None:
        dataset = datasets.load(config.dataset, data_dir=data_dir)
    else:
        adopting.check_data(dataset)
        data = adopting.digest_of(dataset)
    attacking.check_fits(config, dataset)
    subject = adopting.prepare("network", network, dataset)
    _check_model(config, subject.model)
    replayed = None
    if substitute is not None:
        replayed = adopting.prepare("substitute", substitute, dataset)
    process = environment.Process(command)
    unit = adopting.in_unit_range(dataset)
    with workdir.claimed(directory, config):
        stages = Stages(directory, made_by=environment.provenance)
        attacked = adopting.adopt(stages, "attacked", subject, temperature=temperature, data=data)
        measured = measuring.load_measurements(measuring.measure(stages, config, unit, attacked))
        # Before the samples: a network of another dataset may not get enough images right.
        doubts = warnings(measured.test_accuracy, dataset)
        samples = attacking.choose_samples(stages, config, unit, attacked)
        run_attacks = NetworkAttacks(
            stages,
            _aiming(config, temperature),
            unit,
            samples,
            lambda: adopting.adopt(
                stages, "substitute", replayed or subject, temperature=1.0, data=data
            ),
        )
        found = run_attacks.attack(attacked)
        rates = None
        if subject.model is None or not subject.model.no_gradients:
            rates = controlling.load_rates(
                controlling.attack(stages, config, unit, attacked, samples)
            )
        results = records.AttackRun(
            network=subject.label,
            sha256=subject.sha256,
            substitute=None if substitute is None else str(substitute),
            temperature=temperature,
            dataset=dataset.name,
            config=config,
            environment=process.environment(stages.done),
            timings=process.timings(stages.done),
            test_accuracy=measured.test_accuracy,
            sample_indices=attacking.load_samples(samples).tolist(),
            attacks=found.attacks,
            transfer=found.transfer,
            controls=controlling.own_controls(
                attacked.name,
                measuring.zero_gradients(attacked.name, measured),
                found.attacks,
                rates,
            ),
            warnings=doubts,
            model=subject.model,
            data_sha256=data,
        )
        records.dump(results, directory / "attack.json")
    return results


def check_attacks(config: Config, *, substitute: bool, temperature: float | None) -> None:
    """Refuses attacks that lack what they need, before any work.

    Raises:
        ConfigError: if samples are to be transferred without a substitute, or logits divided by a
            temperature that nobody said.
    """
    if not substitute and "transfer_cw_l2" in config.attacks:
        raise ConfigError(
            "attacks",
            "expected a substitute with transfer_cw_l2, received none. Name an "
            "undistilled network, or leave that attack out.",
        )
    scaled = [name for name in config.attacks if "_temperature" in name]
    if temperature is None and scaled:
        raise ConfigError(
            "attacks",
            f"expected a temperature with {', '.join(scaled)}, received none. Give the T "
            "that the network was trained at, or leave them out.",
        )


def impossible_on(
    model: records.SavedModelRecord, attacks: tuple[str, ...]
) -> tuple[tuple[str, ...], str]:
    """Which of the attacks cannot be run on a SavedModel, and why.

    Args:
        model: how it is run.
        attacks: names of attacks.

    Returns:
        Their names, none if all can be run, and the reason as the end of a sentence.
    """
    if model.no_gradients:
        possible = set(GRADIENT_FREE_ATTACKS)
        reason = f"without gradients ({model.no_gradients})"
    elif model.outputs == "probabilities":
        possible, reason = set(PROBABILITY_ATTACKS), "on probabilities: they need logits"
    else:
        return (), ""
    return tuple(name for name in attacks if name not in possible), reason


def _check_model(config: Config, model: records.SavedModelRecord | None) -> None:
    if model is None:
        return
    names, reason = impossible_on(model, config.attacks)
    if names:
        raise ConfigError(
            "attacks",
            f"expected attacks that this model allows; received {', '.join(names)}, "
            f"which cannot be run {reason}. Leave them out"
            + (
                ", or name an output that is logits (logits_output)."
                if model.outputs == "probabilities" and not model.no_gradients
                else "."
            ),
        )


def warnings(
    test_accuracy: float,
    dataset: datasets.Dataset,
    *,
    undistilled: float | None = None,
    name: str = "The network",
) -> list[str]:
    """What makes the numbers doubtful; logged as well.

    Args:
        test_accuracy: of a network, a share.
        dataset: that it was measured on.
        undistilled: accuracy of the undistilled network; None without one.
        name: what the sentences call the network.

    Returns:
        Sentences: that the network did not learn (`evidence.learnt`), or that its accuracy is low.
    """
    learnt = evidence.learnt(
        [test_accuracy],
        images=len(dataset.test),
        classes=dataset.num_classes,
        undistilled=undistilled,
    )
    if learnt and test_accuracy >= min(LOW_ACCURACY, 5 / dataset.num_classes):
        return []
    low, high = dataset.value_range
    problem = (
        "attacks on it say little" if learnt else "it did not learn, so attacks on it say nothing"
    )
    warning = (
        f"{name} gets only {100 * test_accuracy:.2f} % of the test images of "
        f"{dataset.name} right: {problem}. Was it trained on another dataset? Does "
        f"it expect images in another range than [{low:g}, {high:g}]?"
    )
    logging.warning("%s", warning)
    return [warning]


def _aiming(config: Config, temperature: float | None) -> Config:
    """The configuration by which attacks aim.

    An adopted network counts as undistilled, on which `cw_l2` aims at every wrong class if it does
    so at any temperature.
    """
    if temperature in config.cw_all_targets_at:
        return config
    return dataclasses.replace(config, cw_all_targets_at=())
