"""Writing the figures, tables and report of a run, or of several seeds, beside the records."""

import pathlib
from collections.abc import Iterable, Mapping

from matplotlib.figure import Figure

from ddefense import files, markdown, records
from ddefense.reporting import (
    comparison,
    evaluation,
    figures,
    page,
    report,
    runs,
    seeds_report,
    tables,
)


def render(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Draws everything that can be said about a run, or an evaluation, from its records.

    Two calls on the same records write the same bytes.

    Args:
        workdir: directory with `results.json` and `samples.npz`.

    Returns:
        The files written: `figures/*.png`, `figures/*.svg`, `tables/*.csv`, `tables/*.md`,
        `report.html` and `report.md`, which comes last and links to the others.

    Raises:
        RunError: if the records are missing, damaged, or of two runs.
    """
    results = records.load(records.Results, workdir / "results.json")
    samples = records.Samples.load(workdir / "samples.npz")
    if samples.test_indices.tolist() != results.sample_indices:
        raise records.RunError(
            f"Expected results.json and samples.npz in {workdir} to be of one run, but they name "
            "other attacked images. Was one of them copied there? Put the run's own back."
        )
    return _write_all(
        workdir,
        figures.draw_all(results, samples),
        tables.of_run(results),
        {
            "report.html": page.write(results, samples),
            "report.md": evaluation.write(results)
            if results.is_evaluation
            else report.write(results),
        },
    )


def render_seeds(directory: pathlib.Path) -> list[pathlib.Path]:
    """Draws mean and spread over the seeds that have results; others are named, not awaited.

    Two calls on the same records write the same bytes.

    Args:
        directory: with one run directory per seed, `seed_<seed>`.

    Returns:
        The files written: `figures/success_rate.png` and `.svg`, `tables/*.csv`, `tables/*.md`,
        `report.html` with the seeds side by side, and `report.md`, which comes last and links to
        the others and to each seed's report.

    Raises:
        RunError: if there are no results, they are damaged, or differ in more than the seed.
    """
    found = runs.load(directory)
    return _write_all(
        directory,
        {name: draw(found) for name, draw in figures.FIGURES_OF_SEEDS.items()},
        tables.of_seeds(found),
        {
            "report.html": page.write_comparison(_side_by_side(found, directory)),
            "report.md": seeds_report.write(found, directory),
        },
    )


def _side_by_side(found: runs.Runs, directory: pathlib.Path) -> comparison.Comparison:
    """Each seed as a run of its own."""
    return comparison.Comparison(
        tuple(
            comparison.ComparedRun(
                label=f"seed {seed}",
                path=directory / f"seed_{seed}",
                runs=runs.Runs({seed: results}),
            )
            for seed, results in found.by_seed.items()
        ),
        found.unfinished,
    )


def _write_all(
    directory: pathlib.Path,
    drawn: Mapping[str, Figure],
    made: Iterable[tables.Table],
    texts: Mapping[str, str],
) -> list[pathlib.Path]:
    contents: dict[str, bytes] = {}
    for name, figure in drawn.items():
        for suffix in ("png", "svg"):
            contents[f"figures/{name}.{suffix}"] = figures.style.save(figure, suffix)
    for table in made:
        contents[f"tables/{table.name}.csv"] = table.csv().encode()
        contents[f"tables/{table.name}.md"] = (
            f"# {markdown.text(table.title)}\n\n{table.markdown()}".encode()
        )
    contents |= {name: text.encode() for name, text in texts.items()}
    return [_write(directory / name, data) for name, data in contents.items()]


def _write(path: pathlib.Path, data: bytes) -> pathlib.Path:
    with files.atomic_file(path) as temporary:
        temporary.write_bytes(data)
    return path
