"""Attacks a saved network and judges the result; writes `attack.json` and prints a table.

Usage: bin/attack --network=<file>.keras --dataset=<name> [flags]
       bin/attack --model=<SavedModel> --data=<folder, .npz or dataset> [flags]
"""

import dataclasses
import pathlib
import shlex
import sys
from typing import TYPE_CHECKING

from absl import flags, logging

from ddefense.cli import attack_flags, attacked_data, program, values
from ddefense.cli import flags as cli_flags
from ddefense.config import Config, digest
from ddefense.experiments import workdir as experiment_dirs

if TYPE_CHECKING:
    from ddefense.datasets import Dataset
    from ddefense.experiments.adopting import SavedModel

_SHOWN = ("network", "model", "data", "dataset")
"""Flags that most people need."""


def run() -> None:
    """Entry point of `bin/attack` and `ddefense-attack`."""
    program.run("bin/attack", attack_flags.define_for_attack, _configure, _attack, shown=_SHOWN)


def _configure() -> tuple[Config, pathlib.Path]:
    asked = flags.FLAGS
    attack_flags.check_model()
    attack_flags.check()
    config = attack_flags.config()
    data = attack_flags.user_data()
    if asked.workdir is not None:
        return config, values.directory("workdir", asked.workdir)
    what = [asked.network, asked.substitute, asked.temperature, config.digest()]
    if asked.model:
        what += [asked.model, asked.signature, asked.logits_output, asked.probabilities_output]
        what.append(asked.model_range)
    if data is not None:
        what.append(attacked_data.fields(data))
    name = pathlib.Path(asked.network or asked.model).stem
    return config, pathlib.Path("runs", f"attack_{name}_{digest(what)}")


def _attack(config: Config, workdir: pathlib.Path) -> None:
    asked, data = flags.FLAGS, attack_flags.user_data()
    # Before TensorFlow is imported, which takes seconds.
    if data is None and not asked.model:
        experiment_dirs.check(workdir, config)
    else:  # what the data or the model allow is part of the configuration, and not known yet
        experiment_dirs.check_writable("workdir", workdir)
    for sentence in attack_flags.left_out():
        logging.info("%s", sentence)
    program.start_tensorflow(config)

    from ddefense.cli import terminal
    from ddefense.experiments import attacking_saved
    from ddefense.experiments.adopting import Source
    from ddefense.reporting import attack_run

    network: Source = pathlib.Path(asked.network or asked.model)
    dataset = None
    if asked.model:
        network, dataset, config = _of_model(attack_flags.model_path(), config)
    elif data is not None:
        dataset, config = attacked_data.load_for(config, "network", pathlib.Path(asked.network))
    if dataset is not None:
        attacked_data.announce(asked.network or asked.model, dataset, config, workdir)
    results = attacking_saved.run(
        config,
        workdir,
        network=network,
        substitute=pathlib.Path(asked.substitute) if asked.substitute else None,
        temperature=asked.temperature,
        dataset=dataset,
        data_dir=cli_flags.data_dir(),
        command=shlex.join(["bin/attack", *sys.argv[1:]]),
    )
    terminal.log(attack_run.table(results))
    logging.info("results: %s", workdir / "attack.json")


def _of_model(path: pathlib.Path, config: Config) -> tuple["SavedModel", "Dataset", Config]:
    """The SavedModel, the images it is attacked on, and the attacks that it allows."""
    from ddefense.attacks import saved_model
    from ddefense.experiments import attacking_saved
    from ddefense.experiments.adopting import SavedModel

    asked = flags.FLAGS
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
    names, reason = attacking_saved.impossible_on(record, config.attacks)
    # Attacks that were named are refused by the run itself.
    if names and asked.attacks is None:
        logging.info("Left out %s: not possible %s.", ", ".join(names), reason)
        config = dataclasses.replace(
            config, attacks=tuple(attack for attack in config.attacks if attack not in names)
        )
    return SavedModel(path, record), dataset, config


if __name__ == "__main__":
    run()
