"""Keras' callbacks in a loop that is not Keras' own."""

import importlib.util
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras

from ddefense import networks

_MONITORS = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.ReduceLROnPlateau,
)


class Callbacks:
    """Tells callbacks what `keras.Model.fit` would tell them; costs nothing if there are none.

    Args:
        callbacks: of any kind; see `check`.
        network: under training; callbacks see it as it is deployed, at T = 1.
        optimizer: of its training.
        epochs: that were asked for.
        steps: of an epoch.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        network: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        *,
        epochs: int,
        steps: int,
    ) -> None:
        """Gives every callback its model and parameters."""
        self._model = self._list = None
        self._resumable = all(type(each) is keras.callbacks.TensorBoard for each in callbacks)
        if callbacks:
            self._model = networks.with_temperature(network, 1.0)
            self._model.optimizer = optimizer
            self._model.stop_training = False
            self._list = keras.callbacks.CallbackList(
                list(callbacks), model=self._model, epochs=epochs, steps=steps, verbose=0
            )

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self._list is not None

    @property
    def resumable(self) -> bool:
        """Whether a training may go on without the state of any of them."""
        return self._resumable

    @property
    def ask_to_stop(self) -> bool:
        """Whether one of them set `stop_training`."""
        return self._model is not None and bool(self._model.stop_training)

    def tell(self, event: str, *arguments: Any) -> None:
        """Calls a hook, such as `on_epoch_end`, of every callback."""
        if self._list is not None:
            getattr(self._list, event)(*arguments)


def check(
    callbacks: Sequence[keras.callbacks.Callback],
    validation_names: Collection[str],
    metrics: Sequence[keras.metrics.Metric],
) -> None:
    """Refuses callbacks that would fail, or do nothing, after an epoch; settles their direction.

    Keras reads off a compiled model whether more or less of a measure is better. This loop
    compiles none, so `mode="auto"` is replaced by what holds.

    Args:
        callbacks: any.
        validation_names: of what is measured after each epoch, `val_...`.
        metrics: of the user.

    Raises:
        ValueError: naming the callback and the remedy.
    """
    known = ["loss", "accuracy", "learning_rate", *validation_names]
    better = {"loss": "min", "accuracy": "max"}
    better |= {metric.name: _direction(metric) for metric in metrics}
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise ValueError(
                f"callbacks: expected any but {name}, which restores a training of Keras' own "
                "loop. Give a checkpoint instead, and leave the other callbacks out."
            )
        if (
            isinstance(callback, keras.callbacks.TensorBoard)
            and importlib.util.find_spec("tensorboard") is None
        ):
            raise ValueError(
                f"callbacks: expected the package tensorboard to be installed for {name}; "
                "received none. Install it with `pip install tensorboard`."
            )
        if isinstance(callback, _MONITORS):
            _settle(callback, known, better)


def _settle(callback: Any, known: Sequence[str], better: Mapping[str, str]) -> None:
    if not getattr(callback, "save_best_only", True):
        # A checkpoint of every epoch compares nothing, but Keras asks for a direction.
        callback.mode = "min"
        return
    if callback.monitor not in known:
        raise ValueError(
            f"callbacks: expected {type(callback).__name__} to monitor one of {known}; received "
            f"{callback.monitor!r}. Names that start with val_ need validation images."
        )
    if callback.mode == "auto":
        callback.mode = better.get(callback.monitor.removeprefix("val_"), "auto")
    if callback.mode == "auto":
        raise ValueError(
            f"callbacks: expected {type(callback).__name__} to say whether {callback.monitor!r} "
            "should fall or rise; received neither. Give it mode='min' or mode='max'."
        )


def _direction(metric: keras.metrics.Metric) -> str:
    return {"up": "max", "down": "min"}.get(getattr(metric, "_direction", ""), "auto")
