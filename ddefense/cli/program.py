"""What every command shares: parsing, errors as exit codes, messages, TensorFlow's settings."""

import contextlib
import logging as standard_logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from absl import app, flags, logging

import ddefense
from ddefense import interruption
from ddefense.config import Config, ConfigError
from ddefense.records import RunError

_USAGE_ERROR, _RUN_ERROR = 2, 1
# As a shell reports a program that a signal ended.
_INTERRUPTED, _TERMINATED = 130, 143


def run(
    command: str,
    define: Callable[[], None],
    configure: Callable[[], tuple[Config, pathlib.Path]],
    work: Callable[[Config, pathlib.Path], None],
) -> None:
    """Runs a command and exits with its status; what is raised becomes a message and an exit code.

    Args:
        command: what usage messages call it, such as `bin/reproduce`.
        define: registers its flags.
        configure: the configuration and the run directory that the flags ask for.
        work: does everything else with them.
    """
    define()

    def parse(arguments: list[str]) -> list[str]:
        try:
            return flags.FLAGS(arguments)
        except (flags.Error, ValueError) as error:  # the latter for --noreport_only=x
            _refuse(command, str(error))

    def main(arguments: list[str]) -> None:
        if len(arguments) > 1:
            _refuse(command, f"expected flags only, received {' '.join(arguments[1:])!r}.")
        _show_our_messages()
        try:
            config, workdir = configure()
            with _exit_codes(workdir):
                interruption.listen()
                work(config, workdir)
        except ConfigError as error:
            _refuse(command, f"--{error}")

    app.run(main, flags_parser=parse)


def _refuse(command: str, message: str) -> NoReturn:
    print(f"{message}\nUsage: {command} [flags]; --help lists them.", file=sys.stderr)  # noqa: T201
    sys.exit(_USAGE_ERROR)


@contextlib.contextmanager
def _exit_codes(workdir: pathlib.Path) -> Iterator[None]:
    try:
        yield
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


def start_tensorflow(config: Config) -> None:
    """Imports TensorFlow, which takes seconds, and sets it up: not before it is needed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet_stderr():
        import tensorflow as tf

    if config.jit_compile:
        # It refuses a deterministic gradient of max pooling, on CPUs too, where two runs agree.
        logging.warning("--jit_compile: the seed may not determine the results on a GPU.")
    else:
        tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_intra_op_parallelism_threads(config.threads)
    for gpu in tf.config.list_physical_devices("GPU"):
        # Or TensorFlow takes all of its memory at once.
        tf.config.experimental.set_memory_growth(gpu, True)


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
