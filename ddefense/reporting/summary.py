"""What a run says at its end: one row per network, few columns."""

from ddefense import records
from ddefense.reporting import lookup, outcomes
from ddefense.reporting.runs import Measure, Runs
from ddefense.reporting.tables.table import Cell, Column, Interval, Table, fixed


def of_run(results: records.Results) -> Table:
    """Accuracy and the most telling attacks on every network, with 95 % intervals over samples.

    Args:
        results: of a run.

    Returns:
        The table.
    """
    attacks = outcomes.telling(outcomes.attacks_in(results.networks))
    return Table(
        name="summary",
        title=lookup.after_losses(
            f"Success of attacks on {results.dataset.name}, %, with 95 % intervals in brackets",
            {lookup.row_label(results, n): lookup.lost(results, n) for n in results.networks},
        ),
        columns=_columns(attacks, Interval),
        rows=[
            [
                lookup.row_label(results, network),
                100 * network.test_accuracy,
                *(_success(network, attack) for attack in attacks),
            ]
            for network in results.networks
        ],
    )


def of_seeds(runs: Runs) -> Table:
    """The same over several seeds: mean, smallest and largest of those at which a network learnt.

    Args:
        runs: of the seeds.

    Returns:
        The table.
    """
    attacks = outcomes.telling(outcomes.attacks_in(runs.all_networks()))
    seeds = ", ".join(map(str, runs.by_seed))
    losses = {name: runs.spread(name, lookup.lost) for name in runs.networks()}
    return Table(
        name="summary",
        title=lookup.after_losses(
            f"Success of attacks on {runs.first.dataset.name}, %, mean over seeds {seeds}, with "
            "smallest and largest in brackets",
            {
                runs.label(name): None if lost is None else lost.mean
                for name, lost in losses.items()
            },
        ),
        columns=_columns(attacks, None),
        rows=[
            [
                runs.label(name),
                runs.spread(name, lambda _, found: 100 * found.test_accuracy),
                *(runs.spread(name, _measure(attack)) for attack in attacks),
            ]
            for name, network in runs.networks().items()
        ],
    )


def _columns(attacks: list[str], kind: type[Interval] | None) -> list[Column]:
    return [
        Column("network", "network", text=True),
        Column("accuracy_percent", "accuracy %", fixed(2)),
        *(
            Column(attack, f"{lookup.attack_label(attack)} %", fixed(1), kind=kind)
            for attack in attacks
        ),
    ]


def _success(network: records.NetworkRecord, attack: str) -> Cell:
    found = outcomes.outcome(network, attack)
    return None if found is None else Interval(found.percent, found.low, found.high)


def _measure(attack: str) -> Measure:
    def percent(_: records.Results, network: records.NetworkRecord) -> float | None:
        found = outcomes.outcome(network, attack)
        return None if found is None else found.percent

    return percent
