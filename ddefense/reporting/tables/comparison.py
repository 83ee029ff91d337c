"""Tables of a comparison: wide ones to read, with a column per run, and long ones as CSV."""

from collections.abc import Mapping, Sequence

from ddefense.reporting import comparability
from ddefense.reporting import comparison as comparison_lib
from ddefense.reporting.claims import ORIENTATION, WORDS, Claim
from ddefense.reporting.comparison import ComparedRun, Comparison, Measure, Measured, RunAnswer
from ddefense.reporting.tables.claims import sources
from ddefense.reporting.tables.table import Cell, Column, Table

HOLDS: dict[str, str] = {**WORDS, "differs": "differs"}
"""How tables call the answers of a run to a claim."""
_STARRED = (
    "* The claim was made on other data than the run's, so the answer neither confirms nor refutes "
    "it."
)
_BRACKETS = (
    "Brackets are 95 % bootstrap intervals over samples; in a column of several seeds a number is "
    "the mean over the seeds at which the network learnt, with the smallest and the largest in "
    "brackets."
)
_ROBUSTNESS = (
    "Robustness is the mean minimal distortion in percent of the features, and counts failures at "
    "the budget."
)
_AMPLITUDE = (
    "Gradient amplitude is the median over images of the mean abs(dF_i/dx_j) at T = 1, computed "
    "where nothing underflows."
)


def about(comparison: Comparison) -> Table:
    """What each run is."""
    rows = comparability.about(comparison)
    return _by_name("comparison_runs", "The runs", "run", rows, comparison.runs)


def settings(comparison: Comparison) -> Table:
    """The settings in which the runs differ; what they share is in a note."""
    found = comparability.settings(comparison)
    same = "; ".join(f"{name} {value}" for name, value in found.shared.items())
    return _by_name(
        "comparison_settings",
        "Settings that differ",
        "setting",
        found.differing,
        comparison.runs,
        notes=(f"The same in all, where it concerns them: {same}.",) if same else (),
    )


def _by_name(
    name: str,
    title: str,
    heading: str,
    rows: Mapping[str, tuple[str, ...]],
    runs: Sequence[ComparedRun],
    notes: tuple[str, ...] = (),
) -> Table:
    return Table(
        name=name,
        title=title,
        columns=(Column("name", heading, text=True), *_columns(runs, text=True)),
        rows=[[key, *values] for key, values in rows.items()],
        notes=notes,
    )


def _columns(runs: Sequence[ComparedRun], *, text: bool) -> list[Column]:
    return [Column(run.label, run.label, text=text) for run in runs]


def measures(comparison: Comparison, *, brief: bool = False) -> Table:
    """What was measured on each network, to read.

    Args:
        comparison: of the runs.
        brief: whether only accuracy, the most telling attacks and all-zero Jacobians are shown.

    Returns:
        One row per network and quantity.
    """
    rows = [row for row in comparison_lib.measures(comparison) if row.brief or not brief]
    return Table(
        name="comparison",
        title="The networks",
        columns=(
            Column("network", "network", text=True),
            Column("measure", "measured", text=True),
            *_columns(comparison.runs, text=False),
        ),
        rows=[
            [
                row.network,
                row.label,
                *(shown(row, value) for value in row.values),
            ]
            for row in rows
        ],
        notes=(
            f"{_BRACKETS} An interval of no width (0 or 100 %) is no certainty. Distances are "
            "means over the successes: features that JSMA changed; the norm of other attacks, at "
            "one random target per image where they have targets."
            + ("" if brief else f" {_ROBUSTNESS} {_AMPLITUDE}"),
        ),
    )


def shown(row: Measure, found: Measured | None) -> str | None:
    """One value as text, such as `88.4 [86.0, 90.8]`; None for none."""
    if found is None:
        return None
    text = row.show(found.value)
    if found.low is not None and found.high is not None:
        text += f" [{row.show(found.low)}, {row.show(found.high)}]"
    return text if found.learnt else f"{text} (did not learn)"


