"""The training loop: for epoch, for batch."""

import dataclasses
import math
import pathlib

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense import interruption, networks
from ddefense.progress import Progress
from ddefense.records import RunError
from ddefense.training import checkpoints
from ddefense.training.history import History, Partial
from ddefense.training.steps import Perturb, TrainSteps, make_train_steps

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
        learning_rate_decay: factor on the learning rate after every `decay_epochs`.
        momentum_decay: factor on the momentum after every `decay_epochs`.
        decay_epochs: epochs between two decays.
        seed: of the order of images and of dropout.
        jit_compile: whether the steps are compiled with XLA.
        max_steps: stop after this many steps, whatever `epochs` says.
    """

    temperature: float
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    learning_rate_decay: float = 1.0
    momentum_decay: float = 1.0
    decay_epochs: int = 10
    seed: int
    jit_compile: bool = False
    max_steps: int | None = None

    def rates(self, epoch: int) -> tuple[float, float]:
        """Learning rate and momentum of an epoch, counted from 0."""
        decays = epoch // self.decay_epochs
        return (
            self.learning_rate * self.learning_rate_decay**decays,
            self.momentum * self.momentum_decay**decays,
        )


def fit(
    network: keras.Model,
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.float32],
    settings: TrainingSettings,
    *,
    label: str = "training",
    checkpoint: pathlib.Path | None = None,
    perturb: Perturb | None = None,
) -> History:
    """Trains a network in place on hard (one-hot) or soft labels.

    Args:
        network: a functional model with a layer named `logits`; dropout is on while training.
        images: shape [N, H, W, C].
        labels: probabilities, shape [N, classes].
        settings: how.
        label: what progress and errors call this network.
        checkpoint: file to resume from if it exists, and to write after every epoch and when the
            run is asked to stop. A resumed run gives the same weights, bit for bit, as one that
            was never interrupted.
        perturb: what to make of the images of each optimizer step before it is taken, for
            adversarial training: (images, labels, optimizer steps taken before, int64) -> images,
            called in the compiled step. Loss and accuracy are then those of what it returns. A
            resumed run keeps the promise above if the result depends on nothing but these three
            and the network's weights.

    Returns:
        Loss and accuracy of the whole run, resumed epochs included.

    Raises:
        RunError: if the loss is not finite, naming the step; or if the checkpoint is damaged.
        StoppedError: if the run was asked to stop, after the checkpoint is written.
    """
    loop = _Loop(network, (images, labels), settings, label, checkpoint, perturb)
    total = _images_in_all(len(images), settings)
    with Progress(label, total, "image", done=min(loop.images_done, total)) as progress:
        for epoch in range(len(loop.history.epoch_loss), math.ceil(total / len(images))):
            order = np.random.default_rng([settings.seed, epoch]).permutation(len(images))
            loop.run_epoch(epoch, order[: total - epoch * len(images)], progress)
    return loop.history


def _images_in_all(num_images: int, settings: TrainingSettings) -> int:
    """How many images the run uses; the last step of an epoch takes what is left of it."""
    if settings.max_steps is None:
        return settings.epochs * num_images
    epochs, steps = divmod(settings.max_steps, math.ceil(num_images / settings.batch_size))
    total = epochs * num_images + steps * settings.batch_size
    return min(total, settings.epochs * num_images)


class _Loop:
    """The state of one training run."""

    def __init__(
        self,
        network: keras.Model,
        data: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
        settings: TrainingSettings,
        label: str,
        checkpoint: pathlib.Path | None,
        perturb: Perturb | None,
    ) -> None:
        self._network, self._settings, self._label = network, settings, label
        self._perturb = perturb
        self._logits_network = networks.logits_of(network)
        self._optimizer = keras.optimizers.SGD(
            settings.learning_rate, momentum=float(settings.momentum)
        )
        self._optimizer.build(self._logits_network.trainable_variables)
        self._checkpoint = checkpoint
        self.history = History(np.zeros(0, np.float32), np.zeros(0), np.zeros(0))
        self._partial: Partial | None = None
        if checkpoint is not None and checkpoint.exists():
            self.history, self._partial = checkpoints.restore(checkpoint, network, self._optimizer)
        self._num_images = len(data[0])
        self._data = tf.constant(data[0]), tf.constant(data[1], tf.float32)
        self._compiled: tuple[float, TrainSteps] | None = None

    @property
    def images_done(self) -> int:
        """Images that training has used."""
        partial = len(self._partial.step_loss) if self._partial else 0
        return len(self.history.epoch_loss) * self._num_images + partial * self._settings.batch_size

    def run_epoch(self, epoch: int, order: npt.NDArray[np.integer], progress: Progress) -> None:
        """Takes the steps of one epoch, or of what an interrupted run left of it."""
        train_steps = self._train_steps(epoch)
        partial, self._partial = self._partial, None
        if partial is None:
            partial = Partial(np.zeros(0, np.float32), 0)
            checkpoints.seed_generators(self._network, self._settings.seed, epoch)
        batch_size = self._settings.batch_size
        per_call = _STEPS_PER_CALL * batch_size
        for start in range(len(partial.step_loss) * batch_size, len(order), per_call):
            if interruption.asked():
                self._save(partial)
                interruption.check()
            part = order[start : start + per_call]
            step_loss, hits = train_steps(*self._data, tf.constant(part, tf.int32))
            partial = Partial(
                np.concatenate([partial.step_loss, step_loss.numpy()]),
                partial.correct + int(hits),
            )
            self._check_finite(partial)
            progress.update(
                len(part),
                loss=float(partial.step_loss[-_STEPS_PER_CALL:].mean()),
                accuracy=partial.correct / (start + len(part)),
            )
        self.history = self.history.longer(partial, len(order), batch_size)
        self._save(None)

    def _train_steps(self, epoch: int) -> TrainSteps:
        """The compiled steps at the rates of an epoch.

        The optimizer's momentum is a constant of its graph, so a new one is traced for each.
        """
        learning_rate, momentum = self._settings.rates(epoch)
        self._optimizer.learning_rate.assign(learning_rate)
        if self._compiled is None or self._compiled[0] != momentum:
            self._optimizer.momentum = momentum
            self._compiled = (
                momentum,
                make_train_steps(
                    self._logits_network,
                    self._optimizer,
                    self._settings.temperature,
                    self._settings.batch_size,
                    self._settings.jit_compile,
                    self._perturb,
                ),
            )
        return self._compiled[1]

    def _check_finite(self, partial: Partial) -> None:
        finite = np.isfinite(partial.step_loss)
        if not finite.all():
            raise RunError(
                f"{self._label}: expected a finite loss, received "
                f"{partial.step_loss[~finite][0]} at step "
                f"{len(self.history.step_loss) + int(np.argmin(finite)) + 1} (epoch "
                f"{len(self.history.epoch_loss) + 1}, temperature "
                f"{self._settings.temperature:g}). Lower the learning rate "
                f"({self._settings.learning_rate:g}) or the momentum "
                f"({self._settings.momentum:g})."
            )

    def _save(self, partial: Partial | None) -> None:
        if self._checkpoint is not None:
            checkpoints.save(
                self._checkpoint, self._network, self._optimizer, self.history, partial
            )
