"""What a training run leaves behind beside the weights."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

STALL_STEPS = 3000
_STALL_TOLERANCE = 0.01
_STALL_WINDOW = 50


@dataclasses.dataclass(frozen=True)
class Partial:
    """The steps taken of an epoch under way.

    Attributes:
        step_loss: cross-entropy of each of its steps in nats, float32, shape [steps].
        correct: images predicted as the arg-max of their label.
    """

    step_loss: npt.NDArray[np.float32]
    correct: int


@dataclasses.dataclass(frozen=True)
class History:
    """Loss and accuracy of a training run.

    Attributes:
        step_loss: cross-entropy of each optimizer step in nats, float32, shape [steps].
        epoch_loss: its mean over the images of each epoch, shape [epochs].
        epoch_accuracy: share of training images whose prediction (dropout on) is the arg-max of
            the label learnt from, shape [epochs].
    """

    step_loss: npt.NDArray[np.float32]
    epoch_loss: npt.NDArray[np.float64]
    epoch_accuracy: npt.NDArray[np.float64]

    def longer(self, epoch: Partial, num_images: int, batch_size: int) -> "History":
        """This history with a whole epoch added.

        Args:
            epoch: all of its steps.
            num_images: images in it; the last step took what the others left.
            batch_size: images in each other step.
        """
        sizes = np.full(len(epoch.step_loss), batch_size, np.float64)
        sizes[-1] = num_images - (len(sizes) - 1) * batch_size
        return History(
            step_loss=np.concatenate([self.step_loss, epoch.step_loss]),
            epoch_loss=np.append(self.epoch_loss, np.average(epoch.step_loss, weights=sizes)),
            epoch_accuracy=np.append(self.epoch_accuracy, epoch.correct / num_images),
        )

    def stalled(self, num_classes: int) -> bool:
        """Whether the network did not learn, or not in time.

        True if the loss, averaged over 50 steps, is within 1 % of ln(num_classes), what a
        network that has learnt nothing pays, at the end of training or after 3,000 steps.

        Args:
            num_classes: number of classes, >= 2.
        """
        ends = [len(self.step_loss)]
        if len(self.step_loss) > STALL_STEPS:
            ends.append(STALL_STEPS)
        nothing_learnt = math.log(num_classes)
        return any(
            abs(float(self.step_loss[max(0, end - _STALL_WINDOW) : end].mean()) - nothing_learnt)
            <= _STALL_TOLERANCE * nothing_learnt
            for end in ends
        )
