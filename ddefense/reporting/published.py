"""The paper's numbers as data, each with where it was read and whether it could be verified."""

import dataclasses
import enum


class Source(enum.Enum):
    """Where a number was read. The body of the paper itself was not available as text."""

    REPORT = "S1"
    SLIDES = "S2"
    NOTES = "N"
    DERIVED = "D"
    MEMORY = "M"

    @property
    def description(self) -> str:
        """What the tag stands for."""
        return _DESCRIPTIONS[self.value]

    @property
    def verified(self) -> bool:
        """False for what is quoted from memory and has no text behind it."""
        return self is not Source.MEMORY


_DESCRIPTIONS = {
    "S1": "a student report on the paper",
    "S2": "the slides of the authors' talk",
    "N": "notes of others on this or later papers",
    "D": "derived for this package",
    "M": "from memory, unverified",
}


def tag(source: Source) -> str:
    """The source's tag, or `unverified`."""
    return source.value if source.verified else "unverified"


@dataclasses.dataclass(frozen=True)
class Published:
    """One number as published.

    Attributes:
        value: the number, in `unit`.
        unit: such as `%` or `points`.
        source: where it was read.
    """

    value: float
    unit: str
    source: Source

    def __str__(self) -> str:
        """The value with its source, or `unverified`."""
        return f"{self.value:g} ({tag(self.source)})"


@dataclasses.dataclass(frozen=True)
class SuccessTable:
    """Success of the crafting attack (the paper's Fig. 7, numbers from the slides).

    Attributes:
        percent: adversarial success rate in percent by distillation temperature.
        undistilled: the same without distillation.
        successes: by temperature, the count out of `attempts` that each percentage rounds.
        undistilled_successes: the same without distillation.
        attempts: attacked (sample, target) pairs.
    """

    percent: dict[float, float]
    undistilled: float
    successes: dict[float, int]
    undistilled_successes: int
    attempts: int = 900


SUCCESS = {
    "mnist": SuccessTable(
        percent={
            1.0: 91.0,
            2.0: 82.23,
            5.0: 24.67,
            10.0: 6.78,
            20.0: 1.34,
            30.0: 1.44,
            40.0: 0.45,
            50.0: 1.45,
            100.0: 0.45,
        },
        undistilled=95.89,
        successes={
            1.0: 819,
            2.0: 740,
            5.0: 222,
            10.0: 61,
            20.0: 12,
            30.0: 13,
            40.0: 4,
            50.0: 13,
            100.0: 4,
        },
        undistilled_successes=863,
    ),
    "cifar10": SuccessTable(
        percent={
            1.0: 92.78,
            2.0: 87.67,
            5.0: 67.0,
            10.0: 47.56,
            20.0: 18.23,
            30.0: 13.23,
            40.0: 9.34,
            50.0: 6.23,
            100.0: 5.11,
        },
        undistilled=87.89,
        successes={
            1.0: 835,
            2.0: 789,
            5.0: 603,
            10.0: 428,
            20.0: 164,
            30.0: 119,
            40.0: 84,
            50.0: 56,
            100.0: 46,
        },
        undistilled_successes=791,
    ),
}
"""Percentages from the slides (S2); the counts are derived (D): every percentage is k / 900."""

ACCURACY = {
    "mnist": Published(99.51, "%", Source.REPORT),
    "cifar10": Published(80.95, "%", Source.REPORT),
}
"""Test accuracy of the undistilled network."""
ACCURACY_CHANGE = Published(1.37, "points", Source.REPORT)
"""Accuracy moves by less than this between undistilled and distilled, on both datasets."""
AMPLITUDE_REDUCTION = Published(30.0, "decades", Source.REPORT)
"""Adversarial gradients shrink by factors of up to 10 ** 30."""
ROBUSTNESS_GAIN = {
    "mnist": Published(790.0, "%", Source.REPORT),
    "cifar10": Published(556.0, "%", Source.REPORT),
}
"""Gain of the average minimal distortion at the best temperature."""
ROBUSTNESS = {
    "mnist": (
        Published(1.55, "% of features", Source.MEMORY),
        Published(13.79, "% of features", Source.MEMORY),
    ),
    "cifar10": (
        Published(0.39, "% of features", Source.MEMORY),
        Published(2.56, "% of features", Source.MEMORY),
    ),
}
"""The same as (undistilled, best temperature); unverified, though they give the gains exactly."""
CONFIDENCE = {
    1.0: Published(71.85, "%", Source.MEMORY),
    10.0: Published(71.99, "%", Source.MEMORY),
    20.0: Published(78.05, "%", Source.MEMORY),
    40.0: Published(80.77, "%", Source.MEMORY),
}
"""Confidence on CIFAR10 by temperature; only that it rises is confirmed (notes)."""
LOGIT_SCALE = (Published(5.8, "", Source.NOTES), Published(482.0, "", Source.NOTES))
"""Mean abs(z) on MNIST, undistilled and at T = 100 (Carlini and Wagner 2016)."""
LOGITS_OVER_T_SUCCESS = Published(96.4, "%", Source.NOTES)
"""Success on a distilled MNIST network with logits divided by T (Carlini and Wagner 2016)."""
STANDARDIZED_RANGE = {
    "cifar10": (Published(-2.22, "", Source.REPORT), Published(2.62, "", Source.REPORT)),
}
"""Smallest and largest test value after preprocessing."""
MAX_FEATURES = Published(112.0, "features", Source.REPORT)


