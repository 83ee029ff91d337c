"""Stages that make networks: training, soft labels, distillation.

`train` and `of_images` are the same for the paper's networks, `NetworkStages`, and for a user's,
`experiments.distilling`.
"""

import dataclasses
import functools
import pathlib
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ddefense import attacks, distillation, files, networks, records, training
from ddefense.config import Config, chosen
from ddefense.datasets import Dataset, Examples
from ddefense.distill_config import DistillConfig
from ddefense.pipeline.stages import SCRATCH, Artefact, Part, Stages, kept, reading

NETWORK = "network.keras"
_TRAINING, _HISTORY = "training.json", "history.npz"
_ROWS = "soft_labels.npy"
# Most images of a part, a multiple of the batches in which they are evaluated.
_PART_IMAGES = 8192
# Far from the seeds that people repeat a run with.
_SUBSTITUTE_SEEDS = 1_000_000
# Share of adversarial training over which epsilon rises to its full size, and its share of the
# run's learning rate: with all of it MNIST's network falls to 11 % and stays there.
_RAMP, _SLOWER = 0.5, 0.3

Rows = npt.NDArray[np.float32]
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """The training of one network, which `train` makes a stage of.

    Attributes:
        name: of the stage.
        examples: the images.
        settings: how.
        others: what determines the network beside `settings`, `inputs` and the run directory's
            configuration, as for `Stages.run`.
        inputs: artefacts that the other fields read once the stage is at work.
        build: makes the network, with the weights from which the training starts.
        labels: gives what the network learns from.
        options: gives the objective and the like.
        save: writes the trained network to the directory of the stage.
        perturb: makes, for the network under training, what perturbs its images.
        warm_start_steps: steps on hard labels that came before, for the record.
        resumable: whether the training leaves checkpoints.
    """

    name: str
    examples: Examples
    settings: training.TrainingSettings
    others: dict[str, Any]
    inputs: Sequence[Artefact]
    build: Callable[[], keras.Model]
    labels: Callable[[], training.Labels]
    options: Callable[[], training.TrainingOptions]
    save: Callable[[keras.Model, pathlib.Path], None]
    perturb: Callable[[keras.Model], training.Perturb] | None = None
    warm_start_steps: int = 0
    resumable: bool = True


def training_settings(
    config: Config | DistillConfig, temperature: float, learning_rate: float, **changes: Any
) -> training.TrainingSettings:
    """How a configuration trains a network.

    Args:
        config: of the paper's run, or of a user's.
        temperature: T > 0.
        learning_rate: at the start.
        **changes: fields that replace the configuration's.
    """
    shared = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(training.TrainingSettings)
        if hasattr(config, field.name)
    }
    given = {"temperature": temperature, "learning_rate": learning_rate}
    return training.TrainingSettings(**shared | given | changes)


def train(stages: Stages, asked: Training) -> Artefact:
    """Trains a network in a stage, which leaves it with a record and the history."""

    def work(directory: pathlib.Path) -> None:
        network, options = asked.build(), asked.options()
        history = training.fit(
            network,
            asked.examples,
            asked.labels(),
            asked.settings,
            label=asked.name,
            checkpoint=directory / SCRATCH / "checkpoint.npz" if asked.resumable else None,
            perturb=asked.perturb(network) if asked.perturb else None,
            options=options,
        )
        asked.save(network, directory)
        np.savez(directory / _HISTORY, allow_pickle=False, **history.arrays())
        scale = options.objective.scale(asked.settings.temperature)
        records.dump(
            records.TrainingRecord(
                temperature=asked.settings.temperature,
                epochs=len(history.epoch_loss),
                steps=len(history.step_loss),
                warm_start_steps=asked.warm_start_steps,
                loss=history.epoch_loss.tolist(),
                accuracy=history.epoch_accuracy.tolist(),
                stalled=history.stalled(network.output_shape[-1], scale),
            ),
            directory / _TRAINING,
        )

    settings = {"training": asked.settings, **asked.others}
    return stages.run(asked.name, settings, list(asked.inputs), work, kind="train")


