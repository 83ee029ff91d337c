"""The settings of one experiment, validated once, and the named presets."""

import dataclasses
import hashlib
import itertools
import json
import math
import numbers
from collections.abc import Callable
from typing import Any, ClassVar

from ddefense.attack_catalog import ATTACKS

PAPER_TEMPERATURES = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 100.0)
"""The temperatures the paper explores (slides of the talk)."""
PAPER_EPOCHS = 50
PAPER_SAMPLES = 100
PAPER_MAX_FEATURES = 112

DEFENSES = ("distillation", "adversarial_training")
"""`adversarial_training` adds a network trained on PGD samples, as a yardstick."""

_THETAS = {"cifar10": 0.25}

LARGEST_INTEGER = 2**31 - 1
"""Of a setting: what TensorFlow's 32-bit integers hold."""
# Of float32: the smallest that is not flushed to 0, and the largest.
_SMALLEST, _LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127

PRECISIONS = ("float32", "mixed_bfloat16")
"""Keras dtype policies for training. float16 would need a scaled loss to keep small gradients."""


class ConfigError(ValueError):
    """A setting that cannot be; the message names it, what was received and what was expected."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What determines the results of one run, together with the code and the machine.

    Attributes:
        dataset: name of the dataset, see `ddefense.datasets`.
        preset: name of the preset this configuration started from.
        temperatures: distillation temperatures T > 0, without repetition.
        epochs: passes over the training set for each network.
        warm_start_steps: optimizer steps at T = 1 on hard labels whose weights start both the
            initial and the distilled network; 0 is the literal protocol.
        batch_size: training images per optimizer step.
        learning_rate: of stochastic gradient descent, > 0.
        momentum: of stochastic gradient descent, in [0, 1).
        learning_rate_decay: factor on the learning rate every `decay_epochs`, in (0, 1]; 1 keeps
            it.
        momentum_decay: factor on the momentum every `decay_epochs`, in (0, 1]; 1 keeps it.
        decay_epochs: epochs between two decays.
        dropout: rate after each hidden dense layer, in [0, 1).
        samples: test images attacked; each is attacked towards every other class.
        misclassified: whether the attacked images are the first of the test set, right or wrong,
            instead of the first that the undistilled network gets right.
        gradient_samples: test images whose gradient amplitude is measured, at most.
        attacks: names of the attacks, see `ddefense.attack_catalog`.
        theta: change of a feature per step of JSMA, in units of the network's input, in [-1, 1],
            not 0.
        max_features: most features JSMA may change; even, because features go in pairs.
        epsilon: L-infinity bound of `fgsm` and `pgd_linf`, in units of the images, in (0, 1]; on
            a user's colour images `COLOUR_EPSILON` unless it is asked for.
        pgd_steps: steps of `pgd_linf`.
        pgd_restarts: random starts of `pgd_linf` in the control for them.
        cw_samples: samples attacked by `cw_l2` and `transfer_cw_l2`, the first of the list.
        cw_all_targets_at: temperatures at which `cw_l2` aims at every wrong class, and with them
            the undistilled network; elsewhere it aims at one random class. Empty: one everywhere.
        cw_steps: most iterations of the attacks of Carlini & Wagner at one constant.
        cw_search_steps: binary-search steps of `cw_l2` over the constant.
        cw_learning_rate: of Adam in `cw_l2` and `cw_l0`, > 0. The authors' 0.01 finds images
            farther away, and sometimes none: docs/decisions/0009-verdict.md.
        cw_initial_c: the first constant of `cw_l2` and `cw_l0`, > 0.
        kappas: confidences of the samples that `transfer_cw_l2` replays, rising, >= 0.
        costly_samples: samples attacked by `cw_l0`, `cw_linf` and `labels_only`, the first of the
            list; targeted ones at one random class.
        labels_only_queries: most images that `labels_only` shows the network for one sample.
        defense: `distillation`, or `adversarial_training` for a network trained on PGD samples
            beside the distilled ones.
        adversarial_epochs: passes over the training set of adversarial training, which starts
            from the undistilled weights, at 0.3 of the learning rate.
        adversarial_steps: PGD steps of each step of adversarial training.
        shard_samples: samples per attack shard, the unit of resuming. Floating-point results
            depend on what shares a batch, so the shard is part of the configuration.
        attack_batch_size: (sample, target) pairs attacked together within a shard.
        seed: of weights, order of images and dropout; >= 0.
        precision: of the hidden layers while training, among `PRECISIONS`. Everything else, and
            the trained network, is float32.
        jit_compile: whether training steps are compiled with XLA, which cannot promise the same
            bits twice on a GPU.
        threads: CPU threads per operation, 0 for one per core. Part of the configuration because
            sums in another order have other last bits.
        devices: GPUs, or logical CPUs where there is no GPU, that each training is split over, at
            most one for each image of a batch. Part of the configuration because sums in another
            order have other last bits, and dropout draws for each device.
        reduced: true where epochs, temperatures or samples are fewer than the paper's. Derived:
            whatever is passed is replaced.
    """

    # A stored configuration with a field that this version does not know is refused.
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    dataset: str = "digits"
    preset: str = "quick"
    temperatures: tuple[float, ...] = PAPER_TEMPERATURES
    epochs: int = PAPER_EPOCHS
    warm_start_steps: int = 0
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.5
    learning_rate_decay: float = 1.0
    momentum_decay: float = 1.0
    decay_epochs: int = 10
    dropout: float = 0.5
    samples: int = PAPER_SAMPLES
    misclassified: bool = False
    gradient_samples: int = 10_000
    attacks: tuple[str, ...] = tuple(
        name for name, spec in ATTACKS.items() if spec.default == "every run"
    )
    theta: float = 1.0
    max_features: int = PAPER_MAX_FEATURES
    epsilon: float = 0.3
    pgd_steps: int = 40
    pgd_restarts: int = 5
    cw_samples: int = 20
    cw_all_targets_at: tuple[float, ...] = (20.0, 100.0)
    cw_steps: int = 1000
    cw_search_steps: int = 9
    cw_learning_rate: float = 0.05
    cw_initial_c: float = 1e-3
    kappas: tuple[float, ...] = (0.0, 10.0, 20.0, 30.0, 40.0)
    costly_samples: int = 10
    labels_only_queries: int = 10_000
    defense: str = "distillation"
    adversarial_epochs: int = PAPER_EPOCHS
    adversarial_steps: int = 7
    shard_samples: int = 20
    attack_batch_size: int = 32
    seed: int = 0
    precision: str = "float32"
    jit_compile: bool = False
    threads: int = 0
    devices: int = 1
    reduced: bool = False

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ConfigError: naming the field, what was received and what was expected.
        """
        self._check_temperatures("temperatures")
        self._check_temperatures("cw_all_targets_at", may_be_empty=True)
        self._check_kappas()
        self._check_attacks()
        for name in (
            "epochs",
            "batch_size",
            "samples",
            "gradient_samples",
            "shard_samples",
            "attack_batch_size",
            "decay_epochs",
            "pgd_steps",
            "pgd_restarts",
            "cw_samples",
            "cw_steps",
            "cw_search_steps",
            "costly_samples",
            "labels_only_queries",
            "adversarial_epochs",
            "adversarial_steps",
            "devices",
        ):
            self._check_integer(name, 1)
        for name in ("warm_start_steps", "seed", "threads"):
            self._check_integer(name, 0)
        self._check_integer("max_features", 2)
        expect(
            self.max_features % 2 == 0,
            "max_features",
            "an even number, because features are changed in pairs",
            self.max_features,
        )
        for name in ("learning_rate", "cw_learning_rate", "cw_initial_c"):
            self._check_number(name, "a finite number > 0", lambda x: x > 0)
        for name in ("momentum", "dropout"):
            self._check_number(name, "a number in [0, 1)", lambda x: 0 <= x < 1)
        for name in ("learning_rate_decay", "momentum_decay"):
            self._check_number(name, "a number in (0, 1]", lambda x: 0 < x <= 1)
        expect(
            self.precision in PRECISIONS, "precision", f"one of {list(PRECISIONS)}", self.precision
        )
        for name in ("jit_compile", "misclassified"):
            received = getattr(self, name)
            expect(isinstance(received, bool), name, "true or false", received)
        check_devices(self.devices, self.batch_size)
        expect(
            self.devices == 1 or self.defense == "distillation",
            "devices",
            "1 with adversarial_training, which makes its samples on one",
            self.devices,
        )
        self._check_number("epsilon", "a number in (0, 1]", lambda x: 0 < x <= 1)
        expect(self.defense in DEFENSES, "defense", f"one of {list(DEFENSES)}", self.defense)
        self._check_number("theta", "a number in [-1, 1] other than 0", lambda x: 0 < abs(x) <= 1)
        object.__setattr__(
            self,
            "reduced",
            self.epochs < PAPER_EPOCHS
            or not set(PAPER_TEMPERATURES) <= set(self.temperatures)
            or self.samples < PAPER_SAMPLES,
        )

    def _check_temperatures(self, name: str, may_be_empty: bool = False) -> None:
        received = getattr(self, name)
        expect(
            isinstance(received, list | tuple)
            and (len(received) > 0 or may_be_empty)
            and all(is_number(t) and t > 0 for t in received),
            name,
            f"{'' if may_be_empty else 'one or more '}finite numbers > 0, such as 1,20,100",
            received,
        )
        temperatures = tuple(float(t) for t in received)
        expect(
            len({f"{t:g}" for t in temperatures}) == len(temperatures),
            name,
            "each temperature once, told apart by six digits because networks are named after them",
            received,
        )
        object.__setattr__(self, name, temperatures)

    def _check_kappas(self) -> None:
        received = self.kappas
        expect(
            isinstance(received, list | tuple)
            and len(received) > 0
            and all(is_number(kappa) and kappa >= 0 for kappa in received)
            and all(low < high for low, high in itertools.pairwise(received))
            and len({f"{kappa:g}" for kappa in received}) == len(received),
            "kappas",
            "one or more rising numbers >= 0, told apart by six digits, such as 0,20,40",
            received,
        )
        object.__setattr__(self, "kappas", tuple(float(kappa) for kappa in received))

    def _check_attacks(self) -> None:
        received = self.attacks
        listed = isinstance(received, list | tuple) and len(received) > 0
        unknown = [name for name in received if name not in ATTACKS] if listed else received
        expect(listed and not unknown, "attacks", f"names among {list(ATTACKS)}", unknown)
        expect(len(set(received)) == len(received), "attacks", "each attack once", received)
        object.__setattr__(self, "attacks", tuple(received))

    def _check_integer(self, name: str, minimum: int) -> None:
        received = getattr(self, name)
        expect_integer(name, received, minimum=minimum)
        object.__setattr__(self, name, int(received))

    def _check_number(self, name: str, expected: str, holds: Callable[[float], bool]) -> None:
        received = getattr(self, name)
        expect(is_number(received) and holds(received), name, expected, received)
        object.__setattr__(self, name, float(received))

    def digest(self) -> str:
        """A short hash of every field that is not at its default, for naming run directories."""
        return digest(self)


def check_devices(devices: int, batch_size: int) -> None:
    """Checks that every device has an image of a batch.

    Args:
        devices: that share a batch, >= 1.
        batch_size: images per step, >= 1.

    Raises:
        ConfigError: naming both.
    """
    expect(
        devices <= batch_size,
        "devices",
        f"at most {batch_size}, the images of a batch (batch_size)",
        devices,
    )


def check_temperature(temperature: Any) -> None:
    """Checks the temperature at which a network was trained.

    Raises:
        ConfigError: naming what was received and what was expected.
    """
    holds = is_number(temperature) and temperature > 0
    expect(holds, "temperature", "a finite number > 0", temperature)


# A digest leaves out what stands at its default, so that a field added later changes no digest, and
# what was made before it stays of use. Whoever changes a default changes what digests mean: what
# was made with the old one would be taken for made with the new one. Then count this up: all
# digests become others, and run directories of before are refused.
_DEFAULTS = 1


def digest(value: Any) -> str:
    """Twelve hexadecimal digits of the SHA-256 of `value` as canonical JSON.

    Args:
        value: of JSON values and dataclasses, of which those fields count that are not at their
            default.
    """
    text = json.dumps([_DEFAULTS, value], sort_keys=True, default=chosen)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def chosen(settings: Any, *names: str) -> dict[str, Any]:
    """The fields of a dataclass that are not at their default.

    Args:
        settings: a dataclass.
        names: of the fields that are looked at; none for all.
    """
    return {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if (not names or field.name in names) and getattr(settings, field.name) != _default(field)
    }


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


COLOUR_EPSILON = 8 / 255
"""What the field takes for photos, where nothing else is known of them."""
# What differs from MNIST. On digits half of the test images have a training image of another class
# within 0.65 in L-infinity: at epsilon 0.3 little is left to resist with. On CIFAR-10, what the
# paper sets: the factor 0.95 on the learning rate is in a text on the paper; 0.5 is remembered from
# one of its tables: docs/decisions/0008-cifar10.md.
_DATASETS: dict[str, dict[str, Any]] = {
    "digits": {"epsilon": 0.15},
    "cifar10": {
        "learning_rate": 0.01,
        "momentum": 0.9,
        "learning_rate_decay": 0.95,
        "momentum_decay": 0.5,
        "theta": _THETAS["cifar10"],
        "epsilon": COLOUR_EPSILON,
    },
}

# Everything that a preset leaves out has the paper's value, the default of its field. What is
# reduced depends on the dataset because an epoch of MNIST has 39 times the steps of one of digits.
_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {"": {}},
    # One epoch at T = 1 before the paper's schedule.
    "paper_warm": {
        "": {"warm_start_steps": 469},
        "digits": {"warm_start_steps": 12},
        "cifar10": {"warm_start_steps": 391},
    },
    "quick": {
        "": {
            "temperatures": (1.0, 5.0, 20.0, 100.0),
            "epochs": 2,
            "warm_start_steps": 469,
            "samples": 10,
            "gradient_samples": 1000,
            "pgd_restarts": 3,
            "cw_samples": 5,
            "cw_all_targets_at": (),
            "cw_steps": 200,
            "cw_search_steps": 5,
            "cw_initial_c": 0.01,
            # So few steps do not reach 40 on the substitute.
            "kappas": (0.0, 10.0, 20.0),
            "costly_samples": 3,
            "labels_only_queries": 1000,
            "adversarial_epochs": 4,
        },
        "digits": {"epochs": 12, "warm_start_steps": 96, "adversarial_epochs": 12},
    },
    "smoke": {
        "": {
            "temperatures": (20.0,),
            "epochs": 1,
            "warm_start_steps": 235,
            "samples": 2,
            "gradient_samples": 100,
            "pgd_restarts": 2,
            "cw_samples": 2,
            "cw_all_targets_at": (),
            "cw_steps": 100,
            "cw_search_steps": 5,
            "cw_learning_rate": 0.1,
            "cw_initial_c": 0.01,
            "kappas": (0.0,),
            "costly_samples": 1,
            "labels_only_queries": 200,
            "adversarial_epochs": 1,
        },
        "digits": {"epochs": 4, "warm_start_steps": 96, "batch_size": 64},
    },
}
PRESETS = tuple(_PRESETS)
_QUICK = ("quick", "smoke")
"""Presets that leave out slow attacks."""


def frozen_theta(dataset: str) -> float:
    """The theta that stands for the paper's on a dataset, in units of the network's input.

    Where it is not 1 it was calibrated once, on the undistilled network alone, and is not to be
    changed: docs/decisions/0008-cifar10.md.
    """
    return _THETAS.get(dataset, 1.0)


def preset(name: str, dataset: str, **changes: Any) -> Config:
    """The configuration of a named preset for a dataset.

    Args:
        name: `paper` (the literal protocol), `paper_warm` (the same after one epoch at T = 1, for
            temperatures at which the literal one does not learn), `quick` (minutes on the default
            dataset) or `smoke` (about a minute: does everything work?).
        dataset: name of the dataset.
        **changes: fields that replace the preset's.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: if the preset is unknown or a field is out of range.
    """
    if name not in _PRESETS:
        raise ConfigError("preset", f"expected one of {list(PRESETS)}, received {name!r}.")
    fields = _DATASETS.get(dataset, {}) | _PRESETS[name][""] | _PRESETS[name].get(dataset, {})
    runs = {"every run", "other theta"} if frozen_theta(dataset) != 1 else {"every run"}
    fields["attacks"] = tuple(
        attack
        for attack, spec in ATTACKS.items()
        if spec.default in runs and not (spec.slow and name in _QUICK)
    )
    return Config(dataset=dataset, preset=name, **(fields | changes))


def past_outlier_class(found: Config) -> Config:
    """The same with the attacks that join on a network with an outlier class, in their order."""
    names = tuple(
        name
        for name, spec in ATTACKS.items()
        if name in found.attacks or spec.default == "outlier class"
    )
    return dataclasses.replace(found, attacks=names)


def expect(holds: bool, name: str, expected: str, received: Any) -> None:
    """Refuses a setting that does not hold.

    Raises:
        ConfigError: naming the setting, what was expected and what was received.
    """
    if not holds:
        numbers_in = received if isinstance(received, list | tuple) else [received]
        beyond = any(_is_real(number) and not is_number(number) for number in numbers_in)
        why = ", which float32 cannot hold" if beyond else ""
        raise ConfigError(name, f"expected {expected}; received {received!r}{why}.")


def is_number(value: Any) -> bool:
    """Whether it is a number that float32 neither rounds to 0 nor to infinity.

    NumPy's numbers are some; truth values, NaN and the infinities are none.
    """
    return _is_real(value) and (value == 0 or _SMALLEST <= abs(value) <= _LARGEST)


def is_range(low: Any, high: Any) -> bool:
    """Whether they are the ends of a range of float32 numbers, the lower first."""
    return is_number(low) and is_number(high) and low < high and is_number(float(high) - float(low))


def _is_real(value: Any) -> bool:
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and value == value
        and abs(value) != math.inf
    )


def expect_integer(name: str, value: Any, *, minimum: int) -> None:
    """Refuses a setting that is no integer from `minimum` to `LARGEST_INTEGER`.

    Raises:
        ConfigError: naming the setting, what was expected and what was received.
    """
    # Those of NumPy too, as they come out of its functions.
    integral = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    expect(integral and value >= minimum, name, f"an integer >= {minimum}", value)
    expect(value <= LARGEST_INTEGER, name, f"an integer <= {LARGEST_INTEGER}", value)
