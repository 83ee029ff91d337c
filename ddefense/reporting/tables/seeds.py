"""Tables over several seeds: mean and spread of what one run's tables show."""

import dataclasses
from collections.abc import Callable

from ddefense import markdown, records
from ddefense.reporting import claims as claims_lib
from ddefense.reporting import lookup, outcomes, published, spread
from ddefense.reporting.runs import Measure, Runs
from ddefense.reporting.spread import Spread
from ddefense.reporting.tables.claims import sources
from ddefense.reporting.tables.networks import accuracy_heading
from ddefense.reporting.tables.table import Cell, Column, Table, fixed, percent_of
from ddefense.reporting.tables.verdict import part_of, what_counts

_NETWORK = Column("network", "network", text=True)
_READING = (
    "Numbers are mean +- sample standard deviation [smallest, largest] over the seeds at which the "
    "network learnt; with one such seed there is no deviation."
)


def claims(runs: Runs) -> Table:
    """In how many seeds each claim holds, and the spread of its value."""
    answers = {seed: claims_lib.answers(results) for seed, results in runs.by_seed.items()}
    rows: list[list[Cell]] = []
    for found in zip(*answers.values(), strict=True):
        claim = found[0].claim
        by_seed = dict(zip(answers, found, strict=True))
        values = [a.answer.value for a in found if a.answer.holds != "inconclusive"]
        rows.append(
            [
                claim.id,
                claim.statement,
                claim.paper,
                claim.source,
                _holds(found),
                _seeds(by_seed, "at a loss"),
                _seeds(by_seed, "no"),
                _seeds(by_seed, "inconclusive"),
                claim.quantity,
                spread.over(values),
                claim.acceptance,
                _remarks(by_seed),
            ]
        )
    return Table(
        name="claims",
        title="Claims of the paper, and what these seeds say",
        columns=(
            Column("claim", "", text=True),
            Column("statement", "claim", text=True),
            Column("paper", "published", text=True),
            Column("source", "source", text=True),
            Column("holds", "holds at", text=True),
            Column("at_a_loss_at", "holds at a loss of accuracy at seeds", text=True),
            Column("fails_at", "fails at seeds", text=True),
            Column("inconclusive_at", "inconclusive at seeds", text=True),
            Column("quantity", "value", text=True),
            Column("value", "ours", fixed(2), kind=Spread),
            Column("acceptance", "counts as holding", text=True),
            Column("note", "remarks", text=True),
        ),
        rows=rows,
        notes=(
            f"Sources: {sources(a.claim for a in next(iter(answers.values())))}. Values are "
            "mean +- sample standard deviation [smallest, largest] over the seeds at which the "
            "claim was measured. Remarks are those that all seeds share, losses of accuracy, and "
            "what could not be judged at some.",
            claims_lib.ORIENTATION,
        ),
    )


def verdict(runs: Runs) -> Table | None:
    """Accuracy and success of every attack per network; None for seeds without a verdict."""
    if all(results.verdict is None for results in runs.by_seed.values()):
        return None
    found = runs.all_networks()
    attacks = outcomes.attacks_in(found)
    return Table(
        name="verdict",
        title="Success of every attack over seeds, %",
        columns=(
            _NETWORK,
            _learnt(runs),
            _spread("accuracy_percent", "accuracy %", 2),
            *(
                dataclasses.replace(
                    _spread(f"{attack}_percent", f"{outcomes.label(found, attack)} %", 1),
                    part=part_of(attack),
                )
                for attack in attacks
            ),
        ),
        rows=[
            [
                lookup.network_label(network),
                len(runs.learnt(name)),
                runs.spread(name, lambda _, network: 100 * network.test_accuracy),
                *(runs.spread(name, _percent(attack)) for attack in attacks),
            ]
            for name, network in runs.networks().items()
        ],
        notes=(_READING, *what_counts(found, attacks)),
    )


