"""What `bin/distill` does: a network and data by name, two networks and a record on disk."""

import dataclasses
import json
import pathlib

import keras
import numpy as np
import numpy.typing as npt
from absl import logging

from ddefense import exporting, files, measurements, networks, records, training
from ddefense.datasets import Examples
from ddefense.datasets.sources import UserData, open_data
from ddefense.distill_config import DistillJob
from ddefense.experiments import adopting, distilling, environment, workdir
from ddefense.experiments.keras_extras import KerasExtras
from ddefense.settings import ConfigError

RECORD = "distillation.json"
NETWORKS = "networks"
_INPUTS = "inputs.json"
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
    training.check_devices(job.config.devices)
    process = environment.Process(command)
    given = {"network": _load("network", job.network), "student": _load("student", job.student)}
    data = _open(job, given, data_dir)
    network, student = (_built(flag, job, saved, data) for flag, saved in given.items())
    if network is None:
        raise ConfigError("network", "expected a .keras file or a name; received none.")
    _announce(job, data)
    with workdir.claimed(directory, job):
        _check_inputs(directory, {"data": data.digest, **_digests(given)})
        finished = _finished(directory)
        if finished is not None and not _is_kept(directory, finished):
            logging.info("the networks in %s are not those of the record", directory / NETWORKS)
            finished = None
        if finished is not None:
            logging.info("finished before: %s", directory / RECORD)
            return finished
        distilled = distilling.distill(
            network,
            data.train,
            job.config,
            student=student,
            extras=_extras(job, directory),
            directory=directory / "training",
        )
        trained_in = process.seconds()
        record = _record(job, data, distilled, given["network"])
        record = dataclasses.replace(
            record,
            environment=process.environment(),
            timings={"training": trained_in, **process.timings()},
        )
        for name in ("initial", "distilled"):
            with files.atomic_file(directory / NETWORKS / f"{name}.keras") as temporary:
                getattr(distilled.pair, name).save(temporary)
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
        raise ConfigError(flag, f"{received}: {error}") from error


def _open(
    job: DistillJob, given: dict[str, keras.Model | None], data_dir: pathlib.Path | None
) -> UserData:
    """The data, brought to the shape that the saved networks take, if there are any."""
    shape, num_classes = job.image_shape, None
    flag = next((flag for flag, saved in given.items() if saved is not None), None)
    saved = None if flag is None else given[flag]
    if saved is not None:
        received = tuple(saved.input_shape[1:])
        # A student for `extended` has the outlier class, which the data has not.
        outlier_class = job.config.method == "extended" and flag == "student"
        num_classes = saved.output_shape[-1] - outlier_class
        if None not in received:
            if shape not in (None, received):
                raise ConfigError(
                    "image_shape",
                    f"expected {received}, which the network takes, or none; received {shape}.",
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
        raise ConfigError("data", f"expected images to test with; received none in {job.data}.")
    return data


def _built(
    flag: str, job: DistillJob, saved: keras.Model | None, data: UserData
) -> keras.Model | None:
    """A saved network, or a new one by name for this data."""
    received: str | None = getattr(job, flag)
    if received is None or saved is not None:
        return saved
    outlier_class = job.config.method == "extended" and flag == "student"
    try:
        return networks.build(
            received,
            temperature=1.0,
            seed=job.config.seed,
            num_classes=data.num_classes + outlier_class,
            image_shape=data.image_shape,
        )
    except ValueError as error:
        raise ConfigError(flag, f"{received}: {error}") from error


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


def _digests(given: dict[str, keras.Model | None]) -> dict[str, str]:
    """Of the networks that were given as files, by flag."""
    return {flag: adopting.sha256_of(saved) for flag, saved in given.items() if saved is not None}


def _check_inputs(directory: pathlib.Path, digests: dict[str, str]) -> None:
    """Refuses to go on with other images or networks than those the directory was begun with."""
    path = directory / _INPUTS
    if not path.exists():
        with files.atomic_file(path) as temporary:
            temporary.write_text(json.dumps(digests, indent=1) + "\n")
        return
    begun = json.loads(path.read_text())
    for flag, digest in digests.items():
        if begun.get(flag) != digest:
            what = "other images or labels" if flag == "data" else "another network"
            raise records.RunError(
                f"--workdir: {directory} was begun with {what} than --{flag} names now. Choose "
                "another --workdir."
            )


def _finished(directory: pathlib.Path) -> records.DistillationRecord | None:
    """What an earlier run of the same left, if it came to its end."""
    if not (directory / RECORD).exists():
        return None
    return records.load(records.DistillationRecord, directory / RECORD)


def _is_kept(directory: pathlib.Path, record: records.DistillationRecord) -> bool:
    """Whether both networks are still there, with the weights that were measured."""
    for name in ("initial", "distilled"):
        try:
            network = networks.load(directory / NETWORKS / f"{name}.keras")
            found = exporting.weights_of(network)[1]
        except ValueError:
            return False
        if found != getattr(record, name).weights_sha256:
            return False
    return True


def _extras(job: DistillJob, directory: pathlib.Path) -> KerasExtras:
    if not job.tensorboard:
        return KerasExtras()

    def callbacks(name: str) -> list[keras.callbacks.Callback]:
        return [keras.callbacks.TensorBoard(str(directory / "tensorboard" / name))]

    return KerasExtras(callbacks=callbacks)


def _record(
    job: DistillJob, data: UserData, distilled: distilling.Distilled, given: keras.Model | None
) -> records.DistillationRecord:
    pair = distilled.pair
    if data.test is None:
        raise ConfigError("data", "expected images to test with; received none.")
    names = ("initial", "distilled")
    logits = {name: _logits(getattr(pair, name), data.test) for name in names}
    costs = measurements.costs([getattr(pair, name) for name in names], data.image_shape)
    trained = {
        name: _trained(job, distilled, name, logits[name], data.test.labels, cost)
        for name, cost in zip(names, costs, strict=True)
    }
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
        initial=trained["initial"],
        distilled=trained["distilled"],
        agreement=measurements.agreement(logits["initial"], logits["distilled"]),
        soft_labels=distilled.soft_labels,
        given_accuracy=None
        if given is None
        else measurements.accuracy(_logits(given, data.test), data.test.labels),
    )


def _trained(
    job: DistillJob,
    distilled: distilling.Distilled,
    name: str,
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer],
    cost: records.CostRecord,
) -> records.TrainedRecord:
    network = getattr(distilled.pair, name)
    history: training.History = getattr(distilled.pair.history, name)
    return records.TrainedRecord(
        training=records.TrainingRecord(
            temperature=job.config.temperature,
            epochs=len(history.epoch_loss),
            steps=len(history.step_loss),
            warm_start_steps=0,
            loss=history.epoch_loss.tolist(),
            accuracy=history.epoch_accuracy.tolist(),
            stalled=distilled.stalled[name],
        ),
        validation_loss=history.val_loss.tolist(),
        validation_accuracy=history.val_accuracy.tolist(),
        test_accuracy=measurements.accuracy(logits, labels),
        cost=cost,
        weights_sha256=exporting.weights_of(network)[1],
    )


def _logits(network: keras.Model, examples: Examples) -> npt.NDArray[np.float32]:
    logits = networks.logits_of(network)
    return np.concatenate([networks.predict(logits, images) for images in examples.windows()])
