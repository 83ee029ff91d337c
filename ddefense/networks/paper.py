"""The paper's networks (its Table I)."""

from collections.abc import Iterator, Sequence

import keras
import numpy as np

from ddefense.layers import TemperatureSoftmax
from ddefense.networks.heads import LOGITS

# name: (image shape, filters of the two convolution blocks, units of the two dense layers)
_ARCHITECTURES = {"mnist": ((28, 28, 1), (32, 64), 200)}
NAMES = tuple(_ARCHITECTURES)


def build(
    name: str, *, temperature: float, seed: int, num_classes: int = 10, dropout: float = 0.5
) -> keras.Model:
    """Builds one of the paper's networks, with weights that depend on `seed` alone.

    Two blocks of two 3x3 convolutions ("valid" padding) and a 2x2 max pool, then two dense layers
    with dropout after each; ReLU throughout; logits; `TemperatureSoftmax`.

    Args:
        name: one of `NAMES`.
        temperature: T of the softmax, > 0; a network has one temperature for life.
        seed: of the initial weights and of dropout, >= 0.
        num_classes: outputs.
        dropout: rate in [0, 1).

    Returns:
        A functional model: images [N, H, W, C] -> probabilities at T [N, num_classes]. Its layer
        `logits` gives the logits.

    Raises:
        ValueError: if the name is unknown or the temperature is not > 0.
    """
    if name not in _ARCHITECTURES:
        raise ValueError(f"network: expected one of {list(NAMES)}, received {name!r}.")
    shape, filters, units = _ARCHITECTURES[name]
    # Nine layers draw random numbers: four convolutions, three dense layers, two dropouts.
    seeds = iter(np.random.SeedSequence(seed).generate_state(9).tolist())
    images = keras.Input(shape, name="images")
    x = _convolutions(images, filters, seeds)
    x = keras.layers.Flatten(name="flatten")(x)
    for i in (1, 2):
        x = _dense(units, f"dense_{i}", next(seeds), activation="relu")(x)
        x = keras.layers.Dropout(dropout, seed=next(seeds), name=f"dropout_{i}")(x)
    logits = _dense(num_classes, LOGITS, next(seeds))(x)
    probabilities = TemperatureSoftmax(temperature, name="probabilities")(logits)
    return keras.Model(images, probabilities, name=f"{name}_network")


def _convolutions(
    x: keras.KerasTensor, filters: Sequence[int], seeds: Iterator[int]
) -> keras.KerasTensor:
    for block, num_filters in enumerate(filters, start=1):
        for i in (1, 2):
            x = keras.layers.Conv2D(
                num_filters,
                3,
                activation="relu",
                kernel_initializer=keras.initializers.GlorotUniform(seed=next(seeds)),
                name=f"conv_{block}_{i}",
            )(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool_{block}")(x)
    return x


def _dense(units: int, name: str, seed: int, activation: str | None = None) -> keras.layers.Dense:
    initializer = keras.initializers.GlorotUniform(seed=seed)
    return keras.layers.Dense(
        units, activation=activation, kernel_initializer=initializer, name=name
    )
