"""The training loop: for epoch, for window, for batch."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense import interruption, networks
from ddefense.datasets import Examples
from ddefense.progress import Progress
from ddefense.records import RunError
from ddefense.training import callbacks, checkpoints
from ddefense.training.devices import check_splits, make_strategy, mirrored_copy
from ddefense.training.history import History, Partial
from ddefense.training.optimizers import learning_rate_of, make_optimizer, set_rates
from ddefense.training.plan import Plan
from ddefense.training.settings import TrainingOptions, TrainingSettings
from ddefense.training.steps import Perturb, TrainSteps, make_train_steps
from ddefense.training.validating import ACCURACY, LOSS, Validation, name_of
from ddefense.training.windows import Labels, Window, Windows

# Steps per compiled call: enough to hide the call, few enough for a live progress bar.
_STEPS_PER_CALL = 25


def fit(
    network: keras.Model,
    examples: Examples | npt.NDArray[np.float32],
    labels: Labels | npt.NDArray[np.float32],
    settings: TrainingSettings,
    *,
    label: str = "training",
    checkpoint: pathlib.Path | None = None,
    perturb: Perturb | None = None,
    options: TrainingOptions | None = None,
) -> History:
    """Trains a network in place on hard (one-hot) or soft labels.

    The order of images is a permutation of each window: derived from (seed, epoch) if there is one
    window, as in memory, else from (seed, epoch, window). No step takes images of two windows.

    Args:
        network: a functional model with a layer named `logits`; dropout is on while training. With
            several devices a copy of it on them is trained, whose weights it has in the end.
        examples: the images; an array, shape [N, H, W, C], is examples in memory whose true
            classes are the arg-max of their labels.
        labels: probabilities to learn from: number of a window -> [window, classes], or an array
            with a row per image.
        settings: how.
        label: what progress and errors call this network.
        checkpoint: file to resume from if it exists, and to write after every epoch and when the
            run is asked to stop. A resumed run gives the same weights, bit for bit, as one that
            was never interrupted. With callbacks that have a state it is written at the end alone.
        perturb: what to make of the images of each optimizer step before it is taken, for
            adversarial training: (images, labels, optimizer steps taken before, int64) -> images,
            called in the compiled step. Loss and accuracy are then those of what it returns. A
            resumed run keeps the promise above if the result depends on nothing but these three
            and the network's weights.
        options: another objective or optimizer, validation, callbacks; None for none of them.

    Returns:
        Loss and accuracy of the whole run, resumed epochs included.

    Raises:
        ValueError: if the images, labels, settings and options do not fit the network or each
            other, or several devices would not train it as one does, before any training.
        ConfigError: a ValueError, if there are fewer devices than the settings say.
        RunError: if the loss is not finite, naming the step; if the checkpoint is damaged; or if
            the images are no longer what they were.
        StoppedError: if the run was asked to stop, after the checkpoint is written.
    """
    windows = Windows(examples, labels, network.output_shape[-1])
    _check_shape(network, windows)
    options = options or TrainingOptions()
    if settings.devices == 1:
        return _Loop(network, windows, settings, options, label, perturb).run(checkpoint)
    if perturb is not None:
        raise ValueError(
            "devices: expected 1 with perturb, which is made for the network and whole batches; "
            f"received {settings.devices}."
        )
    check_splits(network, options.optimizer, jit_compile=settings.jit_compile)
    strategy = make_strategy(settings.devices)
    copy = mirrored_copy(network, strategy)
    loop = _Loop(copy, windows, settings, options, label, None, strategy)
    try:
        return loop.run(checkpoint)
    finally:
        networks.logits_of(network).set_weights(networks.logits_of(copy).get_weights())


class _Loop:
    """The state of one training run."""

    def __init__(
        self,
        network: keras.Model,
        windows: Windows,
        settings: TrainingSettings,
        options: TrainingOptions,
        label: str,
        perturb: Perturb | None,
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        self._network, self._windows, self._settings = network, windows, settings
        self._options, self._label, self._perturb = options, label, perturb
        self._logits_network = networks.logits_of(network)
        options.objective.check(network.output_shape[-1])
        self._plan = Plan(windows.sizes, settings.batch_size, settings.epochs, settings.max_steps)
        self._validate = _validation(self._logits_network, settings, options)
        self._strategy = strategy
        with strategy.scope() if strategy is not None else contextlib.nullcontext():
            self._optimizer = make_optimizer(self._logits_network, settings, options.optimizer)
        self._callbacks = callbacks.Callbacks(
            options.callbacks,
            network,
            self._optimizer,
            epochs=self._plan.epochs,
            steps=self._plan.per_epoch,
        )
        self._checkpoint: pathlib.Path | None = None
        self._history = History(np.zeros(0, np.float32), np.zeros(0), np.zeros(0))
        self._partial: Partial | None = None
        self._best: list[npt.NDArray[Any]] | None = None
        self._rates: tuple[float, float] | None = None
        self._compiled: tuple[float, TrainSteps] | None = None

    def run(self, checkpoint: pathlib.Path | None) -> History:
        """Takes all steps, or those that the checkpoint has not."""
        self._checkpoint = checkpoint
        if checkpoint is not None and checkpoint.exists():
            saved = checkpoints.restore(checkpoint, self._network, self._optimizer)
            self._history, self._partial = saved.history, saved.partial
            self._best = saved.best
            if saved.finished:
                return self._history
        self._callbacks.tell("on_train_begin")
        self._tell_history()
        first = len(self._history.epoch_loss)
        done = self._plan.images_before(first, len(self._partial.step_loss) if self._partial else 0)
        total = self._plan.images
        logs: dict[str, float] = {}
        with Progress(self._label, total, "image", done=min(done, total)) as progress:
            for epoch in range(first, self._plan.epochs):
                if self._is_over():  # a resumed run may have nothing to do but to end
                    break
                logs = self._run_epoch(epoch, progress)
        # What an optimizer that averages weights over steps gives in the end.
        self._optimizer.finalize_variable_values(self._logits_network.trainable_variables)
        if self._best is not None:
            self._network.set_weights(self._best)
        self._callbacks.tell("on_train_end", logs)
        if self._callbacks or self._best is not None:
            self._save(None, finished=True)
        return self._history

    def _is_over(self) -> bool:
        """Whether there is nothing to gain from another epoch."""
        patience, losses = self._options.early_stopping, self._history.val_loss
        without = len(losses) - 1 - int(np.argmin(losses)) if len(losses) else 0
        return self._callbacks.ask_to_stop or (patience is not None and without >= patience)

    def _run_epoch(self, epoch: int, progress: Progress) -> dict[str, float]:
        """Takes the steps of one epoch, or of what an interrupted run left of it."""
        train_steps = self._train_steps(epoch)
        # After the settings' rates are set, so that a scheduler's hold.
        self._callbacks.tell("on_epoch_begin", epoch)
        partial, self._partial = self._partial, None
        if partial is None:
            partial = Partial(np.zeros(0, np.float32), 0)
            checkpoints.seed_generators(self._network, self._settings.seed, epoch)
        steps = self._plan.steps_of(epoch)
        first = self._plan.window_of(len(partial.step_loss))
        for window in self._windows.read(first):
            order = self._order(epoch, self._plan.window_of(len(partial.step_loss)))
            partial = self._run_window(partial, window, order, train_steps, progress, steps)
            del window  # before the next one is read
            # A whole epoch reads to the end, where examples notice that images were added.
            if (
                self._callbacks.ask_to_stop
                or len(partial.step_loss) >= steps < self._plan.per_epoch
            ):
                break
        return self._finish_epoch(epoch, partial)

    def _run_window(
        self,
        partial: Partial,
        window: Window,
        order: npt.NDArray[np.integer],
        train_steps: TrainSteps,
        progress: Progress,
        steps: int,
    ) -> Partial:
        """Takes the steps of a window that an epoch of so many steps has not taken yet."""
        batch_size = self._settings.batch_size
        targets = window.labels
        if self._options.objective.uses_classes:
            targets = window.labels, window.classes
        begin = self._plan.step_in_window(len(partial.step_loss)) * batch_size
        stop = min(len(order), begin + (steps - len(partial.step_loss)) * batch_size)
        for start in range(begin, stop, _STEPS_PER_CALL * batch_size):
            if interruption.asked():
                self._save(partial)
                interruption.check()
            part = order[start : min(stop, start + _STEPS_PER_CALL * batch_size)]
            self._callbacks.tell("on_train_batch_begin", len(partial.step_loss))
            step_loss, hits = train_steps(window.images, targets, tf.constant(part, tf.int32))
            partial = Partial(
                np.concatenate([partial.step_loss, step_loss.numpy()]), partial.correct + int(hits)
            )
            self._check_finite(partial)
            taken = len(partial.step_loss)
            accuracy = partial.correct / self._plan.images_of(taken)
            progress.update(
                len(part),
                loss=float(partial.step_loss[-_STEPS_PER_CALL:].mean()),
                accuracy=accuracy,
            )
            if self._callbacks:
                loss = np.average(partial.step_loss, weights=self._plan.sizes[:taken])
                logs = {"loss": float(loss), "accuracy": accuracy}
                self._callbacks.tell("on_train_batch_end", taken - 1, logs)
                if self._callbacks.ask_to_stop:
                    break
        return partial

    def _finish_epoch(self, epoch: int, partial: Partial) -> dict[str, float]:
        """Validates and keeps what was done; returns it as callbacks know it."""
        measured: dict[str, float] = {}
        if self._validate is not None:
            self._callbacks.tell("on_test_begin")
            try:
                measured = self._validate()
            except interruption.StoppedError:
                self._save(partial)
                raise
            self._callbacks.tell(
                "on_test_end", {name.removeprefix("val_"): v for name, v in measured.items()}
            )
        sizes = self._plan.sizes[: len(partial.step_loss)]
        self._history = self._history.longer(
            partial, sizes, learning_rate_of(self._optimizer), measured
        )
        losses = self._history.val_loss
        if self._options.early_stopping is not None and np.argmin(losses) == len(losses) - 1:
            self._best = self._network.get_weights()
        logs = {
            "loss": float(self._history.epoch_loss[-1]),
            "accuracy": float(self._history.epoch_accuracy[-1]),
            "learning_rate": float(self._history.learning_rate[-1]),
            **measured,
        }
        self._callbacks.tell("on_epoch_end", epoch, logs)
        self._save(None)
        self._tell_history()
        return logs

    def _tell_history(self) -> None:
        if self._options.on_history is not None:
            self._options.on_history(self._history)

    def _order(self, epoch: int, number: int) -> npt.NDArray[np.integer]:
        """The order of the images of a window."""
        sizes = self._windows.sizes
        key = [self._settings.seed, epoch]
        if len(sizes) > 1:
            key.append(number)
        return np.random.default_rng(key).permutation(sizes[number])

    def _train_steps(self, epoch: int) -> TrainSteps:
        """The compiled steps at the rates of an epoch.

        The optimizer's momentum is a constant of its graph, so a new one is traced for each.
        """
        rates = self._settings.rates(epoch)
        if self._options.optimizer is None:
            set_rates(self._optimizer, rates, self._rates)
            self._rates = rates
        if self._compiled is None or self._compiled[0] != rates[1]:
            self._compiled = (
                rates[1],
                make_train_steps(
                    self._logits_network,
                    self._optimizer,
                    self._settings.temperature,
                    self._settings.batch_size,
                    self._settings.jit_compile,
                    self._perturb,
                    self._options.objective,
                    self._strategy,
                ),
            )
        return self._compiled[1]

    def _check_finite(self, partial: Partial) -> None:
        finite = np.isfinite(partial.step_loss)
        if not finite.all():
            remedy = f"the learning rate ({self._settings.learning_rate:g}) or the momentum "
            remedy += f"({self._settings.momentum:g})"
            if self._options.optimizer is not None:
                remedy = f"the learning rate ({learning_rate_of(self._optimizer):g})"
            raise RunError(
                f"{self._label}: expected a finite loss, received "
                f"{partial.step_loss[~finite][0]} at step "
                f"{len(self._history.step_loss) + int(np.argmin(finite)) + 1} (epoch "
                f"{len(self._history.epoch_loss) + 1}, temperature "
                f"{self._settings.temperature:g}). Lower {remedy}."
            )

    def _save(self, partial: Partial | None, *, finished: bool = False) -> None:
        # Where callbacks have a state, which cannot be saved, there is only the end.
        if self._checkpoint is not None and (self._callbacks.resumable or finished):
            checkpoints.save(
                self._checkpoint,
                self._network,
                self._optimizer,
                self._history,
                partial,
                best=self._best,
                finished=finished,
            )


def _validation(
    logits_network: keras.Model, settings: TrainingSettings, options: TrainingOptions
) -> Callable[[], dict[str, float]] | None:
    """Evaluates the validation examples, if there are any."""
    names = [LOSS, ACCURACY, *map(name_of, options.metrics)] if options.validation else []
    callbacks.check(options.callbacks, names, options.metrics)
    if options.validation is None:
        if options.metrics:
            raise ValueError(
                "metrics: expected validation images with them, on which they are measured; "
                f"received {[metric.name for metric in options.metrics]} and no validation."
            )
        if options.early_stopping is not None:
            raise ValueError(
                "early_stopping: expected validation images with it, whose loss it watches; "
                "received none."
            )
        return None
    windows = Windows(*options.validation, logits_network.output_shape[-1])
    _check_shape(logits_network, windows)
    return Validation(
        logits_network, windows, options.objective, settings.temperature, options.metrics
    )


def _check_shape(network: keras.Model, windows: Windows) -> None:
    expected, received = network.input_shape[1:], windows.image_shape
    if len(expected) != len(received) or any(
        e not in (None, r) for e, r in zip(expected, received, strict=True)
    ):
        raise ValueError(
            f"images: expected the shape {expected}, which the network takes; received {received}."
        )
