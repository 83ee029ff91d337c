"""What is measured of a network with an outlier class."""

import dataclasses

import pydantic
from pydantic.dataclasses import dataclass

_STRICT = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(config=_STRICT, kw_only=True)
class OutlierAttackRecord:
    """What a network with an outlier class makes of one attack's adversarial images.

    The four shares are of the attempts and sum to 1. Their intervals are 95 % bootstrap intervals
    over samples.

    Attributes:
        targeted: whether each image aims at one class; else at any class but its own and the
            outlier class.
        samples: images that were attacked.
        attempts: adversarial images, one for each sample and target, but for those whose original
            already is where they aim at.
        recovery: share that the network gives the class of the image it was made from. An attack
            that gives up and leaves the image as it was counts here, if the network is right.
        recovery_interval: of it.
        detection: share that it gives the outlier class.
        detection_interval: of it.
        success: share that it gives the target; any wrong class but the outlier class if
            untargeted.
        success_interval: of it.
        other: share that it gives another wrong class than the target; 0 if untargeted.
        other_interval: of it.
    """

    targeted: bool
    samples: int
    attempts: int
    recovery: float
    recovery_interval: tuple[float, float]
    detection: float
    detection_interval: tuple[float, float]
    success: float
    success_interval: tuple[float, float]
    other: float
    other_interval: tuple[float, float]


@dataclass(config=_STRICT, kw_only=True)
class OutlierRecord:
    """A network with an outlier class, on clean images and under attack.

    The first three shares are of all clean images and sum to 1.

    Attributes:
        images: clean test images.
        accuracy: share of them that is given its class.
        false_detections: share that is given the outlier class.
        errors: share that is given a wrong class.
        accuracy_of_accepted: share of those not given the outlier class that is given its class;
            null if there are none.
        attacks: per attack.
    """

    images: int
    accuracy: float
    false_detections: float
    errors: float
    accuracy_of_accepted: float | None
    attacks: dict[str, OutlierAttackRecord] = dataclasses.field(default_factory=dict)
