r"""The L0 attack of Carlini & Wagner (2017): the fewest changed features.

It minimises the objective of `cw_l2` over a set of features that shrinks. A run ends with the
first adversarial image $x'$. Then features go back to the original's values for good: those that
have hardly changed, or else those that matter least, by $|g_i (x'_i - x_i)|$ with $g$ the
gradient of the margin at $x'$. The next run starts from the rest of $x'$; a run that fails is
tried again with twice the c. The attack ends where the largest c fails too; its last adversarial
image is the result.

Features are counted one by one: the channels of a pixel are apart.
"""

import numpy as np
import tensorflow as tf

from ddefense.attack_catalog import AttackSpec
from ddefense.attacks import carlini_wagner
from ddefense.attacks.carlini_wagner import CarliniWagnerL0, Classes, Flags, Floats, Rows, State
from ddefense.attacks.classifier import AdversarialSamples, Classifier
from ddefense.config import Config

# The largest c of the authors' code, and the largest in multiples of the first that succeeds: a
# still larger one scales the gradient alone, which Adam undoes.
_LARGEST_C, _GROWTH = 2e6, 1e3
# Of the largest change: below that share a feature has hardly changed.
_HARDLY = 0.01
# Of the root of the number of features left: how many go back at once. The authors' code takes
# fewer where one of them carries more than 0.01 of the objective, which means another thing for
# every scale of the logits.
_SHARE = 0.3


def _squared(change: tf.Tensor, radius: tf.Tensor) -> tuple[tf.Tensor, ...]:
    del radius
    squared = tf.reduce_sum(change * change, axis=1)
    return squared, 2 * change, squared


def needless(change: Floats, slope: Floats, allowed: Flags) -> Flags:
    """The features of one image to put back to the original's values.

    Args:
        change: from the original, shape [F].
        slope: of the margin, shape [F].
        allowed: whether a feature may still change, shape [F].

    Returns:
        Those of the n allowed ones that have hardly changed; if there are none, the
        0.3 * sqrt(n), rounded up, whose change adds least to the margin. Shape [F].
    """
    size = np.abs(change)
    unchanged = allowed & (size < _HARDLY * size.max())
    if unchanged.any():
        return unchanged
    effect = np.where(allowed, np.abs(slope) * size, np.inf)
    count = int(np.ceil(_SHARE * np.sqrt(allowed.sum())))
    least = np.zeros_like(allowed)
    least[np.argsort(effect, kind="stable")[:count]] = True
    return least


def cw_l0(
    attacked: Classifier,
    images: Floats,
    labels: Classes,
    targets: Classes | None = None,
    *,
    settings: CarliniWagnerL0,
    batch_size: int = 64,
    first_row: int = 0,
) -> AdversarialSamples:
    """Crafts adversarial images that differ in few features.

    Args:
        attacked: a network that returns logits.
        images: shape [N, H, W, C], within the bounds of the network.
        labels: true classes, shape [N].
        targets: classes to reach, shape [N]; None for any class but the label.
        settings: of the attack.
        batch_size: rows attacked together.
        first_row: not used, because nothing is random.

    Returns:
        Images within bounds, shape [N, H, W, C]: the last adversarial ones, whose other features
        are exactly the original's, and the original where none was found or it is adversarial
        itself.

    Raises:
        ValueError: if an argument is out of its range, naming what was received and expected.
        StoppedError: if the run was asked to stop.
    """
    del first_row
    margins, task, attacked_rows = carlini_wagner.begin(
        "cw_l0",
        attacked,
        images,
        labels,
        targets,
        kappa=settings.kappa,
        initial_c=settings.initial_c,
        batch_size=batch_size,
    )
    task.radius[:] = np.finfo(np.float32).max  # any adversarial image ends a run
    found = task.original.copy()
    largest_c = np.full(len(images), _LARGEST_C)

    def put_back(rows: Rows) -> None:
        slopes = margins(tf.constant(found[rows]), tf.constant(task.classes[rows]))[1].numpy()
        for row, slope in zip(rows, slopes, strict=True):
            change = found[row] - task.original[row]
            task.allowed[row] &= ~needless(change, slope, task.allowed[row])

    def next_runs(rows: Rows, ended: State) -> tuple[Flags, Floats]:
        reached = np.isfinite(ended.score)
        found[rows[reached]] = ended.best[reached]
        largest_c[rows[reached]] = np.minimum(
            largest_c[rows[reached]], _GROWTH * task.c[rows[reached]]
        )
        if reached.any():
            put_back(rows[reached])
        task.c[rows] *= np.where(reached, 1, 2)
        goes_on = (task.c[rows] <= largest_c[rows]) & task.allowed[rows].any(axis=1)
        return goes_on, found[rows]

    carlini_wagner.minimize(
        carlini_wagner.compile_chunk(
            margins, _squared, settings, settings.learning_rate, attacked.bounds
        ),
        task,
        attacked_rows,
        next_runs,
        bounds=attacked.bounds,
        batch_size=batch_size,
    )
    return AdversarialSamples(found.reshape(images.shape))


def settings_of(config: Config, spec: AttackSpec, temperature: float) -> CarliniWagnerL0:
    """The settings of the attack in a run; see `prepared.prepare`."""
    del spec, temperature
    return CarliniWagnerL0(
        steps=config.cw_steps,
        learning_rate=config.cw_learning_rate,
        initial_c=config.cw_initial_c,
    )
