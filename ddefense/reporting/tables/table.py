"""A table as data, and its two forms: CSV with raw values, Markdown with readable ones."""

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from ddefense.reporting.spread import Spread


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval; three fields in CSV, one cell in Markdown."""

    ENDINGS: ClassVar[tuple[str, ...]] = ("", "_low", "_high")

    value: float
    low: float
    high: float

    def show(self, digits: int) -> str:
        """`88.44 [86.0, 90.8]`."""
        return f"{self.value:.{digits}f} [{self.low:.1f}, {self.high:.1f}]"


Cell = str | int | float | bool | Interval | Spread | None


def _plain(value: Cell) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def fixed(digits: int) -> Callable[[Cell], str]:
    """A format with this many decimals for numbers; text stays as it is."""

    def show(value: Cell) -> str:
        if isinstance(value, (Interval, Spread)):
            return value.show(digits)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return _plain(value)
        return f"{value:.{digits}f}"

    return show


@dataclasses.dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: its name in the CSV, with the unit.
        heading: its name in the Markdown.
        show: turns a value other than None into Markdown text.
        text: true for words, which are aligned to the left.
        kind: `Interval` or `Spread` if the cells are such; None if each is one value.
    """

    key: str
    heading: str
    show: Callable[[Cell], str] = _plain
    text: bool = False
    kind: type[Interval] | type[Spread] | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: its file name without suffix.
        title: its caption.
        columns: of every row.
        rows: values; None is "not measured" and shows as `-` or an empty CSV field.
        notes: sentences below the table.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()

    def csv(self) -> str:
        """The table as CSV with a heading line and ten significant digits."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([key for column in self.columns for key in _csv_keys(column)])
        for row in self.rows:
            pairs = zip(self.columns, row, strict=True)
            writer.writerow([cell for column, value in pairs for cell in _csv_cells(column, value)])
        return buffer.getvalue()

    def markdown(self) -> str:
        """The table as Markdown, with the notes below it."""
        rows = [
            [
                "-" if value is None else column.show(value)
                for column, value in zip(self.columns, row, strict=True)
            ]
            for row in self.rows
        ]
        text = markdown_table(
            [column.heading for column in self.columns],
            rows,
            left=[column.text for column in self.columns],
        )
        return text + "".join(f"\n{note}\n" for note in self.notes)


def _csv_keys(column: Column) -> list[str]:
    endings = ("",) if column.kind is None else column.kind.ENDINGS
    return [column.key + ending for ending in endings]


def _csv_cells(column: Column, value: Cell) -> list[str]:
    if isinstance(value, (Interval, Spread)):
        return [_csv_cell(part) for part in dataclasses.astuple(value)]
    return [_csv_cell(value)] * len(_csv_keys(column))


def _csv_cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def markdown_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[bool]
) -> str:
    """A GitHub-flavoured Markdown table.

    Args:
        headings: of the columns.
        rows: text of every cell; bars and line breaks are escaped.
        left: per column, whether it is aligned to the left rather than to the right.

    Returns:
        The table with a line break at its end.
    """
    lines = [headings, [":--" if is_left else "--:" for is_left in left], *rows]
    return "".join(f"| {' | '.join(_escape(cell) for cell in line)} |\n" for line in lines)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\r", " ").replace("\n", "<br>")


def percent_of(fraction: float | None) -> float | None:
    """A fraction in percent; None stays None."""
    return None if fraction is None else 100 * fraction
