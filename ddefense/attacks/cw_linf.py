r"""The L-infinity attack of Carlini & Wagner (2017): the least largest change of a feature.

The maximum of the changes has a slope in one feature only, so a bound $\tau$ that shrinks takes
its place. Each run minimises

$$c \cdot \max(-m(x'), -\kappa) + \sum_i \max(|x'_i - x_i| - \tau, 0)$$

and ends as soon as an adversarial image lies within $\tau$. Then $\tau$ becomes 0.9 of the largest
change reached; a run that fails is tried again with twice the c. Every run starts from the nearest
adversarial image so far. The attack ends where the largest c fails too, or at a change that 8-bit
images cannot show.
"""

import numpy as np
import tensorflow as tf

from ddefense.attack_catalog import AttackSpec
from ddefense.attacks import carlini_wagner
from ddefense.attacks.carlini_wagner import CarliniWagner, Classes, Flags, Floats, Rows, State
from ddefense.attacks.classifier import AdversarialSamples, Classifier
from ddefense.config import Config

# Of the authors' code.
LEARNING_RATE = 5e-3
_INITIAL_C, _LARGEST_C = 1e-5, 20.0
_SHRINK, _LEAST_RADIUS = 0.9, 1 / 256


def _excess(change: tf.Tensor, radius: tf.Tensor) -> tuple[tf.Tensor, ...]:
    size = tf.abs(change)
    excess = tf.maximum(size - radius[:, None], 0.0)
    slope = tf.where(excess > 0, tf.sign(change), 0.0)
    return tf.reduce_sum(excess, axis=1), slope, tf.reduce_max(size, axis=1)


def cw_linf(
    attacked: Classifier,
    images: Floats,
    labels: Classes,
    targets: Classes | None = None,
    *,
    settings: CarliniWagner,
    batch_size: int = 64,
    first_row: int = 0,
) -> AdversarialSamples:
    """Crafts adversarial images whose largest change of a feature is small.

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
        "cw_linf",
        attacked,
        images,
        labels,
        targets,
        kappa=settings.kappa,
        initial_c=_INITIAL_C,
        batch_size=batch_size,
    )
    task.radius[:] = 1.0
    found, nearest = task.original.copy(), np.full(len(images), np.inf, np.float32)

    def next_runs(rows: Rows, ended: State) -> tuple[Flags, Floats]:
        nearer = ended.score < nearest[rows]
        found[rows[nearer]] = ended.best[nearer]
        nearest[rows[nearer]] = ended.score[nearer]
        reached = ended.score <= task.radius[rows]
        task.radius[rows] = np.where(reached, _SHRINK * ended.score, task.radius[rows])
        task.c[rows] *= np.where(reached, 1, 2)
        goes_on = (task.c[rows] <= _LARGEST_C) & (task.radius[rows] > _LEAST_RADIUS)
        return goes_on, found[rows]

    carlini_wagner.minimize(
        carlini_wagner.compile_chunk(margins, _excess, settings, LEARNING_RATE, attacked.bounds),
        task,
        attacked_rows,
        next_runs,
        bounds=attacked.bounds,
        batch_size=batch_size,
    )
    return AdversarialSamples(found.reshape(images.shape))


def settings_of(config: Config, spec: AttackSpec, temperature: float) -> CarliniWagner:
    """The settings of the attack in a run; see `prepared.prepare`."""
    del spec, temperature
    return CarliniWagner(steps=config.cw_steps)
