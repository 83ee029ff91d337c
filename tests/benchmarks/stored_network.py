"""A network in an .npz file, from which every framework rebuilds it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

# Keras divides by no smaller deviation than this.
EPSILON = 1e-7


@dataclasses.dataclass(frozen=True)
class StoredNetwork:
    """The paper's network: an optional standardisation, four convolutions, three dense layers.

    Attributes:
        shape: of one image.
        weights: kernels and biases in turn, laid out as in Keras.
        mean: of every feature, with which the network standardises its input; None: it does not.
        variance: of every feature, likewise.
    """

    shape: tuple[int, ...]
    weights: list[Any]
    mean: Any = None
    variance: Any = None

    @property
    def features(self) -> int:
        """Features of one image."""
        return math.prod(self.shape)

    @property
    def standardization(self) -> tuple[Any, Any] | None:
        """Mean and deviation of every feature, as the Keras layer computes them, or None."""
        import numpy as np

        if self.mean is None:
            return None
        return self.mean, np.maximum(np.sqrt(self.variance), np.float32(EPSILON))


def save(logits: Any, path: Path) -> None:
    """Writes a Keras model images -> logits.

    Args:
        logits: one of the paper's networks.
        path: the .npz file.
    """
    import keras
    import numpy as np

    arrays = {"shape": np.array(logits.input_shape[1:])}
    arrays |= {f"w{i:03d}": np.asarray(w) for i, w in enumerate(logits.trainable_weights)}
    for layer in logits.layers:
        if isinstance(layer, keras.layers.Normalization):
            arrays |= {"mean": np.asarray(layer.mean)[0], "variance": np.asarray(layer.variance)[0]}
    np.savez(path, allow_pickle=False, **arrays)


def load(path: Path) -> StoredNetwork:
    """Reads what `save` wrote."""
    import numpy as np

    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    weights = [arrays[name] for name in sorted(arrays) if name.startswith("w")]
    shape = tuple(arrays["shape"].tolist())
    return StoredNetwork(shape, weights, arrays.get("mean"), arrays.get("variance"))
