"""Stages that make networks: training, soft labels, distillation."""

import dataclasses
import functools
import pathlib
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ddefense import attacks, distillation, networks, records, training
from ddefense.config import Config, chosen
from ddefense.datasets import Dataset
from ddefense.experiments.stages import SCRATCH, Artefact, Part, Stages, kept, reading

NETWORK = "network.keras"
_TRAINING = "training.json"
_SOFT_LABELS = "soft_labels.npy"
# Images whose soft labels are made together, a multiple of the batch in which they are evaluated.
_SOFT_LABEL_IMAGES = 8192
# Far from the seeds that people repeat a run with.
_SUBSTITUTE_SEEDS = 1_000_000
# Share of adversarial training over which epsilon rises to its full size, and its share of the
# run's learning rate: with all of it MNIST's network falls to 11 % and stays there.
_RAMP, _SLOWER = 0.5, 0.3

Labels = Callable[[], npt.NDArray[np.float32]]
Watch = Callable[[training.History], None]


@dataclasses.dataclass(frozen=True)
class Trained:
    """Artefacts of one deployed network.

    Attributes:
        name: `baseline`, `distilled_t<T>`, `adversarially_trained` or `substitute`; of a network
            that was brought along, that of its file.
        temperature: T it was trained at.
        network: its training stage.
        defense: how it is meant to resist.
        initial: the initial network's training stage; None unless distilled.
        soft_labels: the soft-label stage; None unless distilled.
    """

    name: str
    temperature: float
    network: Artefact
    defense: records.Defense = "none"
    initial: Artefact | None = None
    soft_labels: Artefact | None = None


@dataclasses.dataclass(frozen=True)
class _Adversary:
    """What perturbs the images of adversarial training.

    Attributes:
        settings: what determines it.
        perturb: makes it for the network under training.
    """

    settings: dict[str, Any]
    perturb: Callable[[keras.Model], training.Perturb]


