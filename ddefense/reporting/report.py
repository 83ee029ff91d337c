"""The report of a run in Markdown, with links to its figures and tables."""

import json
from collections.abc import Collection, Sequence
from typing import Any

from ddefense import markdown, records
from ddefense.reporting import description, figures, lookup, passages, tables

_CAPTIONS = {
    "adaptive": "Attacks that see the softmax, and attacks that know the defence or need none",
    "distance": "Mean L2 distance of Carlini and Wagner's attack against temperature; bars are "
    "95 % intervals",
    "sample_grid": "Legitimate images and adversarial samples of the undistilled network",
    "success_rate": "Adversarial success rate against temperature (Fig. 7)",
    "accuracy": "Accuracy change against temperature",
    "gradients": "Distribution of adversarial gradient amplitude (Fig. 9)",
    "robustness": "Robustness against temperature (Fig. 10)",
    "confidence": "Confidence against temperature",
}
_SECTIONS = (
    ("Adversarial samples", ("sample_grid",), ()),
    ("Adversarial success rate", ("success_rate",), ("success_rate", "attacks")),
    (
        "Attacks measured by a norm",
        ("distance",),
        ("carlini_wagner", "transfer", "norm_attacks"),
    ),
    ("Checks for masked gradients", (), ("controls",)),
    ("Accuracy and training", ("accuracy",), ("training",)),
    ("Adversarial gradients", ("gradients",), ("gradients",)),
    ("Robustness", ("robustness",), ("robustness",)),
    ("Confidence", ("confidence",), ("confidence",)),
    ("Set-up", (), ("architecture", "training_parameters")),
)
"""(heading, figures, tables) of the report after its claims; without any, no heading."""


def write(results: records.Results) -> str:
    """The whole report.

    Args:
        results: of the run.

    Returns:
        Markdown with links relative to the directory of `results.json`.
    """
    made = {table.name: table for table in tables.of_run(results)}
    drawn = figures.names(results)
    parts = [
        description.title(results.config),
        *_verdict(results, drawn, made),
        passages.warning(results),
        "## What was run",
        description.departures(results.config),
        markdown.pairs("setting", "value", description.rows(results)),
        "## The paper's claims, and ours",
        passages.orientation(results.dataset.name),
        made["claims"].markdown_with_files(),
        passages.lower_bounds(results),
        "## The readings of JSMA",
        passages.readings(lookup.attacks_in(results)),
        *markdown.section("The other attacks", [passages.norm_attacks(results.networks)]),
        "## Networks that did not learn",
        passages.learnt(results),
    ]
    for heading, figure_names, table_names in _SECTIONS:
        parts += markdown.section(heading, _shown(drawn, made, figure_names, table_names))
    parts += ["## Exported models", _exports(results), "## Environment", environment(results)]
    return markdown.join(parts)


def _verdict(
    results: records.Results, drawn: Collection[str], made: dict[str, tables.Table]
) -> list[str]:
    """What comes before everything else: the verdict with its numbers."""
    return markdown.section(
        "Verdict",
        [
            passages.verdict(results),
            *_shown(drawn, made, (), ("verdict",)),
            *_shown(drawn, made, ("adaptive",), ("costs",)),
        ],
    )


def _shown(
    drawn: Collection[str],
    made: dict[str, tables.Table],
    figure_names: Sequence[str],
    table_names: Sequence[str],
) -> list[str]:
    """Those of the figures and tables that the run has."""
    return [markdown.figure(name, _CAPTIONS[name]) for name in figure_names if name in drawn] + [
        made[name].markdown_with_files() for name in table_names if name in made
    ]


def _exports(results: records.Results) -> str:
    if not results.exports:
        return "No model was exported."
    rows = [[e.network, markdown.code(e.path), f"{e.max_difference:.3g}"] for e in results.exports]
    headings = ["network", "path", "largest difference of a probability after reloading"]
    return markdown.table(headings, rows, [True, True, False])


def environment(results: records.Results) -> str:
    """Versions and hardware, and the time of each stage."""
    text = markdown.pairs("key", "value", surroundings(results))
    if not results.timings:
        return text
    return f"{text}\n{markdown.pairs('stage', 'time', times(results))}"


def surroundings(results: records.Results) -> dict[str, str]:
    """Versions and hardware, as text by name."""
    return {key: _readable(value) for key, value in results.environment.items()}


def times(results: records.Results) -> dict[str, str]:
    """The time of each stage, as text by name."""
    return {stage: lookup.duration(seconds) for stage, seconds in results.timings.items()}


def _readable(value: Any) -> str:
    """Free-form values as one line of text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
        return ", ".join(str(item) for item in value) or "none"
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
