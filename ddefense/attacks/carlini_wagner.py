r"""What the attacks of Carlini & Wagner share: variables, objective, optimizer and schedule.

"Towards Evaluating the Robustness of Neural Networks" (IEEE S&P 2017), and its code for what the
text leaves open. An adversarial image is written $x' = \tanh(w)$, scaled to the bounds, so that
any $w$ is valid, and Adam minimises

$$D(x' - x) + c \cdot \max(-m(x'), -\kappa)$$

for a distance $D$. The margin $m$ is how far the logits are on the adversarial side:
$z_t - \max_{i \ne t} z_i$ for a target $t$, $\max_{i \ne y} z_i - z_y$ away from a label $y$.

Each row has a schedule of its own. A compiled chunk of a few iterations runs over the batch; after
it a row whose run of the optimizer has ended starts its next run (another c, a smaller bound,
fewer features), and a row with nothing left to try leaves its place to a waiting one. No row waits
for another, and what else is in the batch matters for last bits alone.

Distances are in units in which the bounds are 1 apart.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense import interruption
from ddefense.attacks.batching import Slots
from ddefense.attacks.classifier import Classifier, check_inputs, expect_logits
from ddefense.attacks.input_gradient import gradient_of
from ddefense.settings import Count, Number, Positive, checked, setting

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Classes = npt.NDArray[np.integer]
Flags = npt.NDArray[np.bool_]

# A feature at a bound starts this far out, else tanh is so flat there that it never moves: with the
# 0.999999 of the authors' code, 2 of 180 attacks on the MNIST network found nothing.
_INSIDE = 0.995
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
# A run ends when over a tenth of its steps its objective has not fallen below this share.
_PROGRESS, _PATIENCE = 0.999, 0.1
# Iterations between two looks at the rows. Fewer let them end sooner, more save calls.
_CHUNK = 10
# Of the largest logit: another batch may move margins that far.
_ROUNDING = 1e-5


@checked
class CarliniWagner:
    """Settings of `cw_linf`, and what those of `cw_l0` and `cw_l2` share.

    The defaults are those of the authors' code.
    """

    kappa: Number = setting("Least margin of the logits that counts as adversarial.", default=0.0)
    steps: Count = setting("Most iterations of one run of the optimizer.", default=1000)


@checked
class CarliniWagnerL0(CarliniWagner):
    """Settings of `cw_l0`."""

    learning_rate: Positive = setting("Of Adam.", default=0.01)
    initial_c: Positive = setting("The first c.", default=1e-3)


@checked
class CarliniWagnerL2(CarliniWagnerL0):
    """Settings of `cw_l2`."""

    search_steps: Count = setting("Values of c that are tried.", default=9)


class Task(NamedTuple):
    """What each row minimises in its present run of the optimizer.

    Attributes:
        original: image that distances are from, shape [N, F].
        classes: targets, or labels of an untargeted attack, shape [N].
        c: weight of the margin, shape [N].
        radius: score at which the run ends; a `Distance` may use it too. Shape [N].
        allowed: whether a feature may change, shape [N, F].
    """

    original: Any
    classes: Any
    c: Any
    radius: Any
    allowed: Any


class State(NamedTuple):
    """Where the present run of each row stands.

    Attributes:
        best: adversarial image of least score, once the run has met one; shape [N, F].
        score: of `best`, by the attack's `Distance`; infinite while there is none. Shape [N].
        w: the variables, shape [N, F].
        mean: of slopes, for Adam, shape [N, F].
        square: mean of squared slopes, for Adam, shape [N, F].
        step: iterations so far, shape [N].
        least: the last objective that was progress, shape [N].
        least_step: its iteration, shape [N].
        ended: whether the run is over, shape [N].
    """

    best: Any
    score: Any
    w: Any
    mean: Any
    square: Any
    step: Any
    least: Any
    least_step: Any
    ended: Any


# (change of each feature [N, F], radius [N]) -> what is minimised [N], its slope [N, F], score [N].
Distance = Callable[[Any, Any], tuple[Any, Any, Any]]
# (images [N, F], classes [N]) -> margin [N], its slope [N, F], whether it is adversarial [N].
Margins = Callable[[Any, Any], tuple[Any, Any, Any]]
Chunk = Callable[[Task, State], State]


def compile_margins(attacked: Classifier, *, targeted: bool, kappa: float) -> Margins:
    """Compiles the margin of images, their slope and the verdict on them.

    Args:
        attacked: what gives the logits.
        targeted: whether the classes are targets; else they are labels.
        kappa: least margin that counts as adversarial.

    Returns:
        (images [N, F], classes int32 [N]) -> (margin [N], its gradient [N, F], adversarial [N]).
    """
    cut, shape = attacked.passes, attacked.image_shape

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, math.prod(shape)], tf.float32),
            tf.TensorSpec([None], tf.int32),
        ]
    )
    def margins(images: tf.Tensor, classes: tf.Tensor) -> tuple[tf.Tensor, ...]:
        named = tf.one_hot(classes, attacked.num_classes, True, False, dtype=tf.bool)
        hidden = cut.head(tf.reshape(images, [-1, *shape]))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(hidden)
            logits = tf.cast(cut.tail(hidden), tf.float32)
            own = tf.reduce_sum(tf.where(named, logits, 0.0), axis=1)
            other = tf.reduce_max(tf.where(named, -np.inf, logits), axis=1)
            margin = own - other if targeted else other - own
        slope = cut.pull_back(gradient_of(tape, margin, hidden))
        rounding = _ROUNDING * tf.reduce_max(tf.abs(logits), axis=1)
        return (
            margin,
            tf.cast(tf.reshape(slope, tf.shape(images)), tf.float32),
            margin > kappa + rounding,
        )

    return margins.get_concrete_function()


def compile_chunk(
    margins: Margins,
    distance: Distance,
    settings: CarliniWagner,
    learning_rate: float,
    bounds: tuple[float, float],
) -> Chunk:
    """Compiles a few iterations of every row that goes on.

    Args:
        margins: from `compile_margins`.
        distance: what the attack keeps small.
        settings: of the attack.
        learning_rate: of Adam.
        bounds: smallest and largest value of a feature.

    Returns:
        (task, state) -> state.
    """
    low, width = bounds[0], bounds[1] - bounds[0]
    patience = math.ceil(_PATIENCE * settings.steps)

    def iterate(task: Task, state: State) -> State:
        unit = tf.tanh(state.w)
        image = tf.clip_by_value(low + width / 2 * (unit + 1), *bounds)
        image = tf.where(task.allowed, image, task.original)
        margin, slope, adversarial = margins(image, task.classes)
        penalty, penalty_slope, score = distance((image - task.original) / width, task.radius)

        better = adversarial & (score < state.score) & ~state.ended
        best = tf.where(better[:, None], image, state.best)
        score = tf.where(better, score, state.score)

        step = state.step + 1
        objective = penalty + task.c * tf.maximum(settings.kappa - margin, 0)
        progress = objective <= _PROGRESS * state.least
        least_step = tf.where(progress, step, state.least_step)
        ended = (step >= settings.steps) | (step >= least_step + patience)

        weight = tf.where(margin < settings.kappa, width * task.c, 0)
        slope = penalty_slope - weight[:, None] * slope
        slope = tf.where(task.allowed, slope * (0.5 - 0.5 * unit * unit), 0)
        mean = _BETA_1 * state.mean + (1 - _BETA_1) * slope
        square = _BETA_2 * state.square + (1 - _BETA_2) * slope * slope
        taken = tf.cast(step, tf.float32)[:, None]
        rate = learning_rate / (1 - _BETA_1**taken)
        return State(
            best=best,
            score=score,
            w=state.w - rate * mean / (tf.sqrt(square / (1 - _BETA_2**taken)) + _EPSILON),
            mean=mean,
            square=square,
            step=step,
            least=tf.where(progress, objective, state.least),
            least_step=least_step,
            ended=state.ended | ended | (score <= task.radius),
        )

    features = tf.TensorSpec([None, None], tf.float32)
    number, integer = tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.int32)
    flag, flags = tf.TensorSpec([None], tf.bool), tf.TensorSpec([None, None], tf.bool)

    @tf.function(
        input_signature=[
            Task(features, integer, number, number, flags),
            State(
                *(features, number, features, features, features),
                *(integer, number, integer, flag),
            ),
        ]
    )
    def chunk(task: Task, state: State) -> State:
        _, state = tf.while_loop(
            lambda i, state: ~tf.reduce_all(state.ended),
            lambda i, state: (i + 1, iterate(task, state)),
            (0, state),
            maximum_iterations=_CHUNK,
        )
        return state

    return chunk.get_concrete_function()


def start(images: Floats, bounds: tuple[float, float]) -> State:
    """The start of runs from images, shape [N, F], within bounds."""
    count, low, width = len(images), bounds[0], bounds[1] - bounds[0]
    unit = np.clip(2 * (images - low) / width - 1, -1, 1)
    return State(
        best=images,
        score=np.full(count, np.inf, np.float32),
        w=np.arctanh(_INSIDE * unit).astype(np.float32),
        mean=np.zeros_like(images),
        square=np.zeros_like(images),
        step=np.zeros(count, np.int32),
        least=np.full(count, np.inf, np.float32),
        least_step=np.zeros(count, np.int32),
        ended=np.zeros(count, np.bool_),
    )


# (rows whose runs have ended, how) -> which of them go on, and the images [rows, F] from which
# those start their next runs. It changes the tasks of these rows.
NextRuns = Callable[[Rows, State], tuple[Flags, Floats]]


def minimize(
    chunk: Chunk,
    task: Task,
    rows: Rows,
    next_runs: NextRuns,
    *,
    bounds: tuple[float, float],
    batch_size: int,
) -> None:
    """Runs the optimizer for every row until its attack has nothing left to try.

    Args:
        chunk: from `compile_chunk`.
        task: the first run of each row, which starts from its original.
        rows: those to attack.
        next_runs: what comes after a run.
        bounds: smallest and largest value of a feature.
        batch_size: rows at a time.

    Raises:
        StoppedError: if the run was asked to stop.
    """
    slots = Slots(len(rows), batch_size)
    state = start(task.original[rows[slots.active]], bounds)
    while len(slots.active):
        interruption.check()
        active = rows[slots.active]
        padded = np.resize(np.arange(len(active)), len(slots.padded()))
        after = chunk(
            Task(*(tf.constant(values[active[padded]]) for values in task)),
            State(*(tf.constant(values[padded]) for values in state)),
        )
        state = State(*(values.numpy()[: len(active)] for values in after))
        goes_on = ~state.ended
        ended = np.flatnonzero(state.ended)
        if len(ended):
            goes_on[ended], images = next_runs(active[ended], _rows(state, ended))
            _put(state, ended, start(images, bounds))
        new = slots.keep(goes_on)
        fresh = start(task.original[rows[new]], bounds)
        state = State(*map(np.concatenate, zip(_rows(state, goes_on), fresh, strict=True)))


def _rows(state: State, rows: Rows | Flags) -> State:
    return State(*(values[rows] for values in state))


def _put(state: State, rows: Rows, values: State) -> None:
    for into, some in zip(state, values, strict=True):
        into[rows] = some


def begin(
    attack: str,
    attacked: Classifier,
    images: Floats,
    labels: Classes,
    targets: Classes | None,
    *,
    kappa: float,
    initial_c: float,
    batch_size: int,
) -> tuple[Margins, Task, Rows]:
    """Checks what an attack was given and sets up its first runs.

    Args:
        attack: its name, for messages.
        attacked: the network.
        images: shape [N, H, W, C], within the bounds of the network.
        labels: true classes, shape [N].
        targets: classes to reach, shape [N], or None for an untargeted attack.
        kappa: least margin that counts as adversarial.
        initial_c: the first c of each row.
        batch_size: rows at a time.

    Returns:
        The compiled margins; first runs with that c, radius 0 and every feature allowed;
        the rows to attack, which are those whose original is not adversarial already.

    Raises:
        ValueError: if an argument is out of its range, naming what was received and expected.
        StoppedError: if the run was asked to stop.
    """
    expect_logits(attacked, attack)
    check_inputs(attacked, images, labels, targets, batch_size)
    count = len(images)
    task = Task(
        original=images.reshape(count, -1),
        classes=(labels if targets is None else targets).astype(np.int32),
        c=np.full(count, initial_c, np.float32),
        radius=np.zeros(count, np.float32),
        allowed=np.ones((count, math.prod(attacked.image_shape)), np.bool_),
    )
    margins = compile_margins(attacked, targeted=targets is not None, kappa=kappa)
    adversarial = []
    for i in range(0, count, batch_size):
        interruption.check()
        some = slice(i, i + batch_size)
        verdict = margins(tf.constant(task.original[some]), tf.constant(task.classes[some]))[2]
        adversarial.append(verdict.numpy())
    return margins, task, np.flatnonzero(~np.concatenate(adversarial))
