r"""The L2 attack of Carlini & Wagner (2017): the least Euclidean change that reaches a class.

It minimises $\|x' - x\|_2^2 + c \cdot \max(-m(x'), -\kappa)$ and searches for the c that gives the
least distance: times ten until a run succeeds, then by bisection, every run from the original. The
adversarial image of least distance that any run met is kept.
"""

import numpy as np
import tensorflow as tf

from ddefense.attack_catalog import AttackSpec
from ddefense.attacks import carlini_wagner
from ddefense.attacks.carlini_wagner import CarliniWagnerL2, Classes, Flags, Floats, Rows, State
from ddefense.attacks.classifier import AdversarialSamples, Classifier
from ddefense.config import Config

# Of the authors' code. It keeps c finite where no c succeeds.
_LARGEST_C = 1e10


def _squared(change: tf.Tensor, radius: tf.Tensor) -> tuple[tf.Tensor, ...]:
    del radius
    squared = tf.reduce_sum(change * change, axis=1)
    return squared, 2 * change, squared


def cw_l2(
    attacked: Classifier,
    images: Floats,
    labels: Classes,
    targets: Classes | None = None,
    *,
    settings: CarliniWagnerL2,
    batch_size: int = 64,
    first_row: int = 0,
) -> AdversarialSamples:
    """Crafts adversarial images close in L2.

    Args:
        attacked: a network that returns logits.
        images: shape [N, H, W, C], within the bounds of the network.
        labels: true classes, shape [N].
        targets: classes to reach, shape [N]; None for any class but the label.
        settings: of the attack.
        batch_size: rows attacked together.
        first_row: not used, because nothing is random.

    Returns:
        Images within bounds, shape [N, H, W, C]: the nearest adversarial ones found, and the
        original where none was found or it is adversarial itself.

    Raises:
        ValueError: if an argument is out of its range, naming what was received and expected.
        StoppedError: if the run was asked to stop.
    """
    del first_row
    margins, task, attacked_rows = carlini_wagner.begin(
        "cw_l2",
        attacked,
        images,
        labels,
        targets,
        kappa=settings.kappa,
        initial_c=settings.initial_c,
        batch_size=batch_size,
    )
    found, nearest = task.original.copy(), np.full(len(images), np.inf, np.float32)
    fails, succeeds = np.zeros(len(images)), np.full(len(images), np.inf)
    tried = np.zeros(len(images), np.int64)

    def next_runs(rows: Rows, ended: State) -> tuple[Flags, Floats]:
        nearer = ended.score < nearest[rows]
        found[rows[nearer]] = ended.best[nearer]
        nearest[rows[nearer]] = ended.score[nearer]
        reached, c = np.isfinite(ended.score), task.c[rows]
        succeeds[rows] = np.where(reached, c, succeeds[rows])
        fails[rows] = np.where(reached, fails[rows], c)
        bounded = np.isfinite(succeeds[rows])
        middle = (fails[rows] + succeeds[rows]) / 2
        task.c[rows] = np.where(bounded, middle, np.minimum(10 * c, _LARGEST_C))
        tried[rows] += 1
        return tried[rows] < settings.search_steps, task.original[rows]

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


def settings_of(config: Config, spec: AttackSpec, temperature: float) -> CarliniWagnerL2:
    """The settings of the attack in a run; see `prepared.prepare`."""
    del spec, temperature
    return CarliniWagnerL2(
        steps=config.cw_steps,
        search_steps=config.cw_search_steps,
        learning_rate=config.cw_learning_rate,
        initial_c=config.cw_initial_c,
    )
