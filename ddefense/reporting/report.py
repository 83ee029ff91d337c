"""The report of a run in Markdown, with links to its figures and tables."""

import json
from typing import Any

from ddefense import records
from ddefense.reporting import lookup, passages, published, tables

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
        _title(results),
        passages.warning(results),
        "## What was run",
        _run(results),
        "## The paper's claims, and ours",
        _orientation(results),
        _table(made["claims"]),
        "Carlini and Wagner's attacks by optimisation, transfer between networks and other "
        "attacks that need no softmax gradients are not measured by this run: success rates here "
        "are lower bounds of what an attacker can do.",
        "## The readings of JSMA",
        passages.readings(results),
        "## Networks that did not learn",
        passages.stalled(results),
    ]
    for heading, figures, names in _SECTIONS:
        parts.append(f"## {heading}")
        parts += [_figure(name) for name in figures]
        parts += [_table(made[name]) for name in names]
    parts += ["## Exported models", _exports(results), "## Environment", _environment(results)]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _title(results: records.Results) -> str:
    reduced = " (reduced)" if results.config.reduced else ""
    title = f"# Defensive distillation on {results.dataset.name}: {results.config.preset}{reduced}"
    if not results.config.reduced:
        return title
    return (
        f"{title}\n\n**Reduced run**: fewer epochs, temperatures or samples than the paper's. "
        "Its numbers show that everything works; they do not reproduce the paper."
    )


def _run(results: records.Results) -> str:
    settings, dataset = results.config, results.dataset
    warm = f"{settings.warm_start_steps} steps at T = 1 on hard labels"
    attempts = {a.attempts for n in results.networks for a in n.attacks.values()}
    rows = {
        "dataset": f"{dataset.name}, {' x '.join(map(str, dataset.image_shape))}, "
        f"{dataset.num_train} training and {dataset.num_test} test images",
        "preset": settings.preset + (" (reduced)" if settings.reduced else ""),
        "temperatures T": ", ".join(f"{t:g}" for t in sorted(settings.temperatures)),
        "epochs": f"{settings.epochs}",
        "warm start": warm if settings.warm_start_steps else "none (the literal protocol)",
        "seed": f"{settings.seed}",
        "attacked samples": f"{len(results.sample_indices)}, each towards "
        f"{len(dataset.class_names) - 1} other classes",
        "attempts per network and attack": ", ".join(map(str, sorted(attempts))) or "-",
        "budget": f"{settings.max_features} features, theta = {settings.theta:g}",
        "time of the stages that ran": lookup.duration(
            sum(seconds for stage, seconds in results.timings.items() if stage != "this_process")
        ),
    }
    return _pairs("setting", "value", rows)


def _orientation(results: records.Results) -> str:
    name = results.dataset.name
    if name in published.SUCCESS:
        return ""
    return (
        f"The paper did not use {name}. The claims about MNIST are answered **for orientation** "
        "only, and so labelled."
    )


def _figure(name: str) -> str:
    return (
        f"![{_CAPTIONS[name]}](figures/{name}.png)\n\n"
        f"*{_CAPTIONS[name]}* ([SVG](figures/{name}.svg))"
    )


def _table(table: tables.Table) -> str:
    links = f"([CSV](tables/{table.name}.csv), [Markdown](tables/{table.name}.md))"
    return f"**{table.title}** {links}\n\n{table.markdown()}"


def _exports(results: records.Results) -> str:
    if not results.exports:
        return "No model was exported."
    rows = [[e.network, f"`{e.path}`", f"{e.max_difference:.3g}"] for e in results.exports]
    headings = ["network", "path", "largest difference of a probability after reloading"]
    return tables.markdown_table(headings, rows, [True, True, False])


def _environment(results: records.Results) -> str:
    text = _pairs("key", "value", {k: _readable(v) for k, v in results.environment.items()})
    if not results.timings:
        return text
    rows = {stage: lookup.duration(seconds) for stage, seconds in results.timings.items()}
    return f"{text}\n{_pairs('stage', 'time', rows)}"


def _pairs(key: str, value: str, rows: dict[str, str]) -> str:
    return tables.markdown_table([key, value], [list(row) for row in rows.items()], [True, True])


def _readable(value: Any) -> str:
    """Free-form values as one line of text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
        return ", ".join(str(item) for item in value) or "none"
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