def _percent(attack: str) -> Measure:
    def measure(_: records.Results, network: records.NetworkRecord) -> float | None:
        found = outcomes.outcome(network, attack)
        return None if found is None else found.percent

    return measure


def success(runs: Runs) -> Table:
    """Adversarial success rate per network and attack beside the paper's."""
    dataset = runs.first.dataset.name
    columns = [
        _NETWORK,
        _learnt(runs),
        Column("paper_percent", f"{published.label(dataset)} %", fixed(2)),
    ]
    for attack in runs.attacks():
        heading = f"{lookup.attack_label(attack)} %"
        columns.append(Column(f"{attack}_percent", heading, fixed(2), kind=Spread))
    rows = []
    for name, network in runs.networks().items():
        row: list[Cell] = [
            lookup.network_label(network),
            len(runs.learnt(name)),
            published.success_percent(dataset, network.defense, network.temperature),
        ]
        row += [runs.spread(name, _success(attack)) for attack in runs.attacks()]
        rows.append(row)
    which = "those that its own undistilled network gets right first"
    if runs.first.config.misclassified:
        which = "the same, misclassified ones among them"
    return Table(
        name="success_rate",
        title="Adversarial success rate (Fig. 7) over seeds",
        columns=columns,
        rows=rows,
        notes=(f"{_READING} Each seed attacks {len(runs.first.sample_indices)} samples, {which}.",),
    )


def networks(runs: Runs) -> Table:
    """Accuracy, confidence, scale of the logits and gradient amplitude per network."""
    measures: list[tuple[Column, Measure]] = [
        (_spread("initial_accuracy_percent", "initial accuracy %", 2), _initial_accuracy),
        (
            _spread("accuracy_percent", accuracy_heading(runs.by_seed.values()), 2),
            lambda _, n: 100 * n.test_accuracy,
        ),
        (_spread("confidence_percent", "confidence %", 2), lambda _, n: 100 * n.confidence),
        (_spread("logit_mean_abs", "mean abs(z)", 1), lambda _, n: n.scale.mean_abs),
        (
            _spread("median_log10", "median log10 amplitude, T = 1", 2),
            lambda _, n: n.amplitude.deployed.median_log10,
        ),
    ]
    return Table(
        name="networks",
        title="Accuracy, confidence, logits and gradient amplitude over seeds",
        columns=(_NETWORK, _learnt(runs), *(column for column, _ in measures)),
        rows=[
            [
                lookup.network_label(network),
                len(runs.learnt(name)),
                *(runs.spread(name, measure) for _, measure in measures),
            ]
            for name, network in runs.networks().items()
        ],
        notes=(_READING,),
    )


def robustness(runs: Runs) -> Table:
    """Mean minimal distortion per network and attack."""
    rows: list[list[Cell]] = []
    for name, network in runs.networks().items():
        for attack in runs.attacks():
            if any(attack in found.robustness for _, found in runs.pairs(name)):
                rows.append(
                    [
                        lookup.network_label(network),
                        attack,
                        len(runs.learnt(name)),
                        runs.spread(name, _robustness(attack, lambda r: r.capped)),
                        runs.spread(name, _gain(attack)),
                        runs.spread(name, _robustness(attack, lambda r: r.uncapped)),
                        runs.spread(name, _robustness(attack, lambda r: r.unreached)),
                    ]
                )
    return Table(
        name="robustness",
        title="Robustness: mean minimal distortion in percent of the features (Fig. 10) over seeds",
        columns=(
            _NETWORK,
            Column("attack", "attack", text=True),
            _learnt(runs),
            _spread("capped_percent", "capped %", 2),
            _spread("gain_percent", "gain %", 0),
            _spread("uncapped_percent", "uncapped %", 2),
            _spread("unreached_percent", "samples never reached %", 1),
        ),
        rows=rows,
        notes=(
            markdown.Markdown(
                f"{_READING} *Capped* counts failures at the budget, as the paper's numbers "
                "imply; *gain* is over the undistilled network of the same seed; *uncapped* "
                "leaves out seeds at which no sample was reached."
            ),
        ),
    )


