"""Attacks on one saved network, without the experiment around it."""

import hashlib
import pathlib
import shutil
import time
import zipfile
from datetime import UTC, datetime

import keras

from ddefense import attacks, datasets, measurements, networks, records
from ddefense.config import Config, ConfigError
from ddefense.experiments import attacking, environment, workdir
from ddefense.experiments.assessing import NetworkAttacks
from ddefense.experiments.pair import NETWORK, Trained, load_logits
from ddefense.experiments.stages import Stages


def run(
    config: Config,
    directory: pathlib.Path,
    *,
    network: pathlib.Path,
    substitute: pathlib.Path | None = None,
    temperature: float = 1.0,
    data_dir: pathlib.Path | None = None,
    command: str = "",
) -> records.AttackRun:
    """Attacks a saved network with everything the configuration names; finished stages are skipped.

    Args:
        config: which attacks, with which settings; those that concern training are not used.
        directory: the run directory, made if needed; receives `attack.json`.
        network: a `.keras` file with a layer named `logits`.
        substitute: another one, for `transfer_cw_l2`.
        temperature: T > 0 by which attacks on logits / T divide.
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
        samples = attacking.choose_samples(stages, config, dataset, attacked)
        run_attacks = NetworkAttacks(
            stages,
            config,
            dataset,
            samples,
            lambda: _adopt(stages, "substitute", substitute or network, 1.0),
        )
        found = run_attacks.attack(attacked)
        logits = networks.predict(load_logits(attacked.network), dataset.test.images)
        results = records.AttackRun(
            network=str(network),
            sha256=_sha256(network),
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
            test_accuracy=measurements.accuracy(logits, dataset.test.labels),
            sample_indices=attacking.load_samples(samples).tolist(),
            attacks=found.jsma,
            robustness=found.robustness,
            norm_attacks=found.norm_attacks,
            transfer=found.transfer,
        )
        records.dump(results, directory / "attack.json")
    return results


def _check(flag: str, path: pathlib.Path, dataset: datasets.Dataset) -> None:
    """Refuses a file that is no network, or none for this dataset, before any work."""
    if path.suffix != ".keras":
        raise ConfigError(
            f"{flag}: expected a .keras file, received {str(path)!r}. Load it with Keras and save "
            "it as one."
        )
    try:
        network = keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"{flag}: expected a .keras file that Keras can load, received {str(path)!r}: {first}"
        ) from error
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


def _adopt(stages: Stages, name: str, path: pathlib.Path, temperature: float) -> Trained:
    """Keeps a copy of a network in the run directory, as if it had been trained there."""

    def work(directory: pathlib.Path) -> None:
        shutil.copyfile(path, directory / NETWORK)

    settings = {"sha256": _sha256(path), "temperature": temperature}
    artefact = stages.run(name, settings, [], work)
    return Trained(name, temperature, artefact)


def _sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
