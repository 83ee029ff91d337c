"""Tables and sentences for people: aligned and coloured on a terminal, plain text elsewhere."""

import dataclasses
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import TextIO

from absl import logging
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from ddefense import records
from ddefense.escaping import escape, write_safely
from ddefense.reporting import lookup, tables

_PIPED_WIDTH = 100
"""Columns of prose where there is no terminal; tables are as wide as they have to be."""
_CELL_WIDTH = 28
"""Columns of a cell of words, after which it goes on below."""
_UNBOUNDED = 10_000
_INTERVAL = re.compile(r" \[[^\]]*\]")
_ABOUT_INTERVALS = re.compile(r",? with [^,]* in brackets")


def show(write: Callable[[Console], None], stream: TextIO | None = None) -> None:
    """Prints to a stream, in colour if it is a terminal and `NO_COLOR` is not set.

    Args:
        write: prints to the console that it is given.
        stream: None for standard output.
    """
    stream = stream or sys.stdout
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _UNBOUNDED
    with console.capture() as captured:
        write(console)
    text = captured.get()
    if not console.is_terminal:
        text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    write_safely(text, stream)


def table(
    console: Console,
    content: tables.Table,
    *,
    style: Callable[[str], str] = lambda cell: "",
    grouped: bool = False,
) -> None:
    """Prints a table with its notes; where it is too wide for a terminal, without intervals.

    Headings are folded between words before that.

    Args:
        console: to print to.
        content: the table; without rows only its notes are printed.
        style: of a cell, by its text, as rich names it.
        grouped: whether a line stands between rows that begin with different words.
    """
    content = _escaped(content)
    if content.rows:
        grid = _grid_that_fits(console, content, style, grouped)
        least = Measurement.get(console, console.options.update(width=_UNBOUNDED), grid).minimum
        # Rather too wide than without its last columns.
        console.print(grid, width=max(console.width, least), crop=False)
    for note in content.notes:
        paragraph(console, note)


def _escaped(content: tables.Table) -> tables.Table:
    """The table with text that neither steers a terminal nor forges a row."""
    return dataclasses.replace(
        content,
        title=escape(content.title),
        columns=[
            dataclasses.replace(column, heading=escape(column.heading), part=escape(column.part))
            for column in content.columns
        ],
        rows=[
            [escape(cell) if isinstance(cell, str) else cell for cell in row]
            for row in content.rows
        ],
        notes=[*map(escape, content.notes)],
    )


def _grid_that_fits(
    console: Console, content: tables.Table, style: Callable[[str], str], grouped: bool
) -> Grid:
    """The first layout that is no wider than the console."""
    rows = content.text()
    short = [
        [
            cell if column.text else _INTERVAL.sub("", cell)
            for column, cell in zip(content.columns, row, strict=True)
        ]
        for row in rows
    ]
    without = dataclasses.replace(content, title=_ABOUT_INTERVALS.sub("", content.title))
    layouts = (
        (content, rows, 1),
        (_folded(content, rows), rows, 1),
        (without, short, 1),
        (_folded(without, short), short, 1),
        (_folded(without, short), short, 0),
    )
    unbounded = console.options.update(width=_UNBOUNDED)
    grids = []
    for each, cells, padding in layouts:
        grids.append(_grid(console, each, cells, style, grouped))
        grids[-1].padding = (0, padding)
        if Measurement.get(console, unbounded, grids[-1]).maximum <= console.width:
            return grids[-1]
    return grids[-2]  # cells of words are folded too, so that nothing is gained by less space


def _folded(content: tables.Table, rows: list[list[str]]) -> tables.Table:
    """The table with headings no wider than the cells below them, or than their longest word."""

    def fold(place: int, heading: str) -> str:
        words = heading.split()
        width = max(1, *map(len, (*words, *(row[place] for row in rows))))
        return "\n".join(textwrap.wrap(heading, width))

    return dataclasses.replace(
        content,
        columns=[
            dataclasses.replace(column, heading=fold(place, column.heading))
            for place, column in enumerate(content.columns)
        ],
    )


def _grid(
    console: Console,
    content: tables.Table,
    rows: list[list[str]],
    style: Callable[[str], str],
    grouped: bool,
) -> Grid:
    grid = Grid(
        title=content.title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        header_style="bold" if console.is_terminal else "",
    )
    for place, column in enumerate(content.columns):
        longest = max(len(row[place]) for row in rows)
        grid.add_column(
            Text(column.heading),
            justify="left" if column.text else "right",
            overflow="fold",
            # What a row is about must be read at a glance.
            no_wrap=place == 0 and longest <= _CELL_WIDTH,
            max_width=_CELL_WIDTH if column.text else None,
            # A number in two lines is another number.
            min_width=None if column.text else longest,
        )
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        ends = grouped and following is not None and following[0] != row[0]
        grid.add_row(*(Text(cell, style=style(cell)) for cell in row), end_section=ends)
    return grid


def paragraph(console: Console, text: str, style: str = "") -> None:
    """Prints sentences, and an empty line after them.

    Args:
        console: to print to.
        text: of any length.
        style: as rich names it.
    """
    width = console.width if console.is_terminal else _PIPED_WIDTH
    console.print(Text(escape(text), style=style), width=width)
    console.print()


def log(content: tables.Table) -> None:
    """Says a table among the messages: aligned on a terminal, as Markdown in a log.

    Args:
        content: the table.
    """
    if sys.stderr.isatty():
        show(lambda console: table(console, content), sys.stderr)
    else:
        lines = [content.title, "", *content.markdown().split("\n")]
        logging.info("\n".join(["%s"] * len(lines)), *lines)


_VERDICTS = {True: "green", False: "bold red", None: "yellow"}
"""By whether an attacker who knows the defence is stopped; None too if at a high loss."""


def summary(content: tables.Table, runs: Sequence[records.Results]) -> None:
    """Prints what a run, or several seeds, came to, among the messages on standard error.

    Args:
        content: the numbers.
        runs: for their verdicts.
    """

    def write(console: Console) -> None:
        table(console, content)
        for results in runs:
            name = "Verdict" if len(runs) == 1 else f"Verdict on seed {results.config.seed}"
            if results.verdict is not None:
                bought = lookup.bought(results.verdict)
                style = _VERDICTS[None if bought else results.verdict.stops_adaptive_attacker]
                paragraph(console, f"{name}: {results.verdict.sentence}", style)

    show(write, sys.stderr)