def by_seed(runs: Runs) -> Table:
    """What the means are made of, networks that did not learn included."""
    rows: list[list[Cell]] = []
    for seed, results in runs.by_seed.items():
        for network in results.networks:
            rows.append(
                [
                    seed,
                    lookup.row_label(results, network),
                    _initial_accuracy(results, network),
                    100 * network.test_accuracy,
                    100 * network.confidence,
                    network.scale.mean_abs,
                    network.amplitude.deployed.median_log10,
                    *(lookup.success_percent(network, attack) for attack in runs.attacks()),
                ]
            )
    return Table(
        name="by_seed",
        title="Every network of every seed",
        columns=(
            Column("seed", "seed"),
            _NETWORK,
            Column("initial_accuracy_percent", "initial accuracy %", fixed(2)),
            Column("accuracy_percent", "accuracy %", fixed(2)),
            Column("confidence_percent", "confidence %", fixed(2)),
            Column("logit_mean_abs", "mean abs(z)", fixed(1)),
            Column("median_log10", "median log10 amplitude, T = 1", fixed(2)),
            *(
                Column(f"{attack}_percent", f"{lookup.attack_label(attack)} %", fixed(2))
                for attack in runs.attacks()
            ),
        ),
        rows=rows,
    )


def _learnt(runs: Runs) -> Column:
    return Column("learnt_seeds", f"learnt at, of {len(runs.by_seed)} seeds")


def _spread(key: str, heading: str, digits: int) -> Column:
    return Column(key, heading, fixed(digits), kind=Spread)


def _success(attack: str) -> Measure:
    return lambda _, network: lookup.success_percent(network, attack)


def _initial_accuracy(_: records.Results, network: records.NetworkRecord) -> float | None:
    return None if network.initial is None else 100 * network.initial.test_accuracy


def _robustness(attack: str, value: Callable[[records.RobustnessRecord], float | None]) -> Measure:
    def measure(_: records.Results, network: records.NetworkRecord) -> float | None:
        record = network.robustness.get(attack)
        return None if record is None else percent_of(value(record))

    return measure


def _gain(attack: str) -> Measure:
    def measure(results: records.Results, network: records.NetworkRecord) -> float | None:
        baseline = results.baseline()
        compared = results.comparison(attack, network, baseline)
        if compared is None or not lookup.usable(results, baseline):
            return None
        return lookup.robustness_gain(compared)

    return measure


def _holds(found: tuple[claims_lib.Answered, ...]) -> str:
    measured = [answer for answer in found if answer.answer.holds != "inconclusive"]
    if not measured:
        return "inconclusive"
    count = sum(answer.answer.holds == "yes" for answer in found)
    bought = sum(answer.answer.holds == "at a loss" for answer in found)
    text = f"{count} of {len(found)} seeds"
    if bought:
        text += f", {bought} at a loss of accuracy"
    return f"{text} (orientation)" if found[0].orientation else text


def _seeds(by_seed: dict[int, claims_lib.Answered], holds: str) -> str | None:
    return ", ".join(f"{seed}" for seed, a in by_seed.items() if a.answer.holds == holds) or None


def _remarks(by_seed: dict[int, claims_lib.Answered]) -> str:
    """Notes that all seeds share, losses of accuracy, and what could not be judged at some."""
    notes = {seed: answer.answer.note.split("; ") for seed, answer in by_seed.items()}
    first, *others = notes.values()
    shared = [note for note in first if note and all(note in other for other in others)]
    own: dict[str, list[int]] = {}
    for seed, answer in by_seed.items():
        for note in notes[seed]:
            unjudged = answer.answer.holds == "inconclusive" or "did not learn" in note
            if note and note not in shared and (unjudged or note.startswith("at a loss of")):
                own.setdefault(note, []).append(seed)
    parts = [f"seed {', '.join(map(str, seeds))}: {note}" for note, seeds in own.items()]
    return "; ".join(shared + parts)
