"""Distillation of any network on any labelled images, in memory or resumable in a directory."""

import contextlib
import dataclasses
import hashlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping

import keras
import numpy as np
import numpy.typing as npt
from absl import logging

from ddefense import distillation, files, measurements, networks, records, training
from ddefense.datasets import Examples
from ddefense.datasets.labelling import check_classes, label_rows
from ddefense.datasets.splitting import hold_out
from ddefense.distill_config import DistillConfig
from ddefense.distillation import Histories, Pair
from ddefense.experiments.keras_extras import KerasExtras
from ddefense.networks.uncertainty import dropout_variance
from ddefense.settings import ConfigError
from ddefense.training import Labels

_SOFT_LABELS, _MADE_FROM = "soft_labels", "made_from.sha256"
_STALLED = (
    "The training of the %s network stalled: its loss stayed near that of guessing. "
    "Gradients shrink as T rises: train for longer, at a lower T, with adam, or start from a "
    "network that has been trained."
)

_TRIED = 8
"""Training images on which a network is tried before it is trained."""


@dataclasses.dataclass(frozen=True)
class Distilled:
    """What a distillation leaves.

    Attributes:
        pair: both networks at T = 1.
        soft_labels: what was handed on.
        stalled: whether the loss of `initial` and of `distilled` stayed near that of guessing.
    """

    pair: Pair
    soft_labels: records.SoftLabelRecord
    stalled: Mapping[str, bool]


def distill(
    network: keras.Model,
    examples: Examples,
    config: DistillConfig,
    *,
    student: keras.Model | None = None,
    extras: KerasExtras | None = None,
    directory: pathlib.Path | None = None,
) -> Distilled:
    """Distills a network; both trainings start from the weights that the networks have.

    Args:
        network: any functional or sequential classifier that ends in logits or a softmax; it is
            left as it is.
        examples: images in the network's range and their labels; every class of the network has
            some.
        config: how.
        student: distilled into this one, of the same images and classes, or one outlier class more
            for `extended`; None for the network's own architecture and weights.
        extras: callbacks and the like. With callbacks but `TensorBoard` a training that is
            interrupted starts anew.
        directory: for checkpoints and soft labels: the same call resumes there.

    Returns:
        Both networks, and what is to be said of them.

    Raises:
        ConfigError: if the network's logits cannot be told, or networks, images and settings do not
            fit.
        RunError: if a training goes wrong, or the images are not the same in every pass.
        StoppedError: if the run was asked to stop.
    """
    job = _Job(network, student, examples, config, extras or KerasExtras(), directory)
    with _soft_label_folder(job.train, directory) as folder:
        first = job.fit("initial", job.labels_of(job.train))
        if directory is not None:
            _forget_others(directory, job.networks["initial"])
        soft = job.soft_labels_of(job.train, folder)
        second = job.fit("distilled", soft)
        summary = measurements.soft_labels_by_window(soft, job.train.labels, job.train.window)
    pair = Pair(
        initial=job.finished("initial"),
        distilled=job.finished("distilled"),
        temperature=config.temperature,
        history=Histories(first, second),
    )
    histories = {"initial": first, "distilled": second}
    stalled = {name: job.stalled(name, history) for name, history in histories.items()}
    for name in stalled:
        if stalled[name]:
            logging.warning(_STALLED, name)
    return Distilled(pair, summary, stalled)


