"""A comparison as Markdown, with its tables as CSV beside it."""

import pathlib

from ddefense import files, markdown
from ddefense.reporting import comparability, page
from ddefense.reporting import comparison as comparison_lib
from ddefense.reporting.comparison import Comparison
from ddefense.reporting.tables import Table
from ddefense.reporting.tables import comparison as tables


def write(comparison: Comparison) -> str:
    """The whole comparison.

    Args:
        comparison: of the runs.

    Returns:
        Markdown.
    """
    warnings = [f"**{markdown.text(sentence)}**" for sentence in comparability.warnings(comparison)]
    settings, claims = tables.settings(comparison), tables.claims(comparison)
    verdicts = comparison_lib.verdicts(comparison)
    return markdown.join(
        [
            f"# Comparison: {markdown.text(', '.join(run.label for run in comparison.runs))}",
            *warnings,
            *_section(tables.about(comparison)),
            *(_section(settings) if settings.rows or settings.notes else ()),
            *_section(tables.measures(comparison)),
            *(() if claims is None else _section(claims)),
            *markdown.section(
                "Verdicts",
                [f"**{markdown.text(n)}**: {markdown.text(s)}" for n, s in verdicts.items()],
            ),
        ]
    )


def _section(table: Table) -> list[str]:
    notes = [markdown.text(note) for note in table.notes]
    return [f"## {table.title}", *([table.markdown()] if table.rows else ["None.", *notes])]


def save(comparison: Comparison, directory: pathlib.Path) -> list[pathlib.Path]:
    """Writes the comparison; two calls on the same results write the same bytes.

    Args:
        comparison: of the runs.
        directory: made where it is missing; files of an earlier comparison in it are replaced.

    Returns:
        The files: `comparison.md` and `comparison.html`, and as CSV `comparison.csv`,
        `comparison_claims.csv`, `comparison_runs.csv` and `comparison_settings.csv`.
    """
    data = (
        tables.measures_as_data(comparison),
        tables.claims_as_data(comparison),
        tables.about(comparison),
        tables.settings(comparison),
    )
    contents = {f"{table.name}.csv": table.csv() for table in data}
    contents["comparison.md"] = write(comparison)
    contents["comparison.html"] = page.write_comparison(comparison)
    written = []
    for name, text in contents.items():
        path = directory / name
        with files.atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
        written.append(path)
    return written
