"""A comparison on the terminal: aligned, coloured there, plain text where it is piped."""

import sys

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from ddefense.reporting import comparability, comparison, tables
from ddefense.reporting.tables import comparison as comparison_tables

_PIPED_WIDTH = 100
"""Columns of prose where there is no terminal; tables are as wide as they have to be."""
_CELL_WIDTH = 28
"""Columns of a cell of words, after which it goes on below."""
_UNBOUNDED = 10_000
_STYLES = {"holds": "green", "does not hold": "red", "cannot be told": "yellow"}
"""By how an answer to a claim starts."""


def show(compared: comparison.Comparison) -> None:
    """Prints the short comparison: accuracy, the most telling attacks, claims, and verdicts.

    Args:
        compared: the runs.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(
            width=_UNBOUNDED, color_system=None, highlight=False, markup=False, emoji=False
        )
    with console.capture() as captured:
        _print(console, compared)
    text = captured.get()
    if not console.is_terminal:
        text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    sys.stdout.write(text)
    sys.stdout.flush()


def _print(console: Console, compared: comparison.Comparison) -> None:
    for sentence in comparability.warnings(compared):
        _paragraph(console, f"WARNING: {sentence}", "bold yellow")
    _table(console, comparison_tables.about(compared))
    _table(console, comparison_tables.settings(compared))
    _table(console, comparison_tables.measures(compared, brief=True))
    claims = comparison_tables.claims(compared, brief=True)
    if claims is not None:
        _table(console, claims)
    for name, sentence in comparison.verdicts(compared).items():
        _paragraph(console, f"Verdict on {name}: {sentence}")


def _table(console: Console, table: tables.Table) -> None:
    if table.rows:
        grid = Grid(
            title=table.title,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
            header_style="bold" if console.is_terminal else "",
        )
        for column in table.columns:
            grid.add_column(
                Text(column.heading),
                justify="left" if column.text else "right",
                overflow="fold",
                max_width=_CELL_WIDTH if column.text else None,
            )
        for row, following in zip(table.rows, [*table.rows[1:], None], strict=True):
            cells = [
                "-" if value is None else column.show(value)
                for column, value in zip(table.columns, row, strict=True)
            ]
            # The networks are told apart by a line between them.
            ends = table.name == "comparison" and following is not None and following[0] != row[0]
            grid.add_row(*(Text(cell, style=_style(cell)) for cell in cells), end_section=ends)
        console.print(grid)
    for note in table.notes:
        _paragraph(console, note)


def _style(cell: str) -> str:
    return next((style for start, style in _STYLES.items() if cell.startswith(start)), "")


def _paragraph(console: Console, text: str, style: str = "") -> None:
    width = console.width if console.is_terminal else _PIPED_WIDTH
    console.print(Text(text, style=style), width=width)
    console.print()
