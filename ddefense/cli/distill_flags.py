"""The flags of `bin/distill`, and the settings they make."""

import dataclasses
from typing import Any

from absl import flags

from ddefense.cli import data_flags
from ddefense.cli import flags as cli_flags
from ddefense.distill_config import DistillConfig
from ddefense.settings import ConfigError

_FLAGS = flags.FLAGS
NETWORKS = ("small", "mnist", "cifar10")
"""Networks by name, all of any image shape and number of classes; see `networks.build`."""


def define() -> None:
    """Registers the flags. Called by the program only."""
    data_flags.define()
    cli_flags.define_data_dir()
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
    cli_flags.define_settings(DistillConfig, cli_flags.default_of)
    flags.DEFINE_enum(
        "class_weights",
        None,
        ["balanced"],
        "Weigh the images of each class by the inverse of its share. Default: all alike.",
    )
    flags.DEFINE_bool(
        "tensorboard",
        False,
        "Write TensorBoard logs to <workdir>/tensorboard after each epoch. Expects the package "
        "tensorboard.",
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
        if changes.get("method") != "extended":
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