class NetworkStages:
    """Makes the networks of one configuration and seed.

    Every network of a seed starts from the same weights and sees the images in the same order, so
    that differences between temperatures are differences between temperatures.

    Args:
        stages: runs them.
        config: of the run.
        dataset: trained on.
        watch: gives, by the name of a training, what is told of its history; see
            `TrainingOptions.on_history`.

    Attributes:
        trainings: artefacts of all trainings asked for so far; some may still be at work.
    """

    def __init__(
        self,
        stages: Stages,
        config: Config,
        dataset: Dataset,
        watch: Callable[[str], Watch | None] = lambda name: None,
    ) -> None:
        """Keeps its arguments."""
        self._stages, self._config, self._dataset = stages, config, dataset
        self._watch = watch
        self.trainings: list[Artefact] = []

    def baseline(self) -> Trained:
        """The undistilled network: hard labels, T = 1, no warm start."""
        artefact = self._train("baseline", 1.0, self._hard_labels, [], None)
        return Trained("baseline", 1.0, artefact)

    def warm_start(self) -> Artefact | None:
        """The common start of initial and distilled networks, or None for the literal protocol."""
        if not self._config.warm_start_steps:
            return None
        return self._train(
            "warm_start", 1.0, self._hard_labels, [], None, self._config.warm_start_steps
        )

    def distilled(
        self, temperature: float, baseline: Trained, warm_start: Artefact | None
    ) -> Trained:
        """Initial network at T, its soft labels at T, and the distilled network at T."""
        tag = f"t{temperature:g}"
        if temperature == 1.0 and warm_start is None:
            initial = baseline.network  # the same training: hard labels at T = 1
        else:
            initial = self._train(f"initial_{tag}", temperature, self._hard_labels, [], warm_start)
        soft = self._soft_labels(f"soft_labels_{tag}", temperature, initial)
        network = self._train(
            f"distilled_{tag}",
            temperature,
            lambda: load_soft_labels(soft, self._dataset),
            [soft],
            warm_start,
        )
        return Trained(f"distilled_{tag}", temperature, network, "distillation", initial, soft)

    def _soft_labels(self, name: str, temperature: float, initial: Artefact) -> Artefact:
        images = self._dataset.train.images

        def label(first: int, directory: pathlib.Path) -> None:
            made = distillation.soft_labels(
                load_network(initial), images[first : first + _SOFT_LABEL_IMAGES], temperature
            )
            np.save(directory / _SOFT_LABELS, made)

        def join(directory: pathlib.Path) -> None:
            found = [
                _read_soft_labels(
                    directory / SCRATCH / part.name, part.size, self._dataset.num_classes
                )
                for part in parts
            ]
            np.save(directory / _SOFT_LABELS, np.concatenate(found))

        parts = [
            Part(
                f"images_{first:06d}",
                min(_SOFT_LABEL_IMAGES, len(images) - first),
                "image",
                functools.partial(label, first),
            )
            for first in range(0, len(images), _SOFT_LABEL_IMAGES)
        ]
        return self._stages.run(name, {"temperature": temperature}, [initial], join, parts=parts)

    def substitute(self) -> Trained:
        """An undistilled network of another seed, for an attacker who cannot see the defended one.

        Other first weights, another order of images: it shares data and architecture alone.
        """
        config = dataclasses.replace(self._config, seed=self._config.seed + _SUBSTITUTE_SEEDS)
        makers = NetworkStages(self._stages, config, self._dataset, self._watch)
        makers.trainings = self.trainings
        name = "substitute"
        return Trained(name, 1.0, makers._train(name, 1.0, self._hard_labels, [], None))

    def adversarially_trained(self, baseline: Trained) -> Trained:
        """A network trained on PGD samples (Madry et al. 2018) from the undistilled one's weights.

        The yardstick: what a defence that works looks like, and costs.
        """
        config = self._config
        settings = {
            "epsilon": config.epsilon,
            "steps": config.adversarial_steps,
            "epochs": config.adversarial_epochs,
        }
        steps = config.adversarial_epochs * -(-len(self._dataset.train) // config.batch_size)

        def perturb(network: keras.Model) -> training.Perturb:
            return attacks.pgd_perturbation(
                networks.logits_of(network),
                epsilon=config.epsilon,
                steps=config.adversarial_steps,
                bounds=self._dataset.value_range,
                seed=config.seed,
                ramp_steps=round(_RAMP * steps),
            )

        name = "adversarially_trained"
        artefact = self._train(
            name,
            1.0,
            self._hard_labels,
            [],
            baseline.network,
            adversary=_Adversary(settings, perturb),
        )
        return Trained(name, 1.0, artefact, "adversarial_training")

    def _build(self, temperature: float, precision: str) -> keras.Model:
        return networks.build(
            self._dataset.network,
            temperature=temperature,
            seed=self._config.seed,
            num_classes=self._dataset.num_classes,
            dropout=self._config.dropout,
            statistics=self._dataset.feature_statistics(),
            precision=precision,
        )

    def _in_float32(self, network: keras.Model, temperature: float) -> keras.Model:
        """The same weights in a network that computes in float32, whatever it was trained in.

        Soft labels, measurements, attacks and exports all start from this one.
        """
        if self._config.precision == "float32":
            return network
        twin = self._build(temperature, "float32")
        twin.set_weights(network.get_weights())
        return twin

    def _hard_labels(self) -> npt.NDArray[np.float32]:
        return distillation.hard_labels(self._dataset.train.labels, self._dataset.num_classes)

    def _train(
        self,
        name: str,
        temperature: float,
        labels: Labels,
        inputs: list[Artefact],
        start: Artefact | None,
        max_steps: int | None = None,
        adversary: _Adversary | None = None,
    ) -> Artefact:
        config = self._config
        epochs = adversary.settings["epochs"] if adversary else config.epochs
        warm_start_steps = config.warm_start_steps if start is not None and not adversary else 0
        steps_per_epoch = -(-len(self._dataset.train) // config.batch_size)
        settings = training.TrainingSettings(
            temperature=temperature,
            epochs=epochs if max_steps is None else -(-max_steps // steps_per_epoch),
            batch_size=config.batch_size,
            learning_rate=config.learning_rate * (_SLOWER if adversary else 1.0),
            momentum=config.momentum,
            learning_rate_decay=config.learning_rate_decay,
            momentum_decay=config.momentum_decay,
            decay_epochs=config.decay_epochs,
            seed=config.seed,
            jit_compile=config.jit_compile,
            max_steps=max_steps,
            devices=config.devices,
        )

        on_history = self._watch(name)

        def work(directory: pathlib.Path) -> None:
            network = self._build(temperature, config.precision)
            if start is not None:
                network.set_weights(load_network(start).get_weights())
            checkpoint = directory / SCRATCH / "checkpoint.npz"
            history = training.fit(
                network,
                self._dataset.train.images,
                labels(),
                settings,
                label=name,
                checkpoint=checkpoint,
                perturb=adversary.perturb(network) if adversary else None,
                options=training.TrainingOptions(on_history=on_history),
            )
            self._in_float32(network, temperature).save(directory / NETWORK)
            records.dump(
                records.TrainingRecord(
                    temperature=temperature,
                    epochs=len(history.epoch_loss),
                    steps=len(history.step_loss),
                    warm_start_steps=warm_start_steps,
                    loss=history.epoch_loss.tolist(),
                    accuracy=history.epoch_accuracy.tolist(),
                    stalled=history.stalled(self._dataset.num_classes),
                ),
                directory / _TRAINING,
            )

        artefact = self._stages.run(
            name,
            {
                "dataset": self._dataset.name,
                "training": settings,
                **chosen(config, "dropout", "precision"),
                **({"adversary": adversary.settings} if adversary else {}),
            },
            inputs + ([start] if start is not None else []),
            work,
            kind="train",
        )
        self.trainings.append(artefact)
        return artefact


# Networks that their makers hold, by the stages that keep copies of them. One may be made of
# functions and classes of this process that no file can hold, and none of it need be trusted again.
held: weakref.WeakValueDictionary[Artefact, keras.Model] = weakref.WeakValueDictionary()


def load_network(artefact: Artefact) -> keras.Model:
    """The network of a training stage, with its softmax at the training temperature."""
    if artefact in held:
        return held[artefact]
    with reading(artefact):
        return networks.load_own(artefact.directory / NETWORK)


# Every attack and measurement of a network starts from it, and its compiled functions stay with it.
@kept
def load_logits(artefact: Artefact) -> keras.Model:
    """The network of a training stage up to its logits; not to be changed."""
    return networks.logits_of(load_network(artefact))


def load_training(artefact: Artefact) -> records.TrainingRecord:
    """How the training of a training stage went."""
    with reading(artefact):
        return records.load(records.TrainingRecord, artefact.directory / _TRAINING)


def load_soft_labels(artefact: Artefact, dataset: Dataset) -> npt.NDArray[np.float32]:
    """The soft labels of a soft-label stage, in the order of the training images.

    Raises:
        RunError: if they are damaged, or cannot be those of these images.
    """
    with reading(artefact):
        return _read_soft_labels(artefact.directory, len(dataset.train), dataset.num_classes)


def _read_soft_labels(
    directory: pathlib.Path, num_images: int, num_classes: int
) -> npt.NDArray[np.float32]:
    path = directory / _SOFT_LABELS
    try:
        return distillation.check_soft_labels(np.load(path), num_images, num_classes)
    except ValueError as error:
        raise records.RunError(f"{path}: {error}") from error
