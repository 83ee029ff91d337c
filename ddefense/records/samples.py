"""The attacked images and what each attack did to them: `samples.npz`."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ddefense import files
from ddefense.records.results import RunError

UNTARGETED = -1
"""The target of an attempt for which any wrong class will do."""
UNKNOWN = -1
"""The class of an image which an earlier version did not keep."""


@dataclasses.dataclass(frozen=True)
class Attempts:
    """What became of P attempts of one attack on one network.

    Attributes:
        sample: row of the attacked image in `Samples.images`, shape [P].
        target: target class, or `UNTARGETED`, shape [P].
        start: class of the unchanged image, shape [P].
        end: class of the adversarial image, shape [P]; `UNKNOWN` where it was not kept.
        started: whether the unchanged image is already where the attempt aims at, shape [P].
        success: whether the attack took it there within its budget, shape [P]; false of those that
            started there.
        distance: from the original in the attack's norm, of failures too, shape [P].
        chosen: whether the target is the sample's one random target, shape [P]; true of all
            without such a choice.
    """

    sample: npt.NDArray[np.int32]
    target: npt.NDArray[np.int32]
    start: npt.NDArray[np.int32]
    end: npt.NDArray[np.int32]
    started: npt.NDArray[np.bool_]
    success: npt.NDArray[np.bool_]
    distance: npt.NDArray[np.float64]
    chosen: npt.NDArray[np.bool_]

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str = "") -> "Attempts":
        """Takes its fields from arrays under their names after a prefix.

        Raises:
            KeyError: if one is missing.
        """
        return cls(**{field.name: arrays[prefix + field.name] for field in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True)
class AttackOutcome:
    """What JSMA did to P (sample, target) pairs of one network, in compressed rows.

    Attributes:
        sample: row of the attacked image in `Samples.images`, shape [P].
        target: target class, shape [P].
        start: class that the network gives the unchanged image, shape [P].
        end: class that it gives the adversarial image, shape [P]; `UNKNOWN` where an earlier
            version did not keep it.
        success: whether the attack made the network give the target class within the budget, shape
            [P]; false of the pairs that started there.
        offsets: pair p changed the features `features[offsets[p]:offsets[p + 1]]`, shape [P + 1].
        features: flat indices (row-major over height, width, channel) of changed features.
        values: their new values.
        probabilities: what the T = 1 network gives the adversarial image, shape [P, classes]; None
            in samples of versions that did not keep it.
    """

    sample: npt.NDArray[np.int32]
    target: npt.NDArray[np.int32]
    start: npt.NDArray[np.int32]
    end: npt.NDArray[np.int32]
    success: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]
    features: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32] | None = None

    @classmethod
    def from_images(
        cls,
        originals: npt.NDArray[np.float32],
        adversarial: npt.NDArray[np.float32],
        sample: npt.NDArray[np.integer],
        target: npt.NDArray[np.integer],
        *,
        start: npt.NDArray[np.integer],
        end: npt.NDArray[np.integer],
        success: npt.NDArray[np.bool_],
        probabilities: npt.NDArray[np.float32] | None = None,
    ) -> "AttackOutcome":
        """Finds the changed features.

        Args:
            originals: the image of each pair, shape [P, H, W, C].
            adversarial: the attacked image of each pair, same shape.
            sample: row of the original among the attacked images, shape [P].
            target: target class, shape [P].
            start: class of the original, shape [P].
            end: class of the attacked image, shape [P].
            success: judged afresh, shape [P].
            probabilities: of the attacked images, shape [P, classes].

        Returns:
            The outcome, from which `Samples.adversarial` rebuilds the images exactly.
        """
        before = originals.reshape(len(originals), -1)
        after = adversarial.reshape(len(adversarial), -1)
        row, feature = np.nonzero(before != after)
        counts = np.bincount(row, minlength=len(before))
        return cls(
            sample=sample.astype(np.int32),
            target=target.astype(np.int32),
            start=start.astype(np.int32),
            end=end.astype(np.int32),
            success=success.astype(np.bool_),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            features=feature.astype(np.int32),
            values=after[row, feature].astype(np.float32),
            probabilities=probabilities,
        )

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str = "") -> "AttackOutcome":
        """Takes its fields, and no others, from arrays under their names after a prefix.

        Raises:
            KeyError: if one is missing that every version has.
        """
        return cls(
            **{
                field.name: arrays[prefix + field.name]
                for field in dataclasses.fields(cls)
                if prefix + field.name in arrays or field.default is dataclasses.MISSING
            }
        )

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Its arrays by the names of their fields, without those that it lacks."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: array for name, array in found.items() if array is not None}

    @classmethod
    def join(cls, parts: Sequence["AttackOutcome"]) -> "AttackOutcome":
        """One outcome of several, pair after pair."""
        ends = np.cumsum([0, *(part.offsets[-1] for part in parts)])
        offsets = [part.offsets[:-1] + end for part, end in zip(parts, ends, strict=False)]

        def joined(field: str) -> npt.NDArray[Any]:
            return np.concatenate([getattr(part, field) for part in parts])

        complete = all(part.probabilities is not None for part in parts)

        return cls(
            sample=joined("sample"),
            target=joined("target"),
            start=joined("start"),
            end=joined("end"),
            success=joined("success"),
            offsets=np.concatenate([*offsets, ends[-1:]]),
            features=joined("features"),
            values=joined("values"),
            probabilities=joined("probabilities") if complete else None,
        )

    def of_first(self, count: int) -> "AttackOutcome":
        """The outcome on the first attacked images alone."""
        kept = self.sample < count
        features = np.repeat(kept, self.num_features)
        return AttackOutcome(
            sample=self.sample[kept],
            target=self.target[kept],
            start=self.start[kept],
            end=self.end[kept],
            success=self.success[kept],
            offsets=np.concatenate([[0], np.cumsum(self.num_features[kept])]).astype(np.int64),
            features=self.features[features],
            values=self.values[features],
            probabilities=None if self.probabilities is None else self.probabilities[kept],
        )

    @property
    def num_features(self) -> npt.NDArray[np.int64]:
        """Changed features of each pair, shape [P]."""
        return np.diff(self.offsets)

    @property
    def started(self) -> npt.NDArray[np.bool_]:
        """Whether the network gives the target to the unchanged image, shape [P]."""
        return self.start == self.target

    def attempts(self) -> Attempts:
        """The same without the images; the distance counts features."""
        return Attempts(
            sample=self.sample,
            target=self.target,
            start=self.start,
            end=self.end,
            started=self.started,
            success=self.success,
            distance=self.num_features.astype(np.float64),
            chosen=np.ones(len(self.sample), np.bool_),
        )


@dataclasses.dataclass(frozen=True)
class Samples:
    """The attacked images, once, and every attack's outcome on them.

    Attributes:
        images: in the dataset's value range, float32, shape [S, H, W, C].
        labels: true classes, shape [S].
        test_indices: their positions in the test set, shape [S].
        outcomes: of JSMA, by (network name, attack name).
        probabilities: by network name, what the T = 1 network gives the images, shape [S, classes];
            empty in samples of versions that did not keep it.
        attempts: of attacks measured by a norm, by (network name, attack name); missing in
            committed results of versions that did not keep them.
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    test_indices: npt.NDArray[np.int64]
    outcomes: dict[tuple[str, str], AttackOutcome]
    probabilities: dict[str, npt.NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    attempts: dict[tuple[str, str], Attempts] = dataclasses.field(default_factory=dict)

    def adversarial(self, network: str, attack: str, pair: int) -> npt.NDArray[np.float32]:
        """The adversarial image of one pair, shape [H, W, C]."""
        outcome = self.outcomes[network, attack]
        image = self.images[outcome.sample[pair]].copy()
        changed = slice(outcome.offsets[pair], outcome.offsets[pair + 1])
        image.reshape(-1)[outcome.features[changed]] = outcome.values[changed]
        return image

    def first(self, count: int) -> "Samples":
        """The first attacked images, and what JSMA did to them."""
        return Samples(
            images=self.images[:count],
            labels=self.labels[:count],
            test_indices=self.test_indices[:count],
            outcomes={key: outcome.of_first(count) for key, outcome in self.outcomes.items()},
            probabilities={name: found[:count] for name, found in self.probabilities.items()},
        )

    def save(self, path: pathlib.Path) -> None:
        """Writes one compressed .npz, atomically.

        Arrays of the images are `<field>`, of a network `<network>/probabilities`, of an attack
        `<network>/<attack>/<field>`: those of JSMA have `offsets` among them.
        """
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "images": self.images,
            "labels": self.labels,
            "test_indices": self.test_indices,
        }
        for network, probabilities in self.probabilities.items():
            arrays[f"{network}/probabilities"] = probabilities
        for (network, attack), outcome in self.outcomes.items():
            for field, array in outcome.arrays().items():
                arrays[f"{network}/{attack}/{field}"] = array
        for (network, attack), attempts in self.attempts.items():
            for field, array in vars(attempts).items():
                arrays[f"{network}/{attack}/{field}"] = array
        with files.atomic_file(path) as temporary:
            np.savez_compressed(temporary, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: pathlib.Path) -> "Samples":
        """Reads what `save` wrote.

        Raises:
            RunError: if the file is missing or damaged.
        """
        try:
            with files.read_npz(path) as arrays:
                keys = sorted({tuple(k.split("/")[:2]) for k in arrays.files if k.count("/") == 2})
                jsma = [key for key in keys if f"{key[0]}/{key[1]}/offsets" in arrays]
                return cls(
                    images=arrays["images"],
                    labels=arrays["labels"],
                    test_indices=arrays["test_indices"],
                    outcomes={
                        (network, attack): AttackOutcome.of_arrays(arrays, f"{network}/{attack}/")
                        for network, attack in jsma
                    },
                    attempts={
                        (network, attack): Attempts.of_arrays(arrays, f"{network}/{attack}/")
                        for network, attack in keys
                        if (network, attack) not in jsma
                    },
                    probabilities={
                        name.split("/")[0]: arrays[name]
                        for name in arrays.files
                        if name.count("/") == 1
                    },
                )
        except files.DamagedError as error:
            raise RunError(
                f"Expected the attacked samples at {path}, but they cannot be read: {error}. "
                "Move the file away and run again without --report_only (finished stages are kept)."
            ) from error
