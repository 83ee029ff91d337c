"""The 1,797 handwritten digits of the UCI repository that ship inside scikit-learn."""

import pathlib

import numpy as np
import scipy.ndimage
import sklearn.datasets

from ddefense.datasets.dataset import Dataset
from ddefense.datasets.examples import Split

_NUM_TRAIN = 1437  # 80 %
_SIDE = 28  # of MNIST images, so that the paper's MNIST network takes them


def load(data_dir: pathlib.Path | None) -> Dataset:
    """Loads the digits, resized from 8x8 to 28x28 with bilinear interpolation.

    Args:
        data_dir: ignored, the data is embedded.

    Returns:
        1,437 training and 360 test images in [0, 1], split by one fixed permutation that depends
        on no seed of a run.
    """
    del data_dir
    raw = sklearn.datasets.load_digits()
    zoom = _SIDE / raw.images.shape[1]
    images = scipy.ndimage.zoom(
        raw.images / 16.0, (1, zoom, zoom), order=1, mode="nearest", grid_mode=True
    )
    images = np.clip(images, 0.0, 1.0).astype(np.float32)[..., None]
    labels = raw.target.astype(np.int64)
    # The file is ordered by writer in blocks: without a permutation the splits would differ.
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:_NUM_TRAIN], order[_NUM_TRAIN:]
    return Dataset(
        name="digits",
        network="mnist",
        train=Split(images[train], labels[train]),
        test=Split(images[test], labels[test]),
        class_names=tuple(str(name) for name in raw.target_names),
    )
