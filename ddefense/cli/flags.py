"""The flags of `bin/reproduce` and `bin/export`, and the configuration that flags make."""

import dataclasses
import importlib.util
import pathlib
from typing import Any

from absl import flags

from ddefense import attack_catalog, datasets
from ddefense import config as config_lib
from ddefense.cli import executor_flags, values
from ddefense.serving import server_config

_FLAGS = flags.FLAGS

# Flags that are fields of the configuration; None means the preset's value.
_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(config_lib.Config)
    if field.name not in ("dataset", "preset", "reduced")
)
# Far more than any machine has cores; TensorFlow takes what it is told, or dies of it.
_MAX_THREADS = 4096


def define_for_reproduce() -> None:
    """Registers the flags of `bin/reproduce`.

    Called by the program only: importing ddefense registers none.
    """
    flags.DEFINE_enum("dataset", "digits", datasets.NAMES, "Dataset of the run.")
    define_common()
    _define_training()
    define_attacks()
    flags.DEFINE_list(
        "cw_all_targets_at",
        None,
        "cw_l2: temperatures at which, as on the undistilled network, every wrong class is aimed "
        "at; elsewhere one random class. Empty: one everywhere.",
    )
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
        "bin/attack, or its results.json or attack.json. Default: the run directory that the "
        "network lies in, as networks/<name>.keras.",
    )
    flags.DEFINE_enum(
        "dataset",
        None,
        datasets.NAMES,
        "Dataset on which the network's accuracy is measured. Default: none, or that of a run of "
        "bin/attack in --results.",
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


def define_common() -> None:
    """Registers `--preset` and the flags that every run has."""
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
    define_machine()


def define_machine() -> None:
    """Registers `--seed` and `--threads`."""
    flags.DEFINE_integer(
        "seed",
        None,
        "Of weights that are made anew, order of images, dropout and random choices. Default: 0.",
    )
    flags.DEFINE_integer(
        "threads",
        None,
        "CPU threads per operation; 0, the default, is one per core.",
        upper_bound=_MAX_THREADS,
    )


def define_data_dir() -> None:
    """Registers `--data_dir`."""
    flags.DEFINE_string(
        "data_dir", None, "Folder of prepared TFDS data. Default: TFDS_DATA_DIR, else TFDS's own."
    )


def _define_training() -> None:
    flags.DEFINE_list(
        "temperatures", None, "Distillation temperatures, numbers > 0, such as 1,20,100."
    )
    flags.DEFINE_integer(
        "warm_start_steps",
        None,
        "Optimizer steps at T = 1 on hard labels from which initial and distilled networks start; "
        "0 is the literal protocol.",
    )
    define_optimizer()
    flags.DEFINE_float("dropout", None, "Rate after each hidden dense layer, in [0, 1).")
    flags.DEFINE_enum(
        "defense",
        None,
        config_lib.DEFENSES,
        "distillation; or adversarial_training, for a network trained on PGD samples beside the "
        "distilled ones, as a yardstick.",
    )
    flags.DEFINE_integer(
        "adversarial_epochs", None, "Passes over the training set of adversarial training, >= 1."
    )
    flags.DEFINE_integer(
        "adversarial_steps", None, "PGD steps of each step of adversarial training, >= 1."
    )


def define_optimizer() -> None:
    """Registers the flags of any training; the texts are those of both commands that train."""
    flags.DEFINE_integer(
        "epochs",
        None,
        "Passes over the training set per network, >= 1. Default: the preset's; of bin/distill 50.",
    )
    flags.DEFINE_integer(
        "batch_size",
        None,
        "Training images per optimizer step, >= 1. Default: the preset's; of bin/distill 128.",
    )
    flags.DEFINE_float(
        "learning_rate",
        None,
        "Of the optimizer at the start, > 0. Default: 0.1; of bin/reproduce on cifar10 0.01, of "
        "bin/distill with --optimizer=adam 0.001.",
    )
    flags.DEFINE_float(
        "momentum",
        None,
        "Of stochastic gradient descent at the start, in [0, 1). Default: 0.5; of bin/reproduce on "
        "cifar10 0.9.",
    )
    flags.DEFINE_float(
        "learning_rate_decay",
        None,
        "Factor on the learning rate of stochastic gradient descent every --decay_epochs, in "
        "(0, 1]. Default: 1; of bin/reproduce on cifar10 0.95, after a text on the paper (0.5 is "
        "remembered from the paper's table).",
    )
    flags.DEFINE_float(
        "momentum_decay",
        None,
        "Factor on the momentum every --decay_epochs, in (0, 1]. Default: 1; of bin/reproduce on "
        "cifar10 0.5.",
    )
    flags.DEFINE_integer("decay_epochs", None, "Epochs between two decays, >= 1. Default: 10.")
    flags.DEFINE_enum(
        "precision",
        None,
        config_lib.PRECISIONS,
        "Of the hidden layers while training; mixed_bfloat16 is faster where the hardware has it. "
        "Logits, softmax and loss are float32, and so is the network that comes out, unless it "
        "went in otherwise. Default: float32; of bin/distill what each layer has.",
    )
    flags.DEFINE_bool(
        "jit_compile",
        None,
        "Compile training steps with XLA. Slower on CPUs; on GPUs results may not repeat.",
    )
    flags.DEFINE_integer(
        "devices",
        None,
        "GPUs of one machine that each training is split over, >= 1; without a GPU the logical "
        "CPUs of TensorFlow, of which there is one. Default: 1.",
    )


def define_attacks() -> None:
    """Registers the flags of any attack."""
    flags.DEFINE_integer(
        "samples", None, "Test images attacked, each towards every other class, >= 1."
    )
    flags.DEFINE_bool(
        "misclassified",
        None,
        "Attack the first test images, whether or not the undistilled network gets them right; "
        "with --samples=<all> the whole test set. Default: only those that it gets right.",
    )
    flags.DEFINE_list(
        "attacks", None, f"Attacks to run, among {', '.join(attack_catalog.ATTACKS)}."
    )
    flags.DEFINE_integer(
        "gradient_samples", None, "Most test images whose gradient amplitude is measured, >= 1."
    )
    flags.DEFINE_float("theta", None, "JSMA: change of a feature per step, in [-1, 1], not 0.")
    flags.DEFINE_integer("max_features", None, "JSMA: most features changed; even, >= 2.")
    flags.DEFINE_float(
        "epsilon", None, "fgsm, pgd_linf: L-infinity bound in units of the images, in (0, 1]."
    )
    flags.DEFINE_integer("pgd_steps", None, "pgd_linf: steps, >= 1.")
    flags.DEFINE_integer(
        "pgd_restarts", None, "Random starts of pgd_linf in the control for them, >= 1."
    )
    flags.DEFINE_integer(
        "cw_samples", None, "cw_l2, transfer_cw_l2: samples, the first of --samples; >= 1."
    )
    flags.DEFINE_integer("cw_steps", None, "cw_*: most iterations at one constant, >= 1.")
    flags.DEFINE_integer("cw_search_steps", None, "cw_l2: binary-search steps, >= 1.")
    flags.DEFINE_float("cw_learning_rate", None, "cw_l2 and cw_l0: of Adam, > 0.")
    flags.DEFINE_float("cw_initial_c", None, "cw_l2 and cw_l0: the first constant, > 0.")
    flags.DEFINE_list(
        "kappas", None, "transfer_cw_l2: confidences, rising numbers >= 0, such as 0,20,40."
    )
    flags.DEFINE_integer(
        "costly_samples",
        None,
        "cw_l0, cw_linf, labels_only: samples, the first of --samples; >= 1.",
    )
    flags.DEFINE_integer(
        "labels_only_queries", None, "labels_only: images shown to the network per sample, >= 1."
    )
    flags.DEFINE_integer("shard_samples", None, "Samples per attack shard, the unit of resuming.")
    flags.DEFINE_integer(
        "attack_batch_size", None, "Attacks that run together within a shard, >= 1."
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
        raise config_lib.ConfigError("seeds", "expected without --seed; received both. Drop one.")
    try:
        found = tuple(int(value) for value in received)
    except ValueError:
        found = ()
    if not found or len(set(found)) < len(found) or min(found) < 0:
        raise config_lib.ConfigError(
            "seeds",
            "expected different integers >= 0 separated by commas, such as 0,1,2; received "
            f"{','.join(received)!r}.",
        )
    config_lib.expect_integer("seeds", max(found), minimum=0)
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
        raise config_lib.ConfigError(
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
        raise config_lib.ConfigError(
            name,
            f"expected numbers separated by commas, such as 1,20,100; received "
            f"{','.join(values)!r}.",
        ) from None
