"""The Jacobian-based saliency map attack (JSMA), exact and batched.

Papernot et al., "The Limitations of Deep Learning in Adversarial Settings" (EuroS&P 2016): while
the network does not give the target class and the budget lasts, take the forward derivative, find
the feature pair with the largest saliency, and change both features by theta.
"""

import dataclasses
import enum

import numpy as np
import numpy.typing as npt

from ddefense import interruption
from ddefense.attacks.batching import Slots
from ddefense.attacks.classifier import check_inputs
from ddefense.attacks.forward_derivative import ForwardDerivative
from ddefense.maths import saliency
from ddefense.settings import is_number


class Stop(enum.IntEnum):
    """Why an attack on one sample ended."""

    REACHED = 0
    """The network gave the target class. The attack's own word; success is judged afresh."""
    BUDGET = 1
    """Another pair would exceed `max_features`."""
    NO_ADMISSIBLE_PAIR = 2
    """No pair of the search domain qualifies, though the forward derivative is not all zero."""
    ZERO_MAP = 3
    """The forward derivative is exactly zero everywhere, so the saliency map is too."""


@dataclasses.dataclass(frozen=True)
class AdversarialSamples:
    """What an attack made.

    Attributes:
        images: float32, shape [N, H, W, C], within bounds and budget.
        num_features: changed features, shape [N].
        stop: a `Stop` value, shape [N].
    """

    images: npt.NDArray[np.float32]
    num_features: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int8]


def jsma(
    derivative: ForwardDerivative,
    images: npt.NDArray[np.float32],
    targets: npt.NDArray[np.integer],
    *,
    labels: npt.NDArray[np.integer] | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    theta: float = 1.0,
    max_features: int = 112,
    batch_size: int = 64,
) -> AdversarialSamples:
    """Crafts targeted adversarial samples.

    The search domain is every feature not at the bound in theta's direction; a feature leaves it
    once changed. A sample already given the target class stays as it is. Finished samples leave
    the batch at once and the next ones take their places, so memory is bounded by `batch_size`.

    Args:
        derivative: a compiled forward derivative of the attacked network.
        images: shape [N, H, W, C], within bounds.
        targets: class to reach, shape [N].
        labels: true classes, shape [N], only to refuse a target that is the label.
        bounds: smallest and largest value of a feature; results are clipped to them.
        theta: change per feature, not 0, in units of the images.
        max_features: most features to change, even and >= 2.
        batch_size: samples attacked together.

    Returns:
        The adversarial samples, in the order of `images`.

    Raises:
        ValueError: if an argument is out of its range, naming what was received and expected.
        StoppedError: if the run was asked to stop.
    """
    _check(derivative, images, targets, labels, bounds, theta, max_features, batch_size)
    flat = images.reshape(len(images), -1).copy()
    sign = 1 if theta > 0 else -1
    domain = flat < bounds[1] if sign > 0 else flat > bounds[0]
    num_features = np.zeros(len(flat), np.int64)
    stop = np.full(len(flat), -1, np.int8)

    slots = Slots(len(flat), batch_size)
    while len(slots.active):
        interruption.check()
        active, padded = slots.active, slots.padded()
        outputs = derivative(flat[padded].reshape(-1, *derivative.image_shape), targets[padded])
        predicted, *maps = (output[: len(active)] for output in outputs)
        pairs = _choose(maps, domain[active], sign)
        ended = np.full(len(active), -1, np.int8)
        stuck = np.flatnonzero(~pairs.admissible)
        zero = ~np.any([m[stuck].any(axis=1) for m in maps], axis=0)
        ended[stuck] = np.where(zero, Stop.ZERO_MAP, Stop.NO_ADMISSIBLE_PAIR)
        ended[num_features[active] + 2 > max_features] = Stop.BUDGET
        ended[predicted == targets[active]] = Stop.REACHED
        stop[active] = ended

        stays = ended < 0
        slots.keep(stays)
        active = active[stays]
        row, pair = active[:, None], pairs.features[stays]
        flat[row, pair] = np.clip(flat[row, pair] + np.float32(theta), *bounds)
        domain[row, pair] = False
        num_features[active] += 2
    return AdversarialSamples(flat.reshape(images.shape), num_features, stop)


def _choose(
    maps: list[npt.NDArray[np.float32]], domain: npt.NDArray[np.bool_], sign: int
) -> saliency.Pairs:
    if len(maps) == 1:
        return saliency.best_pair_of_probabilities(maps[0], domain, sign)
    return saliency.best_pair(maps[0], maps[1], domain, sign)


def _check(
    derivative: ForwardDerivative,
    images: npt.NDArray[np.float32],
    targets: npt.NDArray[np.integer],
    labels: npt.NDArray[np.integer] | None,
    bounds: tuple[float, float],
    theta: float,
    max_features: int,
    batch_size: int,
) -> None:
    check_inputs(derivative, images, labels, targets, bounds)
    checks = (
        (is_number(theta) and theta != 0, f"theta: expected a number not 0, received {theta!r}"),
        (
            max_features >= 2 and max_features % 2 == 0,
            f"max_features: expected an even count >= 2, received {max_features!r}",
        ),
        (batch_size >= 1, f"batch_size: expected at least 1, received {batch_size!r}"),
    )
    for holds, message in checks:
        if not holds:
            raise ValueError(message + ".")
