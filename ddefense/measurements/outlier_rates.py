"""Recovery, detection and success: what an outlier class does to clean and adversarial images.

Of a network with K + 1 outputs, the last of which, number K, is the outlier class. Papernot and
McDaniel 2017 (arXiv:1705.05264) report an attack by these rates. A network without an outlier class
can be measured beside it: its rate of detection is 0.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ddefense.maths import statistics
from ddefense.records.extended import OutlierAttackRecord, OutlierRecord

Classes = npt.NDArray[np.integer]


def outlier_record(
    predicted: Classes,
    labels: Classes,
    num_classes: int,
    attacks: Mapping[str, OutlierAttackRecord] | None = None,
) -> OutlierRecord:
    """What the network gives clean images, and what was found of attacks on it.

    Args:
        predicted: classes in 0..num_classes that it gives clean images, shape [N >= 1].
        labels: their true classes, shape [N].
        num_classes: K, without the outlier class.
        attacks: from `outlier_rates`, by name.

    Raises:
        ValueError: if shapes do not fit or a class is out of its range.
    """
    _check(predicted, num_classes, labels=labels)
    right, detected = predicted == labels, predicted == num_classes
    return OutlierRecord(
        images=len(labels),
        accuracy=float(right.mean()),
        false_detections=float(detected.mean()),
        errors=float((~right & ~detected).mean()),
        accuracy_of_accepted=None if detected.all() else float(right[~detected].mean()),
        attacks=dict(attacks or {}),
    )


def outlier_rates(
    predicted: Classes,
    source: Classes,
    target: Classes | None,
    sample: Classes,
    *,
    num_classes: int,
    seed: int,
) -> OutlierAttackRecord:
    """What the network gives adversarial images, all of them, whatever the attack believes.

    Args:
        predicted: classes in 0..num_classes that it gives adversarial images, shape [P >= 1].
        source: true classes of the images that they were made from, shape [P].
        target: classes that they aim at, never the source nor the outlier class, shape [P]; None
            for an untargeted attack.
        sample: the image that each was made from, any number that tells it apart, shape [P].
        num_classes: K, without the outlier class.
        seed: of the bootstrap over samples.

    Raises:
        ValueError: if shapes do not fit or a class is out of its range.
    """
    _check(predicted, num_classes, source=source, target=target)
    if sample.shape != predicted.shape:
        raise ValueError(f"sample: expected shape {predicted.shape}, received {sample.shape}.")
    if target is not None and np.any(source == target):
        row = int(np.argmax(source == target))
        raise ValueError(
            f"target: expected a class other than the source, received {int(target[row])} for both "
            f"at row {row}."
        )
    recovery, detection = predicted == source, predicted == num_classes
    wrong = ~recovery & ~detection
    success = wrong if target is None else predicted == target
    _, row_sample = np.unique(sample, return_inverse=True)
    attempts = np.bincount(row_sample)

    def interval(hits: npt.NDArray[np.bool_]) -> tuple[float, float]:
        totals = np.asarray(np.bincount(row_sample, weights=hits), np.float64)
        return statistics.ratio_interval(totals, attempts, seed)

    other = wrong & ~success
    return OutlierAttackRecord(
        targeted=target is not None,
        samples=len(attempts),
        attempts=len(predicted),
        recovery=float(recovery.mean()),
        recovery_interval=interval(recovery),
        detection=float(detection.mean()),
        detection_interval=interval(detection),
        success=float(success.mean()),
        success_interval=interval(success),
        other=float(other.mean()),
        other_interval=interval(other),
    )


def _check(predicted: Classes, num_classes: int, **true: Classes | None) -> None:
    if predicted.ndim != 1 or len(predicted) == 0:
        raise ValueError(
            f"predicted: expected shape [N >= 1], received {predicted.shape}: the classes, not "
            "the outputs."
        )
    if not 0 <= predicted.min() <= predicted.max() <= num_classes:
        raise ValueError(
            f"predicted: expected classes in 0..{num_classes}, the last one for outliers; received "
            f"{predicted.min()}..{predicted.max()}."
        )
    for name, classes in true.items():
        if classes is None:
            continue
        if classes.shape != predicted.shape:
            raise ValueError(f"{name}: expected shape {predicted.shape}, received {classes.shape}.")
        if not 0 <= classes.min() <= classes.max() < num_classes:
            raise ValueError(
                f"{name}: expected classes in 0..{num_classes - 1}, never the outlier class; "
                f"received {classes.min()}..{classes.max()}."
            )
