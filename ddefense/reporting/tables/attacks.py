"""What the attacks did: success per temperature (Fig. 7), details, and robustness (Fig. 10)."""

import dataclasses
import math

from ddefense import markdown, records
from ddefense.reporting import lookup, outcomes, published
from ddefense.reporting.tables.table import Cell, Column, Interval, Table, fixed, percent_of

_NETWORK = Column("network", "network", text=True)


def success(results: records.Results) -> Table:
    """Adversarial success rate per network: the paper's and every reading of JSMA."""
    attacks = lookup.attacks_in(results)
    label = published.label(results.dataset.name)
    columns = [
        _NETWORK,
        Column("accuracy_percent", "accuracy %", fixed(2)),
        Column("paper_percent", f"{label} %", fixed(2)),
    ]
    for attack in attacks:
        heading = f"{lookup.attack_label(attack)} %"
        columns.append(Column(f"{attack}_percent", heading, fixed(2), kind=Interval))
    rows = []
    for network in results.networks:
        row: list[Cell] = [
            lookup.row_label(results, network),
            100 * network.test_accuracy,
            published.success_percent(results.dataset.name, network.defense, network.temperature),
        ]
        for attack in attacks:
            found = outcomes.outcome(network, attack)
            row.append(None if found is None else Interval(found.percent, found.low, found.high))
        rows.append(row)
    return Table(
        name="success_rate",
        title="Adversarial success rate (Fig. 7), with 95 % bootstrap intervals in brackets",
        columns=columns,
        rows=rows,
        notes=(
            "The paper does not say which reading of JSMA-F its authors ran, nor which images "
            "they attacked. Their percentages are k / 900 (S2).",
            _started(results),
            f"{len(results.sample_indices)} samples. An interval of no width (0 or 100 %) is no "
            "certainty: resampling cannot show what no sample did. By the rule of three the rate "
            f"may lie up to {min(100.0, 300 / len(results.sample_indices)):.0f} points from it.",
        ),
    )


def _started(results: records.Results) -> str:
    """What the rates leave out, and what the paper's attack gets with it, as a sentence."""
    found = [
        f"{lookup.row_label(results, network)} {record.started} of "
        f"{record.attempts + record.started} ({lookup.attack_label(attack)} over all attempts: "
        f"{100 * record.success_rate_over_all:.2f} %)"
        for network in results.networks
        for attack, record in list(network.readings.items())[:1]
        if record.started
    ]
    if not found:
        return "No attempt starts in its target, so the rates are over all attempts."
    return (
        "Attempts that start in their target, because the network errs on the unchanged image, are "
        f"left out: {'; '.join(found)}. The paper does not say whether it counts them."
    )


def attack_details(results: records.Results) -> Table:
    """One row per network and attack: counts, distortion and why failures stopped."""
    rows: list[list[Cell]] = []
    features = math.prod(results.dataset.image_shape)
    for network in results.networks:
        for attack in lookup.attacks_in(results):
            record = network.readings.get(attack)
            if record is not None:
                distance = record.mean_distance
                rows.append(
                    [
                        lookup.row_label(results, network),
                        attack,
                        record.settings["theta"],
                        record.successes,
                        record.attempts,
                        record.started,
                        100 * record.success_rate_over_all,
                        percent_of(distance if distance is None else distance / features),
                        distance,
                        record.details["no_admissible_pair"],
                        record.details["zero_maps"],
                        record.details["steps"],
                    ]
                )
    return Table(
        name="attacks",
        title="What each attack did",
        columns=(
            _NETWORK,
            Column("attack", "attack", text=True),
            Column("theta", "theta"),
            Column("successes", "successes"),
            Column("attempts", "attempts"),
            Column("started", "started in target"),
            Column("over_all_percent", "success over all attempts %", fixed(2)),
            Column("mean_distortion_percent", "mean distortion %", fixed(2)),
            Column("mean_features", "mean features changed", fixed(1)),
            Column("no_admissible_pair", "no admissible pair"),
            Column("zero_maps", "zero maps"),
            Column("steps", "steps"),
        ),
        rows=rows,
        notes=(
            markdown.Markdown(
                "Distortion is the mean over successes. *Zero maps* are those failures without an "
                "admissible pair in which the forward derivative was zero throughout. *Started in "
                "target* are attempts on images that the network takes for the target unchanged; "
                "only *over all attempts* counts them."
            ),
        ),
    )


def robustness(results: records.Results) -> Table:
    """Mean minimal distortion per network and attack, as the paper counts it and without cap."""
    undistilled = lookup.undistilled(results)
    theirs = published.ROBUSTNESS[published.reference(results.dataset.name)]
    of_paper = (
        f"The {published.label(results.dataset.name)}: capped "
        f"{theirs[0].value:g} -> {theirs[1].value:g} %, undistilled to best T (unverified)."
    )
    rows: list[list[Cell]] = []
    for network in results.networks:
        for attack in lookup.attacks_in(results):
            record = network.robustness.get(attack)
            if record is not None:
                compared = None
                if undistilled is not None:
                    compared = results.comparison(attack, network, undistilled)
                rows.append(
                    [
                        lookup.row_label(results, network),
                        attack,
                        100 * record.capped,
                        None if compared is None else lookup.robustness_gain(compared),
                        None if compared is None else _largest_gain(record, compared),
                        percent_of(record.uncapped),
                        100 * record.unreached,
                        100 * record.cap,
                    ]
                )
    return Table(
        name="robustness",
        title="Robustness: mean minimal distortion in percent of the features"
        + ("" if results.is_evaluation else " (Fig. 10)"),
        columns=(
            _NETWORK,
            Column("attack", "attack", text=True),
            Column("capped_percent", "capped %", fixed(2)),
            Column("gain_percent", "gain %", fixed(0)),
            Column("largest_gain_percent", "largest possible gain %", fixed(0)),
            Column("uncapped_percent", "uncapped %", fixed(2)),
            Column("unreached_percent", "samples never reached %", fixed(1)),
            Column("cap_percent", "cap %", fixed(2)),
        ),
        rows=rows,
        notes=(
            markdown.Markdown(
                "*Capped* counts failures at the budget, as the paper's numbers imply, and so can "
                "never exceed the cap: it restates failures of the attack and is no distance to "
                "the decision boundary. *Uncapped* is the mean over the samples that were "
                "reached. *Gain* is over the undistilled network, on the attempts that start in "
                "their target on neither."
            ),
            *(() if results.is_evaluation else (of_paper,)),
        ),
    )


def _largest_gain(
    record: records.RobustnessRecord, compared: records.ComparisonRecord
) -> float | None:
    return lookup.robustness_gain(dataclasses.replace(compared, robustness=record.cap))
