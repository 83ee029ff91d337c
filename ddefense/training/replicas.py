"""One network trained by several devices of a machine, each on its share of every batch."""

import contextlib

import keras
import tensorflow as tf

from ddefense.config import ConfigError


def check_devices(count: int) -> list[str]:
    """The devices that a training is split over: GPUs where there are any, else logical CPUs.

    Args:
        count: how many, >= 1.

    Returns:
        Their names, such as `GPU:0`.

    Raises:
        ConfigError: if there are fewer.
    """
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    found = len(tf.config.list_logical_devices(kind))
    if found < count:
        hint = "" if kind == "GPU" else ", for it sees no GPU"
        raise ConfigError(
            f"devices: expected at most {found}, the {kind}s that TensorFlow sees on this machine"
            f"{hint}; received {count}. Lower it, or show TensorFlow more of them."
        )
    return [f"{kind}:{number}" for number in range(count)]


class Replicas:
    """Copies of a network on several devices, whose weights are kept the same.

    Args:
        network: with the first weights; it stays as it is until `give_back`.
        count: of devices, >= 2.

    Attributes:
        network: the copies, as one network.
        strategy: which runs them.

    Raises:
        ConfigError: if there are fewer devices, or a layer cannot be trained so.
    """

    def __init__(self, network: keras.Model, count: int) -> None:
        """Copies the weights."""
        for layer in network._flatten_layers():
            own_statistics = isinstance(layer, keras.layers.BatchNormalization)
            if own_statistics and not layer.synchronized:
                raise ConfigError(
                    f"devices: expected layers that see whole batches, received {layer.name}, a "
                    "BatchNormalization without synchronized=True, whose statistics would be "
                    "those of a share of each batch."
                )
            if layer.compute_dtype == "float16":
                raise ConfigError(
                    f"devices: expected layers that compute in float32 or bfloat16, received "
                    f"{layer.name} in float16, whose loss is scaled on one device alone."
                )
        self.strategy = tf.distribute.MirroredStrategy(check_devices(count))
        self._given = network
        with self.strategy.scope():
            self.network = keras.models.clone_model(network)
        self.network.set_weights(network.get_weights())

    def give_back(self) -> None:
        """Brings the weights to the network that was given."""
        self._given.set_weights(self.network.get_weights())


def scope_of(replicas: Replicas | None) -> contextlib.AbstractContextManager[object]:
    """Where variables belong to all devices; anywhere for one device."""
    return contextlib.nullcontext() if replicas is None else replicas.strategy.scope()


def share(size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The part of a batch that is this device's, within the strategy's `run`.

    A device for which nothing is left takes an image that counts nothing: not every kernel takes
    an empty batch.

    Args:
        size: images of the whole batch, an integer.

    Returns:
        First image, the one after the last, and what each counts: 1 or 0.
    """
    context = tf.distribute.get_replica_context()
    number = tf.cast(context.replica_id_in_sync_group, size.dtype)
    first = size * number // context.num_replicas_in_sync
    stop = size * (number + 1) // context.num_replicas_in_sync
    return first, tf.maximum(stop, first + 1), tf.cast(stop > first, tf.int32)
