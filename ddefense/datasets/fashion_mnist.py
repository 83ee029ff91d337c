"""Fashion-MNIST from TFDS: 60,000 training and 10,000 test images of 28x28 grey pixels."""

import pathlib

from ddefense.datasets import prepared
from ddefense.datasets.dataset import Dataset


def load(data_dir: pathlib.Path | None) -> Dataset:
    """Loads Fashion-MNIST with pixels in [0, 1], for the network of the paper's MNIST."""
    return prepared.load("fashion_mnist", network="mnist", data_dir=data_dir)
