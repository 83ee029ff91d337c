"""The Jacobian-based saliency map attack (JSMA), exact and batched.

Papernot et al., "The Limitations of Deep Learning in Adversarial Settings" (EuroS&P 2016): while
the network does not give the target class and the budget lasts, take the forward derivative, find
the feature pair with the largest saliency, and change both features by theta.
"""

from typing import Annotated

import numpy as np
import numpy.typing as npt

from ddefense import interruption
from ddefense.attack_catalog import AttackSpec
from ddefense.attacks.batching import Slots
from ddefense.attacks.classifier import AdversarialSamples, Classifier, check_inputs
from ddefense.attacks.forward_derivative import forward_derivative
from ddefense.config import Config
from ddefense.maths import saliency
from ddefense.settings import Even, Positive, checked, real, setting


@checked
class JSMA:
    """Settings of `jsma`."""

    reading: str = setting(
        "Of the forward derivative, a name of the table in `forward_derivative`.", default="jsma_f"
    )
    theta: Annotated[float, real("a number other than 0", lambda x: x != 0)] = setting(
        "Change per feature, in units of the images.", default=1.0
    )
    max_features: Even = setting("Most features to change.", default=112)
    temperature: Positive = setting(
        "T of `jsma_f_temperature`; 1 with the other readings.", default=1.0
    )


def jsma(
    attacked: Classifier,
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer],
    targets: npt.NDArray[np.integer] | None = None,
    *,
    settings: JSMA,
    batch_size: int = 64,
    first_row: int = 0,
) -> AdversarialSamples:
    """Crafts targeted adversarial samples.

    The search domain is every feature not at the bound in theta's direction; a feature leaves it
    once changed. A sample already given the target class stays as it is. Finished samples leave
    the batch at once and the next ones take their places, so memory is bounded by `batch_size`.

    Args:
        attacked: the network.
        images: shape [N, H, W, C], within the bounds of the network.
        labels: true classes, shape [N], only to refuse a target that is the label.
        targets: class to reach, shape [N]; must be given.
        settings: of the attack.
        batch_size: samples attacked together.
        first_row: not used, because nothing is random.

    Returns:
        The adversarial samples, in the order of `images`, clipped to the bounds of the network;
        their details are `steps`, the feature pairs changed; `no_admissible_pair`, whether the
        attack ended because no pair of the search domain qualified; and `zero_maps`, whether that
        was because the forward derivative is exactly zero everywhere.

    Raises:
        ValueError: if an argument is out of its range, naming what was received and expected.
        StoppedError: if the run was asked to stop.
    """
    del first_row
    if targets is None:
        raise ValueError("targets: expected a class to reach for each image, received None.")
    check_inputs(attacked, images, labels, targets, batch_size)
    reading, temperature = settings.reading, settings.temperature
    derivative = attacked.compiled(
        ("forward derivative", reading, temperature),
        lambda: forward_derivative(attacked, reading, temperature=temperature),
    )
    bounds, theta = attacked.bounds, settings.theta
    flat = images.reshape(len(images), -1).copy()
    sign = 1 if theta > 0 else -1
    domain = flat < bounds[1] if sign > 0 else flat > bounds[0]
    steps = np.zeros(len(flat), np.int64)
    no_admissible_pair, zero_maps = np.zeros((2, len(flat)), np.bool_)

    slots = Slots(len(flat), batch_size)
    while len(slots.active):
        interruption.check()
        active, padded = slots.active, slots.padded()
        outputs = derivative(flat[padded].reshape(-1, *attacked.image_shape), targets[padded])
        predicted, *maps = (output[: len(active)] for output in outputs)
        pairs = _choose(maps, domain[active], sign)
        reached = predicted == targets[active]
        # Another pair would exceed the budget.
        spent = 2 * steps[active] + 2 > settings.max_features
        stuck = ~(reached | spent | pairs.admissible)
        no_admissible_pair[active] = stuck
        zero_maps[active[stuck]] = ~np.any([m[stuck].any(axis=1) for m in maps], axis=0)

        stays = ~(reached | spent | stuck)
        slots.keep(stays)
        active = active[stays]
        row, pair = active[:, None], pairs.features[stays]
        flat[row, pair] = np.clip(flat[row, pair] + np.float32(theta), *bounds)
        domain[row, pair] = False
        steps[active] += 1
    return AdversarialSamples(
        flat.reshape(images.shape),
        {"steps": steps, "no_admissible_pair": no_admissible_pair, "zero_maps": zero_maps},
    )


def _choose(
    maps: list[npt.NDArray[np.float32]], domain: npt.NDArray[np.bool_], sign: int
) -> saliency.Pairs:
    if len(maps) == 1:
        return saliency.best_pair_of_probabilities(maps[0], domain, sign)
    return saliency.best_pair(maps[0], maps[1], domain, sign)


def settings_of(config: Config, spec: AttackSpec, temperature: float) -> JSMA:
    """The settings of the attack in a run; see `prepared.prepare`."""
    return JSMA(
        reading=spec.name,
        # The paper's units of theta are unknown where the input is standardised, so a second one
        # stands beside the configured one.
        theta=config.theta if spec.takes("theta") else 1.0,
        max_features=config.max_features,
        temperature=temperature if spec.gradient == "logits / T" else 1.0,
    )