@dataclasses.dataclass(frozen=True)
class Cases:
    """Mean distances of a targeted attack by Carlini and Wagner (2017), on images in [0, 1].

    Attributes:
        best: over the easiest of nine targets.
        average: over one random target.
        worst: over the hardest.
    """

    best: Published
    average: Published
    worst: Published


def _cases(best: float, average: float, worst: float, best_source: Source) -> Cases:
    """Only some of the best cases are in the notes."""
    return Cases(
        Published(best, "", best_source),
        Published(average, "", Source.MEMORY),
        Published(worst, "", Source.MEMORY),
    )


CARLINI_WAGNER = {
    "mnist": {
        "cw_l2": (
            _cases(1.36, 1.76, 2.60, Source.NOTES),
            _cases(1.7, 2.2, 2.9, Source.NOTES),
        ),
        "cw_l0": (_cases(8.5, 16, 33, Source.NOTES), _cases(10, 19, 36, Source.NOTES)),
        "cw_linf": (
            _cases(0.13, 0.16, 0.23, Source.NOTES),
            _cases(0.14, 0.18, 0.25, Source.MEMORY),
        ),
    },
    "cifar10": {
        "cw_l2": (
            _cases(0.17, 0.33, 0.51, Source.NOTES),
            _cases(0.36, 0.60, 0.92, Source.NOTES),
        ),
        "cw_l0": (_cases(5.9, 13, 24, Source.NOTES), _cases(7.4, 15, 29, Source.NOTES)),
        # The best case is below that of the undistilled network; so it was remembered.
        "cw_linf": (
            _cases(0.0092, 0.013, 0.019, Source.NOTES),
            _cases(0.002, 0.023, 0.038, Source.MEMORY),
        ),
    },
}
"""(undistilled, distilled at T = 100), each 100 % successful, over 1,000 test images."""
CARLINI_WAGNER_TEMPERATURE = 100.0
CARLINI_WAGNER_SUCCESS = Published(100.0, "%", Source.NOTES)
"""On networks distilled at T = 100, all three attacks."""
DISTANCE_CORRELATION = Published(-0.05, "", Source.NOTES)
"""Of T with the mean distance of their L2 attack on MNIST, over the paper's nine temperatures."""
TRANSFER_KAPPA = Published(40.0, "", Source.NOTES)
"""From this confidence on, about all their samples transfer to a distilled network."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One training parameter of the paper's Table II.

    Attributes:
        text: its value.
        source: where it was read.
    """

    text: str
    source: Source

    def __str__(self) -> str:
        """The value with its source, or `unverified`."""
        return f"{self.text} ({tag(self.source)})"


TRAINING = {
    "mnist": {
        "learning rate": Setting("0.1", Source.REPORT),
        "learning rate decay": Setting("none", Source.REPORT),
        "momentum": Setting("0.5", Source.MEMORY),
        "momentum decay": Setting("none", Source.REPORT),
        "dropout": Setting("0.5", Source.MEMORY),
        "batch size": Setting("128", Source.REPORT),
        "epochs": Setting("50", Source.REPORT),
    },
    "cifar10": {
        "learning rate": Setting("0.01", Source.REPORT),
        "learning rate decay": Setting("x 0.95 every 10 epochs", Source.REPORT),
        "momentum": Setting("0.9", Source.REPORT),
        "momentum decay": Setting("x 0.5 every 10 epochs", Source.REPORT),
        "dropout": Setting("0.5", Source.REPORT),
        "batch size": Setting("128", Source.REPORT),
        "epochs": Setting("50", Source.REPORT),
    },
}
"""Table II; where text and table differ, the text."""
TRAINING_NOTES: dict[str, tuple[str, ...]] = {
    "mnist": (),
    "cifar10": (
        "The learning rate's decay is that of the paper's text; its Table II is remembered to "
        "give x 0.5 (unverified).",
    ),
}
"""What must be said beside it."""

ARCHITECTURE = {
    "mnist": "2 x (convolution, 32), pooling, 2 x (convolution, 64), pooling, "
    "2 x (dense, 200), softmax of 10",
    "cifar10": "2 x (convolution, 64), pooling, 2 x (convolution, 128), pooling, "
    "2 x (dense, 256), softmax of 10",
}
"""Layers of Table I (S1). Kernels of 3 x 3 and pools of 2 x 2 are unverified (M)."""


def success_percent(dataset: str, defense: str, temperature: float) -> float | None:
    """The paper's success rate for a network, in percent; None for one that it does not have."""
    table = SUCCESS[reference(dataset)]
    if defense == "none":
        return table.undistilled
    return table.percent.get(temperature) if defense == "distillation" else None


def reference(dataset: str) -> str:
    """The paper's dataset that `dataset` is compared with: `cifar10`, or else `mnist`."""
    return "cifar10" if dataset == "cifar10" else "mnist"


def dataset_name(dataset: str) -> str:
    """How titles call a dataset."""
    names = {"mnist": "MNIST", "cifar10": "CIFAR10", "fashion_mnist": "Fashion-MNIST"}
    return names.get(dataset, dataset)


def label(dataset: str) -> str:
    """How the paper's numbers are labelled beside a run on `dataset`.

    A dataset that the paper did not use is shown beside MNIST, and the label says so.
    """
    return "paper" if dataset in SUCCESS else "paper (MNIST)"
