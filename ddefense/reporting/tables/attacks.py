"""What the attacks did: success per temperature (Fig. 7), details, and robustness (Fig. 10)."""

from ddefense import records
from ddefense.reporting import lookup, published
from ddefense.reporting.tables.table import Cell, Column, Interval, Table, fixed, percent_of

_NETWORK = Column("network", "network", text=True)


def success(results: records.Results) -> Table:
    """Adversarial success rate per network: the paper's and every reading of JSMA."""
    attacks = lookup.attacks_in(results)
    label = published.label(results.dataset.name)
    columns = [_NETWORK, Column("paper_percent", f"{label} %", fixed(2))]
    for attack in attacks:
        heading = f"{lookup.attack_label(attack)} %"
        columns.append(Column(f"{attack}_percent", heading, fixed(2), kind=Interval))
    rows = []
    for network in results.networks:
        row: list[Cell] = [
            lookup.row_label(results, network),
            published.success_percent(results.dataset.name, network.defense, network.temperature),
        ]
        for attack in attacks:
            record = network.attacks.get(attack)
            row.append(None if record is None else _interval(record))
        rows.append(row)
    return Table(
        name="success_rate",
        title="Adversarial success rate (Fig. 7), with 95 % bootstrap intervals in brackets",
        columns=columns,
        rows=rows,
        notes=(
            "The paper does not say which reading of JSMA-F its authors ran, nor which images "
            "they attacked. Their percentages are k / 900 (S2).",
            f"{len(results.sample_indices)} samples. An interval of no width (0 or 100 %) is no "
            "certainty: resampling cannot show what no sample did. By the rule of three the rate "
            f"may lie up to {min(100.0, 300 / len(results.sample_indices)):.0f} points from it.",
        ),
    )


def _interval(record: records.AttackRecord) -> Interval:
    low, high = record.success_interval
    return Interval(100 * record.success_rate, 100 * low, 100 * high)


def attack_details(results: records.Results) -> Table:
    """One row per network and attack: counts, distortion and why failures stopped."""
    rows: list[list[Cell]] = []
    for network in results.networks:
        for attack in lookup.attacks_in(results):
            record = network.attacks.get(attack)
            if record is not None:
                rows.append(
                    [
                        lookup.row_label(results, network),
                        attack,
                        record.theta,
                        record.successes,
                        record.attempts,
                        record.already_target,
                        percent_of(record.mean_distortion),
                        record.mean_features,
                        record.no_admissible_pair,
                        record.zero_maps,
                        record.steps,
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
            Column("already_target", "already target"),
            Column("mean_distortion_percent", "mean distortion %", fixed(2)),
            Column("mean_features", "mean features changed", fixed(1)),
            Column("no_admissible_pair", "no admissible pair"),
            Column("zero_maps", "zero maps"),
            Column("steps", "steps"),
        ),
        rows=rows,
        notes=(
            "Distortion is the mean over successes. *Zero maps* are those failures without an "
            "admissible pair in which the forward derivative was zero throughout; *already "
            "target* are successes with no feature changed.",
        ),
    )


def robustness(results: records.Results) -> Table:
    """Mean minimal distortion per network and attack, as the paper counts it and without cap."""
    undistilled = lookup.undistilled(results)
    before = {} if undistilled is None else undistilled.robustness
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
                reference = before.get(attack)
                rows.append(
                    [
                        lookup.row_label(results, network),
                        attack,
                        100 * record.capped,
                        gain(record.capped, reference),
                        gain(record.cap, reference),
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
            "*Capped* counts failures at the budget, as the paper's numbers imply, and so can "
            "never exceed the cap: it restates failures of the attack and is no distance to the "
            "decision boundary. *Uncapped* is the mean over the samples that were reached.",
            *(() if results.is_evaluation else (of_paper,)),
        ),
    )


def gain(value: float, reference: records.RobustnessRecord | None) -> float | None:
    """Gain over the undistilled network's capped robustness in percent; None if that is 0."""
    if reference is None or reference.capped <= 0:
        return None
    return 100 * (value / reference.capped - 1)
