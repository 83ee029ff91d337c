"""Attacks on one saved network, without the experiment around it."""

import dataclasses
import pathlib
import shutil
import time
from datetime import UTC, datetime

from absl import logging

from ddefense import attacks, datasets, files, networks, records
from ddefense.config import Config, ConfigError
from ddefense.experiments import attacking, controlling, environment, measuring, workdir
from ddefense.experiments.assessing import NetworkAttacks
from ddefense.experiments.pair import NETWORK, Trained
from ddefense.experiments.stages import Stages

LOW_ACCURACY = 0.5
"""Test accuracy below which the network is doubted, a share."""


def run(
    config: Config,
    directory: pathlib.Path,
    *,
    network: pathlib.Path,
    substitute: pathlib.Path | None = None,
    temperature: float | None = None,
    data_dir: pathlib.Path | None = None,
    command: str = "",
) -> records.AttackRun:
    """Attacks a saved network with everything the configuration names; finished stages are skipped.

    With the attacks go the checks for masked gradients that need no other network, whichever
    attacks were asked for; `iterative_beats_one_step` compares two of them, `fgsm` and `pgd_linf`,
    and goes with both.

    Args:
        config: which attacks, with which settings; those that concern training are not used.
            `cw_l2` aims at every wrong class if `temperature` is in `cw_all_targets_at`.
        directory: the run directory, made if needed; receives `attack.json`.
        network: a `.keras` file with a layer named `logits`.
        substitute: another one, for `transfer_cw_l2`.
        temperature: T > 0 that the network was trained at, by which attacks on logits / T divide;
            None if it is not known.
        data_dir: folder of prepared TFDS data.
        command: recorded with the results.

    Returns:
        The results, as written to `attack.json`.

    Raises:
        RunError: if the run cannot go on; the message says why.
        ConfigError: if the network cannot be attacked, or does not fit the dataset.
        StoppedError: if the run was asked to stop.
    """
    if substitute is None and "transfer_cw_l2" in config.attacks:
        raise ConfigError(
            "attacks: expected a substitute with transfer_cw_l2, received none. Name an "
            "undistilled network, or leave that attack out."
        )
    scaled = [name for name in config.attacks if "_temperature" in name]
    if temperature is None and scaled:
        raise ConfigError(
            f"attacks: expected a temperature with {', '.join(scaled)}, received none. Give the T "
            "that the network was trained at, or leave them out."
        )
    attacking.check_installed(config)
    workdir.check(directory, config)
    dataset = datasets.load(config.dataset, data_dir=data_dir)
    attacking.check_fits(config, dataset)
    _check("network", network, dataset)
    if substitute is not None:
        _check("substitute", substitute, dataset)
    start, started = time.monotonic(), datetime.now(UTC)
    with workdir.claimed(directory, config):
        stages = Stages(directory, made_by=environment.provenance())
        attacked = _adopt(stages, "attacked", network, temperature)
        measured = measuring.load_measurements(measuring.measure(stages, config, dataset, attacked))
        # Before the samples: a network of another dataset may not get enough images right.
        warnings = _warnings(measured.test_accuracy, dataset)
        samples = attacking.choose_samples(stages, config, dataset, attacked)
        run_attacks = NetworkAttacks(
            stages,
            _aiming(config, temperature),
            dataset,
            samples,
            lambda: _adopt(stages, "substitute", substitute or network, 1.0),
        )
        found = run_attacks.attack(attacked)
        rates = controlling.load_rates(
            controlling.attack(stages, config, dataset, attacked, samples)
        )
        results = records.AttackRun(
            network=str(network),
            sha256=files.sha256(network),
            substitute=None if substitute is None else str(substitute),
            temperature=temperature,
            dataset=dataset.name,
            config=config,
            environment={
                **environment.describe(),
                "command": command,
                "started": started.isoformat(timespec="seconds"),
                "peak_memory_bytes": environment.peak_memory_bytes(),
                "resumed_stages": sum(record.starts - 1 for record in stages.done),
            },
            timings={
                **{record.name: round(record.seconds, 3) for record in stages.done},
                "this_process": round(time.monotonic() - start, 3),
            },
            test_accuracy=measured.test_accuracy,
            sample_indices=attacking.load_samples(samples).tolist(),
            attacks=found.jsma,
            robustness=found.robustness,
            norm_attacks=found.norm_attacks,
            transfer=found.transfer,
            controls=controlling.own_controls(
                attacked.name, measured.gradients, found.norm_attacks, rates
            ),
            warnings=warnings,
        )
        records.dump(results, directory / "attack.json")
    return results


def _check(flag: str, path: pathlib.Path, dataset: datasets.Dataset) -> None:
    """Refuses a file that is no network, or none for this dataset, before any work."""
    try:
        network = networks.load(path)
    except ValueError as error:
        raise ConfigError(f"{flag}{str(error).removeprefix('path')}") from error
    expected = (dataset.image_shape, dataset.num_classes)
    try:
        logits = networks.logits_of(network)
        received = (tuple(logits.input_shape[1:]), logits.output_shape[-1])
        if received == expected:
            attacks.classifier(logits, bounds=dataset.value_range)
    except ValueError as error:
        raise ConfigError(f"{flag}: {path}: {error}") from error
    if received != expected:
        raise ConfigError(
            f"{flag}: expected a network for {dataset.name}, images of shape {expected[0]} and "
            f"{expected[1]} classes; received one for {received[0]} and {received[1]} at {path}."
        )


def _warnings(test_accuracy: float, dataset: datasets.Dataset) -> list[str]:
    """What makes the numbers doubtful; logged as well."""
    if test_accuracy >= LOW_ACCURACY:
        return []
    low, high = dataset.value_range
    warning = (
        f"The network gets only {100 * test_accuracy:.2f} % of the test images of "
        f"{dataset.name} right: attacks on it say little. Was it trained on another dataset? Does "
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


def _adopt(stages: Stages, name: str, path: pathlib.Path, temperature: float | None) -> Trained:
    """Keeps a copy of a network in the run directory, as if it had been trained there.

    Without a temperature it has that of the deployed network, 1, which no attack looks at then.
    """

    def work(directory: pathlib.Path) -> None:
        shutil.copyfile(path, directory / NETWORK)

    settings = {"sha256": files.sha256(path), "temperature": temperature}
    artefact = stages.run(name, settings, [], work)
    return Trained(name, 1.0 if temperature is None else temperature, artefact)