def of_images(
    stages: Stages,
    name: str,
    settings: dict[str, Any],
    inputs: list[Artefact],
    examples: Examples,
    compute: Callable[[npt.NDArray[np.float32], int], Rows],
) -> Artefact:
    """Has something computed of every image, such as its soft labels.

    One pass over the images gives all, part by part, and one part is held in memory at a time.

    Args:
        stages: runs the stage.
        name: of the stage.
        settings: what determines the rows beside the inputs.
        inputs: artefacts that `compute` reads.
        examples: the images.
        compute: images and the index of the first of them -> a row for each.

    Returns:
        The stage, which leaves the rows in the order of the images.
    """
    read = _Reader(examples)

    def make(first: int, size: int, directory: pathlib.Path) -> None:
        np.save(directory / _ROWS, compute(read(first, size), first))

    def join(directory: pathlib.Path) -> None:
        found = (np.load(directory / SCRATCH / part.name / _ROWS) for part in parts)
        _save_rows(directory / _ROWS, found, len(examples))

    parts = [
        Part(f"images_{first:06d}", size, "image", functools.partial(make, first, size))
        for start in range(0, len(examples), examples.window)
        for stop in [min(start + examples.window, len(examples))]
        for first in range(start, stop, _PART_IMAGES)
        for size in [min(_PART_IMAGES, stop - first)]
    ]
    return stages.run(name, settings, inputs, join, parts=parts)


class _Reader:
    """Reads stretches of images in one pass, if they are asked for in their order.

    Args:
        examples: the images; one of their windows is held at a time.
    """

    def __init__(self, examples: Examples) -> None:
        """Reads nothing yet."""
        self._examples = examples
        self._number, self._coming = -1, examples.windows()
        self._images: npt.NDArray[np.float32] | None = None

    def __reduce__(self) -> tuple[object, ...]:
        """In another process it begins anew."""
        return _Reader, (self._examples,)

    def __call__(self, first: int, size: int) -> npt.NDArray[np.float32]:
        """Some images of one window.

        Args:
            first: index of the first image.
            size: how many.
        """
        number, skipped = divmod(first, self._examples.window)
        if self._images is None or number != self._number:
            self._images = None  # before the next ones are read
            if number != self._number + 1:
                self._coming = self._examples.windows(number)
            self._number, self._images = number, next(self._coming)
            if (number + 1) * self._examples.window >= len(self._examples):
                next(self._coming, None)  # where a stream notices that images were added
        return self._images[skipped : skipped + size]


