"""A comparison on the terminal."""

from collections.abc import Callable

from rich.console import Console

from ddefense.cli import terminal
from ddefense.reporting import claims, comparability, comparison
from ddefense.reporting.tables import comparison as comparison_tables

_STYLES = {"good": "green", "costly": "yellow", "bad": "red", "unknown": "yellow"}


def show(compared: comparison.Comparison) -> None:
    """Prints the short comparison: accuracy, the most telling attacks, claims, and verdicts.

    Args:
        compared: the runs.
    """
    terminal.show(lambda console: _print(console, compared))


def _print(console: Console, compared: comparison.Comparison) -> None:
    for sentence in comparability.warnings(compared):
        terminal.paragraph(console, f"WARNING: {sentence}", "bold yellow")
    terminal.table(console, comparison_tables.about(compared))
    terminal.table(console, comparison_tables.settings(compared))
    # The networks are told apart by a line between them.
    terminal.table(console, comparison_tables.measures(compared, brief=True), grouped=True)
    answers = comparison_tables.claims(compared, brief=True)
    if answers is not None:
        terminal.table(console, answers, style=_styles(compared))
    for name, sentence in comparison.verdicts(compared).items():
        terminal.paragraph(console, f"Verdict on {name}: {sentence}")


def _styles(compared: comparison.Comparison) -> Callable[[str], str]:
    """The style of a cell that is an answer to a claim."""
    found = {
        comparison_tables.answer_in_words(answer): _STYLES[claims.KINDS[answer.holds]]
        for row in comparison.claims(compared)
        for answer in row.answers
        if answer is not None
    }
    return lambda cell: found.get(cell.removesuffix(" *"), "")