def measures_as_data(comparison: Comparison) -> Table:
    """The same, one row per network, quantity and run: for a program to read."""
    rows: list[list[Cell]] = []
    for row in comparison_lib.measures(comparison):
        for run, found in zip(comparison.runs, row.values, strict=True):
            if found is not None:
                several = len(run.runs.by_seed) > 1
                interval = "smallest and largest" if several else "95 % over samples"
                rows.append(
                    [
                        run.label,
                        row.network,
                        row.name,
                        row.attack or None,
                        row.unit,
                        found.value,
                        found.low,
                        found.high,
                        None if found.low is None else interval,
                        found.seeds,
                        found.learnt,
                    ]
                )
    keys = ("run", "network", "measure", "attack", "unit", "value", "low", "high")
    return _data("comparison", "What was measured", (*keys, "interval", "seeds", "learnt"), rows)


def claims(comparison: Comparison, *, brief: bool = False) -> Table | None:
    """The claims of the paper and of later work, to read.

    Args:
        comparison: of the runs.
        brief: whether only the answers are shown, without numbers.

    Returns:
        One row per claim; None where no run answers any.
    """
    found = comparison_lib.claims(comparison)
    if not found:
        return None
    made_on_other = any(a is not None and a.orientation for row in found for a in row.answers)
    return Table(
        name="comparison_claims",
        title="The paper's claims",
        columns=(
            Column("claim", "", text=True),
            Column("statement", "claim", text=True),
            Column("paper", "published", text=True),
            *_columns(comparison.runs, text=True),
        ),
        rows=[
            [
                row.claim.id,
                row.claim.statement,
                row.claim.paper,
                *(_answered(row.claim, answer, brief) for answer in row.answers),
            ]
            for row in found
        ],
        notes=(
            *(() if brief else (f"Sources: {sources(row.claim for row in found)}.",)),
            *((_STARRED if brief else ORIENTATION,) if made_on_other else ()),
        ),
    )


def _answered(claim: Claim, answer: RunAnswer | None, brief: bool) -> str | None:
    """The answer of a run to a claim as text, such as `holds: 0.00 % (0/900)`; None for none.

    In brief it is the answer alone, with a star where the claim was made on other data.
    """
    if answer is None:
        return None
    text = answer_in_words(answer)
    if answer.orientation and answer.holds != "inconclusive":
        text += " *" if brief else " (orientation)"
    value = None if brief else answer_in_numbers(claim, answer)
    return text if value is None else f"{text}: {value}"


def answer_in_words(answer: RunAnswer) -> str:
    """The answer of a run to a claim, such as `holds`, or `holds at 2 of 3 seeds`."""
    if answer.words:
        return answer.words
    told = answer.yes + answer.at_a_loss + answer.no
    if not told:
        return HOLDS[answer.holds]
    text = f"holds at {answer.yes} of {told + answer.unknown} seeds"
    if answer.at_a_loss:
        text += f", {answer.at_a_loss} at a loss of accuracy"
    return f"{text}, {answer.unknown} cannot tell" if answer.unknown else text


def answer_in_numbers(claim: Claim, answer: RunAnswer) -> str | None:
    """What a run has for a claim, such as `0.00 % (0/900)`; None without a number."""
    if answer.ours != "-":
        return answer.ours
    found = answer.value
    if found is None or found.low is None or found.high is None:
        return None
    return f"{claim.quantity} {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def claims_as_data(comparison: Comparison) -> Table:
    """The same, one row per claim and run: for a program to read."""
    rows: list[list[Cell]] = []
    for row in comparison_lib.claims(comparison):
        for run, answer in zip(comparison.runs, row.answers, strict=True):
            if answer is not None:
                value = answer.value
                rows.append(
                    [
                        run.label,
                        row.claim.id,
                        row.claim.statement,
                        row.claim.paper,
                        row.claim.source,
                        HOLDS[answer.holds],
                        answer.orientation,
                        row.claim.quantity,
                        None if value is None else value.value,
                        None if value is None else value.low,
                        None if value is None else value.high,
                        answer.yes,
                        answer.at_a_loss,
                        answer.no,
                        answer.unknown,
                        answer.note or None,
                    ]
                )
    keys = ("run", "claim", "statement", "published", "source", "answer", "orientation", "quantity")
    numbers = ("value", "low", "high")
    seeds = ("seeds_yes", "seeds_at_a_loss", "seeds_no", "seeds_cannot_tell")
    columns = (*keys, *numbers, *seeds, "remarks")
    return _data("comparison_claims", "The paper's claims", columns, rows)


def _data(name: str, title: str, keys: tuple[str, ...], rows: list[list[Cell]]) -> Table:
    return Table(name=name, title=title, columns=[Column(key, key) for key in keys], rows=rows)
