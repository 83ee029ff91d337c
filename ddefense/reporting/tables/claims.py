"""The claims as a table: the paper beside this run."""

from collections.abc import Iterable

from ddefense import evidence, records
from ddefense.reporting import claims as claims_lib
from ddefense.reporting import published
from ddefense.reporting.tables.table import Column, Table


def claims(results: records.Results) -> Table:
    """Every claim that applies to the run's dataset, with the verdict."""
    answers = claims_lib.answers(results)
    return Table(
        name="claims",
        title="Claims of the paper, and what this run says",
        columns=(
            Column("claim", "", text=True),
            Column("statement", "claim", text=True),
            Column("paper", "published", text=True),
            Column("source", "source", text=True),
            Column("ours", "ours", text=True),
            Column("holds", "holds", text=True),
            Column("difference", "difference", text=True),
            Column("acceptance", "counts as holding", text=True),
            Column("note", "remarks", text=True),
        ),
        rows=[
            [
                answer.claim.id,
                answer.claim.statement,
                answer.claim.paper,
                answer.claim.source,
                answer.answer.ours,
                _holds(answer),
                answer.answer.difference,
                answer.claim.acceptance,
                answer.answer.note,
            ]
            for answer in answers
        ],
        notes=(
            f"Sources: {sources(a.claim for a in answers)}. Differences are ours minus theirs.",
            claims_lib.ORIENTATION,
        ),
    )


def sources(claims: Iterable[claims_lib.Claim]) -> str:
    """What the source tags of the claims stand for."""
    tags = {tag for claim in claims for tag in claim.source.split(", ")}
    return "; ".join(f"{s.value}: {s.description}" for s in published.Source if s.value in tags)


def _holds(answer: claims_lib.Answered) -> str:
    verdict = answer.answer
    measured = verdict.holds != "inconclusive"
    bought = verdict.holds == "at a loss"
    told = f"yes, at {evidence.loss_in_words(verdict.lost)}" if bought else verdict.holds
    return told + (" (orientation)" if answer.orientation and measured else "")
