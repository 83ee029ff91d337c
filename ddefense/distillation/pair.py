"""An initial network, what it hands on, and the network distilled from it."""

import dataclasses
import pathlib

import keras

from ddefense import training
from ddefense.datasets import Examples
from ddefense.distillation.labels import soft_labels
from ddefense.distillation.soft_label_files import SoftLabelFiles


@dataclasses.dataclass(frozen=True)
class Histories:
    """How the two trainings went.

    Attributes:
        initial: on hard labels.
        distilled: on soft labels.
    """

    initial: training.History
    distilled: training.History


@dataclasses.dataclass(frozen=True)
class Pair:
    """An initial network and the one distilled from it.

    Attributes:
        initial: images -> probabilities at T = 1, as a network is deployed.
        distilled: the same.
        temperature: T at which both were trained.
        history: how their trainings went.
    """

    initial: keras.Model
    distilled: keras.Model
    temperature: float
    history: Histories


def make_soft_labels(
    initial: keras.Model,
    examples: Examples,
    temperature: float,
    directory: pathlib.Path | None = None,
) -> training.Labels:
    """The soft labels of all images, in memory or on disk; see `SoftLabelFiles`.

    Args:
        initial: trained at `temperature`.
        examples: whose soft labels to make.
        temperature: T > 0.
        directory: for TFRecords; None keeps the soft labels in memory.
    """
    if directory is None:
        windows = [soft_labels(initial, images, temperature) for images in examples.windows()]
        return windows.__getitem__
    stored = SoftLabelFiles(directory, examples, initial.output_shape[-1])
    stored.write(initial, temperature)
    return stored
