"""The attacked images and what each attack did to them: `samples.npz`."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ddefense import files
from ddefense.records.results import RunError


@dataclasses.dataclass(frozen=True)
class AttackOutcome:
    """What one attack did to P (sample, target) pairs of one network, in compressed rows.

    Attributes:
        sample: row of the attacked image in `Samples.images`, shape [P].
        target: target class, shape [P].
        success: whether the network gives the target class within the budget, shape [P].
        offsets: pair p changed the features `features[offsets[p]:offsets[p + 1]]`, shape [P + 1].
        features: flat indices (row-major over height, width, channel) of changed features.
        values: their new values.
        probabilities: what the T = 1 network gives the adversarial image, shape [P, classes]; None
            in samples of versions that did not keep it.
    """

    sample: npt.NDArray[np.int32]
    target: npt.NDArray[np.int32]
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
        success: npt.NDArray[np.bool_],
        probabilities: npt.NDArray[np.float32] | None = None,
    ) -> "AttackOutcome":
        """Finds the changed features.

        Args:
            originals: the image of each pair, shape [P, H, W, C].
            adversarial: the attacked image of each pair, same shape.
            sample: row of the original among the attacked images, shape [P].
            target: target class, shape [P].
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


@dataclasses.dataclass(frozen=True)
class Samples:
    """The attacked images, once, and every attack's outcome on them.

    Attributes:
        images: in the dataset's value range, float32, shape [S, H, W, C].
        labels: true classes, shape [S].
        test_indices: their positions in the test set, shape [S].
        outcomes: by (network name, attack name).
        probabilities: by network name, what the T = 1 network gives the images, shape [S, classes];
            empty in samples of versions that did not keep it.
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    test_indices: npt.NDArray[np.int64]
    outcomes: dict[tuple[str, str], AttackOutcome]
    probabilities: dict[str, npt.NDArray[np.float32]] = dataclasses.field(default_factory=dict)

    def adversarial(self, network: str, attack: str, pair: int) -> npt.NDArray[np.float32]:
        """The adversarial image of one pair, shape [H, W, C]."""
        outcome = self.outcomes[network, attack]
        image = self.images[outcome.sample[pair]].copy()
        changed = slice(outcome.offsets[pair], outcome.offsets[pair + 1])
        image.reshape(-1)[outcome.features[changed]] = outcome.values[changed]
        return image

    def first(self, count: int) -> "Samples":
        """The first attacked images, and what attacks did to them."""
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
        `<network>/<attack>/<field>`.
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
                keys = {tuple(k.split("/")[:2]) for k in arrays.files if k.count("/") == 2}
                return cls(
                    images=arrays["images"],
                    labels=arrays["labels"],
                    test_indices=arrays["test_indices"],
                    outcomes={
                        (network, attack): AttackOutcome.of_arrays(arrays, f"{network}/{attack}/")
                        for network, attack in sorted(keys)
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
