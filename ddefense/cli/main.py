"""`bin/reproduce`: kept short on purpose; everything testable lives elsewhere."""

import contextlib
import dataclasses
import logging as standard_logging
import os
import pathlib
import shlex
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from absl import app, flags, logging

import ddefense
from ddefense import interruption
from ddefense.cli import flags as cli_flags
from ddefense.config import Config, ConfigError
from ddefense.experiments import workdir as experiment_dirs
from ddefense.records import RunError

_USAGE_ERROR, _RUN_ERROR = 2, 1
# As a shell reports a program that a signal ended.
_INTERRUPTED, _TERMINATED = 130, 143


def run() -> None:
    """Entry point of `bin/reproduce` and `ddefense-reproduce`."""
    cli_flags.define()
    app.run(_main, flags_parser=_parse)


def _parse(arguments: list[str]) -> list[str]:
    try:
        return flags.FLAGS(arguments)
    except (flags.Error, ValueError) as error:  # the latter for --noreport_only=x
        _refuse(str(error))


def _main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        _refuse(f"expected flags only, received {' '.join(arguments[1:])!r}.")
    _show_our_messages()
    try:
        config, seeds = cli_flags.config(), cli_flags.seeds()
        configs = [dataclasses.replace(config, seed=seed) for seed in seeds or (config.seed,)]
        workdir = cli_flags.workdir(config)
        interruption.listen()
        if not flags.FLAGS.report_only:
            # Before TensorFlow is imported, which takes seconds.
            if seeds is None:
                experiment_dirs.check(workdir, config)
            else:
                experiment_dirs.check_seeds(workdir, configs)
            experiment_dirs.check_writable("--export_dir", pathlib.Path(flags.FLAGS.export_dir))
            _experiment(configs, workdir, seeds is not None)
        _report(workdir)
    except ConfigError as error:
        _refuse(f"--{error}")
    except RunError as error:
        logging.error("%s", error)
        sys.exit(_RUN_ERROR)
    except OSError as error:
        logging.error(
            "In %s: %s. Finished stages are kept; the same command resumes.", workdir, error
        )
        sys.exit(_RUN_ERROR)
    except interruption.StoppedError:
        logging.error("Stopped as asked, and saved; the same command resumes in %s.", workdir)
        sys.exit(_TERMINATED)
    except KeyboardInterrupt:
        logging.error("Interrupted; the same command resumes in %s.", workdir)
        sys.exit(_INTERRUPTED)


def _experiment(configs: list[Config], workdir: pathlib.Path, several: bool) -> None:
    # TensorFlow is imported only now: --help, usage errors and --report_only need none of it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet_stderr():
        import tensorflow as tf

    from ddefense.experiments import reproduce

    if configs[0].jit_compile:
        # It refuses a deterministic gradient of max pooling, on CPUs too, where two runs agree.
        logging.warning("--jit_compile: the seed may not determine the results on a GPU.")
    else:
        tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_intra_op_parallelism_threads(configs[0].threads)
    for gpu in tf.config.list_physical_devices("GPU"):
        # Or TensorFlow takes all of its memory at once.
        tf.config.experimental.set_memory_growth(gpu, True)
    settings: dict[str, Any] = {
        "export_dir": pathlib.Path(flags.FLAGS.export_dir),
        "data_dir": cli_flags.data_dir(),
        "command": shlex.join(["bin/reproduce", *sys.argv[1:]]),
    }
    if several:
        reproduce.run_seeds(configs, workdir, **settings)
    else:
        reproduce.run(configs[0], workdir, **settings)


def _show_our_messages() -> None:
    """What this package says, and errors of any, as plain lines."""
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.setFormatter(None)
    ours = str(pathlib.Path(ddefense.__file__).parent)
    handler.addFilter(
        lambda record: record.levelno >= standard_logging.ERROR or record.pathname.startswith(ours)
    )


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hides what C++ code prints while TensorFlow is imported, before it has a log level."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _report(workdir: pathlib.Path) -> None:
    from ddefense import reporting

    several = experiment_dirs.seed_directories(workdir)
    if several:
        for directory in several:
            reporting.render(directory)
        reporting.render_seeds(workdir)
    else:
        reporting.render(workdir)
    logging.info("report: %s", workdir / "report.md")


def _refuse(message: str) -> NoReturn:
    print(f"{message}\nUsage: bin/reproduce [flags]; --help lists them.", file=sys.stderr)  # noqa: T201
    sys.exit(_USAGE_ERROR)