def _save_rows(path: pathlib.Path, parts: Iterable[Rows], num_rows: int) -> None:
    """Writes one .npy file of many arrays, of which one is in memory at a time."""
    with path.open("wb") as file:
        for number, rows in enumerate(parts):
            if number == 0:
                header = np.lib.format.header_data_from_array_1_0(rows)
                header["shape"] = (num_rows, *rows.shape[1:])
                np.lib.format.write_array_header_1_0(file, header)
            file.write(rows.tobytes())


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
        artefact = self._train("baseline", 1.0)
        return Trained("baseline", 1.0, artefact)

    def warm_start(self) -> Artefact | None:
        """The common start of initial and distilled networks, or None for the literal protocol."""
        if not self._config.warm_start_steps:
            return None
        return self._train("warm_start", 1.0, max_steps=self._config.warm_start_steps)

    def distilled(
        self, temperature: float, baseline: Trained, warm_start: Artefact | None
    ) -> Trained:
        """Initial network at T, its soft labels at T, and the distilled network at T."""
        tag = f"t{temperature:g}"
        if temperature == 1.0 and warm_start is None:
            initial = baseline.network  # the same training: hard labels at T = 1
        else:
            initial = self._train(f"initial_{tag}", temperature, start=warm_start)
        soft = self._soft_labels(f"soft_labels_{tag}", temperature, initial)
        network = self._train(f"distilled_{tag}", temperature, soft, start=warm_start)
        return Trained(f"distilled_{tag}", temperature, network, "distillation", initial, soft)

    def _soft_labels(self, name: str, temperature: float, initial: Artefact) -> Artefact:
        def compute(images: npt.NDArray[np.float32], first: int) -> Rows:
            del first
            return distillation.soft_labels(load_network(initial), images, temperature)

        settings = {"temperature": temperature}
        return of_images(self._stages, name, settings, [initial], self._dataset.train, compute)

    def substitute(self) -> Trained:
        """An undistilled network of another seed, for an attacker who cannot see the defended one.

        Other first weights, another order of images: it shares data and architecture alone.
        """
        config = dataclasses.replace(self._config, seed=self._config.seed + _SUBSTITUTE_SEEDS)
        makers = NetworkStages(self._stages, config, self._dataset, self._watch)
        makers.trainings = self.trainings
        name = "substitute"
        return Trained(name, 1.0, makers._train(name, 1.0))

    def adversarially_trained(self, baseline: Trained) -> Trained:
        """A network trained on PGD samples (Madry et al. 2018) from the undistilled one's weights.

        The yardstick: what a defence that works looks like, and costs.
        """
        config = self._config
        adversary = {
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
            name, 1.0, start=baseline.network, adversary=adversary, perturb=perturb
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

    def _labels(self, soft_labels: Artefact | None) -> training.Labels:
        """What a network learns from: soft labels, or hard ones."""
        train, num_classes = self._dataset.train, self._dataset.num_classes
        if soft_labels is not None:
            return labels_of(soft_labels, train, num_classes)
        return lambda window: distillation.hard_labels(train.labels, num_classes)

    def _train(
        self,
        name: str,
        temperature: float,
        soft_labels: Artefact | None = None,
        *,
        start: Artefact | None = None,
        max_steps: int | None = None,
        adversary: dict[str, Any] | None = None,
        perturb: Callable[[keras.Model], training.Perturb] | None = None,
    ) -> Artefact:
        config, train_split = self._config, self._dataset.train
        changes: dict[str, Any] = {}
        if max_steps is not None:
            epochs = -(-max_steps // -(-len(train_split) // config.batch_size))
            changes = {"max_steps": max_steps, "epochs": epochs}
        if adversary is not None:
            changes = {"epochs": adversary["epochs"]}
        rate = config.learning_rate * (_SLOWER if adversary else 1.0)
        on_history = self._watch(name)

        def build() -> keras.Model:
            network = self._build(temperature, config.precision)
            if start is not None:
                network.set_weights(load_network(start).get_weights())
            return network

        def save(network: keras.Model, directory: pathlib.Path) -> None:
            self._in_float32(network, temperature).save(directory / NETWORK)

        asked = Training(
            name=name,
            examples=train_split,
            settings=training_settings(config, temperature, rate, **changes),
            others={
                "dataset": self._dataset.name,
                **chosen(config, "dropout", "precision"),
                **({"adversary": adversary} if adversary else {}),
            },
            inputs=[found for found in (soft_labels, start) if found is not None],
            build=build,
            labels=lambda: self._labels(soft_labels),
            options=lambda: training.TrainingOptions(on_history=on_history),
            save=save,
            perturb=perturb,
            warm_start_steps=config.warm_start_steps if start is not None and not adversary else 0,
        )
        self.trainings.append(train(self._stages, asked))
        return self.trainings[-1]


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


def load_history(artefact: Artefact) -> training.History:
    """The course of the training of a training stage, step by step."""
    with reading(artefact), files.read_npz(artefact.directory / _HISTORY) as arrays:
        return training.History.of_arrays(arrays)


def load_rows(artefact: Artefact) -> Rows:
    """What `of_images` computed, mapped into memory."""
    with reading(artefact):
        found: Rows = np.load(artefact.directory / _ROWS, mmap_mode="r")
        return found


def load_soft_labels(artefact: Artefact, dataset: Dataset) -> Rows:
    """The soft labels of a soft-label stage, in the order of the training images.

    Raises:
        RunError: if they are damaged, or cannot be those of these images.
    """
    return labels_of(artefact, dataset.train, dataset.num_classes)(0)


def labels_of(artefact: Artefact, examples: Examples, num_classes: int) -> training.Labels:
    """Reads the soft labels of a soft-label stage window by window.

    Args:
        artefact: of the stage.
        examples: the images that they are of.
        num_classes: of the initial network.

    Returns:
        Number of a window -> its rows. It raises a RunError if they are damaged, or cannot be those
        of these images.
    """

    def window(number: int) -> Rows:
        part = slice(number * examples.window, (number + 1) * examples.window)
        rows = load_rows(artefact)
        with reading(artefact):
            try:
                return distillation.check_soft_labels(rows, len(examples), num_classes, part)
            except ValueError as error:
                raise records.RunError(f"{artefact.directory / _ROWS}: {error}") from error

    return window
