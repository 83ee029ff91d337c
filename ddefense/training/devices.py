"""One training over several devices of a machine: each takes a share of every batch.

Every device has a copy of the network (`tf.distribute.MirroredStrategy`). A step splits its batch
over them in order, sums their gradients, and changes all copies alike: it is the step of one
device, but for the order in which numbers are summed.
"""

import functools
from collections.abc import Callable

import keras
import tensorflow as tf

from ddefense import networks
from ddefense.settings import ConfigError
from ddefense.training.objective import Objective, Targets

# What Keras does to the gradients of each device before it sums them, or under a condition within
# a step of each device, where devices can exchange nothing.
_OF_EACH_DEVICE = (
    *("clipnorm", "clipvalue", "global_clipnorm"),
    *("gradient_accumulation_steps", "ema_overwrite_frequency"),
)


def check_devices(count: int) -> None:
    """Checks that the machine has so many devices: GPUs if it has any, else logical CPUs.

    Asks TensorFlow for its devices, after which they cannot be configured any more.

    Args:
        count: of devices, >= 1.

    Raises:
        ConfigError: naming what there is and what to do.
    """
    if count > 1:
        _names(count)


def make_strategy(count: int) -> tf.distribute.Strategy:
    """What splits the steps over the first devices: GPUs if there are any, else logical CPUs.

    Args:
        count: of devices, >= 2.

    Raises:
        ConfigError: if there are fewer.
    """
    # TensorFlow's default numbers its exchanges from 1 in every strategy, so that a second one in a
    # process, as for a second training, meets those of the first and fails. This one numbers none,
    # and sums in one order.
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(_names(count), cross_device_ops=reduction)


def check_splits(
    network: keras.Model, optimizer: keras.optimizers.Optimizer | None, *, jit_compile: bool
) -> None:
    """Refuses what several devices would not train as one does.

    Args:
        network: to be trained.
        optimizer: the user's own, if any.
        jit_compile: whether the steps are compiled with XLA.

    Raises:
        ConfigError: naming the layer or the setting, and the remedy.
    """
    layers = list(network._flatten_layers())
    for layer in layers:
        if layer.compute_dtype == "float16":
            raise ConfigError(
                "devices",
                "expected 1 with layers that compute in float16, whose loss is scaled; "
                f"received more, and the layer {layer.name!r}. Train in mixed_bfloat16.",
            )
        if not isinstance(layer, keras.layers.BatchNormalization):
            continue
        if not layer.synchronized:
            raise ConfigError(
                "devices",
                "expected BatchNormalization with synchronized=True, or each device would "
                f"normalise by its share of a batch; received {layer.name!r} without. Build it so, "
                "or train on one device.",
            )
        if jit_compile:
            raise ConfigError(
                "devices",
                "expected 1 or no jit_compile with BatchNormalization, whose devices "
                f"exchange statistics within a step; received {layer.name!r} and both.",
            )
        # The devices' calls of the network take turns then, and each forgets what others added.
        regularized = [other.name for other in layers if other.activity_regularizer is not None]
        if regularized:
            raise ConfigError(
                "devices",
                "expected 1 or no activity_regularizer with BatchNormalization, at which "
                f"the devices wait for each other; received {regularized[0]!r} and {layer.name!r}.",
            )
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ConfigError(
            "devices",
            "expected an optimizer that does not scale the loss; received "
            "LossScaleOptimizer. Give its inner optimizer, or train on one device.",
        )
    for name in _OF_EACH_DEVICE:
        received = getattr(optimizer, name, None)
        if received is not None:
            raise ConfigError(
                "devices",
                f"expected an optimizer without {name}, which Keras does not do as on "
                f"one device; received {received!r}. Leave it out, or train on one device.",
            )


def mirrored_copy(network: keras.Model, strategy: tf.distribute.Strategy) -> keras.Model:
    """The same architecture and weights with a copy of every variable on each device.

    Args:
        network: a functional model with a layer named `logits`; it is left as it is.
        strategy: of the devices.

    Returns:
        A model images -> probabilities at T = 1.
    """
    with strategy.scope():
        return networks.trainable_copy(networks.logits_of(network), 1.0)


