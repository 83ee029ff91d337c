"""The flags of `bin/reproduce` and `bin/export`, and the configuration that flags make."""

import dataclasses
import importlib.util
import pathlib
import re
from collections.abc import Callable
from typing import Any

from absl import flags

from ddefense import attack_catalog, datasets
from ddefense import config as config_lib
from ddefense.cli import executor_flags, values
from ddefense.serving import server_config
from ddefense.settings import LARGEST_INTEGER, ConfigError, OneOf, Setting, Whole, fields

_FLAGS = flags.FLAGS

# Flags that are fields of the configuration; None means the preset's value.
_FIELDS = tuple(each.name for each in fields(config_lib.Config))

_DEFINE: dict[type, Callable[..., Any]] = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    tuple: flags.DEFINE_list,
}


def _takers(name: str) -> str:
    """Which attacks take a setting, as a sentence; empty for what is no setting of some."""
    found = [attack for attack, spec in attack_catalog.ATTACKS.items() if spec.takes(name)]
    return f" Taken by {', '.join(found)}." if found and name != "samples" else ""


def default_of(each: Setting) -> str:
    """The default of a setting as a sentence; empty where its text says it."""
    found = each.default in (None, dataclasses.MISSING)
    return "" if found else f" Default: {_shown(each.default)}."


def default_of_preset(each: Setting) -> str:
    """The same where presets and datasets have their own."""
    values = {
        getattr(config_lib.preset(preset, dataset), each.name)
        for preset in config_lib.PRESETS
        for dataset in datasets.NAMES
    }
    return f" Default: {_shown(*values) if len(values) == 1 else 'that of the preset'}."


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower()


def define_settings(settings: type, default: Callable[[Setting], str]) -> None:
    """Registers a flag for each setting; None stands for its default.

    Args:
        settings: a class of settings.
        default: a setting -> what its help says of the default.
    """
    for each in fields(settings):
        text = re.sub(r"`(\w+)`", r"--\1", each.text)
        if each.kind is not bool and not isinstance(each.bound, OneOf):
            text += f" Expects {each.bound.expected}."
        text += _takers(each.name) + default(each)
        if isinstance(each.bound, OneOf):
            flags.DEFINE_enum(each.name, None, each.bound.choices, text, module_name=each.group)
        elif each.kind in _DEFINE:
            _DEFINE[each.kind](each.name, None, text, module_name=each.group)


def define_for_reproduce() -> None:
    """Registers the flags of `bin/reproduce`.

    Called by the program only: importing ddefense registers none.
    """
    flags.DEFINE_enum("dataset", "digits", datasets.NAMES, "Dataset of the run.")
    define_preset()
    define_settings(config_lib.Config, default_of_preset)
    flags.DEFINE_list(
        "seeds",
        None,
        "Repeat everything with each of these seeds, such as 0,1,2, in <workdir>/seed_<seed>, and "
        "report mean and spread.",
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "Run directory. Default: runs/<dataset>_<preset>, with a hash of the configuration added "
        "where flags change the preset, and _seeds for --seeds. A killed run resumes in it.",
    )
    flags.DEFINE_string("export_dir", "exported_models", "Where SavedModels go.")
    executor_flags.define()
    flags.DEFINE_bool(
        "report_only",
        False,
        "Only redraw page, report, figures and tables of --workdir from its results.",
    )
    flags.DEFINE_bool(
        "tensorboard",
        False,
        "Write TensorBoard logs to <workdir>/tensorboard: of each training after every epoch, with "
        "--executor=ray when it has ended, and of the sweep at the end. Expects the package "
        "tensorboard.",
    )


