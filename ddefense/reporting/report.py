"""The report of a run in Markdown, with links to its figures and tables."""

import json
from typing import Any

from ddefense import records
from ddefense.reporting import description, lookup, markdown, passages, tables

_CAPTIONS = {
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
    ("Accuracy and training", ("accuracy",), ("training",)),
    ("Adversarial gradients", ("gradients",), ("gradients",)),
    ("Robustness", ("robustness",), ("robustness",)),
    ("Confidence", ("confidence",), ("confidence",)),
    ("Set-up", (), ("architecture", "training_parameters")),
)
"""(heading, figures, tables) of the report after its claims."""


def write(results: records.Results) -> str:
    """The whole report.

    Args:
        results: of the run.

    Returns:
        Markdown with links relative to the directory of `results.json`.
    """
    made = {table.name: table for table in (make(results) for make in tables.TABLES)}
    parts = [
        description.title(results.config),
        passages.warning(results),
        "## What was run",
        description.departures(results.config),
        markdown.pairs("setting", "value", description.rows(results)),
        "## The paper's claims, and ours",
        passages.orientation(results.dataset.name),
        markdown.table(made["claims"]),
        passages.LOWER_BOUNDS,
        "## The readings of JSMA",
        passages.readings(lookup.attacks_in(results)),
        "## Networks that did not learn",
        passages.stalled(results),
    ]
    for heading, figures, names in _SECTIONS:
        parts.append(f"## {heading}")
        parts += [markdown.figure(name, _CAPTIONS[name]) for name in figures]
        parts += [markdown.table(made[name]) for name in names]
    parts += ["## Exported models", _exports(results), "## Environment", _environment(results)]
    return markdown.join(parts)


def _exports(results: records.Results) -> str:
    if not results.exports:
        return "No model was exported."
    rows = [[e.network, f"`{e.path}`", f"{e.max_difference:.3g}"] for e in results.exports]
    headings = ["network", "path", "largest difference of a probability after reloading"]
    return tables.markdown_table(headings, rows, [True, True, False])


def _environment(results: records.Results) -> str:
    text = markdown.pairs("key", "value", {k: _readable(v) for k, v in results.environment.items()})
    if not results.timings:
        return text
    rows = {stage: lookup.duration(seconds) for stage, seconds in results.timings.items()}
    return f"{text}\n{markdown.pairs('stage', 'time', rows)}"


def _readable(value: Any) -> str:
    """Free-form values as one line of text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
        return ", ".join(str(item) for item in value) or "none"
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
