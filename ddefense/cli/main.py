"""`bin/reproduce`: kept short on purpose; everything testable lives elsewhere."""

import dataclasses
import pathlib
import shlex
import sys

from absl import flags, logging

from ddefense import records
from ddefense.cli import executor_flags, program, values
from ddefense.cli import flags as cli_flags
from ddefense.config import Config
from ddefense.experiments import workdir as experiment_dirs
from ddefense.settings import ConfigError


def run() -> None:
    """Entry point of `bin/reproduce` and `ddefense-reproduce`."""
    program.run("bin/reproduce", cli_flags.define_for_reproduce, _configure, _reproduce)


def _configure() -> tuple[Config, pathlib.Path]:
    config = executor_flags.with_threads(cli_flags.config())
    executor_flags.check(config)
    cli_flags.seeds()
    if flags.FLAGS.tensorboard and flags.FLAGS.report_only:
        raise ConfigError(
            "tensorboard",
            "expected without --report_only, which starts no TensorFlow; received "
            "both. Drop --report_only: finished stages are skipped.",
        )
    cli_flags.check_tensorboard()
    return config, cli_flags.workdir(config)


def _reproduce(config: Config, workdir: pathlib.Path) -> None:
    seeds = cli_flags.seeds()
    configs = [dataclasses.replace(config, seed=seed) for seed in seeds or (config.seed,)]
    if not flags.FLAGS.report_only:
        # Before TensorFlow is imported, which takes seconds.
        if seeds is None:
            experiment_dirs.check(workdir, config)
        else:
            experiment_dirs.check_seeds(workdir, configs)
        values.directory("export_dir", flags.FLAGS.export_dir)
        _experiment(configs, workdir, seeds is not None)
    _report(workdir)


def _experiment(configs: list[Config], workdir: pathlib.Path, several: bool) -> None:
    # Before TensorFlow is imported, as a cluster that cannot do the work is refused.
    with executor_flags.executor(configs[0], workdir) as executor:
        program.start_tensorflow(configs[0])
        executor_flags.check_devices(configs[0])

        from ddefense.experiments import reproduce

        job = reproduce.Job(
            export_dir=pathlib.Path(flags.FLAGS.export_dir),
            data_dir=cli_flags.data_dir(),
            command=shlex.join(["bin/reproduce", *sys.argv[1:]]),
            executor=executor,
            storage=executor_flags.storage(),
            tensorboard=flags.FLAGS.tensorboard,
        )
        if several:
            reproduce.run_seeds(configs, workdir, job)
        else:
            reproduce.run(configs[0], workdir, job)


def _report(workdir: pathlib.Path) -> None:
    from ddefense import reporting
    from ddefense.cli import terminal
    from ddefense.reporting import runs, summary

    several = experiment_dirs.seed_directories(workdir)
    for directory in several or [workdir]:
        reporting.render(directory)
    if several:
        reporting.render_seeds(workdir)
        found = runs.load(workdir)
        terminal.summary(summary.of_seeds(found), list(found.by_seed.values()))
        for directory, results in zip(several, found.by_seed.values(), strict=True):
            logging.info("results: %s", directory / "results.json")
            folders = {pathlib.Path(export.path).parents[1] for export in results.exports}
            for folder in sorted(filter(pathlib.Path.exists, folders)):
                logging.info("models: %s", folder)
    else:
        results = records.load(records.Results, workdir / "results.json")
        terminal.summary(summary.of_run(results), [results])
        logging.info("results: %s", workdir / "results.json")
        for export in results.exports:
            # Somebody may have moved it since, or copied the results here.
            if pathlib.Path(export.path).exists():
                logging.info("model: %s", export.path)
    for directory in several or [workdir]:
        if (directory / "tensorboard").exists():
            logging.info("TensorBoard logs: %s", directory / "tensorboard")
    logging.info("page: %s", workdir / "report.html")
    logging.info("report: %s", workdir / "report.md")
