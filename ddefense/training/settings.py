"""How a network is trained: the numbers, and what a Keras user brings along."""

import dataclasses
from collections.abc import Callable, Sequence

import keras

from ddefense.datasets import Examples
from ddefense.training.history import History
from ddefense.training.objective import Objective
from ddefense.training.windows import Labels


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
        devices: GPUs, or logical CPUs where there is no GPU, that every step is split over, >= 1.
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
    devices: int = 1

    def rates(self, epoch: int) -> tuple[float, float]:
        """Learning rate and momentum of an epoch, counted from 0."""
        decays = epoch // self.decay_epochs
        return (
            self.learning_rate * self.learning_rate_decay**decays,
            self.momentum * self.momentum_decay**decays,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What a Keras user brings along; without any of it the loop is the paper's.

    Attributes:
        objective: what the loss is.
        optimizer: takes the steps, as a fresh copy with no state; its learning rate may be a
            `LearningRateSchedule`. The settings' learning rate and momentum are not used then, and
            must have no decay. None is stochastic gradient descent with them.
        validation: examples and labels that are evaluated after every epoch, dropout off: the
            loss of the same objective, and the share of images predicted as their true class.
        metrics: evaluated on the validation examples, from the probabilities at T = 1 and the true
            classes: integers where the metric's class is called `Sparse...`, else one-hot rows.
        callbacks: told of the training as by `keras.Model.fit`. Their model is the deployed
            network (T = 1), which shares its variables with the one that is trained, and has
            `optimizer` and `stop_training`. As with Keras' `steps_per_execution`, batch hooks are
            called once for every compiled call of up to 25 steps. Their state cannot be saved, so
            a training with callbacks that is interrupted starts over, unless they are all
            `TensorBoard`, which only writes.
        early_stopping: epochs without a smaller validation loss after which the training stops,
            >= 1; it then, and at its end, has the weights of the epoch with the smallest. None for
            never. Unlike the callback of Keras it is resumed.
        on_history: told of the history so far, when the training starts or is resumed and after
            every epoch, once the checkpoint is written. Unlike a callback it sees no network.
    """

    objective: Objective = dataclasses.field(default_factory=Objective)
    optimizer: keras.optimizers.Optimizer | None = None
    validation: tuple[Examples, Labels] | None = None
    metrics: Sequence[keras.metrics.Metric] = ()
    callbacks: Sequence[keras.callbacks.Callback] = ()
    early_stopping: int | None = None
    on_history: Callable[[History], None] | None = None
