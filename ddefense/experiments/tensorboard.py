"""Logs for TensorBoard: the course of every training, and of the sweep the HParams plugin's table.

They say nothing that the results do not say, and change none. What a training left is written when
it has ended, whichever process or machine did it: a run that resumes doubles nothing.
"""

import functools
import pathlib
import shutil
import uuid
from collections.abc import Callable, Mapping

import tensorflow as tf

from ddefense import records
from ddefense.experiments.pair import Trained, load_training
from ddefense.experiments.stages import Artefact

_SETTINGS = ("epochs", "batch_size", "learning_rate", "momentum", "dropout", "warm_start_steps")
"""Settings of a run that are hyperparameters of every network."""


class Logs:
    """The logs of one run.

    Args:
        directory: gets a folder for each training, named like its stage, and `sweep`; None for no
            logs at all.
    """

    def __init__(self, directory: pathlib.Path | None) -> None:
        """Writes nothing yet."""
        self._directory = directory

    def training(self, trained: Trained, *, wait: bool = False) -> None:
        """Writes loss and accuracy of the trainings of one network, unless that was done before.

        Args:
            trained: the network.
            wait: for trainings that are still at work; else nothing is written of them.
        """
        for artefact in (trained.initial, trained.network):
            if self._directory is None or artefact is None:
                continue
            if wait or artefact.pending is None:
                _write_once(
                    self._directory / artefact.name, functools.partial(_log_epochs, artefact)
                )

    def sweep(self, results: records.Results) -> None:
        """Writes one session of the HParams plugin for every network, in place of earlier ones.

        Args:
            results: of the run.
        """
        if self._directory is None:
            return
        target = self._directory / "sweep"
        if target.exists():
            shutil.rmtree(target)
        _write_once(target, functools.partial(_log_sessions, results))


def _log_sessions(results: records.Results, folder: pathlib.Path) -> None:
    # What is there at run time only where the extra is.
    from tensorboard.plugins.hparams import api

    metrics = {network.name: _metrics(network) for network in results.networks}
    with tf.summary.create_file_writer(str(folder)).as_default():
        api.hparams_config(
            hparams=[api.HParam(name) for name in _hyperparameters(results, results.baseline())],
            metrics=[
                api.Metric(name)
                for name in dict.fromkeys(name for own in metrics.values() for name in own)
            ],
        )
    for network in results.networks:
        with tf.summary.create_file_writer(str(folder / network.name)).as_default():
            api.hparams(_hyperparameters(results, network), trial_id=network.name)
            for name, value in metrics[network.name].items():
                tf.summary.scalar(name, value, step=0)


def _write_once(folder: pathlib.Path, log: Callable[[pathlib.Path], None]) -> None:
    """Fills a folder that appears when it is complete; nothing where it is there."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".tmp-{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        log(temporary)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _log_epochs(artefact: Artefact, folder: pathlib.Path) -> None:
    training = load_training(artefact)
    curves = zip(training.loss, training.accuracy, strict=True)
    with tf.summary.create_file_writer(str(folder)).as_default():
        for epoch, (loss, accuracy) in enumerate(curves):
            tf.summary.scalar("epoch_loss", loss, step=epoch)
            tf.summary.scalar("epoch_accuracy", accuracy, step=epoch)


def _hyperparameters(
    results: records.Results, network: records.NetworkRecord
) -> dict[str, str | float | int]:
    return {
        "temperature": network.temperature,
        "defense": network.defense,
        "dataset": results.dataset.name,
        "seed": results.config.seed,
        **{name: getattr(results.config, name) for name in _SETTINGS},
    }


def _metrics(network: records.NetworkRecord) -> Mapping[str, float]:
    """What HParams compares: shares in [0, 1], amplitudes as base-10 logarithms."""
    found = {"test_accuracy": network.test_accuracy, "confidence": network.confidence}
    found |= {f"success/{name}": made.success_rate for name, made in network.attacks.items()}
    found |= {f"success/{name}": made.success_rate for name, made in network.norm_attacks.items()}
    found |= {f"robustness/{name}": under.capped for name, under in network.robustness.items()}
    return found | {
        "gradient_amplitude_log10": network.gradients.deployed.median_log10,
        "all_zero_jacobians": network.gradients.deployed.float32_zero_samples,
        "mean_abs_logit": network.logits.mean_abs,
    }
