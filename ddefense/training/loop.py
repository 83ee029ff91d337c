"""The training loop: for epoch, for batch."""

import dataclasses
import math
import pathlib

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense import networks
from ddefense.progress import Progress
from ddefense.records import RunError
from ddefense.training import checkpoints
from ddefense.training.history import History
from ddefense.training.steps import TrainSteps, make_train_steps

# Steps per compiled call: enough to hide the call, few enough for a live progress bar.
_STEPS_PER_CALL = 25


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a network is trained.

    Attributes:
        temperature: T > 0 of the softmax in the loss.
        epochs: passes over the training set.
        batch_size: images per step.
        learning_rate: of stochastic gradient descent.
        momentum: of stochastic gradient descent, in [0, 1).
        seed: of the order of images and of dropout.
        max_steps: stop after this many steps, whatever `epochs` says.
    """

    temperature: float
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    seed: int
    max_steps: int | None = None


def fit(
    network: keras.Model,
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.float32],
    settings: TrainingSettings,
    *,
    label: str = "training",
    checkpoint: pathlib.Path | None = None,
) -> History:
    """Trains a network in place on hard (one-hot) or soft labels.

    Args:
        network: a functional model with a layer named `logits`; dropout is on while training.
        images: shape [N, H, W, C].
        labels: probabilities, shape [N, classes].
        settings: how.
        label: what progress and errors call this network.
        checkpoint: file to resume from if it exists, and to write after every epoch. A resumed
            run gives the same weights, bit for bit, as one that was never interrupted.

    Returns:
        Loss and accuracy of the whole run, resumed epochs included.

    Raises:
        RunError: if the loss is not finite, naming the step; or if the checkpoint is damaged.
    """
    logits_network = networks.logits_of(network)
    optimizer = keras.optimizers.SGD(settings.learning_rate, momentum=float(settings.momentum))
    train_steps = make_train_steps(
        logits_network, optimizer, settings.temperature, settings.batch_size
    )
    history = History(np.zeros(0, np.float32), np.zeros(0), np.zeros(0))
    if checkpoint is not None and checkpoint.exists():
        history = checkpoints.restore(checkpoint, network, optimizer)

    total = _images_in_all(len(images), settings)
    data = (tf.constant(images), tf.constant(labels, tf.float32))
    done = len(history.epoch_loss) * len(images)
    with Progress(label, total, "image", done=done) as progress:
        for epoch in range(len(history.epoch_loss), math.ceil(total / len(images))):
            _seed_dropout(network, settings.seed, epoch)
            order = np.random.default_rng([settings.seed, epoch]).permutation(len(images))
            order = order[: total - epoch * len(images)]
            history = _run_epoch(train_steps, data, order, settings, history, progress, label)
            if checkpoint is not None:
                checkpoints.save(checkpoint, network, optimizer, history)
    return history


def _images_in_all(num_images: int, settings: TrainingSettings) -> int:
    """How many images the run uses; the last step of an epoch takes what is left of it."""
    if settings.max_steps is None:
        return settings.epochs * num_images
    epochs, steps = divmod(settings.max_steps, math.ceil(num_images / settings.batch_size))
    total = epochs * num_images + steps * settings.batch_size
    return min(total, settings.epochs * num_images)


def _run_epoch(
    train_steps: TrainSteps,
    data: tuple[tf.Tensor, tf.Tensor],
    order: npt.NDArray[np.integer],
    settings: TrainingSettings,
    history: History,
    progress: Progress,
    label: str,
) -> History:
    """Takes the steps of one epoch and returns the longer history."""
    losses: list[npt.NDArray[np.float32]] = []
    correct = 0
    per_call = _STEPS_PER_CALL * settings.batch_size
    for start in range(0, len(order), per_call):
        part = order[start : start + per_call]
        step_loss, hits = train_steps(*data, tf.constant(part, tf.int32))
        losses.append(step_loss.numpy())
        correct += int(hits)
        finite = np.isfinite(losses[-1])
        if not finite.all():
            before = len(history.step_loss) + sum(len(loss) for loss in losses[:-1])
            raise RunError(
                f"{label}: expected a finite loss, received {losses[-1][~finite][0]} at step "
                f"{before + int(np.argmin(finite)) + 1} (epoch {len(history.epoch_loss) + 1}, "
                f"temperature {settings.temperature:g}). Lower the learning rate "
                f"({settings.learning_rate:g}) or the momentum ({settings.momentum:g})."
            )
        progress.update(
            len(part), loss=float(losses[-1].mean()), accuracy=correct / (start + len(part))
        )
    steps = np.concatenate(losses)
    sizes = np.full(len(steps), settings.batch_size, np.float64)
    sizes[-1] = len(order) - (len(steps) - 1) * settings.batch_size
    return History(
        step_loss=np.concatenate([history.step_loss, steps]),
        epoch_loss=np.append(history.epoch_loss, np.average(steps, weights=sizes)),
        epoch_accuracy=np.append(history.epoch_accuracy, correct / len(order)),
    )


def _seed_dropout(network: keras.Model, seed: int, epoch: int) -> None:
    """Sets every random generator of the network to a state derived from (seed, epoch).

    No saved form of a Keras model holds these states, so a resumed run could not restore them.
    """
    weights = {id(w) for w in network.weights}
    states = [v for v in network.variables if id(v) not in weights]
    for i, state in enumerate(states):
        words = np.random.SeedSequence([seed, epoch, i]).generate_state(2)
        state.assign(words.astype(state.dtype))
