"""MNIST from TFDS: 60,000 training and 10,000 test images of 28x28 grey pixels."""

import pathlib

from ddefense.datasets import prepared
from ddefense.datasets.dataset import Dataset


def load(data_dir: pathlib.Path | None) -> Dataset:
    """Loads MNIST with pixels in [0, 1], as the paper does."""
    return prepared.load("mnist", network="mnist", data_dir=data_dir)