class _Job:
    """The networks, images and settings of one distillation, and its two trainings."""

    def __init__(
        self,
        network: keras.Model,
        student: keras.Model | None,
        examples: Examples,
        config: DistillConfig,
        extras: KerasExtras,
        directory: pathlib.Path | None,
    ) -> None:
        self._config, self._extras, self._directory = config, extras, directory
        if student is None:
            student = _twin(network, config)
        self._originals = {"initial": network, "distilled": student}
        self.networks = {
            name: _copy(name, original, config) for name, original in self._originals.items()
        }
        self._num_classes = self.networks["initial"].output_shape[-1]
        _check_fit(self.networks, examples, outlier_class=config.method == "extended")
        _check_finite(self.networks, examples)
        training.check_devices(config.devices)
        if config.devices > 1:
            for each in self.networks.values():
                training.check_splits(each, extras.optimizer, jit_compile=config.jit_compile)
        self._most_uncertain: float | None = None
        self.train, self._validation = examples, extras.validation
        if extras.validation is None and config.validation_share:
            self.train, self._validation = hold_out(examples, config.validation_share, config.seed)
            _check_left(self.train, self._num_classes, config.validation_share)
        if config.early_stopping is not None and self._validation is None:
            raise ConfigError(
                "early_stopping",
                "expected a validation_share > 0, or validation_data, with it, "
                "because it watches the validation loss; received none.",
            )
        self._class_weights = self._weights()

    def fit(self, name: str, labels: Labels) -> training.History:
        """Trains one of the two networks; `name` is `initial` or `distilled`."""
        config, checkpoint = self._config, None
        if self._directory is not None:
            checkpoint = self._directory / f"{name}.npz"
        settings = training.TrainingSettings(
            temperature=config.temperature,
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.rate,
            momentum=config.momentum,
            learning_rate_decay=config.learning_rate_decay,
            momentum_decay=config.momentum_decay,
            decay_epochs=config.decay_epochs,
            seed=config.seed,
            jit_compile=config.jit_compile,
            devices=config.devices,
        )
        return training.fit(
            self.networks[name],
            self.train,
            labels,
            settings,
            label=name,
            checkpoint=checkpoint,
            options=self._options(name),
        )

    def stalled(self, name: str, history: training.History) -> bool:
        """Whether the loss of one of the two networks stayed near that of guessing."""
        scale = self.objective(name).scale(self._config.temperature)
        return history.stalled(self.networks[name].output_shape[-1], scale)

    def objective(self, name: str) -> training.Objective:
        """The loss of one of the two networks: only the distilled one learns from soft labels."""
        config, mixed = self._config, name == "distilled"
        return training.Objective(
            alpha=config.alpha if mixed else 0.0,
            scale_by_temperature_squared=config.scale_by_temperature_squared and mixed,
            class_weights=self._class_weights,
        )

    def labels_of(self, examples: Examples) -> Labels:
        """What the initial network learns from: the user's own soft labels, or hard ones."""
        rows = label_rows(examples)

        def window(number: int) -> npt.NDArray[np.float32]:
            part = slice(number * examples.window, (number + 1) * examples.window)
            if rows is not None:
                return rows[part]
            return distillation.hard_labels(examples.labels[part], self._num_classes)

        return window

    def soft_labels_of(self, examples: Examples, folder: pathlib.Path | None) -> Labels:
        """What the distilled network learns from, once the initial one is trained."""
        config, initial = self._config, self.networks["initial"]
        if config.method == "defensive":
            return distillation.make_soft_labels(initial, examples, config.temperature, folder)
        sigma = distillation.uncertainty(
            initial,
            examples,
            num_passes=config.dropout_passes,
            seed=config.seed,
            outputs=config.uncertainty_of,
            checkpoint=None if folder is None else folder / "uncertainty.npz",
        )
        # Of the training set, which comes before the validation set.
        self._most_uncertain = self._most_uncertain or float(sigma.max())
        return distillation.outlier_labels_by_window(
            examples, sigma, self._num_classes, config.outlier_alpha, largest=self._most_uncertain
        )

    def finished(self, name: str) -> keras.Model:
        """A trained network at T = 1, in the precision that it came in."""
        trained = self.networks[name]
        if self._config.precision is None:
            return networks.with_temperature(trained, 1.0)
        twin = networks.trainable_copy(self._originals[name], 1.0)
        twin.set_weights(trained.get_weights())
        return twin

    def _options(self, name: str) -> training.TrainingOptions:
        config, extras, validation = self._config, self._extras, None
        if self._validation is not None:
            validation = (self._validation, self._validation_labels(name, self._validation))
        callbacks = extras.callbacks
        return training.TrainingOptions(
            objective=self.objective(name),
            optimizer=extras.optimizer or _optimizer(config),
            validation=validation,
            metrics=extras.metrics,
            callbacks=list(callbacks(name) if callable(callbacks) else callbacks),
            early_stopping=config.early_stopping,
        )

    def _validation_labels(self, name: str, validation: Examples) -> Labels:
        """Of the kind that the network learns from, so that the losses can be compared."""
        if name == "initial":
            return self.labels_of(validation)
        return self.soft_labels_of(validation, None)

    def _weights(self) -> Mapping[int, float] | None:
        if self._config.class_weights == "balanced":
            return training.balanced_class_weights(self.train.labels, self._num_classes)
        return self._config.class_weights


