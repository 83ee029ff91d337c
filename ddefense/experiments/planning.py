"""What a run will take, said before it starts, and what is left while it runs."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from ddefense import attacks, files, networks, training
from ddefense.attack_catalog import ATTACKS, DECISIVE, JSMA_ATTACKS, PAPER, SIGN_ATTACKS, TRANSFER
from ddefense.config import Config
from ddefense.datasets import Dataset
from ddefense.experiments.stages import Place, StageRecord, finished

_TIMED_STEPS = 4
_EXPORT_SECONDS = 3.0
# To compile an attack and judge what it made.
_ATTACK_SECONDS = 1.0
# TensorFlow, Keras and the compiled functions of all attacks, measured on a CPU. A run is to take
# less than its plan says, and more than two thirds of it.
_BASE_BYTES = 1100 * 2**20
# What a training step holds for each activation: itself, its gradient and a kernel's workspace;
# and how often the images are held at once: as an array, as a tensor, and while they are prepared.
_COPIES = 3


@dataclasses.dataclass(frozen=True)
class Planned:
    """A stage to come.

    Attributes:
        name: of the stage.
        kind: `train`, `attack`, `measure` or `export`.
        seconds: estimate; for attacks the most it can take, because they end early.
    """

    name: str
    kind: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Rates:
    """Seconds per image, measured on this machine.

    Attributes:
        train: of an optimizer step.
        forward: of a forward pass.
        backward: of a backward pass to the image.
    """

    train: float
    forward: float
    backward: float


def plan(config: Config, dataset: Dataset, rates: Rates) -> list[Planned]:
    """Every stage of a run with what it should take.

    Args:
        config: of the run.
        dataset: of the run.
        rates: of this machine.
    """
    num_train, num_test = len(dataset.train), len(dataset.test)
    classes = dataset.num_classes
    epoch = num_train * rates.train
    images = min(config.gradient_samples, num_test)
    predict = num_test * rates.forward
    attacks_on = _Estimates(config, classes, rates)
    crafting = len(config.kappas) * attacks_on.seconds(DECISIVE, False)
    substitute = [
        Planned("substitute", "train", config.epochs * epoch),
        Planned(f"{TRANSFER}_from_substitute", "attack", crafting),
    ]

    def on(name: str, temperature: float, all_targets: bool, initial: bool) -> list[Planned]:
        jacobians = 1 + (1 if temperature == 1.0 else 2)
        gradients = images * (rates.forward + jacobians * classes * rates.backward)
        measuring = predict * (2 if initial else 1) + gradients
        found = [Planned(f"measure_{name}", "measure", measuring)]
        for attack in sorted(config.attacks, key=lambda attack: attack not in JSMA_ATTACKS):
            if attack == TRANSFER and name == "baseline":
                found += substitute
            seconds = attacks_on.seconds(attack, all_targets)
            found.append(Planned(f"{attack}_on_{name}", "attack", seconds))
        if any(attack in SIGN_ATTACKS for attack in config.attacks):
            found.append(Planned(f"controls_on_{name}", "attack", attacks_on.controls()))
        if temperature != 1.0 and PAPER in config.attacks:
            stage = f"{PAPER}_on_baseline_times_{temperature:g}"
            found.append(Planned(stage, "attack", attacks_on.seconds(PAPER, False)))
        return found

    names = ["baseline"]
    stages = [Planned("baseline", "train", config.epochs * epoch)]
    everywhere = bool(config.cw_all_targets_at)
    stages += [Planned("samples", "measure", predict), *on("baseline", 1.0, everywhere, False)]
    if config.warm_start_steps:
        warm = config.warm_start_steps * config.batch_size * rates.train
        stages.append(Planned("warm_start", "train", warm))
    for temperature in config.temperatures:
        tag = f"t{temperature:g}"
        if temperature != 1.0 or config.warm_start_steps:
            stages.append(Planned(f"initial_{tag}", "train", config.epochs * epoch))
        stages.append(Planned(f"soft_labels_{tag}", "measure", num_train * rates.forward))
        stages.append(Planned(f"distilled_{tag}", "train", config.epochs * epoch))
        names.append(f"distilled_{tag}")
        everywhere_here = temperature in config.cw_all_targets_at
        stages += on(names[-1], temperature, everywhere_here, True)
    if config.defense == "adversarial_training":
        names.append("adversarially_trained")
        step = rates.train + config.adversarial_steps * (rates.forward + rates.backward)
        seconds = config.adversarial_epochs * num_train * step
        stages.append(Planned(names[-1], "train", seconds))
        stages += on(names[-1], 1.0, False, False)
    stages += [Planned(f"export_{name}", "export", _EXPORT_SECONDS) for name in names]
    return [
        dataclasses.replace(stage, seconds=stage.seconds + _ATTACK_SECONDS)
        if stage.kind == "attack"
        else stage
        for stage in stages
    ]


class _Estimates:
    """The most seconds that attacks on one network can take."""

    def __init__(self, config: Config, num_classes: int, rates: Rates) -> None:
        self._config, self._others = config, num_classes - 1
        self._pass = rates.forward + rates.backward
        self._rates = rates

    def seconds(self, attack: str, all_targets: bool) -> float:
        """Of one attack; `all_targets` is whether `cw_l2` aims at every wrong class."""
        config, spec = self._config, ATTACKS[attack]
        every_target = spec.targets == "all" or (all_targets and spec.takes("cw_all_targets_at"))
        attempts = min(getattr(config, spec.samples), config.samples)
        attempts *= self._others if every_target else 1
        passes = spec.backward_passes if spec.gradient else 0
        step = self._rates.forward + passes * self._rates.backward
        return attempts * math.prod(map(self._count, spec.steps)) * step

    def _count(self, setting: str) -> int:
        """The number that a setting stands for."""
        value = getattr(self._config, setting)
        if setting == "max_features":  # which change in pairs; then one step finds nothing to do
            return value // 2 + 1
        return len(value) if isinstance(value, tuple) else value

    def controls(self) -> float:
        """Of PGD from one start, from several, and without a bound."""
        config = self._config
        return (2 + config.pgd_restarts) * config.samples * config.pgd_steps * self._pass


def measure_rates(config: Config, dataset: Dataset) -> Rates:
    """Times a few steps of training and of attacks on an untrained network."""
    # Attacks and measurements run in float32, whatever training runs in.
    trained, logits = (
        networks.logits_of(
            networks.build(
                dataset.network,
                temperature=1.0,
                seed=0,
                num_classes=dataset.num_classes,
                dropout=config.dropout,
                statistics=dataset.feature_statistics(),
                precision=precision,
            )
        )
        for precision in (config.precision, "float32")
    )
    batch = min(config.batch_size, len(dataset.train))
    take_steps = training.make_train_steps(
        trained,
        keras.optimizers.SGD(config.learning_rate, momentum=config.momentum),
        1.0,
        batch,
        config.jit_compile,
    )
    images = tf.constant(dataset.train.images[:batch])
    labels = tf.one_hot(dataset.train.labels[:batch], dataset.num_classes)
    order = np.arange(batch, dtype=np.int32)
    train = _seconds(
        lambda steps: take_steps(images, labels, tf.constant(np.tile(order, steps)))[0].numpy()
    )
    size = min(config.attack_batch_size, batch)
    targets = np.zeros(size, np.int64)
    attacked = dataset.train.images[:size]
    by_passes = {ATTACKS[name].backward_passes: name for name in JSMA_ATTACKS}
    one, two = (
        _seconds(_repeated(attacks.forward_derivative(logits, name), attacked, targets))
        for name in (by_passes[1], by_passes[2])
    )
    # Noise must not make a pass free.
    backward = max(two - one, one / 4)
    return Rates(
        train=train / batch,
        forward=max(one - backward, one / 4) / size,
        backward=backward / size,
    )


def _repeated(
    derivative: attacks.ForwardDerivative, images: np.ndarray, targets: np.ndarray
) -> Callable[[int], object]:
    return lambda times: [derivative(images, targets) for _ in range(times)]


def _seconds(call: Callable[[int], object]) -> float:
    """Seconds of one repetition, after one that compiles."""
    call(1)
    start = time.perf_counter()
    call(_TIMED_STEPS)
    return (time.perf_counter() - start) / _TIMED_STEPS


def memory_bytes(config: Config, dataset: Dataset) -> int:
    """A rough estimate of the memory that a run needs."""
    network = networks.build(
        dataset.network, temperature=1.0, seed=0, num_classes=dataset.num_classes
    )
    activations = sum(math.prod(layer.output.shape[1:]) for layer in network.layers)
    data = _COPIES * (dataset.train.images.nbytes + dataset.test.images.nbytes)
    step = config.batch_size * activations * 4 * _COPIES
    return _BASE_BYTES + data + step + 4 * network.count_params() * _COPIES


class Sweep:
    """The stages of one or more runs as a whole: says the plan, then what is left of it.

    Args:
        runs: (where a run keeps its stages, its stages) pairs.
        at_once: how many stages run at a time.
    """

    def __init__(self, runs: Sequence[tuple[Place, list[Planned]]], at_once: float = 1.0) -> None:
        """Leaves out what is finished already."""
        planned = [(place, stage) for place, stages in runs for stage in stages]
        self._at_once = at_once
        self._left = {
            (place, stage.name): stage
            for place, stage in planned
            if not finished(place, stage.name)
        }
        self._total = len(planned)
        self._estimated: dict[str, float] = {}
        self._taken: dict[str, float] = {}

    def announce(self, memory: int) -> None:
        """Logs the plan."""
        by_kind: dict[str, list[float]] = {}
        for stage in self._left.values():
            by_kind.setdefault(stage.kind, []).append(stage.seconds)
        logging.info(
            "plan: %d stages, %d finished already", self._total, self._total - len(self._left)
        )
        for kind, seconds in by_kind.items():
            words = "at most" if kind == "attack" else "about"
            logging.info(
                "  %-8s %3d stages, %s %s", kind, len(seconds), words, duration(sum(seconds))
            )
        logging.info(
            "  in all about %s; memory about %.1f GiB of %.1f",
            duration(self._seconds_left()),
            memory / 2**30,
            files.physical_memory() / 2**30,
        )
        if memory > files.physical_memory():
            logging.warning("This run may need more memory than this machine has.")

    def finish(self, place: Place, record: StageRecord) -> None:
        """Counts a stage as done and logs what is left; skipped stages were never counted."""
        stage = self._left.pop((place, record.name), None)
        if stage is None:
            return
        if record.starts == 1:  # or the record knows the last part only
            self._estimated[stage.kind] = self._estimated.get(stage.kind, 0.0) + stage.seconds
            self._taken[stage.kind] = self._taken.get(stage.kind, 0.0) + record.seconds
        logging.info(
            "finished %s in %s; %d of %d stages, about %s left",
            record.name,
            duration(record.seconds),
            self._total - len(self._left),
            self._total,
            duration(self._seconds_left()),
        )

    def _seconds_left(self) -> float:
        """The estimates that are left, corrected by how far those of their kind were off."""
        seconds = sum(
            stage.seconds * self._taken[stage.kind] / self._estimated[stage.kind]
            if self._estimated.get(stage.kind)
            else stage.seconds
            for stage in self._left.values()
        )
        return seconds / self._at_once


def duration(seconds: float) -> str:
    """Seconds as `42 s`, `12 min 5 s` or `3 h 7 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
