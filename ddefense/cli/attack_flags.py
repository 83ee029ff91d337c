"""The flags of `bin/attack` and `bin/evaluate`, and the configuration they make."""

import dataclasses
import pathlib

from absl import flags

from ddefense import attack_catalog, datasets
from ddefense import config as config_lib
from ddefense.cli import data_flags, values
from ddefense.cli import flags as cli_flags
from ddefense.files import odd_kind
from ddefense.serving.versions import GRAPH, versions
from ddefense.settings import ConfigError

_FLAGS = flags.FLAGS

# Flags that some attacks need: what to give, and why they cannot do without.
_NEEDED = {
    "logits_output": (
        "<name of the output that is logits>",
        "they take logits, and the model gives probabilities",
    ),
    "temperature": (
        "<T that the network was trained at>",
        "on logits / T: a saved network does not say at which T it was trained",
    ),
    "substitute": ("<undistilled .keras network>", "from an undistilled network"),
}
_OF_MODEL = ("signature", "logits_output", "probabilities_output", "model_range")
_OF_DATA = ("image_shape", "class_names")


def define_for_attack() -> None:
    """Registers the flags of `bin/attack`. Called by the program only."""
    _define("attack")
    flags.DEFINE_string(
        "network",
        None,
        "The attacked network: a .keras file that ends in logits or in a softmax, such as those "
        "that a run leaves in networks/.",
    )
    flags.DEFINE_string(
        "model",
        None,
        "The attacked network as a SavedModel of any maker: the folder with saved_model.pb, or a "
        "folder of numbered versions, of which the newest is taken. A SavedModel is a program: "
        "its graph is run, which may read and write files. Attack only what you would run.",
    )
    flags.DEFINE_string(
        "signature",
        None,
        "With --model: the signature to call, which takes floating-point images alone. Default: "
        "serving_default.",
    )
    flags.DEFINE_string(
        "logits_output",
        None,
        "With --model: name of the output that is logits. Without it the model has to give "
        "probabilities, and attacks that need logits are left out.",
    )
    flags.DEFINE_string(
        "probabilities_output",
        None,
        "With --model: name of the output to attack, if several are probabilities.",
    )
    flags.DEFINE_string(
        "model_range",
        None,
        "With --model: smallest and largest value of a feature as the model takes it, if images "
        "of --data have others. Default: --value_range.",
    )


def define_for_evaluate() -> None:
    """Registers the flags of `bin/evaluate`. Called by the program only."""
    _define("evaluate")
    flags.DEFINE_string(
        "network",
        None,
        "The network to evaluate: a .keras file that ends in logits or in a softmax, such as "
        "bin/distill leaves.",
    )
    flags.DEFINE_string(
        "undistilled",
        None,
        "A .keras network without the defence to compare with: the verdict is about both. Expects "
        "--temperature, or --outlier_class.",
    )
    flags.DEFINE_bool(
        "outlier_class",
        False,
        "The network's last class, one more than the data has, is for outliers, as bin/distill "
        "--method=extended makes it: an image that is given it is refused, which is no success of "
        "any attack. Reports rates of recovery, detection and success.",
    )


def _define(command: str) -> None:
    flags.DEFINE_enum(
        "dataset",
        None,
        datasets.NAMES,
        "Dataset that the network was trained on, if it is one of these; else give --data.",
    )
    data_flags.define()
    cli_flags.define_common()
    cli_flags.define_attacks()
    flags.DEFINE_list(
        "cw_all_targets_at",
        None,
        "cw_l2: values of --temperature at which every wrong class is aimed at; elsewhere, and "
        "without --temperature, one random class.",
    )
    flags.DEFINE_string(
        "substitute", None, "Undistilled .keras network on which transfer_cw_l2 makes its samples."
    )
    flags.DEFINE_float(
        "temperature",
        None,
        "T that the network was trained at, by which attacks on logits / T divide; > 0. Without "
        "it those attacks are left out.",
    )
    flags.DEFINE_string(
        "workdir",
        None,
        f"Directory of this run. Default: runs/{command}_<network>_<hash of what was asked>. A "
        "killed run resumes in it.",
    )


def check() -> None:
    """Refuses flags that cannot be, or not together.

    Raises:
        ConfigError: naming the flag, what was received and what was expected.
    """
    for name in ("network", "undistilled", "substitute"):
        path = _FLAGS[name].value if name in _FLAGS else None
        if path and not pathlib.Path(path).is_file():
            hint = ""
            if "model" in _FLAGS and name == "network" and version_of(pathlib.Path(path)):
                hint = f" A SavedModel goes with --model={path}."
            raise ConfigError(
                name,
                f"expected a .keras file; received {path!r}, which is "
                f"{odd_kind(pathlib.Path(path)) or 'none'}.{hint}",
            )
    temperature = _FLAGS.temperature
    if temperature is not None:
        config_lib.check_temperature(temperature)
    if _FLAGS.dataset and _FLAGS.data:
        raise ConfigError(
            "data",
            f"expected without --dataset; received {_FLAGS.data!r} and --dataset="
            f"{_FLAGS.dataset}. Drop one.",
        )
    if not _FLAGS.dataset and not _FLAGS.data:
        raise ConfigError(
            "dataset",
            "expected the dataset that the network was trained on, one of "
            f"{list(datasets.NAMES)}, or --data=<folder, .npz or dataset> for another; received "
            "none.",
        )
    for name in _OF_DATA if _FLAGS.dataset else ():
        if _FLAGS[name].value is not None:
            raise ConfigError(
                name, f"expected with --data; received it with --dataset={_FLAGS.dataset}."
            )