def make_mirrored_step(
    logits_network: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    temperature: float,
    jit_compile: bool,
    objective: Objective,
    strategy: tf.distribute.Strategy,
) -> Callable[[tf.Tensor, Targets], tuple[tf.Tensor, tf.Tensor]]:
    """Makes an optimizer step that every device takes a share of, for a compiled function.

    The shares differ by one image at most. What the network's layers add to the loss counts by the
    images of the share: a regularizer of weights, which every device adds, counts once, and one of
    activities, which is a mean over images, stays one.

    Args:
        logits_network: images -> logits, made in the strategy's scope.
        optimizer: built in that scope on the network's trainable weights.
        temperature: T > 0 of the loss.
        jit_compile: compile what each device computes with XLA, but for the exchange.
        objective: the loss.
        strategy: of the devices.

    Returns:
        A function (images, targets) -> (loss, correct): the mean loss of the whole batch, float32,
        and the number of its images whose prediction was the arg-max of their label, int32.
    """
    weights = logits_network.trainable_variables
    count = strategy.num_replicas_in_sync

    def share(
        images: tf.Tensor, targets: Targets, context: tf.distribute.experimental.ValueContext
    ) -> tuple[tf.Tensor, Targets, tf.Tensor, tf.Tensor]:
        total, number = tf.shape(images)[0], context.replica_id_in_sync_group
        begin, end = number * total // count, (number + 1) * total // count
        # A batch of fewer images than devices has empty shares. An image of another share stands
        # in such a one and counts nothing, because few layers can do without any image.
        rows = slice(begin, tf.maximum(end, begin + 1))
        own = tf.cast(end - begin, tf.float32)
        mine = tf.nest.map_structure(lambda whole: whole[rows], (images, targets))
        return (*mine, own, tf.cast(total, tf.float32))

    def gradients(
        images: tf.Tensor, targets: Targets, own: tf.Tensor, total: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        labels, classes = targets if objective.uses_classes else (targets, None)
        counts = tf.minimum(own, 1.0)
        with tf.GradientTape() as tape:
            logits = logits_network(images, training=True)
            losses = objective.image_losses(labels, classes, logits, temperature)
            loss = tf.reduce_sum(losses) * counts / total
            penalties = [tf.cast(penalty, loss.dtype) for penalty in logits_network.losses]
            added = tf.add_n(penalties) * own / total if penalties else 0.0
            minimised = optimizer.scale_loss(loss + added)
        hits = tf.argmax(logits, axis=1) == tf.argmax(labels, axis=1)
        correct = tf.math.count_nonzero(hits, dtype=tf.float32) * counts
        return tf.stack([loss, correct]), tape.gradient(minimised, weights)

    if jit_compile:
        gradients = tf.function(gradients, jit_compile=True, autograph=False)

    @tf.autograph.experimental.do_not_convert
    def on_device(*mine: tf.Tensor) -> tf.Tensor:
        found, slopes = gradients(*mine)
        # It sums the gradients over the devices.
        optimizer.apply_gradients(zip(slopes, weights, strict=True))
        return found

    @tf.autograph.experimental.do_not_convert
    def step(images: tf.Tensor, targets: Targets) -> tuple[tf.Tensor, tf.Tensor]:
        shares = strategy.experimental_distribute_values_from_function(
            functools.partial(share, images, targets)
        )
        found = strategy.run(on_device, args=shares)
        loss, correct = tf.unstack(strategy.reduce(tf.distribute.ReduceOp.SUM, found, axis=None))
        # Exact in float32, and summed with the loss.
        return loss, tf.cast(correct, tf.int32)

    return step


def _names(count: int) -> list[str]:
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    found = [device.name for device in tf.config.list_logical_devices(kind)]
    if len(found) < count:
        there = f"{len(found)}, the GPUs that TensorFlow sees here"
        remedy = "or make more of them visible, as by CUDA_VISIBLE_DEVICES"
        if kind == "CPU":
            there = f"{len(found)}, the logical CPUs of TensorFlow here, which sees no GPU"
            remedy = "or run it where TensorFlow sees as many GPUs"
        raise ConfigError(
            "devices", f"expected at most {there}; received {count}. Ask for fewer, {remedy}."
        )
    return found[:count]
