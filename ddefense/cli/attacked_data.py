"""The images that `bin/attack` and `bin/evaluate` work on, once TensorFlow may be imported."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from absl import logging

from ddefense import datasets
from ddefense.cli import attack_flags, data_flags
from ddefense.cli import flags as cli_flags
from ddefense.config import Config
from ddefense.settings import ConfigError

if TYPE_CHECKING:
    from ddefense.datasets import Dataset


def fields(data: data_flags.Asked) -> dict[str, Any]:
    """What of the flags determines the images, as JSON values."""
    return {name: value for name, value in dataclasses.asdict(data).items() if name != "data_dir"}


def load(
    config: Config,
    image_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
) -> tuple["Dataset", Config]:
    """Reads the images that the flags name.

    Args:
        config: that the flags ask for.
        image_shape: of the network's input, if it has one alone.
        num_classes: of the network, if it is known.

    Returns:
        The images, in the range that the network takes, and the configuration, with no more
        samples and features than there are unless flags ask for them.

    Raises:
        ConfigError: if the images are not what they should be.
        RunError: if data of TFDS is neither prepared nor reachable.
    """
    from ddefense.experiments import adopting, attacking

    asked = attack_flags.user_data()
    if asked is None:
        dataset = datasets.load(config.dataset, data_dir=cli_flags.data_dir())
    else:
        dataset = adopting.dataset_of(
            data_flags.open_data(asked, image_shape=image_shape, num_classes=num_classes)
        )
    config = dataclasses.replace(config, dataset=dataset.name)
    return dataset, attacking.fitted(config, dataset, attack_flags.asked_settings())


def load_for(
    config: Config, flag: str, path: pathlib.Path, *, outlier_class: bool = False
) -> tuple["Dataset", Config]:
    """The same for a `.keras` file, in the shape and with the classes of which it is.

    Args:
        config: that the flags ask for.
        flag: that names the file.
        path: of the file.
        outlier_class: whether its last class is none of the data's, but for outliers.

    Raises:
        ConfigError: if it is none.
    """
    from ddefense import networks

    try:
        network = networks.load(path)
        shape = tuple(network.input_shape[1:])
        num_classes = network.output_shape[-1] - outlier_class
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        message = str(error).removeprefix("path: ")
        raise ConfigError(flag, f"{message}") from error
    known = len(shape) == 3 and None not in shape
    return load(config, shape if known else None, num_classes)


def announce(what: str, dataset: "Dataset", config: Config, workdir: pathlib.Path) -> None:
    """Says what will be done."""
    low, high = dataset.value_range
    logging.info(
        "%s: %d samples of the %d test images of %s (%s, %d classes, in [%g, %g])",
        what,
        config.samples,
        len(dataset.test),
        dataset.name,
        " x ".join(map(str, dataset.image_shape)),
        dataset.num_classes,
        low,
        high,
    )
    logging.info("attacks: %s", ", ".join(config.attacks))
    logging.info("in %s; killed, the same command resumes there", workdir)
