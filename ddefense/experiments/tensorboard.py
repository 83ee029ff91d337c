"""Logs for TensorBoard: the course of every training, and of the sweep the HParams plugin's table.

They say nothing that the results do not say, and change none. A training in this process is logged
while it runs; one that was done elsewhere, or without logs, when it is seen to have ended.
"""

import pathlib
import shutil
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense import files, records, training
from ddefense.experiments.pair import Watch, load_training
from ddefense.pipeline.stages import Artefact

_SETTINGS = ("batch_size", "learning_rate", "momentum", "dropout")
"""Settings of a run that are hyperparameters of every network."""
_UNFINISHED = "unfinished"
"""A file beside logs of a training that may lack epochs; TensorBoard reads event files alone."""


class Logs:
    """The logs of one run.

    Args:
        directory: gets a folder for each training, named like its stage, and `sweep`; None for no
            logs at all.
        live: whether trainings run in this process.
    """

    def __init__(self, directory: pathlib.Path | None, *, live: bool = True) -> None:
        """Writes nothing yet."""
        self._directory, self._are_live = directory, live
        self._live: dict[str, _Live] = {}

    def watch(self, name: str) -> Watch | None:
        """What writes the epochs of a training of this process as they end.

        Args:
            name: of its stage.

        Returns:
            To be told of its history; None where it runs elsewhere, or without logs.
        """
        if self._directory is None or not self._are_live:
            return None
        return self._live.setdefault(name, _Live(self._directory / name))

    def training(self, artefact: Artefact) -> None:
        """Writes loss and accuracy of a training, unless all of it is there. Waits for its end.

        Args:
            artefact: the training's.
        """
        if self._directory is None:
            return
        folder = self._directory / artefact.name
        marker = folder / _UNFINISHED
        if folder.exists() and not marker.exists():
            return
        record = load_training(artefact)
        live = self._live.pop(artefact.name, None)
        if live is not None and live.close() == len(record.loss):
            marker.unlink()
            return
        if folder.exists():
            shutil.rmtree(folder)
        with files.atomic_directory(folder) as temporary:
            _log_epochs(record, temporary)

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
        with files.atomic_directory(target) as temporary:
            _log_sessions(results, temporary)


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


def _log_epochs(record: records.TrainingRecord, folder: pathlib.Path) -> None:
    writer = tf.summary.create_file_writer(str(folder))
    _log(writer, 0, record.loss, record.accuracy)
    writer.close()


def _log(
    writer: tf.summary.SummaryWriter,
    first: int,
    loss: npt.ArrayLike,
    accuracy: npt.ArrayLike,
) -> None:
    """Writes the epochs from the first on."""
    curves = {"epoch_loss": np.asarray(loss), "epoch_accuracy": np.asarray(accuracy)}
    with writer.as_default():
        for name, values in curves.items():
            for epoch in range(first, len(values)):
                tf.summary.scalar(name, values[epoch], step=epoch)
    writer.flush()


class _Live:
    """Writes epochs as they end; what an interrupted process left is written anew.

    Args:
        folder: of the training.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        """Writes nothing yet."""
        self._folder = folder
        self._writer: tf.summary.SummaryWriter | None = None
        self._written = 0

    def __call__(self, history: training.History) -> None:
        if self._writer is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            (self._folder / _UNFINISHED).touch()
            self._writer = tf.summary.create_file_writer(str(self._folder))
        _log(self._writer, self._written, history.epoch_loss, history.epoch_accuracy)
        self._written = len(history.epoch_loss)

    def close(self) -> int:
        """Ends the logs; returns how many epochs they have."""
        if self._writer is not None:
            self._writer.close()
        return self._written


def _hyperparameters(
    results: records.Results, network: records.NetworkRecord
) -> dict[str, str | float | int]:
    # Adversarial training has its own number of epochs, and not every network a warm start.
    own = network.training
    return {
        "temperature": network.temperature,
        "defense": network.defense,
        "dataset": results.dataset.name,
        "seed": results.config.seed,
        "epochs": results.config.epochs if own is None else own.epochs,
        "warm_start_steps": 0 if own is None else own.warm_start_steps,
        **{name: getattr(results.config, name) for name in _SETTINGS},
    }


def _metrics(network: records.NetworkRecord) -> Mapping[str, float]:
    """What HParams compares: shares in [0, 1], amplitudes as base-10 logarithms."""
    found = {"test_accuracy": network.test_accuracy, "confidence": network.confidence}
    attacked = network.attacks
    found |= {
        f"success/{name}": made.success_rate
        for name, made in attacked.items()
        if made.success_rate is not None
    }
    found |= {
        f"robustness/{name}": record.robustness.capped
        for name, record in network.attacks.items()
        if record.robustness is not None
    }
    return found | {
        "gradient_amplitude_log10": network.amplitude.deployed.median_log10,
        "all_zero_jacobians": network.amplitude.deployed.float32_zero_samples,
        "mean_abs_logit": network.scale.mean_abs,
    }
