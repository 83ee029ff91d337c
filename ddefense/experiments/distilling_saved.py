"""What `bin/distill` does: a network and data by name, two networks and a record on disk."""

import dataclasses
import pathlib

import keras
import numpy as np
import numpy.typing as npt
from absl import logging

from ddefense import exporting, files, measurements, networks, records, training
from ddefense.config import ConfigError
from ddefense.datasets import Examples
from ddefense.datasets.sources import UserData, open_data
from ddefense.distill_config import DistillConfig, DistillJob
from ddefense.distillation import Pair
from ddefense.experiments import distilling, environment, workdir

RECORD = "distillation.json"
NETWORKS = "networks"
_DATA = "data.sha256"
_NAMED = 10


def run(
    job: DistillJob,
    directory: pathlib.Path,
    *,
    data_dir: pathlib.Path | None = None,
    command: str = "",
) -> records.DistillationRecord:
    """Distills a network, measures both on the test images, and saves them.

    Args:
        job: what was asked for.
        directory: the run directory, made if needed; receives `networks/initial.keras` and
            `networks/distilled.keras`, both at T = 1, and `distillation.json`.
        data_dir: folder of prepared TFDS data.
        command: recorded with the results.

    Returns:
        The record, as written to `distillation.json`.

    Raises:
        ConfigError: if the networks or the data are not what they should be, or do not fit.
        RunError: if the run cannot go on; the message says why.
        StoppedError: if the run was asked to stop.
    """
    workdir.check(directory, job)
    process = environment.Process(command)
    given = {"network": _load("network", job.network), "student": _load("student", job.student)}
    data = _open(job, [saved for saved in given.values() if saved is not None], data_dir)
    network, student = (
        _built(getattr(job, flag), saved, data, job.config.seed) for flag, saved in given.items()
    )
    if network is None:
        raise ConfigError("network: expected a .keras file or a name; received none.")
    _announce(job, data)
    with workdir.claimed(directory, job):
        _check_data(directory, data)
        pair, soft_labels = distilling.distill(
            network,
            data.train,
            job.config,
            student=student,
            extras=_extras(job, directory),
            directory=directory / "training",
        )
        trained_in = process.seconds()
        record = _record(job, data, pair, soft_labels)
        record = dataclasses.replace(
            record,
            environment=process.environment(),
            timings={"training": trained_in, **process.timings()},
        )
        for name in ("initial", "distilled"):
            with files.atomic_file(directory / NETWORKS / f"{name}.keras") as temporary:
                getattr(pair, name).save(temporary)
        records.dump(record, directory / RECORD)
    return record


def _load(flag: str, received: str | None) -> keras.Model | None:
    """The network of a file; None if a name was given, or nothing."""
    if received is None or received in networks.NAMES:
        return None
    try:
        network = networks.load(pathlib.Path(received))
    except ValueError as error:
        raise ConfigError(f"{flag}{str(error).removeprefix('path')}") from error
    try:
        return networks.deployed(network)
    except ValueError as error:
        raise ConfigError(f"{flag}: {received}: {error}") from error


def _open(job: DistillJob, given: list[keras.Model], data_dir: pathlib.Path | None) -> UserData:
    """The data, brought to the shape that the saved networks take, if there are any."""
    shape, num_classes = job.image_shape, None
    if given:
        received = tuple(given[0].input_shape[1:])
        num_classes = given[0].output_shape[-1]
        if None not in received:
            if shape not in (None, received):
                raise ConfigError(
                    f"image_shape: expected {received}, which the network takes, or none; received "
                    f"{shape}."
                )
            shape = received
    data = open_data(
        job.data,
        image_shape=shape,
        value_range=job.value_range,
        class_names=job.class_names,
        num_classes=num_classes,
        test_share=job.test_share,
        data_dir=data_dir,
    )
    if data.test is None:
        raise ConfigError(f"data: expected images to test with; received none in {job.data}.")
    return data


