"""The attacked images and what attacks changed in them, small enough for a page.

A page holds 8 bits for each value of an image, which is what a screen shows. What an attack changed
is kept as bytes that the page inflates when somebody asks for it.
"""

import base64
import dataclasses
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ddefense import records
from ddefense.attack_catalog import JSMA_ATTACKS

BUDGET = 4_000_000
"""Most characters that a gallery takes, so that a page with it stays below 6 MB."""

_LEVELS = 255
_SHARE = 65535
_SHORT = 65536


@dataclasses.dataclass(frozen=True)
class Gallery:
    """What the page shows of the samples.

    Attributes:
        content: for the page's script, see `_entry`; None without any outcome.
        images: how many of the attacked images are shown, the first.
        left_out: attacks, by name, that did not fit.
    """

    content: dict[str, Any] | None
    images: int
    left_out: list[str]


def of_samples(
    samples: records.Samples,
    networks: Sequence[str],
    bounds: tuple[float, float],
    budget: int = BUDGET,
) -> Gallery:
    """Packs the samples, one attack after the other while there is room.

    Args:
        samples: of the run.
        networks: names of its networks, in the order in which the page has them.
        bounds: smallest and largest value of a feature.
        budget: most characters for it all. As many images are shown as leave room for the first
            attack, at least one.

    Returns:
        The gallery.
    """
    found = {attack for _, attack in samples.outcomes}
    attacks = [attack for attack in JSMA_ATTACKS if attack in found]
    attacks += sorted(found - set(attacks))
    if not attacks:
        return Gallery(None, 0, [])
    count = len(samples.images)
    while True:
        shown = samples.first(count)
        images = _levels(shown.images, bounds)
        content = _content(shown, images, networks)
        entries = _entries(shown, images, attacks[0], networks, bounds)
        size = _length(content) + sum(map(_length, entries))
        if size <= budget or count == 1:
            break
        count = max(1, int(0.9 * count * budget / size))
    left_out: list[str] = []
    for attack in attacks[1:]:
        packs = [] if left_out else _entries(shown, images, attack, networks, bounds)
        size += sum(map(_length, packs))
        if left_out or size > budget:
            left_out.append(attack)
        else:
            entries += packs
    return Gallery(content | {"entries": entries}, count, left_out)


def _content(
    samples: records.Samples, images: npt.NDArray[np.uint8], networks: Sequence[str]
) -> dict[str, Any]:
    """Everything but the attacks."""
    return {
        "shape": list(images.shape),
        "images": packed([images]),
        "labels": samples.labels.tolist(),
        "test_indices": samples.test_indices.tolist(),
        "probabilities": {
            name: packed([_shares(samples.probabilities[name])])
            for name in networks
            if name in samples.probabilities
        },
    }


def _entries(
    samples: records.Samples,
    images: npt.NDArray[np.uint8],
    attack: str,
    networks: Sequence[str],
    bounds: tuple[float, float],
) -> list[dict[str, Any]]:
    """One attack on every network on which it was run."""
    return [
        _entry(place, attack, samples.outcomes[name, attack], images, bounds)
        for place, name in enumerate(networks)
        if (name, attack) in samples.outcomes
    ]


def _entry(
    network: int,
    attack: str,
    outcome: records.AttackOutcome,
    images: npt.NDArray[np.uint8],
    bounds: tuple[float, float],
) -> dict[str, Any]:
    """One attack on one network, of P pairs that changed F features in all.

    `data` inflates to little-endian arrays one after the other: changed features of each pair
    (uint32 [P]); steps from one changed feature to the next (uint16 [F] if `short`, else uint32);
    the row of each pair's image, and its target (uint16 [P] each); where it is known, the
    probability of each class, in 65535ths (uint16 [P, classes]); 1 where the pair succeeded, 2
    where it started in its target, else 0 (uint8 [P]); and what is added to each changed feature,
    modulo 256 (uint8 [F]).
    """
    flat = images.reshape(len(images), -1)
    short = flat.shape[1] <= _SHORT
    counts = outcome.num_features
    pair = np.repeat(np.arange(len(counts)), counts)
    steps = np.diff(outcome.features, prepend=0)
    starts = outcome.offsets[:-1][counts > 0]
    steps[starts] = outcome.features[starts]
    before = flat[outcome.sample[pair], outcome.features]
    change = _levels(outcome.values, bounds) - before
    shares = [] if outcome.probabilities is None else [_shares(outcome.probabilities)]
    return {
        "network": network,
        "attack": attack,
        "pairs": len(counts),
        "features": len(steps),
        "short": short,
        "classes": 0 if outcome.probabilities is None else outcome.probabilities.shape[1],
        "data": packed(
            [
                counts.astype("<u4"),
                steps.astype("<u2" if short else "<u4"),
                outcome.sample.astype("<u2"),
                outcome.target.astype("<u2"),
                *shares,
                (outcome.success + 2 * outcome.started).astype("u1"),
                change.astype("u1"),
            ]
        ),
    }


def packed(arrays: Iterable[npt.NDArray[Any]]) -> str:
    """The bytes of arrays one after the other, deflated, in base 64."""
    data = b"".join(array.tobytes() for array in arrays)
    return base64.b64encode(zlib.compress(data)).decode()


def _levels(values: npt.NDArray[np.float32], bounds: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Values of features as 0 to 255."""
    low, high = bounds
    share = (values.astype(np.float64) - low) / (high - low)
    found: npt.NDArray[np.uint8] = np.rint(_LEVELS * np.clip(share, 0, 1)).astype(np.uint8)
    return found


def _shares(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Probabilities in 65535ths; what is no number becomes 0."""
    share = np.clip(np.nan_to_num(probabilities.astype(np.float64)), 0, 1)
    found: npt.NDArray[np.uint16] = np.rint(_SHARE * share).astype("<u2")
    return found


def _length(part: dict[str, Any]) -> int:
    """Characters that its long strings take, the rest being small."""
    return sum(
        _length(value) if isinstance(value, dict) else len(str(value)) for value in part.values()
    )
