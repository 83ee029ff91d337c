"""Crafting: what an attack makes of images, judged afresh; one way for runs and for the library."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ddefense import attacks, files, measurements, records
from ddefense.attack_catalog import Norm, Targets
from ddefense.records.samples import UNTARGETED

Images = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]

# What is stored of the details of an attack has names that begin so.
_DETAIL = "detail_"


@dataclasses.dataclass(frozen=True)
class Attempts:
    """What is attacked, one row per attempt.

    Attributes:
        images: shape [P, H, W, C].
        labels: true classes, shape [P].
        targets: classes to reach, shape [P]; None if untargeted.
        original: row of the image among the attacked ones, shape [P].
        chosen: whether the target is the image's one random target, shape [P]; true of all where
            there is no such choice.
    """

    images: Images
    labels: Classes
    targets: Classes | None
    original: Classes
    chosen: npt.NDArray[np.bool_]


def attempts_on(
    images: Images,
    labels: Classes,
    targets: Targets,
    *,
    num_classes: int,
    seed: int,
    first: int = 0,
) -> Attempts:
    """The attempts on some images, image by image.

    Args:
        images: shape [N, H, W, C].
        labels: true classes, shape [N].
        targets: which classes to aim at.
        num_classes: to aim at; one more of a network is for outliers.
        seed: of the one random target of each image.
        first: row from which on the images are attacked; those before are drawn for too, so that
            it does not matter how they are divided.
    """
    chosen = attacks.one_wrong_class(labels, num_classes, seed)[first:]
    images, labels = images[first:], labels[first:]
    rows = np.arange(first, first + len(images))
    if targets == "all":
        inside, target = attacks.every_wrong_class(labels, num_classes)
        return Attempts(
            images[inside], labels[inside], target, rows[inside], target == chosen[inside]
        )
    aims = chosen if targets == "random" else None
    return Attempts(images, labels, aims, rows, np.ones(len(rows), np.bool_))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversarial(measurements.Outcome):
    """What an attack made of some images, judged outside of it.

    Attributes:
        images: adversarial images in the network's range, float32, shape [P, H, W, C].
        original: row of the image that each was made from, shape [P].
        labels: the true class of each, shape [P].
        targets: the class that each aims at, shape [P]; None for an untargeted attack.
        chosen: whether that is the image's one random target, shape [P]; true of all where there is
            no such choice.
        norm: of the distance.
        details: what else the attack tells of each, by name, shape [P].
    """

    images: Images
    original: Classes
    labels: Classes
    targets: Classes | None
    chosen: npt.NDArray[np.bool_]
    norm: Norm
    details: Mapping[str, npt.NDArray[Any]] = dataclasses.field(default_factory=dict)

    @property
    def success_rate(self) -> float | None:
        """Successes as a share of the attempts that did not start there; None if all did."""
        counted = ~self.started
        return float(self.success[counted].mean()) if counted.any() else None

    @property
    def aims(self) -> Classes:
        """The targets, `records.samples.UNTARGETED` where there is none, shape [P]."""
        return np.full(len(self.images), UNTARGETED) if self.targets is None else self.targets

    def of(self, rows: npt.NDArray[np.bool_]) -> "Adversarial":
        """Some of the attempts."""
        return self._of_arrays({name: of_all[rows] for name, of_all in self._arrays().items()})

    @classmethod
    def join(cls, parts: Sequence["Adversarial"]) -> "Adversarial":
        """All attempts of several, part after part."""
        found = [part._arrays() for part in parts]
        return parts[0]._of_arrays(
            {name: np.concatenate([arrays[name] for arrays in found]) for name in found[0]}
        )

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What there is of each attempt, by name."""
        arrays = {name: getattr(self, name) for name in _ROWS}
        if self.targets is not None:
            arrays["targets"] = self.targets
        return arrays | {_DETAIL + name: of_each for name, of_each in self.details.items()}

    def _of_arrays(self, arrays: Mapping[str, npt.NDArray[Any]]) -> "Adversarial":
        return _of_arrays(arrays, self.norm)


_ROWS = (
    *("images", "original", "labels", "chosen", "start", "predicted"),
    *("started", "reached", "distance", "probabilities"),
)


def _of_arrays(arrays: Mapping[str, npt.NDArray[Any]], norm: Norm) -> Adversarial:
    return Adversarial(
        **{name: arrays[name] for name in _ROWS},
        targets=arrays.get("targets"),
        norm=norm,
        details={
            name.removeprefix(_DETAIL): arrays[name] for name in arrays if name.startswith(_DETAIL)
        },
    )


def save(made: Adversarial, path: pathlib.Path) -> None:
    """Writes what an attack made, atomically, under the names of its fields."""
    with files.atomic_file(path) as temporary:
        np.savez_compressed(
            temporary, allow_pickle=False, norm=np.array(made.norm), **made._arrays()
        )


def load(path: pathlib.Path) -> Adversarial:
    """Reads what `save` wrote.

    Raises:
        DamagedError: if the file is missing or damaged.
    """
    with files.read_npz(path) as arrays:
        stored = dict(arrays)
        norm: Any = str(stored.pop("norm"))
        return _of_arrays(stored, norm)


def craft(
    prepared: attacks.Prepared,
    network: keras.Model,
    attacked: attacks.Classifier,
    attempts: Attempts,
    first_row: int = 0,
) -> Adversarial:
    """Attacks a network and judges what came of it.

    Args:
        prepared: the attack.
        network: images -> outputs, which judges.
        attacked: the same as attacks take it.
        attempts: what to attack.
        first_row: number of the first attempt, if the attempts are part of a longer list.
    """
    made = prepared(attacked, attempts.images, attempts.labels, attempts.targets, first_row)
    return judged(
        *(network, attacked, attempts, made.images),
        norm=prepared.norm,
        budget=prepared.budget,
        details=made.details,
    )


def judged(
    network: keras.Model,
    attacked: attacks.Classifier,
    attempts: Attempts,
    images: Images,
    *,
    norm: Norm,
    budget: float | None = None,
    details: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Adversarial:
    """Judges adversarial images.

    Args:
        network: images -> outputs, which judges.
        attacked: the same as attacks take it.
        attempts: what was attacked.
        images: what became of it, shape [P, H, W, C].
        norm: in which to measure.
        budget: the largest distance that counts as a success; None without one.
        details: what else the attack tells of each.
    """
    outcome = measurements.judge(
        network,
        attempts.images,
        images,
        labels=attempts.labels,
        targets=attempts.targets,
        bounds=attacked.bounds,
        norm=norm,
        budget=budget,
        outlier_class=attacked.outlier_class,
        gives_probabilities=attacked.outputs == "probabilities",
    )
    return Adversarial(
        **vars(outcome),
        images=images,
        original=attempts.original,
        labels=attempts.labels,
        targets=attempts.targets,
        chosen=attempts.chosen,
        norm=norm,
        details=details or {},
    )


def record_of(
    made: Adversarial, *, settings: dict[str, Any], targets: Targets, seed: int
) -> records.AttackRecord:
    """What the results say of an attack.

    Args:
        made: what it made.
        settings: what it was run with.
        targets: which classes it aimed at.
        seed: of the bootstraps over samples.
    """
    record = measurements.success_record(
        made,
        made.original,
        norm=made.norm,
        settings=settings,
        targets=targets,
        random_target_rows=made.chosen,
        seed=seed,
        details=made.details,
    )
    if record.max_features is None:
        return record
    robustness = measurements.robustness(
        made,
        made.original,
        max_features=record.max_features,
        num_features=math.prod(made.images.shape[1:]),
    )
    return dataclasses.replace(record, robustness=robustness)
