"""Measures and attacks a network on a user's data; writes `results.json`, page and report.

Usage: bin/evaluate --network=<file>.keras --data=<folder, .npz or dataset> [flags]
       bin/evaluate --model=<SavedModel> --dataset=<name> --attacks=<names> [flags]

Examples:
  bin/evaluate --network=my.keras --data=photos --samples=20
  bin/evaluate --network=distilled.keras --undistilled=my.keras --temperature=20 --data=photos
"""

import dataclasses
import pathlib
import shlex
import sys
from typing import TYPE_CHECKING

from absl import flags, logging

from ddefense.cli import attack_flags, attacked_data, program, values
from ddefense.config import Config, digest
from ddefense.pipeline import workdir as experiment_dirs

if TYPE_CHECKING:
    from ddefense.datasets import Dataset
    from ddefense.experiments.adopting import Source

_SHOWN = (
    "network",
    "model",
    "data",
    "dataset",
    "undistilled",
    "substitute",
    "temperature",
    "attacks",
    "samples",
    "preset",
    "value_range",
    "seed",
    "workdir",
)
"""Flags that most people need."""


def run() -> None:
    """Entry point of `bin/evaluate` and `ddefense-evaluate`."""
    program.run("bin/evaluate", attack_flags.define, _configure, _evaluate, shown=_SHOWN)


def _configure() -> tuple[Config, pathlib.Path]:
    asked = flags.FLAGS
    attack_flags.check()
    config = attack_flags.config()
    data = attack_flags.user_data()
    if asked.workdir is not None:
        return config, values.directory("workdir", asked.workdir)
    what = [
        *(asked.network, asked.undistilled, asked.substitute, asked.temperature),
        *(("outlier_class",) if asked.outlier_class else ()),
        config.digest(),
        None if data is None else attacked_data.fields(data),
    ]
    if asked.model:
        what += [asked.model, asked.signature, asked.logits_output, asked.probabilities_output]
        what.append(asked.model_range)
    name = pathlib.Path(asked.network or asked.model).stem
    return config, pathlib.Path("runs", f"evaluate_{name}_{digest(what)}")


def _evaluate(config: Config, workdir: pathlib.Path) -> None:
    asked = flags.FLAGS
    # Before TensorFlow is imported, which takes seconds.
    if attack_flags.user_data() is None and not asked.model:
        experiment_dirs.check(workdir, config)
    else:  # what the data or the model allow is part of the configuration, and not known yet
        experiment_dirs.check_writable("workdir", workdir)
    for sentence in attack_flags.left_out():
        logging.info("%s", sentence)
    program.start_tensorflow(config)

    from ddefense import reporting
    from ddefense.cli import terminal
    from ddefense.experiments import evaluating
    from ddefense.reporting import evaluation

    network, dataset, config = _of_model(config) if asked.model else _of_file(config)
    attacked_data.announce(asked.network or asked.model, dataset, config, workdir)
    results = evaluating.evaluate(
        network,
        dataset,
        config,
        workdir,
        undistilled=pathlib.Path(asked.undistilled) if asked.undistilled else None,
        substitute=pathlib.Path(asked.substitute) if asked.substitute else None,
        temperature=asked.temperature,
        outlier_class=asked.outlier_class,
        command=shlex.join(["bin/evaluate", *sys.argv[1:]]),
    )
    reporting.render(workdir)
    for table in evaluation.summary(results):
        terminal.log(table)
    logging.info("results: %s", workdir / "results.json")
    logging.info("page: %s", workdir / "report.html")
    logging.info("report: %s", workdir / "report.md")


def _of_file(config: Config) -> tuple["Source", "Dataset", Config]:
    asked = flags.FLAGS
    path = pathlib.Path(asked.network)
    loaded = attacked_data.load_for(config, "network", path, outlier_class=asked.outlier_class)
    return path, *loaded


def _of_model(config: Config) -> tuple["Source", "Dataset", Config]:
    """The SavedModel, the images it is attacked on, and the attacks that it allows."""
    from ddefense.attacks import saved_model
    from ddefense.experiments import evaluating
    from ddefense.experiments.adopting import SavedModel

    asked, path = flags.FLAGS, attack_flags.model_path()
    name = saved_model.DEFAULT_SIGNATURE if asked.signature is None else asked.signature
    signature = saved_model.load_signature(path, name)
    dataset, config = attacked_data.load(config, signature.image_shape, signature.num_classes)
    record = saved_model.describe(
        signature,
        image_shape=dataset.image_shape,
        num_classes=dataset.num_classes,
        value_range=attack_flags.model_range(dataset.value_range),
        logits_output=asked.logits_output,
        probabilities_output=asked.probabilities_output,
    )
    logging.info(
        "signature %s: the output %s is %s", record.signature, record.output, record.outputs
    )
    names, reason = evaluating.impossible_on(record, config.attacks)
    # Attacks that were named are refused by the run itself.
    if names and asked.attacks is None:
        logging.info("Left out %s: not possible %s.", ", ".join(names), reason)
        config = dataclasses.replace(
            config, attacks=tuple(attack for attack in config.attacks if attack not in names)
        )
    return SavedModel(path, record), dataset, config


if __name__ == "__main__":
    run()
