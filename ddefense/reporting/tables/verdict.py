"""What the defence is worth: every attack on every network, checks of gradients, and costs."""

from collections.abc import Sequence

from ddefense import markdown, records
from ddefense.attack_catalog import ITERATIVE
from ddefense.reporting import lookup, outcomes
from ddefense.reporting.outcomes import Outcome
from ddefense.reporting.tables.table import Cell, Column, Table, fixed

_NETWORK = Column("network", "network", text=True)
PARTS = (
    "Attacks that see the softmax at T = 1",
    "Attacks that know the defence, or need no softmax",
)
"""Captions of the two tables into which the attacks are too many for one."""

MEANING_OF_A_FAIL = markdown.Markdown(
    "A FAIL is no strength of the network: it says that attacks by gradients through its softmax "
    f"tell nothing (`random_restarts`: that one start of `{ITERATIVE}` tells too little)."
)
"""What stands below failed checks for masked gradients."""


def verdict(results: records.Results) -> Table | None:
    """Accuracy and every attack per network; None for results without a verdict."""
    if results.verdict is None:
        return None
    attacks = outcomes.attacks_in(results.networks)
    return Table(
        name="verdict",
        title="Success of every attack, %, and mean distance of the successes, with 95 % bootstrap "
        "intervals in brackets",
        columns=(
            _NETWORK,
            Column("accuracy_percent", "accuracy %", fixed(2)),
            *(
                Column(
                    attack,
                    f"{outcomes.label(results.networks, attack)}, %\n"
                    f"at mean {outcomes.norm(results.networks, attack)}",
                    fixed(1),
                    kind=Outcome,
                    part=part_of(attack),
                )
                for attack in attacks
            ),
        ),
        rows=[
            [
                lookup.row_label(results, network),
                100 * network.test_accuracy,
                *(outcomes.outcome(network, attack) for attack in attacks),
            ]
            for network in results.networks
        ],
        notes=_notes(results, attacks),
    )


def part_of(attack: str) -> str:
    """In which of the two tables an attack stands."""
    return PARTS[attack not in outcomes.THROUGH_SOFTMAX]


def _notes(results: records.Results, attacks: Sequence[str]) -> tuple[str, ...]:
    notes = [
        markdown.Markdown(
            "*n* counts attempts. An interval of no width is no certainty: resampling cannot show "
            "what no sample did; by the rule of three, a rate of 0 or 100 % from s samples may "
            "lie up to 300 / s points from it. Distances are in units of the images (L2, Linf) or "
            "counts of features (L0), and those of attacks that do not seek a small one say "
            "nothing about the network."
        ),
        *what_counts(results.networks, attacks),
    ]
    if any(not network.attacks for network in results.networks):
        notes.append(markdown.Markdown("A row of `-` was not attacked."))
    return tuple(notes)


def what_counts(networks: Sequence[records.NetworkRecord], attacks: Sequence[str]) -> list[str]:
    """Which attacks count any wrong class as success: their rates are higher for it."""
    easier = [
        outcomes.label(networks, attack)
        for attack in attacks
        if outcomes.any_wrong_class(networks, attack)
    ]
    if not easier:
        return []
    return [
        f"Success is the target class, but any wrong class for: {'; '.join(easier)}. Compare rates "
        "down a column, not along a row."
    ]


def costs(results: records.Results) -> Table | None:
    """Accuracy and training time per network; None without an adversarially trained one."""
    if results.yardstick() is None:
        return None
    undistilled = results.baseline()
    reference = _seconds(results, undistilled)
    rows: list[list[Cell]] = []
    for network in results.networks:
        seconds = _seconds(results, network)
        change = 100 * (network.test_accuracy - undistilled.test_accuracy)
        rows.append(
            [
                lookup.row_label(results, network),
                100 * network.test_accuracy,
                None if network.defense == "none" else change,
                seconds,
                seconds / reference if seconds is not None and reference else None,
                ", ".join(_stages(results, network)),
            ]
        )
    return Table(
        name="costs",
        title="What it costs",
        columns=(
            _NETWORK,
            Column("accuracy_percent", "accuracy %", fixed(2)),
            Column("accuracy_change_points", "change, points", _signed),
            Column("training_seconds", "training time", _duration),
            Column("times_undistilled", "times undistilled", fixed(2)),
            Column("stages", "stages counted", text=True),
        ),
        rows=rows,
        notes=(
            "The time of every training that a network needs, counted in full for each of those "
            "that share it. Times are wall-clock times of this run, whatever else the machine did.",
        ),
    )


def _signed(value: Cell) -> str:
    return f"{value:+.2f}" if isinstance(value, (int, float)) else str(value)


def _duration(value: Cell) -> str:
    return lookup.duration(value) if isinstance(value, (int, float)) else str(value)


def _seconds(results: records.Results, network: records.NetworkRecord) -> float | None:
    """Seconds of training; None where the run did not record one of the stages."""
    found = [results.timings.get(stage) for stage in _stages(results, network)]
    known = [seconds for seconds in found if seconds is not None]
    return sum(known) if len(known) == len(found) else None


def _stages(results: records.Results, network: records.NetworkRecord) -> list[str]:
    """Names of the stages from which a network came."""
    if network.defense == "none":
        return [network.name]
    undistilled = results.baseline().name
    if network.defense == "adversarial_training":
        return [undistilled, network.name]
    tag = f"t{network.temperature:g}"
    if network.training is None or not network.training.warm_start_steps:
        # At T = 1 the undistilled network is the initial one: it was trained in the same way.
        initial = undistilled if network.temperature == 1 else f"initial_{tag}"
        return [initial, f"soft_labels_{tag}", network.name]
    return ["warm_start", f"initial_{tag}", f"soft_labels_{tag}", network.name]


def controls(results: records.Results) -> Table | None:
    """Every check for masked gradients; None for a run without any."""
    if not results.controls:
        return None
    return Table(
        name="controls",
        title="Checks for masked gradients",
        columns=(
            Column("check", "check", text=True),
            _NETWORK,
            Column("value_percent", "value %", fixed(1)),
            Column("limit_percent", "limit %", fixed(1)),
            Column("samples", "images"),
            Column("passed", "result", _result, text=True),
            Column("explanation", "explanation", text=True),
        ),
        rows=[
            [
                check.name,
                lookup.checked(results, check),
                100 * check.value,
                100 * check.limit,
                check.samples,
                check.passed,
                check.explanation,
            ]
            for check in results.controls
        ],
        notes=(MEANING_OF_A_FAIL,),
    )


def _result(passed: Cell) -> str:
    return "pass" if passed else "FAIL"
