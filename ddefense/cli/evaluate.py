"""Measures and attacks a network on a user's data; writes `results.json`, page and report.

Usage: bin/evaluate --network=<file>.keras --data=<folder, .npz or dataset> [flags]
"""

import pathlib
import shlex
import sys

from absl import flags, logging

from ddefense.cli import attack_flags, attacked_data, program, values
from ddefense.config import Config, digest
from ddefense.experiments import workdir as experiment_dirs
from ddefense.settings import ConfigError


def run() -> None:
    """Entry point of `bin/evaluate` and `ddefense-evaluate`."""
    program.run("bin/evaluate", attack_flags.define_for_evaluate, _configure, _evaluate)


def _configure() -> tuple[Config, pathlib.Path]:
    asked = flags.FLAGS
    if not asked.network:
        raise ConfigError("network", "expected the path of a .keras file; received none.")
    attack_flags.check()
    if asked.outlier_class and asked.temperature not in (None, 1.0):
        raise ConfigError(
            "temperature",
            "expected 1, or none, with --outlier_class: extended distillation is at "
            f"T = 1; received {asked.temperature:g}.",
        )
    if asked.undistilled and asked.temperature is None and not asked.outlier_class:
        raise ConfigError(
            "temperature",
            "expected with --undistilled the T at which the network was distilled; received none.",
        )
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
    name = pathlib.Path(asked.network).stem
    return config, pathlib.Path("runs", f"evaluate_{name}_{digest(what)}")


def _evaluate(config: Config, workdir: pathlib.Path) -> None:
    asked = flags.FLAGS
    # Before TensorFlow is imported, which takes seconds.
    if attack_flags.user_data() is None:
        experiment_dirs.check(workdir, config)
    else:  # what the data allow is part of the configuration, and not known yet
        experiment_dirs.check_writable("workdir", workdir)
    for sentence in attack_flags.left_out():
        logging.info("%s", sentence)
    program.start_tensorflow(config)

    from ddefense import reporting
    from ddefense.cli import terminal
    from ddefense.experiments import evaluating
    from ddefense.reporting import evaluation

    network = pathlib.Path(asked.network)
    dataset, config = attacked_data.load_for(
        config, "network", network, outlier_class=asked.outlier_class
    )
    attacked_data.announce(asked.network, dataset, config, workdir)
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


if __name__ == "__main__":
    run()
