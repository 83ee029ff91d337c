"""Attacks a saved network and judges the result; writes `attack.json` and prints a table.

Usage: bin/attack --network=<file>.keras --dataset=<name> [flags]
"""

import math
import pathlib
import shlex
import sys

from absl import flags, logging

from ddefense.cli import flags as cli_flags
from ddefense.cli import program
from ddefense.config import Config, ConfigError, digest
from ddefense.experiments import workdir as experiment_dirs


def run() -> None:
    """Entry point of `bin/attack` and `ddefense-attack`."""
    program.run("bin/attack", cli_flags.define_for_attack, _configure, _attack)


def _configure() -> tuple[Config, pathlib.Path]:
    asked = flags.FLAGS
    if not asked.network:
        raise ConfigError("network: expected the path of a .keras file; received none.")
    for name, path in (("network", asked.network), ("substitute", asked.substitute)):
        if path and not pathlib.Path(path).is_file():
            raise ConfigError(f"{name}: expected a .keras file; received {path!r}, which is none.")
    temperature = asked.temperature
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature: expected a finite number > 0; received {temperature!r}.")
    config = cli_flags.config_of_attack()
    if asked.workdir:
        return config, pathlib.Path(asked.workdir)
    what = [asked.network, asked.substitute, temperature, config.digest()]
    name = pathlib.Path(asked.network).stem
    return config, pathlib.Path("runs", f"attack_{name}_{digest(what)}")


def _attack(config: Config, workdir: pathlib.Path) -> None:
    # Before TensorFlow is imported, which takes seconds.
    experiment_dirs.check(workdir, config)
    for sentence in cli_flags.left_out_of_attack():
        logging.info("%s", sentence)
    program.start_tensorflow(config)

    from ddefense.experiments import attacking_saved
    from ddefense.reporting import attack_run

    asked = flags.FLAGS
    results = attacking_saved.run(
        config,
        workdir,
        network=pathlib.Path(asked.network),
        substitute=pathlib.Path(asked.substitute) if asked.substitute else None,
        temperature=asked.temperature,
        data_dir=cli_flags.data_dir(),
        command=shlex.join(["bin/attack", *sys.argv[1:]]),
    )
    table = attack_run.table(results)
    logging.info("%s\n\n%s", table.title, table.markdown())
    logging.info("results: %s", workdir / "attack.json")


if __name__ == "__main__":
    run()