def define_for_export() -> None:
    """Registers the flags of `bin/export`. Called by the program only."""
    flags.DEFINE_string(
        "network",
        None,
        "The network to export: a .keras file that ends in logits or in a softmax, such as those "
        "that a run leaves in networks/. Exported at T = 1.",
    )
    flags.DEFINE_string(
        "name",
        None,
        "Name of the model, under which clients ask for it. Default: <dataset>_<name of the "
        "network's file>, or without a known dataset the latter alone.",
    )
    flags.DEFINE_string(
        "export_dir",
        "exported_models",
        "Where models go: <export_dir>/<name>/<version>, the next version each time.",
    )
    flags.DEFINE_string(
        "class_names",
        None,
        "Names of the classes, such as cat,dog; or @<file> with one name per line. Default: those "
        "of the results or of --dataset, else 0,1,2...",
    )
    flags.DEFINE_string(
        "value_range",
        None,
        "Smallest and largest value of a feature of the images that the network was trained on, "
        "such as 0,255. Clients send [0, 1] or bytes whatever it is. Default: that of the results "
        "or of --dataset, else 0,1.",
    )
    flags.DEFINE_bool(
        "expose_logits",
        False,
        "Add a signature that gives logits. They help an attacker: see the warning it prints.",
    )
    flags.DEFINE_string(
        "results",
        None,
        "Results about this network for its model card: the directory of a run of bin/reproduce or "
        "bin/evaluate, or its results.json. Default: the run directory that the network lies in, "
        "as networks/<name>.keras.",
    )
    flags.DEFINE_enum(
        "dataset",
        None,
        datasets.NAMES,
        "Dataset on which the network's accuracy is measured. Default: none.",
    )
    define_data_dir()
    flags.DEFINE_enum(
        "quantize",
        None,
        ["int8"],
        "Add <name>_int8.tflite in assets.extra/, in 8-bit integers, calibrated on the training "
        "images of --dataset, with its own accuracy.",
    )
    flags.DEFINE_string(
        "verify",
        None,
        "Only check all versions of an exported model, or of every model in a folder such as "
        "exported_models, or one version: checksums, that it loads, that it answers its warm-up "
        "requests.",
    )
    flags.DEFINE_bool(
        "write_server_config",
        False,
        "Write models.config, batching.config and monitoring.config for all models in "
        "--export_dir. A file that was edited is kept.",
    )
    flags.DEFINE_string(
        "server_base",
        server_config.DEFAULT_BASE,
        "--export_dir as the server sees it: an absolute path in its container, or a URI.",
    )


def define_preset() -> None:
    """Registers `--preset` and `--data_dir`."""
    flags.DEFINE_enum(
        "preset",
        "quick",
        config_lib.PRESETS,
        "paper: the literal protocol, nine temperatures, 50 epochs, 100 samples. paper_warm: the "
        "same after one epoch at T = 1, for temperatures at which the literal one does not learn. "
        "quick: minutes on the default dataset. smoke: about a minute, to see that everything "
        "works.",
    )
    define_data_dir()


def define_data_dir() -> None:
    """Registers `--data_dir`."""
    flags.DEFINE_string(
        "data_dir", None, "Folder of prepared TFDS data. Default: TFDS_DATA_DIR, else TFDS's own."
    )


def config(dataset: str | None = None) -> config_lib.Config:
    """The configuration that the flags ask for.

    Args:
        dataset: name of the dataset; None for `--dataset`.

    Raises:
        ConfigError: if a value is out of range.
    """
    changes: dict[str, Any] = {
        name: _FLAGS[name].value
        for name in _FIELDS
        if name in _FLAGS and _FLAGS[name].value is not None
    }
    for name in ("temperatures", "cw_all_targets_at", "kappas"):
        if name in changes:
            changes[name] = _numbers(name, changes[name])
    return config_lib.preset(_FLAGS.preset, dataset or _FLAGS.dataset, **changes)


def seeds() -> tuple[int, ...] | None:
    """`--seeds`, or None for a run of one seed.

    Raises:
        ConfigError: if they are not different integers >= 0.
    """
    received = _FLAGS.seeds
    if received is None:
        return None
    if _FLAGS.seed is not None:
        raise ConfigError("seeds", "expected without --seed; received both. Drop one.")
    try:
        found = tuple(Whole(0).check(int(value)) for value in received)
    except ValueError:
        found = ()
    if not found or len(set(found)) < len(found):
        raise ConfigError(
            "seeds",
            f"expected different integers >= 0, at most {LARGEST_INTEGER}, separated by commas, "
            f"such as 0,1,2; received {','.join(received)!r}.",
        )
    return found


def workdir(config: config_lib.Config) -> pathlib.Path:
    """The run directory: `--workdir`, or one named after the configuration."""
    if _FLAGS.workdir is not None:
        return values.directory("workdir", _FLAGS.workdir)
    name = f"{config.dataset}_{config.preset}"
    if config != config_lib.preset(config.preset, config.dataset):
        name += f"_{config.digest()}"
    if _FLAGS.seeds is not None:
        name += "_seeds"
    return pathlib.Path("runs", name)


def check_tensorboard() -> None:
    """Refuses `--tensorboard` where the package is not installed.

    Raises:
        ConfigError: saying how to install it.
    """
    if _FLAGS.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "tensorboard",
            "expected the package tensorboard to be installed; found none. Install "
            "it with: pip install 'ddefense[tensorboard]'",
        )


def data_dir() -> pathlib.Path | None:
    """`--data_dir` if given."""
    return pathlib.Path(_FLAGS.data_dir) if _FLAGS.data_dir else None


def _numbers(name: str, values: list[str]) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in values)
    except ValueError:
        raise ConfigError(
            name,
            f"expected numbers separated by commas, such as 1,20,100; received "
            f"{','.join(values)!r}.",
        ) from None
