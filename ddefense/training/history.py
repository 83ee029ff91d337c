"""What a training run leaves behind beside the weights."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

STALL_STEPS = 3000
_STALL_TOLERANCE = 0.01
_STALL_WINDOW = 50
_METRIC = "metric_"


@dataclasses.dataclass(frozen=True)
class Partial:
    """The steps taken of an epoch under way.

    Attributes:
        step_loss: loss of each of its steps in nats, float32, shape [steps].
        correct: images predicted as the arg-max of their label.
    """

    step_loss: npt.NDArray[np.float32]
    correct: int


def _none_yet() -> npt.NDArray[np.float64]:
    return np.zeros(0)


@dataclasses.dataclass(frozen=True)
class History:
    """Loss and accuracy of a training run.

    Attributes:
        step_loss: loss of each optimizer step in nats, without what the network's regularizers add
            to it, float32, shape [steps].
        epoch_loss: its mean over the images of each epoch, shape [epochs].
        epoch_accuracy: share of training images whose prediction (dropout on) is the arg-max of
            the label learnt from, shape [epochs].
        learning_rate: at each epoch's end, before a callback changes it, shape [epochs].
        val_loss: loss of the validation images after each epoch, dropout off, shape [epochs], or
            [0] if there are none.
        val_accuracy: share of the validation images predicted as their true class, likewise.
        val_metrics: further measures of the validation images by name, `val_...`, likewise.
    """

    step_loss: npt.NDArray[np.float32]
    epoch_loss: npt.NDArray[np.float64]
    epoch_accuracy: npt.NDArray[np.float64]
    learning_rate: npt.NDArray[np.float64] = dataclasses.field(default_factory=_none_yet)
    val_loss: npt.NDArray[np.float64] = dataclasses.field(default_factory=_none_yet)
    val_accuracy: npt.NDArray[np.float64] = dataclasses.field(default_factory=_none_yet)
    val_metrics: Mapping[str, npt.NDArray[np.float64]] = dataclasses.field(default_factory=dict)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything in it by name, for an .npz file."""
        found: dict[str, Any] = dict(vars(self))
        metrics = found.pop("val_metrics")
        return found | {_METRIC + name: values for name, values in metrics.items()}

    @classmethod
    def of_arrays(cls, arrays: Any) -> "History":
        """What `arrays` gave, read from an .npz file that may hold more.

        Raises:
            KeyError: if an array is missing.
        """
        names = [field.name for field in dataclasses.fields(cls) if field.name != "val_metrics"]
        metrics = {
            name.removeprefix(_METRIC): arrays[name] for name in arrays if name.startswith(_METRIC)
        }
        return cls(**{name: arrays[name] for name in names}, val_metrics=metrics)

    def longer(
        self,
        epoch: Partial,
        sizes: npt.NDArray[np.int64],
        learning_rate: float,
        validation: Mapping[str, float],
    ) -> "History":
        """This history with an epoch added.

        Args:
            epoch: all of its steps, at least one.
            sizes: images of each step.
            learning_rate: at its end.
            validation: `val_loss`, `val_accuracy` and further measures, or nothing.
        """
        own = ("val_loss", "val_accuracy")
        metrics = [name for name in validation if name not in own]
        return History(
            step_loss=np.concatenate([self.step_loss, epoch.step_loss]),
            epoch_loss=np.append(self.epoch_loss, np.average(epoch.step_loss, weights=sizes)),
            epoch_accuracy=np.append(self.epoch_accuracy, epoch.correct / int(sizes.sum())),
            learning_rate=np.append(self.learning_rate, learning_rate),
            **{
                name: np.append(getattr(self, name), validation[name])
                for name in own
                if name in validation
            },
            val_metrics={
                name: np.append(self.val_metrics.get(name, _none_yet()), validation[name])
                for name in metrics
            },
        )

    def stalled(self, num_classes: int, scale: float = 1.0) -> bool:
        """Whether the loss stayed at that of guessing, for long or to the end.

        True if the loss, averaged over 50 steps, is within 1 % of ln(num_classes), what a
        network that has learnt nothing pays, at the end of training or after 3,000 steps.

        Args:
            num_classes: number of classes, >= 2.
            scale: what the objective multiplies such a loss by; see `Objective.scale`.
        """
        ends = [len(self.step_loss)]
        if len(self.step_loss) > STALL_STEPS:
            ends.append(STALL_STEPS)
        nothing_learnt = scale * math.log(num_classes)
        return any(
            abs(float(self.step_loss[max(0, end - _STALL_WINDOW) : end].mean()) - nothing_learnt)
            <= _STALL_TOLERANCE * nothing_learnt
            for end in ends
        )