def _built(
    received: str | None, saved: keras.Model | None, data: UserData, seed: int
) -> keras.Model | None:
    """A saved network, or a new one by name for this data."""
    if received is None or saved is not None:
        return saved
    return networks.build(
        received,
        temperature=1.0,
        seed=seed,
        num_classes=data.num_classes,
        image_shape=data.image_shape,
    )


def _announce(job: DistillJob, data: UserData) -> None:
    config, tested = job.config, 0 if data.test is None else len(data.test)
    extended = config.method == "extended"
    logging.info(
        "%s: %d training and %d test images of shape %s, %d classes: %s",
        *(data.name, len(data.train), tested, data.image_shape, data.num_classes),
        ", ".join(data.class_names[:_NAMED]) + (", ..." if data.num_classes > _NAMED else ""),
    )
    logging.info(
        "plan: train %s at T = %g for %d epochs of %d steps, make its soft labels%s, train %s on "
        "them likewise",
        *(job.network, config.temperature, config.epochs),
        -(-len(data.train) // config.batch_size),
        f" by {config.dropout_passes} passes with dropout" if extended else "",
        job.student or f"another one like it{' and an outlier class' if extended else ''}",
    )


def _check_data(directory: pathlib.Path, data: UserData) -> None:
    """Refuses to go on with other images than those that the directory was begun with."""
    path = directory / _DATA
    if not path.exists():
        with files.atomic_file(path) as temporary:
            temporary.write_text(data.digest)
    elif path.read_text() != data.digest:
        raise records.RunError(
            f"--workdir: {directory} was begun with other images or labels than {data.name} has "
            "now. Choose another --workdir."
        )


def _extras(job: DistillJob, directory: pathlib.Path) -> distilling.KerasExtras:
    if not job.tensorboard:
        return distilling.KerasExtras()

    def callbacks(name: str) -> list[keras.callbacks.Callback]:
        return [keras.callbacks.TensorBoard(str(directory / "tensorboard" / name))]

    return distilling.KerasExtras(callbacks=callbacks)


def _record(
    job: DistillJob, data: UserData, pair: Pair, soft_labels: records.SoftLabelRecord
) -> records.DistillationRecord:
    if data.test is None:
        raise ConfigError("data: expected images to test with; received none.")
    logits = {name: _logits(getattr(pair, name), data.test) for name in ("initial", "distilled")}
    return records.DistillationRecord(
        method=job.config.method,
        network=job.network,
        student=job.student,
        dataset=records.DatasetRecord(
            name=data.name,
            image_shape=data.image_shape,
            class_names=list(data.class_names),
            num_train=len(data.train),
            num_test=len(data.test),
            value_range=data.value_range,
        ),
        data_sha256=data.digest,
        settings=job.config.fields(),
        initial=_trained(pair.initial, pair.history.initial, job.config, logits["initial"], data),
        distilled=_trained(
            pair.distilled, pair.history.distilled, job.config, logits["distilled"], data
        ),
        agreement=measurements.agreement(logits["initial"], logits["distilled"]),
        soft_labels=soft_labels,
    )


def _trained(
    network: keras.Model,
    history: training.History,
    config: DistillConfig,
    logits: npt.NDArray[np.float32],
    data: UserData,
) -> records.TrainedRecord:
    labels = np.zeros(0, np.int64) if data.test is None else data.test.labels
    return records.TrainedRecord(
        training=records.TrainingRecord(
            temperature=config.temperature,
            epochs=len(history.epoch_loss),
            steps=len(history.step_loss),
            warm_start_steps=0,
            loss=history.epoch_loss.tolist(),
            accuracy=history.epoch_accuracy.tolist(),
            stalled=history.stalled(data.num_classes),
        ),
        validation_loss=history.val_loss.tolist(),
        validation_accuracy=history.val_accuracy.tolist(),
        test_accuracy=measurements.accuracy(logits, labels),
        cost=measurements.cost(network, data.image_shape),
        weights_sha256=exporting.weights_of(network)[1],
    )


def _logits(network: keras.Model, examples: Examples) -> npt.NDArray[np.float32]:
    logits = networks.logits_of(network)
    return np.concatenate([networks.predict(logits, images) for images in examples.windows()])
