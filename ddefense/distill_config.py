"""What determines a distillation, checked once."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from ddefense.config import PRECISIONS, check_devices, expect, expect_integer, is_number

METHODS = ("defensive", "extended")
"""Papernot et al. 2016, and its successor by Papernot and McDaniel (2017)."""
OPTIMIZERS = ("sgd", "adam")
UNCERTAINTIES = ("logits", "probabilities")
"""Outputs of which the variance under dropout is the uncertainty about an image."""

ClassWeights = Literal["balanced"] | Mapping[int, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """How a network is distilled.

    Attributes:
        temperature: T > 0 of both trainings; 1 for `extended`.
        method: among `METHODS`.
        alpha: weight of the hard labels at T = 1 beside the soft labels at T in the loss of the
            distilled network, in [0, 1] (Hinton et al. 2015); 0 is defensive distillation.
        scale_by_temperature_squared: whether the loss on soft labels is multiplied by T^2, as in
            Hinton et al. 2015, so that its gradient keeps its size as T rises.
        epochs: passes over the training set for each network.
        batch_size: training images per optimizer step.
        optimizer: `sgd` as in the paper, or `adam`, whose steps keep their size as T rises.
        learning_rate: > 0; None for 0.1 (`sgd`) or 0.001 (`adam`).
        momentum: of `sgd`, in [0, 1).
        learning_rate_decay: factor on the learning rate of `sgd` every `decay_epochs`, in (0, 1].
        momentum_decay: factor on the momentum of `sgd` every `decay_epochs`, in (0, 1].
        decay_epochs: epochs between two decays.
        class_weights: factor on the loss of the images of each class, by its index; `balanced`
            for the inverse of its share of the images; None for 1.
        validation_share: of the training images that are held out to validate after each epoch,
            in [0, 1).
        early_stopping: epochs without a smaller validation loss after which a training stops, with
            the weights of the best epoch; None for never.
        precision: Keras dtype policy of the layers while training, among `PRECISIONS`; None for
            the network's own. What comes out is float32, or the network's own.
        jit_compile: whether the steps are compiled with XLA.
        outlier_alpha: of `extended`: largest probability of the outlier class, in (0, 1].
        dropout_passes: of `extended`: passes over each image to estimate uncertainty, >= 2.
        uncertainty_of: of `extended`: which outputs vary under dropout, among `UNCERTAINTIES`.
        seed: of the order of images, dropout and the weights that are made here.
        threads: CPU threads per operation, 0 for one per core; kept because sums in another order
            have other last bits.
        devices: GPUs, or logical CPUs where there is no GPU, that each training is split over, at
            most one for each image of a batch; kept for the same reason.
    """

    # A stored configuration with a field that this version does not know is refused.
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    temperature: float
    method: Literal["defensive", "extended"] = "defensive"
    alpha: float = 0.0
    scale_by_temperature_squared: bool = False
    epochs: int = 50
    batch_size: int = 128
    optimizer: str = "sgd"
    learning_rate: float | None = None
    momentum: float = 0.5
    learning_rate_decay: float = 1.0
    momentum_decay: float = 1.0
    decay_epochs: int = 10
    class_weights: ClassWeights | None = None
    validation_share: float = 0.0
    early_stopping: int | None = None
    precision: str | None = None
    jit_compile: bool = False
    outlier_alpha: float = 0.9
    dropout_passes: int = 20
    uncertainty_of: Literal["logits", "probabilities"] = "logits"
    seed: int = 0
    threads: int = 0
    devices: int = 1

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ConfigError: naming the field, what was received and what was expected.
        """
        for name, minimum in (
            ("epochs", 1),
            ("batch_size", 1),
            ("decay_epochs", 1),
            ("dropout_passes", 2),
            ("seed", 0),
            ("threads", 0),
            ("devices", 1),
        ):
            received = getattr(self, name)
            expect_integer(name, received, minimum=minimum)
            object.__setattr__(self, name, int(received))
        if self.early_stopping is not None:
            expect_integer("early_stopping", self.early_stopping, minimum=1)
            object.__setattr__(self, "early_stopping", int(self.early_stopping))
        for name, expected, low, high, ends in (
            ("temperature", "a finite number > 0", 0, math.inf, "()"),
            ("alpha", "a number in [0, 1]", 0, 1, "[]"),
            ("momentum", "a number in [0, 1)", 0, 1, "[)"),
            ("validation_share", "a number in [0, 1)", 0, 1, "[)"),
            ("learning_rate_decay", "a number in (0, 1]", 0, 1, "(]"),
            ("momentum_decay", "a number in (0, 1]", 0, 1, "(]"),
            ("outlier_alpha", "a number in (0, 1]", 0, 1, "(]"),
        ):
            received = getattr(self, name)
            expect(_is_within(received, low, high, ends), name, expected, received)
            object.__setattr__(self, name, float(received))
        if self.learning_rate is not None:
            expect(
                _is_within(self.learning_rate, 0, math.inf, "()"),
                "learning_rate",
                "a finite number > 0",
                self.learning_rate,
            )
            object.__setattr__(self, "learning_rate", float(self.learning_rate))
        for name, choices in (
            ("method", METHODS),
            ("optimizer", OPTIMIZERS),
            ("uncertainty_of", UNCERTAINTIES),
            ("precision", (None, *PRECISIONS)),
        ):
            received = getattr(self, name)
            expect(received in choices, name, f"one of {list(choices)}", received)
        self._check_class_weights()
        check_devices(self.devices, self.batch_size)
        if self.optimizer == "adam":
            for name in ("learning_rate_decay", "momentum_decay"):
                expect(getattr(self, name) == 1, name, "1 with optimizer adam", getattr(self, name))
        if self.method == "extended":
            for name, value in (("temperature", 1.0), ("alpha", 0.0)):
                received = getattr(self, name)
                expect(received == value, name, f"{value:g} with method extended", received)

    def _check_class_weights(self) -> None:
        received = self.class_weights
        if received is None or received == "balanced":
            return
        expect(
            isinstance(received, Mapping)
            and all(
                _is_integer(index, 0) and _is_within(weight, 0, math.inf, "[)")
                for index, weight in received.items()
            )
            and any(received.values()),
            "class_weights",
            "'balanced' or finite numbers >= 0 by class index, such as {0: 1.0, 1: 5.0}",
            received,
        )
        weights = {int(index): float(weight) for index, weight in received.items()}
        object.__setattr__(self, "class_weights", weights)

    @property
    def rate(self) -> float:
        """The learning rate at the start."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 0.1 if self.optimizer == "sgd" else 0.001

    def fields(self) -> dict[str, Any]:
        """Every field as a JSON value."""
        found = dataclasses.asdict(self)
        if isinstance(self.class_weights, Mapping):
            found["class_weights"] = {str(k): float(v) for k, v in self.class_weights.items()}
        return found


def _is_integer(value: Any, minimum: int) -> bool:
    # Those of NumPy too, as they come out of its functions.
    integral = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return integral and int(value) >= minimum


def _is_within(value: Any, low: float, high: float, ends: str) -> bool:
    if not is_number(value):
        return False
    value = float(value)
    above = value >= low if ends[0] == "[" else value > low
    return above and (value <= high if ends[1] == "]" else value < high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillJob:
    """Everything that was asked of `bin/distill`.

    Attributes:
        network: a `.keras` file, or the name of a network.
        student: the same; None for one like `network`.
        data: an image folder, an `.npz` file, or the name of a dataset.
        image_shape: (height, width, channels) to which images of a folder are brought; None for
            that of the network.
        value_range: smallest and largest value of a feature, as the network takes it.
        class_names: None for those of the data.
        test_share: of the images, kept for testing where the data has no test set.
        config: how to distill.
        tensorboard: whether to write its logs.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    network: str
    student: str | None
    data: str
    image_shape: tuple[int, int, int] | None
    value_range: tuple[float, float]
    class_names: tuple[str, ...] | None
    test_share: float
    config: DistillConfig
    tensorboard: bool = False

    def fields(self) -> dict[str, Any]:
        """Every field as a JSON value."""
        return dataclasses.asdict(self) | {"config": self.config.fields()}
