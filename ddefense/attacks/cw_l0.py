r"""The L0 attack of Carlini & Wagner (2017): the fewest changed features.

It minimises the objective of `cw_l2` over a set of features that shrinks. A run ends with the
first adversarial image $x'$. Then the features that have hardly changed, and those that matter
least, by $|g_i (x'_i - x_i)|$ with $g$ the gradient of the margin at $x'$, are put back to the
original's values for good, and the next run starts from the rest of $x'$. A run that fails is tried
again with twice the c; the attack ends where the largest c fails too, and the last adversarial
image is the result.

Features are counted one by one: the channels of a pixel are apart.
"""

import numpy as np
import tensorflow as tf

from ddefense.attacks import carlini_wagner
from ddefense.attacks.carlini_wagner import CarliniWagner, Classes, Flags, Floats, Rows
from ddefense.attacks.classifier import Classifier

# A larger c scales the gradient alone, which Adam undoes.
_LARGEST_C = 1e4
# Of the authors' code: the change that counts, in units of the bounds' width, and the share of the
# root of the number of changed features that is put back at once. Theirs stops at a feature that
# carries more than 0.01 of the objective, which means another thing for every scale of the logits.
_CHANGED, _SHARE = 1e-4, 0.3


def _squared(change: tf.Tensor, radius: tf.Tensor) -> tuple[tf.Tensor, ...]:
    del radius
    squared = tf.reduce_sum(change * change, axis=1)
    return squared, 2 * change, squared


def least_important(effect: Floats, allowed: Flags) -> Rows:
    """The features of one image to put back to the original's values.

    Args:
        effect: part of the margin that each feature's change carries, >= 0, shape [F].
        allowed: whether the feature may still change, and did, shape [F].

    Returns:
        Of the n allowed ones, 0.3 * sqrt(n) of least effect, rounded up.
    """
    order = np.argsort(np.where(allowed, effect, np.inf), kind="stable")[: allowed.sum()]
    return order[: int(np.ceil(_SHARE * len(order) ** 0.5))]


def cw_l0(
    attacked: Classifier,
    images: Floats,
    labels: Classes,
    targets: Classes | None = None,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    settings: CarliniWagner,
    batch_size: int = 64,
) -> Floats:
    """Crafts adversarial images that differ in few features.

    Args:
        attacked: a network that returns logits.
        images: shape [N, H, W, C], within bounds.
        labels: true classes, shape [N].
        targets: classes to reach, shape [N]; None for any class but the label.
        bounds: smallest and largest value of a feature.
        settings: of the attack; its search steps are not used.
        batch_size: rows attacked together.

    Returns:
        Images within bounds, shape [N, H, W, C]: the last adversarial ones, whose other features
        are exactly the original's, and the original where none was found or it is adversarial
        itself.

    Raises:
        ValueError: if an argument is out of its range, naming what was received and expected.
        StoppedError: if the run was asked to stop.
    """
    margins, task, attacked_rows = carlini_wagner.begin(
        "cw_l0",
        attacked,
        images,
        labels,
        targets,
        bounds=bounds,
        settings=settings,
        batch_size=batch_size,
    )
    task.radius[:] = np.finfo(np.float32).max
    width = bounds[1] - bounds[0]
    found = task.original.copy()

    def put_back(rows: Rows) -> None:
        slope = margins(tf.constant(found[rows]), tf.constant(task.classes[rows]))[1].numpy()
        change = np.abs(found[rows] - task.original[rows])
        effect = np.abs(slope) * change
        task.allowed[rows] &= change >= _CHANGED * width
        for row, its_effect in zip(rows, effect, strict=True):
            allowed = task.allowed[row]
            allowed[least_important(its_effect, allowed)] = False

    def next_runs(rows: Rows, best: Floats, score: Floats) -> tuple[Flags, Floats]:
        reached = np.isfinite(score)
        found[rows[reached]] = best[reached]
        if reached.any():
            put_back(rows[reached])
        task.c[rows] *= np.where(reached, 1, 2)
        goes_on = (task.c[rows] <= _LARGEST_C) & task.allowed[rows].any(axis=1)
        return goes_on, found[rows]

    carlini_wagner.minimize(
        carlini_wagner.compile_chunk(margins, _squared, settings, bounds),
        task,
        next_runs,
        rows=attacked_rows,
        bounds=bounds,
        batch_size=batch_size,
    )
    return found.reshape(images.shape)
