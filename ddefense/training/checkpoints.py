"""The state of a training run after an epoch, in one file that is renamed into place."""

import pathlib

import keras
import numpy as np

from ddefense import files
from ddefense.records import RunError
from ddefense.training.history import History

_HISTORY = ("step_loss", "epoch_loss", "epoch_accuracy")


def save(
    path: pathlib.Path,
    network: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    history: History,
) -> None:
    """Writes weights, optimizer state and history.

    The state of random generators is not kept: the order of images and the dropout masks of an
    epoch are derived from (seed, epoch).

    Args:
        path: an .npz file, replaced atomically.
        network: its weights are written.
        optimizer: its variables are written.
        history: up to now.
    """
    arrays = {f"weight_{i}": w for i, w in enumerate(network.get_weights())}
    arrays |= {f"optimizer_{i}": v.numpy() for i, v in enumerate(optimizer.variables)}
    arrays |= {name: getattr(history, name) for name in _HISTORY}
    with files.atomic_file(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)


def restore(
    path: pathlib.Path, network: keras.Model, optimizer: keras.optimizers.Optimizer
) -> History:
    """Reads what `save` wrote into a network and a built optimizer.

    Args:
        path: an .npz file.
        network: of the same architecture.
        optimizer: built on the network's trainable weights.

    Returns:
        The history up to that point.

    Raises:
        RunError: if the file is damaged or belongs to another network.
    """
    try:
        with files.read_npz(path) as arrays:
            network.set_weights([arrays[f"weight_{i}"] for i in range(len(network.weights))])
            for i, variable in enumerate(optimizer.variables):
                variable.assign(arrays[f"optimizer_{i}"])
            return History(**{name: arrays[name] for name in _HISTORY})
    except files.DamagedError as error:
        raise RunError(
            f"Expected a training checkpoint of this network at {path}, but it cannot be used: "
            f"{error}. Delete that file to train this network from its start; finished stages "
            "are kept."
        ) from error
