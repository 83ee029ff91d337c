"""Shows runs side by side: what they are, what was measured, and where they must not be compared.

Usage: bin/compare RUN... [flags]

RUN is the directory of a run (with results.json), a folder of runs that differ in nothing but the
seed (seed_<n>), or a results.json.
"""

import pathlib

from absl import flags, logging

from ddefense.cli import comparison_text, program, values
from ddefense.reporting import comparison, comparison_report

Asked = tuple[comparison.Comparison, pathlib.Path | None]

_SHOWN = ("output",)
"""Flags that most people need."""


def run() -> None:
    """Entry point of `bin/compare` and `ddefense-compare`."""
    program.run_on("bin/compare RUN...", define, _configure, _compare, shown=_SHOWN)


def define() -> None:
    """Registers the flags of `bin/compare`. Called by the program only."""
    flags.DEFINE_string(
        "output",
        None,
        "Directory to write comparison.html, comparison.md and comparison*.csv to, with "
        "everything that was measured. Default: none is written.",
    )


def _configure(arguments: list[str]) -> Asked:
    output = flags.FLAGS.output
    try:
        if "" in arguments:
            raise comparison.NoRunError("expected the path of a run; received ''.")
        found = comparison.load([pathlib.Path(argument) for argument in arguments])
    except comparison.NoRunError as error:
        raise program.ArgumentError(str(error)) from error
    return found, None if output is None else values.directory("output", output)


def _compare(asked: Asked) -> None:
    found, directory = asked
    comparison_text.show(found)
    if directory is not None:
        comparison_report.save(found, directory)
        logging.info("written: %s, comparison.md, comparison*.csv", directory / "comparison.html")


if __name__ == "__main__":
    run()