def check_model() -> None:
    """Refuses flags of a SavedModel that cannot be, or not together.

    Raises:
        ConfigError: naming the flag, what was received and what was expected.
    """
    if bool(_FLAGS.network) == bool(_FLAGS.model):
        received = "both" if _FLAGS.model else "none"
        raise ConfigError(
            "network",
            f"expected the path of a .keras file, or --model=<SavedModel>; received {received}.",
        )
    given = [name for name in _OF_MODEL if _FLAGS[name].value is not None]
    if _FLAGS.network and given:
        raise ConfigError(given[0], "expected with --model; received it with --network.")
    if _FLAGS.logits_output is not None and _FLAGS.probabilities_output is not None:
        raise ConfigError(
            "probabilities_output", "expected without --logits_output; received both. Drop one."
        )
    if _FLAGS.model:
        model_path()
        model_range((0.0, 1.0))


def model_range(default: tuple[float, float]) -> tuple[float, float]:
    """`--model_range`, or the range of the images.

    Raises:
        ConfigError: if it is no range.
    """
    if _FLAGS.model_range is None:
        return default
    try:
        return values.value_range(_FLAGS.model_range)
    except ConfigError as error:
        raise ConfigError(str(error).replace("value_range", "model_range", 1)) from error


def model_path() -> pathlib.Path:
    """The folder with the graph that `--model` names.

    Raises:
        ConfigError: if it names none.
    """
    found = version_of(pathlib.Path(_FLAGS.model))
    if found is None:
        raise ConfigError(
            "model",
            f"expected the folder of a SavedModel, with {GRAPH}, or a folder of its "
            f"numbered versions; received {_FLAGS.model!r}, which is neither.",
        )
    return found


def version_of(path: pathlib.Path) -> pathlib.Path | None:
    """The folder with a graph that is, or is the newest version in, a folder; None without one."""
    found = [folder for folder in [*versions(path), path] if (folder / GRAPH).is_file()]
    return found[-1] if found else None


def user_data() -> data_flags.Asked | None:
    """What the flags say of the data; None for a dataset of this package as it is.

    Raises:
        ConfigError: if a flag has no such value.
    """
    if _FLAGS.data:
        return data_flags.asked(whole=True)
    if _FLAGS.value_range is None:
        return None
    return data_flags.asked(_FLAGS.dataset, whole=True)


def dataset_name() -> str:
    """What results call the data before it is read."""
    if not _FLAGS.data:
        return str(_FLAGS.dataset)
    path = pathlib.Path(_FLAGS.data)
    return path.resolve().name.removesuffix(".npz") or "data"


def config() -> config_lib.Config:
    """The configuration that the flags ask for.

    Without `--attacks` it is the preset's, less those that lack a flag they need.

    Raises:
        ConfigError: if a value is out of range, an attack is named that lacks a flag it needs, or
            samples are asked for beyond `--samples`.
    """
    found = cli_flags.config(dataset_name())
    for name in ("cw_samples", "costly_samples"):
        # A preset's own are cut to --samples; those of a flag would be so without a word.
        asked = _FLAGS[name].value
        if asked is not None and asked > found.samples:
            raise ConfigError(
                name,
                f"expected at most {found.samples}, as many as --samples; received "
                f"{asked}. Raise --samples or lower it.",
            )
    lacking = _lacking(found.attacks)
    if lacking and _FLAGS.attacks is not None:
        flag, names = next(iter(lacking.items()))
        raise ConfigError(
            "attacks",
            f"expected --{flag}={_NEEDED[flag][0]} with {', '.join(names)}; received none.",
        )
    left_out = {name for names in lacking.values() for name in names}
    found = dataclasses.replace(
        found, attacks=tuple(name for name in found.attacks if name not in left_out)
    )
    if _FLAGS.attacks is None and "outlier_class" in _FLAGS and _FLAGS.outlier_class:
        return config_lib.past_outlier_class(found)
    return found


def left_out() -> list[str]:
    """What `config` left out of the preset's attacks: one sentence per missing flag."""
    if _FLAGS.attacks is not None:
        return []
    return [
        f"Left out {', '.join(names)} ({_NEEDED[flag][1]}); --{flag}={_NEEDED[flag][0]} brings "
        f"{'it' if len(names) == 1 else 'them'} in."
        for flag, names in _lacking(cli_flags.config(dataset_name()).attacks).items()
    ]


def asked_settings() -> set[str]:
    """Names of the settings that a flag gives."""
    names = {field.name for field in dataclasses.fields(config_lib.Config)}
    return {name for name in names if name in _FLAGS and _FLAGS[name].value is not None}


def _lacking(attacks: tuple[str, ...]) -> dict[str, list[str]]:
    """Attacks that need a flag which was not given, by flag; each attack once."""
    on_probabilities = "model" in _FLAGS and _FLAGS.model and not _FLAGS.logits_output
    needing = {
        "logits_output": set(attacks) - set(attack_catalog.PROBABILITY_ATTACKS)
        if on_probabilities
        else set(),
        "temperature": {name for name in attacks if "_temperature" in name},
        "substitute": {name for name in attacks if name == "transfer_cw_l2"},
    }
    found: dict[str, list[str]] = {}
    for flag, names in needing.items():
        known = {name for others in found.values() for name in others}
        lacking = [name for name in attacks if name in names - known]
        if lacking and _FLAGS[flag].value in (None, ""):
            found[flag] = lacking
    return found
