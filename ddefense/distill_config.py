"""What determines a distillation, checked once."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from ddefense.config import PRECISIONS, Training
from ddefense.settings import (
    Bound,
    Count,
    Factor,
    OneOf,
    Positive,
    Share,
    Switch,
    Weight,
    Whole,
    checked,
    expect,
    is_integer,
    is_number,
    setting,
)

METHODS = ("defensive", "extended")
"""Papernot et al. 2016, and its successor by Papernot and McDaniel (2017)."""
OPTIMIZERS = ("sgd", "adam")
UNCERTAINTIES = ("logits", "probabilities")
"""Outputs of which the variance under dropout is the uncertainty about an image."""

ClassWeights = Literal["balanced"] | Mapping[int, float]


def _weights(received: Any) -> ClassWeights:
    """`balanced`, or the weights by class index, which are strings in JSON."""
    if received == "balanced":
        return "balanced"
    return {int(index): float(weight) for index, weight in received.items()}


def _are_weights(received: Any) -> bool:
    if received == "balanced":
        return True
    return (
        isinstance(received, Mapping)
        and all(
            (is_integer(index, 0) or str(index).isdecimal()) and is_number(weight) and weight >= 0
            for index, weight in received.items()
        )
        and any(received.values())
    )


_WEIGHTS = Bound(
    "'balanced' or finite numbers >= 0 by class index, such as {0: 1.0, 1: 5.0}",
    _are_weights,
    _weights,
)


@checked
class DistillConfig(Training):
    """How a network is distilled."""

    temperature: Positive = setting("T of both trainings. Method extended is at 1, without it.")
    method: Annotated[Literal["defensive", "extended"], OneOf(METHODS)] = setting(
        "defensive: Papernot et al. 2016; with a student or alpha, Hinton et al. 2015. extended: "
        "its successor of 2017 with an outlier class, at T = 1; its formula is unverified.",
        default="defensive",
    )
    alpha: Weight = setting(
        "Weight of the hard labels at T = 1 beside the soft labels at T in the loss of the "
        "distilled network; 0 is defensive distillation.",
        default=0.0,
    )
    scale_by_temperature_squared: Switch = setting(
        "Whether the loss on soft labels is multiplied by T^2, as Hinton et al. do, so that its "
        "gradient keeps its size as T rises.",
        default=False,
    )
    optimizer: Annotated[str, OneOf(OPTIMIZERS)] = setting(
        "sgd, as in the paper; or adam, whose steps do not shrink as T rises.", default="sgd"
    )
    learning_rate: Positive | None = setting(
        "Of the optimizer, at the start. Default: 0.1 with sgd, 0.001 with adam.", default=None
    )
    class_weights: Annotated[ClassWeights, _WEIGHTS] | None = setting(
        "Factor on the loss of the images of each class: balanced for the inverse of its share.",
        default=None,
    )
    validation_share: Share = setting(
        "Share of the training images held out to validate after each epoch.", default=0.0
    )
    early_stopping: Count | None = setting(
        "Stop a training after so many epochs without a smaller validation loss, and take the "
        "weights of the best one; this takes a validation share. Default: never.",
        default=None,
    )
    precision: Annotated[str, OneOf(PRECISIONS)] | None = setting(
        "Of the hidden layers while training; mixed_bfloat16 is faster where the hardware has it. "
        "Default: what each layer has. The network that comes out is float32, or what it was.",
        default=None,
    )
    outlier_alpha: Factor = setting(
        "extended: largest probability of the outlier class.", default=0.9
    )
    dropout_passes: Annotated[int, Whole(2)] = setting(
        "extended: passes over each image to estimate uncertainty.", default=20
    )
    uncertainty_of: Annotated[Literal["logits", "probabilities"], OneOf(UNCERTAINTIES)] = setting(
        "extended: outputs of which the variance under dropout is the uncertainty.",
        default="logits",
    )

    def __post_init__(self) -> None:
        """Checks what a bound does not say.

        Raises:
            ConfigError: naming the setting, what was received and what was expected.
        """
        super().__post_init__()
        if self.optimizer == "adam":
            for name in ("learning_rate_decay", "momentum_decay"):
                expect(getattr(self, name) == 1, name, "1 with optimizer adam", getattr(self, name))
        if self.method == "extended":
            for name, value in (("temperature", 1.0), ("alpha", 0.0)):
                received = getattr(self, name)
                expect(received == value, name, f"{value:g} with method extended", received)

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
