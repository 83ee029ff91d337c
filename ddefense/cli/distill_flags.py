"""The flags of `bin/distill`, and the settings they make."""

import dataclasses
from typing import Any

from absl import flags

from ddefense.cli import data_flags
from ddefense.cli import flags as cli_flags
from ddefense.distill_config import METHODS, OPTIMIZERS, UNCERTAINTIES, DistillConfig
from ddefense.settings import ConfigError

_FLAGS = flags.FLAGS
NETWORKS = ("small", "mnist", "cifar10")
"""Networks by name, all of any image shape and number of classes; see `networks.build`."""


def define() -> None:
    """Registers the flags. Called by the program only."""
    data_flags.define()
    cli_flags.define_data_dir()
    cli_flags.define_machine()
    cli_flags.define_optimizer()
    flags.DEFINE_string(
        "network",
        None,
        "The network to distill: a .keras file that ends in logits or in a softmax, which is "
        f"trained further from the weights it has; or one of {', '.join(NETWORKS)}, made anew.",
    )
    flags.DEFINE_string(
        "student",
        None,
        "Distill into this network, a .keras file or a name as for --network. Default: one like "
        "--network.",
    )
    flags.DEFINE_float(
        "temperature", None, "T of both trainings, > 0. Method extended is at 1, without this flag."
    )
    flags.DEFINE_enum(
        "method",
        "defensive",
        METHODS,
        "defensive: Papernot et al. 2016; with --student or --alpha, Hinton et al. 2015. extended: "
        "its successor of 2017 with an outlier class, at T = 1; its formula is unverified.",
    )
    flags.DEFINE_float(
        "alpha",
        None,
        "Weight of the hard labels at T = 1 beside the soft labels at T, in [0, 1]. Default: 0.",
    )
    flags.DEFINE_bool(
        "scale_by_temperature_squared",
        None,
        "Multiply the loss on soft labels by T^2, as Hinton et al. do. Default: no.",
    )
    flags.DEFINE_enum(
        "optimizer",
        None,
        OPTIMIZERS,
        "sgd, as in the paper; or adam, whose steps do not shrink as T rises. Default: sgd.",
    )
    flags.DEFINE_enum(
        "class_weights",
        None,
        ["balanced"],
        "Weigh the images of each class by the inverse of its share. Default: all alike.",
    )
    flags.DEFINE_float(
        "validation_share",
        None,
        "Share of the training images that are held out to validate after each epoch, in [0, 1). "
        "Default: 0.",
    )
    flags.DEFINE_integer(
        "early_stopping",
        None,
        "Stop a training after so many epochs without a smaller validation loss, and take the "
        "weights of the best one. Expects --validation_share. Default: never.",
    )
    flags.DEFINE_bool(
        "tensorboard",
        False,
        "Write TensorBoard logs to <workdir>/tensorboard after each epoch. Expects the package "
        "tensorboard.",
    )
    flags.DEFINE_float(
        "outlier_alpha",
        None,
        "extended: largest probability of the outlier class, in (0, 1]. Default: 0.9.",
    )
    flags.DEFINE_integer(
        "dropout_passes",
        None,
        "extended: passes over each image to estimate uncertainty, >= 2. Default: 20.",
    )
    flags.DEFINE_enum(
        "uncertainty_of",
        None,
        UNCERTAINTIES,
        "extended: outputs of which the variance under dropout is the uncertainty. Default: "
        "logits.",
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "Directory of this run. Default: runs/distill_<network>_<hash of what was asked>. A killed "
        "run resumes in it.",
    )


def config() -> DistillConfig:
    """How the flags ask to distill.

    Raises:
        ConfigError: if a value is out of range, or there is no temperature.
    """
    names = [field.name for field in dataclasses.fields(DistillConfig)]
    changes: dict[str, Any] = {
        name: _FLAGS[name].value for name in names if _FLAGS[name].value is not None
    }
    if "temperature" not in changes:
        if _FLAGS.method != "extended":
            raise ConfigError(
                "temperature", "expected T of both trainings, such as 20; received none."
            )
        changes["temperature"] = 1.0
    found = DistillConfig(**changes)
    if found.early_stopping is not None and not found.validation_share:
        raise ConfigError(
            "early_stopping",
            "expected a --validation_share > 0 with it, because it watches the "
            "validation loss; received none.",
        )
    return found
