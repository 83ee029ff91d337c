"""What a user says of images and classes, and whether the images are that."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from ddefense.settings import ConfigError, is_range

ImageShape = tuple[int, int, int]

# Of the declared range; images that use less of it were hardly meant for it.
_LEAST_OF_RANGE = 0.01
# Of the declared range: what rounding may add where images are scaled to it.
_ROUNDING = 1e-6
OUTLIER_HINT = "If its last class is for outliers, evaluate it with outlier_class."
"""What messages add where a network has one class more than the data."""
_USUAL_RANGES = ((0, 1), (-1, 1), (0, 255))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declared:
    """What is known of a dataset before it is read.

    Attributes:
        image_shape: (height, width, channels) of the network's input; None for that of the images.
        value_range: smallest and largest value of a feature.
        class_names: one per class; None for those of the data.
        num_classes: of the network; None for those of the data.
    """

    image_shape: ImageShape | None = None
    value_range: tuple[float, float] = (0.0, 1.0)
    class_names: tuple[str, ...] | None = None
    num_classes: int | None = None

    def __post_init__(self) -> None:
        """Checks the declaration itself.

        Raises:
            ConfigError: if it cannot be.
        """
        low, high = self.value_range
        if not is_range(low, high):
            raise ConfigError(
                "value_range",
                "expected two finite numbers, the lower first, such as (0, 255); "
                f"received {self.value_range}.",
            )
        _check_shape(self.image_shape)
        if self.num_classes is not None and self.num_classes < 2:
            raise ConfigError(
                "num_classes", f"expected at least 2 classes; received {self.num_classes}."
            )
        self._check_names()

    def _check_names(self) -> None:
        names = self.class_names
        if names is None:
            return
        if len(names) < 2 or len(set(names)) < len(names):
            raise ConfigError(
                "class_names",
                f"expected at least two names, all different; received {list(names)}.",
            )
        if self.num_classes is not None and len(names) != self.num_classes:
            raise ConfigError(
                "class_names",
                f"expected {self.num_classes} names, one per class of the network; "
                f"received {len(names)}.",
            )

    @property
    def known_classes(self) -> int | None:
        """Number of classes, if it is known before the data is read."""
        return len(self.class_names) if self.class_names is not None else self.num_classes

    def with_classes(self, class_names: tuple[str, ...], where: str) -> "Declared":
        """The same with the classes of the data; names that were declared take their place.

        Args:
            class_names: that the data gives.
            where: the data, for messages.

        Raises:
            ConfigError: if the network, or the declared names, are for another number of them; or
                the names are the same in another order.
        """
        names = self.class_names
        if names is not None and names != class_names and set(names) & set(class_names):
            raise ConfigError(
                "class_names",
                f"expected those of {where} in their order, "
                f"{', '.join(class_names)}, or a new name for each; received {', '.join(names)}.",
            )
        if self.known_classes not in (None, len(class_names)):
            received = "class_names" if names is not None else "a network"
            one_more = names is None and self.known_classes == len(class_names) + 1
            hint = f" {OUTLIER_HINT}" if one_more else ""
            raise ConfigError(
                "data",
                f"expected {self.known_classes} classes; received {len(class_names)} in "
                f"{where}, and {received} for {self.known_classes}.{hint}",
            )
        return dataclasses.replace(self, class_names=names or class_names)


def check_images(
    images: npt.NDArray[Any],
    declared: Declared,
    *,
    first: int = 0,
    name: str = "images",
) -> tuple[float, float]:
    """Checks images that are in memory.

    Args:
        images: numbers, shape [N >= 1, H, W, C].
        declared: what they should be.
        first: number of the first image, for messages.
        name: of the argument, for messages.

    Returns:
        Their smallest and largest value.

    Raises:
        ConfigError: if they have no such shape, are NaN or infinite, or leave the value range.
    """
    check_shape(images.shape[1:], declared.image_shape, name=name)
    low, high = declared.value_range
    slack = _ROUNDING * (high - low)
    smallest, largest = float(images.min()), float(images.max())
    if low - slack <= smallest and largest <= high + slack:  # false where one is NaN
        return smallest, largest
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    if not finite.all():
        at = int(np.argmin(finite))
        raise ConfigError(
            name, f"expected finite values; received NaN or infinity in image {first + at}."
        )
    fits = ((images >= low - slack) & (images <= high + slack)).all(axis=(1, 2, 3))
    raise ConfigError(
        name,
        f"expected values in [{low:g}, {high:g}]; received {smallest:.6g} to "
        f"{largest:.6g}, first in image {first + int(np.argmin(fits))}. "
        + _range_hint(smallest, largest),
    )


def check_shape(
    shape: tuple[int, ...], image_shape: ImageShape | None, *, name: str = "images"
) -> None:
    """Checks the shape of one image.

    Raises:
        ConfigError: if it is not (height, width, channels), or not the declared one.
    """
    if len(shape) == 2:
        raise ConfigError(
            name,
            f"expected images of shape (height, width, channels); received {shape}. Give "
            f"grey images their channel: {name}[..., None].",
        )
    if len(shape) != 3 or not all(shape):
        raise ConfigError(
            name, f"expected images of shape (height, width, channels); received {shape}."
        )
    if image_shape is not None and shape != image_shape:
        raise ConfigError(
            name,
            f"expected images of shape {image_shape}, as the network takes them; received "
            f"{shape}. Resize them, or pass a network for that shape.",
        )


def warn_of_range(smallest: float, largest: float, value_range: tuple[float, float]) -> None:
    """Warns of images that use so little of the declared range that another may be meant."""
    low, high = value_range
    if largest - smallest <= _LEAST_OF_RANGE * (high - low):
        logging.warning(
            "All values lie in %.6g to %.6g, a small part of the declared range %g to %g: check "
            "value_range.",
            *(smallest, largest, low, high),
        )


def _check_shape(image_shape: ImageShape | None) -> None:
    if image_shape is None:
        return
    if len(image_shape) != 3 or not all(
        isinstance(n, int | np.integer) and n > 0 for n in image_shape
    ):
        raise ConfigError(
            "image_shape",
            f"expected (height, width, channels), whole numbers above 0; received {image_shape}.",
        )


def _range_hint(smallest: float, largest: float) -> str:
    for low, high in _USUAL_RANGES:
        if low <= smallest and (low + high) / 2 < largest <= high:
            return f"If the network takes these values, say so: value_range=({low}, {high})."
    return "Scale the images, or declare the range that the network takes: value_range."
