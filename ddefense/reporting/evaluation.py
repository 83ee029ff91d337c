"""The report of an evaluation in Markdown: networks that the run did not train.

Nothing is held against the paper, which did not have these networks.
"""

from collections.abc import Collection

from ddefense import markdown, records
from ddefense.attack_catalog import SIGN_ATTACKS
from ddefense.reporting import (
    description,
    figures,
    lookup,
    outcomes,
    passages,
    report,
    tables,
)
from ddefense.reporting.tables.outliers import outliers
from ddefense.reporting.tables.table import Column, Interval, fixed
from ddefense.reporting.tables.verdict import MEANING_OF_A_FAIL

_CAPTIONS = {
    "attack_rates": "Success of every attack; lines are 95 % intervals",
    "gradients": "Distribution of adversarial gradient amplitude",
    "sample_grid": "Legitimate images and adversarial samples",
}


def write(results: records.Results) -> str:
    """The whole report.

    Args:
        results: of the evaluation.

    Returns:
        Markdown with links relative to the directory of `results.json`.
    """
    made = {table.name: table.markdown_with_files() for table in tables.of_run(results)}
    drawn = figures.names(results)
    parts = [
        f"# {markdown.text(title(results))}",
        *(
            f"**WARNING**: {markdown.text(str(doubt))}"
            for doubt in results.environment.get("warnings", [])
        ),
        passages.warning(results) if results.distilled() else "",
        "## Verdict",
        passages.verdict(results),
        *([] if lookup.all_usable(results) else [passages.learnt(results)]),
        made["verdict"],
        *markdown.section("The outlier class", [made.get("outliers", "")]),
        _figure("attack_rates", drawn),
        passages.lower_bounds(results),
        *markdown.section("Checks for masked gradients", [made.get("controls", "")]),
        "## Networks",
        made["networks"],
        _figure("gradients", drawn),
        "## What was run",
        markdown.pairs("setting", "value", settings(results)),
        *markdown.section("Adversarial samples", [_figure("sample_grid", drawn)]),
        *_details(results, made),
        "## Environment",
        report.environment(results),
    ]
    return markdown.join(parts)


def title(results: records.Results) -> str:
    """What the evaluation is of."""
    label = lookup.row_label(results, results.networks[-1])
    against = "" if len(results.networks) == 1 else f" against {results.networks[0].name}"
    return f"Evaluation of {label}{against} on {results.dataset.name}"


def summary(results: records.Results) -> list[tables.Table]:
    """What `bin/evaluate` prints when it is done."""
    found = outliers(results)
    return [table(results), *([] if found is None else [found])]


def table(results: records.Results) -> tables.Table:
    """Success of every attack, one row each, and below it the verdict."""
    networks = results.networks
    attacks = outcomes.attacks_in(networks)
    columns = [Column("attack", "attack", text=True), Column("norm", "norm", text=True)]
    for network in networks:
        label = lookup.row_label(results, network)
        columns.append(Column(network.name, f"{label}, %", fixed(1), kind=Interval))
        columns.append(Column(f"{network.name}_distance", "at mean", fixed(3)))
    verdict = results.verdict
    return tables.Table(
        name="evaluation",
        title=lookup.after_losses(
            f"Success of attacks on {results.dataset.name}, %, with 95 % intervals in brackets, "
            "and the mean distance of the successes",
            {lookup.row_label(results, n): lookup.lost(results, n) for n in networks},
        ),
        columns=columns,
        rows=[
            [
                attack,
                outcomes.norm(networks, attack),
                *(cell for network in networks for cell in _cells(network, attack)),
            ]
            for attack in attacks
        ],
        notes=(
            "Test accuracy: "
            + ", ".join(
                f"{lookup.row_label(results, n)} {100 * n.test_accuracy:.2f} %"
                + passages.at_loss(lookup.lost(results, n))
                for n in networks
            )
            + ".",
            *(f"WARNING: {doubt}" for doubt in results.environment.get("warnings", [])),
            *_models(results).values(),
            *_checks(results),
            *(() if verdict is None else (verdict.sentence,)),
        ),
    )


def _models(results: records.Results) -> dict[str, str]:
    """What of SavedModels was attacked, by the name of the network."""
    text = {}
    for network in results.networks:
        if (model := network.model) is not None:
            found = f"Attacked: {model.outputs}, the output {model.output} of {model.signature}"
            without = f", without gradients: {model.no_gradients}" if model.no_gradients else ""
            text[network.name] = f"{found}{without}."
    return text


def _checks(results: records.Results) -> list[str]:
    """Sentences on the checks for masked gradients: those that failed, or that none did."""
    failed = [check for check in results.controls if not check.passed]
    if failed:
        lines = [
            f"FAIL {check.name} of {lookup.checked(results, check)}: {check.explanation}"
            for check in failed
        ]
        return [*lines, MEANING_OF_A_FAIL]
    names = ", ".join(dict.fromkeys(check.name for check in results.controls))
    return [f"Checks for masked gradients, all passed: {names}."] if names else []


def _cells(network: records.NetworkRecord, attack: str) -> tuple[Interval | None, float | None]:
    """Success of an attack, and the mean distance of the successes."""
    found = outcomes.outcome(network, attack)
    if found is None:
        return None, None
    return Interval(found.percent, found.low, found.high), found.distance


def _details(results: records.Results, made: dict[str, str]) -> list[str]:
    """What each attack is and did."""
    readings = lookup.attacks_in(results)
    of_jsma = ("attacks", "robustness") if readings else ()
    of_norms = ("carlini_wagner", "transfer", "norm_attacks")
    return [
        *markdown.section(
            "The readings of JSMA",
            [passages.described_readings(readings), *(made[name] for name in of_jsma)],
        ),
        *markdown.section(
            "The other attacks",
            [
                passages.norm_attacks(results.networks),
                *(made[name] for name in of_norms if name in made),
            ],
        ),
        *markdown.section("Architecture", [made.get("architecture", "")]),
    ]


def _figure(name: str, drawn: Collection[str]) -> str:
    return markdown.figure(name, _CAPTIONS[name]) if name in drawn else ""


def settings(results: records.Results) -> dict[str, str]:
    """The settings of an evaluation, as text by name."""
    asked, dataset = results.config, results.dataset
    low, high = dataset.value_range
    attempts = {a.attempts for n in results.networks for a in n.readings.values()}
    text = {
        "dataset": f"{dataset.name}, {' x '.join(map(str, dataset.image_shape))}, "
        f"{len(dataset.class_names)} classes, {dataset.num_test} test images",
        "images": "in [0, 1]"
        if (low, high) == (0, 1)
        else f"brought from [{low:g}, {high:g}], which the network takes, to [0, 1]: epsilon, "
        "theta and distances are in these units",
        "SavedModel": " ".join(_models(results).values()),
        "preset": asked.preset,
        "seed": f"{asked.seed}",
        "attacked samples": f"{len(results.sample_indices)}, the first"
        + ("" if asked.misclassified else f" that {results.networks[0].name} gets right"),
        "attempts per network and attack": ", ".join(map(str, sorted(attempts))),
        "attempts per network and attack by norm": description.attempts_by_norm([results]),
        "JSMA": f"at most {asked.max_features} features, {description.theta(results)}"
        if attempts
        else "",
        "epsilon": f"{asked.epsilon:.6g}" if set(asked.attacks) & set(SIGN_ATTACKS) else "",
        "CPU threads per operation": description.threads(asked),
    }
    return {name: value for name, value in text.items() if value}
