"""Writing the figures, tables and report of a run beside its records."""

import pathlib

from ddefense import files, records
from ddefense.reporting import figures, report, tables


def render(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Draws everything that can be said about a run from its records.

    Two calls on the same records write the same bytes.

    Args:
        workdir: directory with `results.json` and `samples.npz`.

    Returns:
        The files written: `figures/*.png`, `figures/*.svg`, `tables/*.csv`, `tables/*.md` and
        `report.md`, which comes last and links to the others.

    Raises:
        RunError: if the records are missing or damaged.
    """
    results = records.load(records.Results, workdir / "results.json")
    samples = records.Samples.load(workdir / "samples.npz")
    contents: dict[str, bytes] = {}
    for name, figure in figures.draw_all(results, samples).items():
        for suffix in ("png", "svg"):
            contents[f"figures/{name}.{suffix}"] = figures.style.save(figure, suffix)
    for make in tables.TABLES:
        table = make(results)
        contents[f"tables/{table.name}.csv"] = table.csv().encode()
        contents[f"tables/{table.name}.md"] = f"# {table.title}\n\n{table.markdown()}".encode()
    contents["report.md"] = report.write(results).encode()
    return [_write(workdir / name, data) for name, data in contents.items()]


def _write(path: pathlib.Path, data: bytes) -> pathlib.Path:
    with files.atomic_file(path) as temporary:
        temporary.write_bytes(data)
    return path
