"""An initial network, what it hands on, and the network distilled from it."""

import dataclasses

import keras

from ddefense import training


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
