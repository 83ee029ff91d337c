"""The report of several seeds in Markdown: mean and spread, and a link to each seed's report."""

import pathlib

from ddefense import markdown
from ddefense.reporting import description, lookup, passages, tables
from ddefense.reporting.runs import Runs

_SECTIONS = (
    ("Adversarial success rate", ("success_rate",), ("success_rate",)),
    ("Accuracy, confidence, logits and gradients", (), ("networks",)),
    ("Robustness", (), ("robustness",)),
    ("Every network", (), ("by_seed",)),
)
"""(heading, figures, tables) of the report after its claims."""
_CAPTIONS = {"success_rate": "Adversarial success rate against temperature (Fig. 7) over seeds"}


def write(runs: Runs, directory: pathlib.Path) -> str:
    """The whole report.

    Args:
        runs: of the seeds.
        directory: with a run directory for each of them.

    Returns:
        Markdown with links relative to `directory`.
    """
    made = {table.name: table for table in tables.of_seeds(runs)}
    seeds = ", ".join(map(str, runs.by_seed))
    parts = [
        description.title(
            runs.first.config, f", seed {seeds}" if len(runs.by_seed) == 1 else f", seeds {seeds}"
        ),
        *markdown.section("Verdict", _verdict(runs, made)),
        passages.warning_of_seeds(runs),
        "## What was run",
        description.departures(runs.first.config),
        markdown.pairs("setting", "value", description.rows(*runs.by_seed.values())),
        "## Each seed",
        _seeds(runs, directory),
        _unfinished(runs),
        "## The paper's claims, and ours",
        passages.orientation(runs.first.dataset.name),
        made["claims"].markdown_with_files(),
        passages.lower_bounds(*runs.by_seed.values()),
        "## The readings of JSMA",
        passages.readings(runs.attacks()),
        *markdown.section("The other attacks", [passages.norm_attacks(runs.all_networks())]),
        "## Networks that did not learn",
        passages.learnt_of_seeds(runs),
    ]
    for heading, figures, names in _SECTIONS:
        parts.append(f"## {heading}")
        parts += [markdown.figure(name, _CAPTIONS[name]) for name in figures]
        parts += [made[name].markdown_with_files() for name in names]
    return markdown.join(parts)


def _verdict(runs: Runs, made: dict[str, tables.Table]) -> list[str]:
    """Each seed's verdict and the numbers; nothing where no seed has one."""
    if "verdict" not in made:
        return []
    return [passages.verdict_of_seeds(runs), made["verdict"].markdown_with_files()]


def _seeds(runs: Runs, directory: pathlib.Path) -> str:
    """One row per seed, with a link to its report where there is one."""
    rows = []
    for seed, results in runs.by_seed.items():
        path = f"seed_{seed}/report.md"
        linked = "not written yet"
        if (directory / path).exists():
            linked = markdown.Markdown(f"[{path}]({path})")
        lost = [lookup.network_label(n) for n in results.networks if not lookup.usable(results, n)]
        stages = (time for stage, time in results.timings.items() if stage != "this_process")
        rows.append([f"{seed}", linked, ", ".join(lost) or "-", lookup.duration(sum(stages))])
    headings = ["seed", "report", "did not learn", "time of the stages that ran"]
    return markdown.table(headings, rows, [False, True, True, False])


def _unfinished(runs: Runs) -> str:
    if not runs.unfinished:
        return ""
    seeds = ", ".join(map(str, runs.unfinished))
    return f"**Not finished, and not counted**: seed {seeds}. The same command goes on with it."
