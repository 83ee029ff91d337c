"""Datasets by name: `load("digits")`.

To add one, write a module with a `load(data_dir) -> Dataset` function and add a line to `_LOADERS`.
"""

import importlib
import pathlib

from ddefense.datasets.dataset import Dataset
from ddefense.datasets.examples import Examples, Split

# Modules are imported on use: TFDS and scikit-learn are slow to import.
_LOADERS = {
    "digits": "ddefense.datasets.digits",
    "mnist": "ddefense.datasets.mnist",
    "fashion_mnist": "ddefense.datasets.fashion_mnist",
    "cifar10": "ddefense.datasets.cifar10",
}
NAMES = tuple(_LOADERS)


def load(name: str, *, data_dir: pathlib.Path | None = None) -> Dataset:
    """Loads a dataset into memory.

    Args:
        name: one of `NAMES`.
        data_dir: folder of prepared TFDS data; by default `TFDS_DATA_DIR`, else TFDS's own.
            Embedded datasets need none.

    Returns:
        The dataset; the same arrays in the same order at every call.

    Raises:
        ValueError: if the name is unknown.
        RunError: if the data is neither prepared nor reachable; the message says how to get it.
    """
    if name not in _LOADERS:
        raise ValueError(f"dataset: expected one of {list(NAMES)}, received {name!r}.")
    dataset: Dataset = importlib.import_module(_LOADERS[name]).load(data_dir)
    return dataset


__all__ = ["NAMES", "Dataset", "Examples", "Split", "load"]