def _optimizer(config: DistillConfig) -> keras.optimizers.Optimizer | None:
    return keras.optimizers.Adam(config.rate) if config.optimizer == "adam" else None


def _twin(network: keras.Model, config: DistillConfig) -> keras.Model:
    """What is distilled into where there is no student."""
    if config.method == "defensive":
        return network
    try:
        return networks.with_outlier_class(network)
    except ValueError as error:
        raise ConfigError("network", f"{error}") from error


def _copy(name: str, original: keras.Model, config: DistillConfig) -> keras.Model:
    """One of the two networks, to be trained."""
    try:
        copy = networks.trainable_copy(original, config.temperature, config.precision)
        if config.method == "extended" and name == "initial":
            dropout_variance(copy)  # refuses a network that is never uncertain
    except ValueError as error:
        flag = "network" if name == "initial" else "student"
        raise ConfigError(flag, f"{error}") from error
    return copy


def _check_finite(found: Mapping[str, keras.Model], examples: Examples) -> None:
    """Refuses networks from whose weights no training can start."""
    few = next(iter(examples.windows()))[:_TRIED]
    for name, network in found.items():
        flag = "network" if name == "initial" else "student"
        logits = networks.logits_of(network)
        try:
            networks.check_finite(
                networks.predict(logits, few), network=logits, images="training images"
            )
        except ValueError as error:
            raise ConfigError(flag, f"{error}") from error


def _check_left(train: Examples, num_classes: int, share: float) -> None:
    """Refuses to train without a class, all images of which were held out."""
    try:
        check_classes(train.labels, [str(i) for i in range(num_classes)])
    except ConfigError as error:
        raise ConfigError(
            "validation_share",
            "expected images of every class among those that are left to train "
            "on (of a stream, the last images are held out: write them in mixed order); received "
            f"{share:g}, which leaves {len(train)}. {str(error).removeprefix('labels: ')}",
        ) from error


def _check_fit(
    found: Mapping[str, keras.Model], examples: Examples, *, outlier_class: bool
) -> None:
    """Refuses networks that do not take these images, or differ in their classes."""
    most = int(examples.labels.max())
    num_classes = found["initial"].output_shape[-1]
    if most >= num_classes:
        raise ConfigError(
            "labels",
            f"expected classes in 0..{num_classes - 1}, those of the network; received {most}.",
        )
    for name, network in found.items():
        expected = num_classes + (outlier_class and name == "distilled")
        flag = "network" if name == "initial" else "student"
        shape = tuple(network.input_shape[1:])
        fits = len(shape) == 3 and all(
            size in (None, given) for size, given in zip(shape, examples.image_shape, strict=True)
        )
        if not fits:
            raise ConfigError(
                flag,
                f"expected one that takes images of shape {examples.image_shape}; received "
                f"one for {shape}.",
            )
        if network.output_shape[-1] != expected:
            raise ConfigError(
                flag,
                f"expected one of {expected} classes, "
                + ("one more than" if expected > num_classes else "as")
                + f" the network has; received one of {network.output_shape[-1]}.",
            )


def _forget_others(directory: pathlib.Path, initial: keras.Model) -> None:
    """Removes what an earlier call made or began from another initial network."""
    found = hashlib.sha256(b"".join(weight.tobytes() for weight in initial.get_weights()))
    path, digest = directory / _MADE_FROM, found.hexdigest()
    if path.exists() and path.read_text().strip() == digest:
        return
    checkpoint, folder = directory / "distilled.npz", directory / _SOFT_LABELS
    if checkpoint.exists() or folder.exists():
        logging.info("making the distilled network again: initial is not what it was made from")
        checkpoint.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    with files.atomic_file(path) as temporary:
        temporary.write_text(f"{digest}\n")


@contextlib.contextmanager
def _soft_label_folder(
    examples: Examples, directory: pathlib.Path | None
) -> Iterator[pathlib.Path | None]:
    """Where soft labels go: nowhere but into memory if the images are there and nothing is kept."""
    if directory is not None:
        yield directory / _SOFT_LABELS
    elif len(examples) <= examples.window:
        yield None
    else:
        with tempfile.TemporaryDirectory(prefix="soft_labels_") as folder:
            yield pathlib.Path(folder)
