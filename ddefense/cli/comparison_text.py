"""A comparison on the terminal."""

from rich.console import Console

from ddefense.cli import terminal
from ddefense.reporting import comparability, comparison
from ddefense.reporting.tables import comparison as comparison_tables

_STYLES = {"holds": "green", "does not hold": "red", "cannot be told": "yellow"}
"""By how an answer to a claim starts."""


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
    claims = comparison_tables.claims(compared, brief=True)
    if claims is not None:
        terminal.table(console, claims, style=_style)
    for name, sentence in comparison.verdicts(compared).items():
        terminal.paragraph(console, f"Verdict on {name}: {sentence}")


def _style(cell: str) -> str:
    return next((style for start, style in _STYLES.items() if cell.startswith(start)), "")
