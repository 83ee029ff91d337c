"""The pieces of Markdown that reports and model cards are made of.

Names of classes, networks and files come from anywhere. Whatever they hold, `text` and `code` make
them show as what they are: no element, no link, no heading, no row of a table.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from ddefense.escaping import escape


class Markdown(str):
    """Text that is Markdown already, which `text` leaves as it is."""

    __slots__ = ()


_MARKUP = re.compile(
    # Escapes, code, emphasis and strikethrough. An underscore within a word is none of them.
    r"[\\`*~]|(?<![^\W_])_|_(?![^\W_])"
    # The ends of the names of links and pictures; a bracket alone is none.
    r"|\](?=[(\[])"
    # What HTML may begin with.
    r"|<(?![\s\d=])|&(?=#?\w+;)"
    # The end of a heading.
    r"|#(?=#*$)"
)
# What begins a heading, a quotation, the address of a link, an item or a rule; a signed number is
# none of them.
_BEGINNING = re.compile(r"^(\d{0,9})([#>=[]|[+-](?!\d)|(?<=\d)[.)](?!\S))")
# Python's documentation tools take no backslash before these.
_ENTITIES = {"<": "&lt;", "&": "&amp;"}


def text(value: str) -> Markdown:
    """A value to stand in a sentence, a heading or a cell: it is shown as it is, on one line.

    Args:
        value: from anywhere; `Markdown` stays as it is.

    Returns:
        Markdown.
    """
    if isinstance(value, Markdown):
        return value
    return Markdown(_BEGINNING.sub(r"\1\\\2", _inline(value)))


def _inline(value: str) -> str:
    """A value within a line."""
    if isinstance(value, Markdown):
        return value
    return _MARKUP.sub(_escaped, escape(" ".join(value.split())))


def _escaped(found: re.Match[str]) -> str:
    return _ENTITIES.get(found[0], f"\\{found[0]}")


def code(value: str) -> Markdown:
    """A value as a code span, which no backtick in it ends; it is shown on one line.

    Args:
        value: from anywhere.

    Returns:
        Markdown.
    """
    line = escape(re.sub(r"\s", " ", value))
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    # One space at each end belongs to the fence.
    space = " " if line.strip("` ") != line or not line else ""
    return Markdown(f"{fence}{space}{line}{space}{fence}")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[bool]) -> Markdown:
    """A GitHub-flavoured Markdown table.

    Args:
        headings: of the columns.
        rows: of every cell the value, or `Markdown`; line breaks stay line breaks.
        left: per column, whether it is aligned to the left rather than to the right.

    Returns:
        The table with a line break at its end.
    """
    rules = [Markdown(":--" if is_left else "--:") for is_left in left]
    lines = [headings, rules, *rows]
    return Markdown("".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines))


def _cell(value: str) -> str:
    lines = [value] if isinstance(value, Markdown) else value.splitlines()
    return "<br>".join(map(_inline, lines)).replace("|", "\\|")


def pairs(key: str, value: str, rows: Mapping[str, str]) -> Markdown:
    """Two columns of text under their headings."""
    return table([key, value], rows.items(), [True, True])


def figure(name: str, caption: str) -> Markdown:
    """A figure of the run directory with its caption and a link to the SVG."""
    return Markdown(f"![{caption}](figures/{name}.png)\n\n*{caption}* ([SVG](figures/{name}.svg))")


def section(heading: str, parts: Sequence[str]) -> list[str]:
    """The parts below their heading; nothing without a part."""
    return [f"## {heading}", *parts] if any(parts) else []


def join(parts: Iterable[str]) -> str:
    """Parts that are not empty, with an empty line between them."""
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"
