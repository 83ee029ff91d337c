"""The pieces of Markdown that reports are made of."""

from ddefense.reporting import tables


def join(parts: list[str]) -> str:
    """Parts that are not empty, with an empty line between them."""
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def figure(name: str, caption: str) -> str:
    """A figure of the run directory with its caption and a link to the SVG."""
    return f"![{caption}](figures/{name}.png)\n\n*{caption}* ([SVG](figures/{name}.svg))"


def section(heading: str, parts: list[str]) -> list[str]:
    """The parts below their heading; nothing without a part."""
    return [f"## {heading}", *parts] if any(parts) else []


def table(content: tables.Table) -> str:
    """A table with its title and links to its files."""
    links = f"([CSV](tables/{content.name}.csv), [Markdown](tables/{content.name}.md))"
    return f"**{content.title}** {links}\n\n{content.markdown()}"


def pairs(key: str, value: str, rows: dict[str, str]) -> str:
    """Two columns of text under their headings."""
    return tables.markdown_table([key, value], [list(row) for row in rows.items()], [True, True])
