"""Distillation of any network on any labelled images, each step a stage that resumes."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
import numpy.typing as npt
from absl import logging

from ddefense import distillation, measurements, networks, records, training
from ddefense.datasets import Examples
from ddefense.datasets.labelling import check_classes, label_rows
from ddefense.datasets.splitting import hold_out
from ddefense.distill_config import DistillConfig
from ddefense.distillation import Histories, Pair
from ddefense.experiments import pair
from ddefense.experiments.keras_extras import KerasExtras
from ddefense.networks.uncertainty import dropout_variance
from ddefense.pipeline.stages import Artefact, Stages, reading
from ddefense.settings import ConfigError
from ddefense.training import Labels

# Not the whole network: it may be made of functions and classes that no file can hold.
_WEIGHTS = "network.weights.h5"
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
        training: how the training of `initial` and of `distilled` went.
    """

    pair: Pair
    soft_labels: records.SoftLabelRecord
    training: Mapping[str, records.TrainingRecord]


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
        directory: for the stages: the same call resumes there.

    Returns:
        Both networks, and what is to be said of them.

    Raises:
        ConfigError: if the network's logits cannot be told, or networks, images and settings do not
            fit.
        RunError: if a training goes wrong, or the images are not the same in every pass.
        StoppedError: if the run was asked to stop.
    """
    with _folder(directory) as folder:
        job = _Job(
            *(network, student, examples, config, extras or KerasExtras(), Stages(folder)),
            resumable=directory is not None,
        )
        initial = job.train("initial")
        soft = job.soft_labels(initial)
        made = {"initial": initial, "distilled": job.train("distilled", soft)}
        trained_on, labels = job.sets[0], job.labels(soft)[0]
        summary = measurements.soft_labels_by_window(labels, trained_on.labels, trained_on.window)
        histories = {name: pair.load_history(artefact) for name, artefact in made.items()}
        trainings = {name: pair.load_training(artefact) for name, artefact in made.items()}
    for name, training_record in trainings.items():
        if training_record.stalled:
            logging.warning(_STALLED, name)
    found = Pair(
        **{name: job.finished(name) for name in made},
        temperature=config.temperature,
        history=Histories(**histories),
    )
    return Distilled(found, summary, trainings)


class _Job:
    """The networks, images and settings of one distillation, and its stages.

    Attributes:
        networks: `initial` and `distilled`, under training.
        sets: the images that are trained on, and perhaps those to validate on.
    """

    def __init__(
        self,
        network: keras.Model,
        student: keras.Model | None,
        examples: Examples,
        config: DistillConfig,
        extras: KerasExtras,
        stages: Stages,
        *,
        resumable: bool,
    ) -> None:
        self._config, self._extras = config, extras
        self._stages, self._resumable = stages, resumable
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
        self.sets = [examples] if extras.validation is None else [examples, extras.validation]
        if extras.validation is None and config.validation_share:
            self.sets = list(hold_out(examples, config.validation_share, config.seed))
            _check_left(self.sets[0], self._num_classes, config.validation_share)
        if config.early_stopping is not None and len(self.sets) == 1:
            raise ConfigError(
                "early_stopping",
                "expected a validation_share > 0, or validation_data, with it, "
                "because it watches the validation loss; received none.",
            )
        self._class_weights = self._weights()

    def train(self, name: str, soft: Sequence[Artefact] = ()) -> Artefact:
        """Trains one of the two networks.

        Args:
            name: `initial` or `distilled`.
            soft: what `soft_labels` gave; empty for the initial network.
        """
        config, network = self._config, self.networks[name]
        artefact = pair.train(
            self._stages,
            pair.Training(
                name=name,
                examples=self.sets[0],
                settings=pair.training_settings(config, config.temperature, config.rate),
                others={"distillation": config},
                inputs=soft,
                build=lambda: network,
                labels=lambda: self.labels(soft)[0],
                options=lambda: self._options(name, soft),
                save=lambda trained, directory: trained.save_weights(directory / _WEIGHTS),
                resumable=self._resumable,
            ),
        )
        with reading(artefact):
            network.load_weights(artefact.directory / _WEIGHTS)
        return artefact

    def soft_labels(self, initial: Artefact) -> list[Artefact]:
        """Has the trained initial network make what the distilled one learns from, of each set.

        For `extended` it is the initial network's uncertainty about each image.
        """
        config, network = self._config, self.networks["initial"]

        def soften(images: npt.NDArray[np.float32], first: int) -> pair.Rows:
            del first
            return distillation.soft_labels(network, images, config.temperature)

        compute: Callable[[npt.NDArray[np.float32], int], pair.Rows] = soften
        if config.method == "extended":
            compute = dropout_variance(
                network,
                num_passes=config.dropout_passes,
                seed=config.seed,
                outputs=config.uncertainty_of,
            )
        settings, names = {"distillation": config}, ("soft_labels", "validation_labels")
        return [
            pair.of_images(self._stages, name, settings, [initial], examples, compute)
            for name, examples in zip(names, self.sets, strict=False)
        ]

    def labels(self, soft: Sequence[Artefact]) -> list[Labels]:
        """What a network learns from, and is validated with, by the window of each set.

        Validation labels are of the same kind, so that the losses can be compared.

        Args:
            soft: as for `train`.
        """
        num_classes = self._num_classes
        if not soft:
            return [_labels_of(examples, num_classes) for examples in self.sets]
        pairs = list(zip(soft, self.sets, strict=True))
        if self._config.method == "defensive":
            return [pair.labels_of(artefact, examples, num_classes) for artefact, examples in pairs]
        # Of the images that are trained on, whatever is validated.
        largest = float(pair.load_rows(soft[0]).max())
        return [
            distillation.outlier_labels_by_window(
                *(examples, pair.load_rows(artefact), num_classes, self._config.outlier_alpha),
                largest=largest,
            )
            for artefact, examples in pairs
        ]

    def finished(self, name: str) -> keras.Model:
        """A trained network at T = 1, in the precision that it came in."""
        trained = self.networks[name]
        if self._config.precision is None:
            return networks.with_temperature(trained, 1.0)
        twin = networks.trainable_copy(self._originals[name], 1.0)
        twin.set_weights(trained.get_weights())
        return twin

    def _options(self, name: str, soft: Sequence[Artefact]) -> training.TrainingOptions:
        """Only the distilled network learns from soft labels, which `alpha` and T^2 weigh."""
        config, extras, mixed = self._config, self._extras, name == "distilled"
        validation = next(iter(zip(self.sets[1:], self.labels(soft)[1:], strict=True)), None)
        callbacks = extras.callbacks
        return training.TrainingOptions(
            objective=training.Objective(
                alpha=config.alpha if mixed else 0.0,
                scale_by_temperature_squared=config.scale_by_temperature_squared and mixed,
                class_weights=self._class_weights,
            ),
            optimizer=extras.optimizer or _optimizer(config),
            validation=validation,
            metrics=extras.metrics,
            callbacks=list(callbacks(name) if callable(callbacks) else callbacks),
            early_stopping=config.early_stopping,
        )

    def _weights(self) -> Mapping[int, float] | None:
        if self._config.class_weights == "balanced":
            return training.balanced_class_weights(self.sets[0].labels, self._num_classes)
        return self._config.class_weights


def _labels_of(examples: Examples, num_classes: int) -> Labels:
    """The user's own labels: soft ones, or hard ones."""
    rows = label_rows(examples)

    def window(number: int) -> npt.NDArray[np.float32]:
        part = slice(number * examples.window, (number + 1) * examples.window)
        if rows is not None:
            return rows[part]
        return distillation.hard_labels(examples.labels[part], num_classes)

    return window


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
            f"{share:g}, which leaves {len(train)}. {error.reason}",
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


@contextlib.contextmanager
def _folder(directory: pathlib.Path | None) -> Iterator[pathlib.Path]:
    """Where the stages are: in a directory that resumes, or in one that is removed in the end."""
    if directory is not None:
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="distill_") as folder:
        yield pathlib.Path(folder)
