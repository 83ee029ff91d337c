"""Adversarial images of one network by one attack, in memory and without the run around it."""

import dataclasses
from typing import Literal

import keras
import numpy as np
import numpy.typing as npt

from ddefense import attacks, datasets, measurements, networks
from ddefense.config import JSMA_ATTACKS, Config, check_temperature
from ddefense.experiments import adopting, attacking, norm_attacking
from ddefense.maths.ranges import from_unit
from ddefense.settings import ConfigError


@dataclasses.dataclass(frozen=True)
class Adversarial:
    """What an attack made of some images, judged outside of it.

    Attributes:
        images: adversarial images in the network's range, float32, shape [P, H, W, C].
        original: row of the image that each was made from, shape [P].
        labels: the true class of each, shape [P].
        targets: the class that each aims at, shape [P]; None for an untargeted attack.
        start: the class that the network gives each original, shape [P].
        predicted: the class that it gives each adversarial image, shape [P]; -1 where its answer
            is NaN or infinite.
        started: whether `start` is the target already, or without targets any wrong class but that
            for outliers, shape [P]: no success of the attack, and no failure.
        success: whether `predicted` is that, within the attack's bounds, and `start` is not, shape
            [P].
        distance: from the original, of failures too, shape [P]: features changed for `l0`, else in
            units of images in [0, 1].
        norm: of the distance.
    """

    images: npt.NDArray[np.float32]
    original: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64] | None
    start: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    started: npt.NDArray[np.bool_]
    success: npt.NDArray[np.bool_]
    distance: npt.NDArray[np.float64]
    norm: Literal["l0", "l2", "linf"]

    @property
    def success_rate(self) -> float | None:
        """Successes as a share of the attempts that did not start there; None if all did."""
        counted = ~self.started
        return float(self.success[counted].mean()) if counted.any() else None


def craft(
    network: keras.Model,
    dataset: datasets.Dataset,
    name: str,
    config: Config,
    *,
    targets: npt.NDArray[np.integer] | None = None,
    temperature: float = 1.0,
    outlier_class: bool = False,
) -> Adversarial:
    """Attacks every test image of a dataset.

    Args:
        network: see `networks.without_softmax`; attacked at T = 1.
        dataset: whose test images to attack, in the network's range.
        name: one of `config.ATTACKS`, but for `transfer_cw_l2`.
        config: the attack's settings, in units of images in [0, 1].
        targets: the class to reach for each image, shape [N]; None for what the attack does
            otherwise: every wrong class (JSMA and `_targeted`), one random wrong class (C&W), or
            any wrong class.
        temperature: T > 0 by which attacks on logits / T divide.
        outlier_class: whether the network's last class is none of the dataset's, but for outliers:
            no success of an attack.

    Returns:
        The adversarial images, sample by sample.

    Raises:
        ValueError: if an argument is not what it should be.
        StoppedError: if the run was asked to stop.
    """
    check_temperature(temperature)
    attacking.check_pairs(config, dataset)
    aims: npt.NDArray[np.int64] | None = None if targets is None else np.asarray(targets, np.int64)
    unit = adopting.in_unit_range(dataset)
    logits = adopting.of_unit_images(networks.without_softmax(network), dataset)
    images, labels = unit.test.images, unit.test.labels
    try:
        attacked = attacks.classifier(logits, bounds=unit.value_range)
        networks.check_finite(networks.predict(logits, images), network=logits, images="images")
    except ValueError as error:
        raise ConfigError("network", f"{error}") from error
    rows = np.arange(len(images))
    norm: Literal["l0", "l2", "linf"] = "l0"
    epsilon = None
    if name in JSMA_ATTACKS:
        if aims is None:
            rows, aims = attacks.every_wrong_class(labels, unit.num_classes)
        made = attacks.jsma(
            attacks.forward_derivative(attacked, name, temperature=temperature),
            images[rows],
            aims,
            labels=labels[rows],
            bounds=unit.value_range,
            theta=1.0 if name == "jsma_f_theta_1" else config.theta,
            max_features=config.max_features,
            batch_size=config.attack_batch_size,
        ).images
    else:
        plan = norm_attacking.plan_of(
            name, config, unit.value_range, unit.num_classes, temperature=temperature
        )
        norm, epsilon = plan.norm, plan.epsilon
        if aims is None and plan.targets == "all":
            rows, aims = attacks.every_wrong_class(labels, unit.num_classes)
        elif aims is None and plan.targets == "random":
            aims = attacks.one_wrong_class(labels, unit.num_classes, config.seed)
        made = plan.craft(attacked, images[rows], labels[rows], aims, 0)
    outcome = measurements.judge_norm(
        logits,
        images[rows],
        made,
        labels=labels[rows],
        targets=aims,
        bounds=unit.value_range,
        norm=norm,
        epsilon=epsilon,
        outlier_class=unit.num_classes if outlier_class else None,
    )
    success = outcome.success
    if name in JSMA_ATTACKS:
        success = success & (outcome.distance <= config.max_features)
    return Adversarial(
        images=from_unit(made, dataset.value_range).astype(np.float32),
        original=rows,
        labels=labels[rows],
        targets=aims,
        start=outcome.start,
        predicted=outcome.end,
        started=outcome.started,
        success=success,
        distance=outcome.distance,
        norm=outcome.norm,
    )
