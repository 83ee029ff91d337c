"""The paper's networks (its Table I), and others of their form."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ddefense.config import PRECISIONS
from ddefense.layers import TemperatureSoftmax
from ddefense.networks.heads import LOGITS

# name: (image shape, filters of the two convolution blocks, units of the two dense layers)
_ARCHITECTURES = {
    "mnist": ((28, 28, 1), (32, 64), 200),
    "cifar10": ((32, 32, 3), (64, 128), 256),
    # A student: about a tenth of the arithmetic of `mnist`.
    "small": ((28, 28, 1), (8, 16), 64),
}
NAMES = tuple(_ARCHITECTURES)
_SMALLEST = 16  # pixels that four valid 3x3 convolutions and two pools leave one of

Statistics = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def build(
    name: str,
    *,
    temperature: float,
    seed: int,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] | None = None,
    dropout: float = 0.5,
    statistics: Statistics | None = None,
    precision: str = "float32",
) -> keras.Model:
    """Builds one of the paper's networks, with weights that depend on `seed` alone.

    Two blocks of two 3x3 convolutions ("valid" padding) and a 2x2 max pool, then two dense layers
    with dropout after each; ReLU throughout; logits; `TemperatureSoftmax`.

    Args:
        name: one of `NAMES`: the paper's `mnist` and `cifar10`, or `small`, in their form.
        temperature: T of the softmax, > 0; a network has one temperature for life.
        seed: of the initial weights and of dropout, >= 0.
        num_classes: outputs, >= 2.
        image_shape: (height, width, channels), at least 16 pixels high and wide; None for the
            shape of the dataset that the network is named after.
        dropout: rate in [0, 1).
        statistics: mean and variance of every feature, each of the image's shape, with which the
            network standardises its input first; they are frozen into it. None leaves them out.
        precision: Keras dtype policy of the hidden layers: `float32`, or `mixed_bfloat16` to
            train faster where the hardware has it. Weights, logits and softmax are float32.

    Returns:
        A functional model: images [N, H, W, C] -> probabilities at T [N, num_classes]. Its layer
        `logits` gives the logits.

    Raises:
        ValueError: if the name or the precision is unknown, the temperature is not > 0, or the
            images are too small.
    """
    if name not in _ARCHITECTURES:
        raise ValueError(f"network: expected one of {list(NAMES)}, received {name!r}.")
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {list(PRECISIONS)}, received {precision!r}.")
    shape, filters, units = _ARCHITECTURES[name]
    shape = shape if image_shape is None else image_shape
    if min(shape[:2]) < _SMALLEST:
        raise ValueError(
            f"image_shape: expected at least {_SMALLEST}x{_SMALLEST} pixels for the network "
            f"{name!r}, received {shape[0]}x{shape[1]}. Resize the images, or take another network."
        )
    # Nine layers draw random numbers: four convolutions, three dense layers, two dropouts.
    seeds = iter(np.random.SeedSequence(seed).generate_state(9).tolist())
    x = images = keras.Input(shape, name="images")
    if statistics is not None:
        mean, variance = statistics
        x = keras.layers.Normalization(
            axis=(1, 2, 3), mean=mean, variance=variance, dtype="float32", name="standardize"
        )(x)
    x = _convolutions(x, filters, seeds, precision)
    x = keras.layers.Flatten(dtype=precision, name="flatten")(x)
    for i in (1, 2):
        x = _dense(units, f"dense_{i}", next(seeds), activation="relu", dtype=precision)(x)
        x = keras.layers.Dropout(dropout, seed=next(seeds), dtype=precision, name=f"dropout_{i}")(x)
    logits = _dense(num_classes, LOGITS, next(seeds), dtype="float32")(x)
    probabilities = TemperatureSoftmax(temperature, name="probabilities")(logits)
    return keras.Model(images, probabilities, name=f"{name}_network")


def _convolutions(
    x: keras.KerasTensor, filters: Sequence[int], seeds: Iterator[int], precision: str
) -> keras.KerasTensor:
    for block, num_filters in enumerate(filters, start=1):
        for i in (1, 2):
            x = keras.layers.Conv2D(
                num_filters,
                3,
                activation="relu",
                kernel_initializer=keras.initializers.GlorotUniform(seed=next(seeds)),
                dtype=precision,
                name=f"conv_{block}_{i}",
            )(x)
        x = keras.layers.MaxPooling2D(2, dtype=precision, name=f"pool_{block}")(x)
    return x


def _dense(units: int, name: str, seed: int, **settings: Any) -> keras.layers.Dense:
    initializer = keras.initializers.GlorotUniform(seed=seed)
    return keras.layers.Dense(units, kernel_initializer=initializer, name=name, **settings)
