"""A table as data, and its two forms: CSV with raw values, Markdown with readable ones."""

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import ClassVar

from ddefense import markdown
from ddefense.reporting.outcomes import Outcome, significant
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


@dataclasses.dataclass(frozen=True)
class Reached:
    """Share of images reached and their mean distance; two fields in CSV, one cell in Markdown."""

    ENDINGS: ClassVar[tuple[str, ...]] = ("_percent", "_distance")

    percent: float
    distance: float | None

    def show(self, digits: int) -> str:
        """`100.0 at 1.76`."""
        text = f"{self.percent:.{digits}f}"
        return text if self.distance is None else f"{text} at {significant(self.distance)}"


Cell = str | int | float | bool | Interval | Outcome | Reached | Spread | None
Kind = type[Interval] | type[Outcome] | type[Reached] | type[Spread]
_KINDS = (Interval, Outcome, Reached, Spread)


def _plain(value: Cell) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# JSON has no infinity, so that records hold a number below this one for the logarithm of 0.
_LOGARITHM_OF_0 = -1e30


def fixed(digits: int) -> Callable[[Cell], str]:
    """A format with this many decimals for numbers; text stays as it is."""

    def show(value: Cell) -> str:
        if isinstance(value, _KINDS):
            return value.show(digits)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return _plain(value)
        if value < _LOGARITHM_OF_0:
            return "-inf"
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
        kind: what the cells are if each is more than one value; else None.
        part: caption of the Markdown table that it stands in, where a table is too wide for one;
            a column without stands in each.
    """

    key: str
    heading: str
    show: Callable[[Cell], str] = _plain
    text: bool = False
    kind: Kind | None = None
    part: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: its file name without suffix.
        title: its caption.
        columns: of every row.
        rows: values; None is "not measured" and shows as `-` or an empty CSV field.
        notes: sentences below the table; `Markdown` where they hold markup.
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
        """The table as Markdown, one for each part, with the notes below."""
        blocks = [
            (f"{markdown.text(part.caption)}:\n\n" if part.caption else "")
            + markdown.table(part.headings, part.rows, left=part.text)
            for part in self.parts()
        ]
        return "\n".join(blocks) + "".join(f"\n{markdown.text(note)}\n" for note in self.notes)

    def markdown_with_files(self) -> str:
        """The same below its title and links to its files."""
        links = f"([CSV](tables/{self.name}.csv), [Markdown](tables/{self.name}.md))"
        return f"**{markdown.text(self.title)}** {links}\n\n{self.markdown()}"

    def parts(self) -> list["Part"]:
        """The table as text, cut where it is too wide for one."""
        captions = dict.fromkeys(column.part for column in self.columns if column.part)
        return [self._part(caption) for caption in captions or [""]]

    def _part(self, caption: str) -> "Part":
        places = [i for i, column in enumerate(self.columns) if column.part in ("", caption)]
        columns = [self.columns[i] for i in places]
        return Part(
            caption,
            [column.heading for column in columns],
            [column.text for column in columns],
            [[row[i] for i in places] for row in self.text()],
        )

    def text(self) -> list[list[str]]:
        """The rows as people read them."""
        return [
            [
                "-" if value is None else column.show(value)
                for column, value in zip(self.columns, row, strict=True)
            ]
            for row in self.rows
        ]


@dataclasses.dataclass(frozen=True)
class Part:
    """A table as text, or the part of one that fits a page.

    Attributes:
        caption: of this part; empty where it is the whole table.
        headings: of the columns.
        text: per column, whether it holds words, which are aligned to the left.
        rows: text of every cell.
    """

    caption: str
    headings: list[str]
    text: list[bool]
    rows: list[list[str]]


def _csv_keys(column: Column) -> list[str]:
    endings = ("",) if column.kind is None else column.kind.ENDINGS
    return [column.key + ending for ending in endings]


def _csv_cells(column: Column, value: Cell) -> list[str]:
    if isinstance(value, _KINDS):
        return [_csv_cell(part) for part in dataclasses.astuple(value)]
    return [_csv_cell(value)] * len(_csv_keys(column))


def _csv_cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def percent_of(fraction: float | None) -> float | None:
    """A fraction in percent; None stays None."""
    return None if fraction is None else 100 * fraction
