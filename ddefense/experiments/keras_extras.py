"""What a Keras user brings along that no file of settings can hold."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras

from ddefense import training
from ddefense.config import digest
from ddefense.datasets import Examples
from ddefense.settings import ConfigError

Callbacks = Sequence[keras.callbacks.Callback] | Callable[[str], Sequence[keras.callbacks.Callback]]
"""Of both trainings; or a function from `initial` or `distilled` to those of each."""

_WRITING = (
    keras.callbacks.CSVLogger,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.TensorBoard,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KerasExtras:
    """Callbacks and the like.

    Attributes:
        callbacks: see `training.fit`.
        metrics: see `training.fit`.
        optimizer: in the place of the configured one; each training gets a copy of its own.
        validation: images to validate on, in the place of a share of the training images.
    """

    callbacks: Callbacks = ()
    metrics: Sequence[keras.metrics.Metric] = ()
    optimizer: keras.optimizers.Optimizer | None = None
    validation: Examples | None = None


def callbacks(given: Callbacks | keras.callbacks.Callback | None) -> Callbacks:
    """Callbacks in whatever form Keras takes them.

    Raises:
        ConfigError: if one that writes to a path would do so in both trainings.
    """
    if given is None:
        return ()
    if isinstance(given, keras.callbacks.Callback):
        given = [given]
    if callable(given):
        return given
    for callback in given:
        if isinstance(callback, _WRITING):
            name = type(callback).__name__
            raise ConfigError(
                "callbacks",
                "expected a function from 'initial' or 'distilled' to the callbacks of "
                f"that training, because {name} writes to one path, and a list serves both "
                "trainings; received a list.",
            )
    return given


def metrics(given: Sequence[keras.metrics.Metric] | None) -> Sequence[keras.metrics.Metric]:
    """Metrics in whatever form Keras takes them, but for names.

    Raises:
        ConfigError: if one is no metric of Keras.
    """
    for metric in given or ():
        if not isinstance(metric, keras.metrics.Metric):
            raise ConfigError(
                "metrics",
                "expected objects, such as keras.metrics.TopKCategoricalAccuracy(3); "
                f"received {metric!r}. Loss and accuracy are measured anyway.",
            )
    return given or ()


def optimizer(given: str | keras.optimizers.Optimizer) -> keras.optimizers.Optimizer | None:
    """An optimizer of Keras, of which each training can have a copy; None for a name.

    Raises:
        ConfigError: if it cannot be copied as it is.
    """
    if isinstance(given, str):
        return None
    try:
        training.copy_of(given)
    except ValueError as error:
        raise ConfigError(f"{error}") from error
    return given


def described(extras: KerasExtras) -> dict[str, Any]:
    """What a directory keeps of them, to refuse a call with others."""
    optimizer, given = None, extras.callbacks
    if extras.optimizer is not None:
        config = keras.saving.serialize_keras_object(extras.optimizer)
        excluded = training.excluded_from_decay(extras.optimizer)
        settings = [config, excluded] if excluded else config
        optimizer = f"{type(extras.optimizer).__name__} {digest(settings)}"
    return {
        "optimizer": optimizer,
        "metrics": [metric.name for metric in extras.metrics],
        "callbacks": ["a function"]
        if callable(given)
        else [type(callback).__name__ for callback in given],
    }
