"""The state of a training run in one file that is renamed into place."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ddefense import files
from ddefense.records import RunError
from ddefense.training.history import History, Partial


@dataclasses.dataclass(frozen=True)
class Saved:
    """What a checkpoint holds beside the state of network and optimizer.

    Attributes:
        history: up to the last whole epoch.
        partial: what was done of the next one, if anything.
        best: the weights of the best epoch, if they were looked for.
        finished: whether there is nothing more to do.
    """

    history: History
    partial: Partial | None
    best: list[npt.NDArray[Any]] | None
    finished: bool


def save(
    path: pathlib.Path,
    network: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    history: History,
    partial: Partial | None = None,
    *,
    best: Sequence[npt.NDArray[Any]] | None = None,
    finished: bool = False,
) -> None:
    """Writes weights, optimizer state, history and, within an epoch, random generators.

    Between epochs the generators' state is not kept: the order of images and the dropout masks
    of an epoch are derived from (seed, epoch).

    Args:
        path: an .npz file, replaced atomically.
        network: its weights are written.
        optimizer: its variables are written.
        history: up to the last whole epoch.
        partial: of the epoch under way, if any.
        best: the weights of the best epoch, if they are looked for.
        finished: whether there is nothing more to do, however many epochs were asked for.
    """
    arrays: dict[str, Any] = {f"weight_{i}": w for i, w in enumerate(network.get_weights())}
    arrays |= {f"optimizer_{i}": v.numpy() for i, v in enumerate(optimizer.variables)}
    arrays |= history.arrays()
    if partial is not None:
        arrays |= {f"generator_{i}": v.numpy() for i, v in enumerate(_states(network))}
        arrays |= {"partial_step_loss": partial.step_loss, "partial_correct": partial.correct}
    if best is not None:
        arrays |= {f"best_{i}": w for i, w in enumerate(best)}
    if finished:
        arrays["finished"] = True
    with files.atomic_file(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)


def restore(
    path: pathlib.Path, network: keras.Model, optimizer: keras.optimizers.Optimizer
) -> "Saved":
    """Reads what `save` wrote into a network and a built optimizer.

    Args:
        path: an .npz file.
        network: of the same architecture.
        optimizer: built on the network's trainable weights.

    Returns:
        What else was saved.

    Raises:
        RunError: if the file is damaged or belongs to another network.
    """
    try:
        with files.read_npz(path) as arrays:
            network.set_weights(_values(arrays, "weight", network.weights))
            stored = _values(arrays, "optimizer", optimizer.variables)
            for variable, value in zip(optimizer.variables, stored, strict=True):
                variable.assign(value)
            best = _values(arrays, "best", network.weights) if "best_0" in arrays else None
            saved = Saved(History.of_arrays(arrays), None, best, "finished" in arrays)
            if "partial_correct" not in arrays:
                return saved
            for i, variable in enumerate(_states(network)):
                variable.assign(arrays[f"generator_{i}"])
            partial = Partial(arrays["partial_step_loss"], int(arrays["partial_correct"]))
            return dataclasses.replace(saved, partial=partial)
    except files.DamagedError as error:
        raise RunError(
            f"Expected a training checkpoint of this network at {path}, but it cannot be used: "
            f"{error}. Delete that file to train this network from its start; finished stages "
            "are kept."
        ) from error


def _values(arrays: Any, prefix: str, variables: Sequence[Any]) -> list[npt.NDArray[Any]]:
    """What was stored of some variables; NumPy takes bfloat16 for two bytes that mean nothing."""
    return [
        found.view(tf.as_dtype(variable.dtype).as_numpy_dtype) if found.dtype.kind == "V" else found
        for i, variable in enumerate(variables)
        for found in [arrays[f"{prefix}_{i}"]]
    ]


def seed_generators(network: keras.Model, seed: int, epoch: int) -> None:
    """Sets every random generator of the network to a state derived from (seed, epoch).

    No saved form of a Keras model holds these states, so a resumed run could not restore them.
    """
    for i, state in enumerate(_generators(network)):
        for device, own in enumerate(_on_devices(state)):
            # One key for all would drop the same units of every device's share.
            key = [seed, epoch, i, device] if device else [seed, epoch, i]
            words = np.random.SeedSequence(key).generate_state(2)
            own.assign(words.astype(state.dtype))


def _generators(network: keras.Model) -> list[Any]:
    """The state variables of the network's random generators."""
    weights = {id(w) for w in network.weights}
    return [v for v in network.variables if id(v) not in weights]


def _on_devices(state: Any) -> Sequence[Any]:
    """The variable of each device; there is one where the network is not mirrored."""
    value = state.value
    return value.values if isinstance(value, tf.distribute.DistributedValues) else (value,)


def _states(network: keras.Model) -> list[Any]:
    """The states of all random generators on all devices."""
    return [own for state in _generators(network) for own in _on_devices(state)]
