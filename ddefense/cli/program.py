"""What every command shares: parsing, errors as exit codes, messages, TensorFlow's settings."""

import contextlib
import copy
import logging as standard_logging
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

from absl import app, flags, logging

import ddefense
from ddefense import interruption
from ddefense.config import Config
from ddefense.distill_config import DistillConfig
from ddefense.escaping import escape, escape_lines
from ddefense.records import RunError
from ddefense.settings import ConfigError

_USAGE_ERROR, _RUN_ERROR = 2, 1
# As a shell reports a program that a signal ended.
_INTERRUPTED, _TERMINATED = 130, 143

Asked = TypeVar("Asked")


class ArgumentError(ValueError):
    """An argument that is no flag and cannot be; the message says what was expected instead."""


def run(
    command: str,
    define: Callable[[], None],
    configure: Callable[[], tuple[Asked, pathlib.Path]],
    work: Callable[[Asked, pathlib.Path], None],
) -> None:
    """Runs a command and exits with its status; what is raised becomes a message and an exit code.

    Args:
        command: what usage messages call it, such as `bin/reproduce`.
        define: registers its flags.
        configure: what the flags ask for, such as a configuration, and the run directory.
        work: does everything else with them. Killed, the same command resumes in the directory.
    """

    def resumable() -> None:
        asked, workdir = configure()
        with _exit_codes(workdir):
            interruption.listen()
            work(asked, workdir)

    _run(command, define, resumable)


def run_once(
    command: str,
    define: Callable[[], None],
    configure: Callable[[], Asked],
    work: Callable[[Asked], None],
) -> None:
    """The same for a command that has no run directory: whatever stops it, it starts anew.

    Args:
        command: what usage messages call it, such as `bin/export`.
        define: registers its flags.
        configure: what the flags ask for.
        work: does everything else with that.
    """

    def at_once() -> None:
        with _exit_codes(None):
            asked = configure()
            interruption.listen()
            work(asked)

    _run(command, define, at_once)


def run_on(
    command: str,
    define: Callable[[], None],
    configure: Callable[[list[str]], Asked],
    work: Callable[[Asked], None],
) -> None:
    """The same as `run_once` for a command that takes arguments beside its flags.

    Args:
        command: with what usage messages call the arguments, such as `bin/compare RUN...`.
        define: registers its flags, which may stand before, among and after the arguments.
        configure: what the arguments and the flags ask for; an `ArgumentError` is a usage message.
        work: does everything else with that.
    """

    def at_once(arguments: list[str]) -> None:
        with _exit_codes(None):
            asked = configure(arguments)
            interruption.listen()
            work(asked)

    flags.FLAGS.set_gnu_getopt(True)
    _run_with(command, define, at_once)


def _run(command: str, define: Callable[[], None], all_else: Callable[[], None]) -> None:
    def without_arguments(arguments: list[str]) -> None:
        if arguments:
            _refuse(command, f"expected flags only, received {' '.join(arguments)!r}.")
        all_else()

    _run_with(command, define, without_arguments)


def _run_with(
    command: str, define: Callable[[], None], all_else: Callable[[list[str]], None]
) -> None:
    define()
    _show_in_help()

    def parse(arguments: list[str]) -> list[str]:
        try:
            return flags.FLAGS(arguments)
        except (flags.Error, ValueError) as error:  # the latter for --noreport_only=x
            _refuse(command, str(error))
        except SystemExit:  # --help and the like, which absl ends with 1 as if they had failed
            sys.exit(0)

    def main(arguments: list[str]) -> None:
        _show_our_messages()
        try:
            all_else(arguments[1:])
        except ConfigError as error:
            _refuse(command, f"--{error}")
        except ArgumentError as error:
            _refuse(command, str(error))

    app.run(main, flags_parser=parse)


def _show_in_help() -> None:
    # absl's --help lists the flags of the main module, which is a stub here.
    ours = f"{ddefense.__name__}."
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith(ours):
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _refuse(command: str, message: str) -> NoReturn:
    usage = f"Usage: {command} [flags]; --help lists them."
    print(f"{escape(message)}\n{usage}", file=sys.stderr)  # noqa: T201
    sys.exit(_USAGE_ERROR)


@contextlib.contextmanager
def _exit_codes(workdir: pathlib.Path | None) -> Iterator[None]:
    resumes = "" if workdir is None else f"the same command resumes in {workdir}"
    try:
        try:
            yield
        finally:  # what follows is no more than the last words
            interruption.leave_at_once(signal.SIGINT)
    except RunError as error:
        logging.error("%s", error)
        sys.exit(_RUN_ERROR)
    except OSError as error:
        if workdir is None:
            logging.error("%s.", error)
        else:
            logging.error(
                "In %s: %s. Finished stages are kept; the same command resumes.", workdir, error
            )
        sys.exit(_RUN_ERROR)
    except interruption.StoppedError:
        logging.error("Stopped as asked%s.", resumes and f", and saved; {resumes}")
        sys.exit(_TERMINATED)
    except KeyboardInterrupt:
        logging.error("Interrupted%s.", resumes and f"; {resumes}")
        sys.exit(_INTERRUPTED)


def start_tensorflow(config: Config | DistillConfig | None = None) -> None:
    """Imports TensorFlow, which takes seconds, and sets it up: not before it is needed.

    Args:
        config: of the run; None where nothing is trained.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet_stderr():
        import tensorflow as tf

    if config is not None and config.jit_compile:
        # It refuses a deterministic gradient of max pooling, on CPUs too, where two runs agree.
        logging.warning("--jit_compile: the seed may not determine the results on a GPU.")
    else:
        tf.config.experimental.enable_op_determinism()
    if config is not None:
        tf.config.threading.set_intra_op_parallelism_threads(config.threads)
    for gpu in tf.config.list_physical_devices("GPU"):
        # Or TensorFlow takes all of its memory at once.
        tf.config.experimental.set_memory_growth(gpu, True)


class _Escaping(standard_logging.Formatter):
    """Plain lines, whose only line breaks are those of the format: what is filled in has none."""

    def format(self, record: standard_logging.LogRecord) -> str:
        filled = copy.copy(record)
        if isinstance(record.args, tuple):
            filled.args = tuple(
                escape(str(value)) if isinstance(value, (str, os.PathLike, Exception)) else value
                for value in record.args
            )
        return escape_lines(super().format(filled))


def _show_our_messages() -> None:
    """What this package says, and errors of any, as plain lines."""
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.setFormatter(_Escaping())
    # Warnings of libraries quote names too, such as a glyph that a font does not have.
    standard_logging.captureWarnings(True)
    ours = str(pathlib.Path(ddefense.__file__).parent)
    handler.addFilter(
        lambda record: record.levelno >= standard_logging.ERROR or record.pathname.startswith(ours)
    )


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
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
