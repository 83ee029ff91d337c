"""The flags that say which images a command works on, and the data they name."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from ddefense.cli import values
from ddefense.settings import ConfigError

if TYPE_CHECKING:
    from ddefense.datasets.sources import UserData

_FLAGS = flags.FLAGS
NAMES = ("data", "image_shape", "value_range", "class_names", "test_share")
"""Of the flags, but for `data_dir`."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the flags say of the data.

    Attributes:
        data: an image folder, an .npz file, or the name of a dataset.
        image_shape: (height, width, channels) to bring images to; None for the network's.
        value_range: smallest and largest value of a feature as the network takes it.
        class_names: None for those of the data.
        test_share: of the images that are kept for testing where the data has no test set.
        data_dir: folder of prepared TFDS data.
    """

    data: str
    image_shape: tuple[int, int, int] | None
    value_range: tuple[float, float]
    class_names: tuple[str, ...] | None
    test_share: float
    data_dir: pathlib.Path | None


def define() -> None:
    """Registers the flags, but for `data_dir`. Called by programs only."""
    flags.DEFINE_string(
        "data",
        None,
        "The images: a folder with one folder of PNG or JPEG files per class (or with train/ and "
        "test/ of that form), an .npz file with images and labels, or the name of a dataset: "
        "digits, mnist, or any image classification dataset of TFDS.",
    )
    flags.DEFINE_string(
        "image_shape",
        None,
        "Height, width and channels to which images of a folder and of TFDS are brought, such as "
        "64x64x1, or 64x64 for RGB. Default: that of the network's input, else of the images.",
    )
    flags.DEFINE_string(
        "value_range",
        None,
        "Smallest and largest value of a feature as the network takes it, such as 0,255. Images of "
        "a folder and of TFDS are scaled to it; those of an .npz file have to lie in it. "
        "Default: 0,1.",
    )
    flags.DEFINE_string(
        "class_names",
        None,
        "Names of the classes, such as cat,dog; or @<file> with one name per line. Default: the "
        "names of the folders, or those of the dataset, else 0,1,2...",
    )
    flags.DEFINE_float(
        "test_share",
        0.2,
        "Share of the images that is kept for testing where the data has no test set, always the "
        "same images; in (0, 1). Of data that nothing was trained on, 1 tests with all of it.",
    )


def asked(data: str | None = None, *, whole: bool = False) -> Asked:
    """What the flags say.

    Args:
        data: what stands for `--data` where another flag names the images.
        whole: whether all images may be for testing, as where nothing is trained on them.

    Raises:
        ConfigError: if there is no `--data`, or a flag has no such value.
    """
    data = data or _FLAGS.data
    if not data:
        raise ConfigError(
            "data",
            "expected an image folder, an .npz file or the name of a dataset; received none.",
        )
    share = _FLAGS.test_share
    if not (0 < share < 1 or (whole and share == 1)):
        expected = "(0, 1]" if whole else "(0, 1)"
        raise ConfigError("test_share", f"expected a number in {expected}; received {share!r}.")
    return Asked(
        data=data,
        image_shape=None if _FLAGS.image_shape is None else values.image_shape(_FLAGS.image_shape),
        value_range=(
            (0.0, 1.0) if _FLAGS.value_range is None else values.value_range(_FLAGS.value_range)
        ),
        class_names=None if _FLAGS.class_names is None else values.class_names(_FLAGS.class_names),
        test_share=share,
        data_dir=pathlib.Path(_FLAGS.data_dir) if _FLAGS.data_dir else None,
    )


def open_data(
    found: Asked,
    *,
    image_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
) -> "UserData":
    """Reads the data that the flags name; imports TensorFlow.

    Args:
        found: what the flags say.
        image_shape: of the network's input, if there is a network.
        num_classes: of the network.

    Raises:
        ConfigError: if the data is not what it should be.
    """
    from ddefense.datasets import sources

    if None not in (image_shape, found.image_shape) and image_shape != found.image_shape:
        raise ConfigError(
            "image_shape",
            f"expected {image_shape}, as the network takes them, or none; received "
            f"{found.image_shape}.",
        )
    return sources.open_data(
        found.data,
        image_shape=image_shape or found.image_shape,
        value_range=found.value_range,
        class_names=found.class_names,
        num_classes=num_classes,
        test_share=found.test_share,
        data_dir=found.data_dir,
    )
