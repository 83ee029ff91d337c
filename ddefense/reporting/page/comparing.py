"""The page of a comparison: several runs side by side, in one file."""

from typing import Any

from ddefense.reporting import claims, comparability
from ddefense.reporting import comparison as comparison_lib
from ddefense.reporting.comparison import Comparison, Measure
from ddefense.reporting.page import templating
from ddefense.reporting.tables import comparison as tables


def write(comparison: Comparison) -> str:
    """The page of a comparison.

    Args:
        comparison: of the runs.

    Returns:
        HTML with its style, script and data inside.
    """
    labels = [run.label for run in comparison.runs]
    found = comparison_lib.measures(comparison)
    return templating.rendered(
        "comparison.html.jinja",
        title=f"Comparison: {', '.join(labels)}",
        warnings=comparability.warnings(comparison),
        about=tables.about(comparison),
        settings=tables.settings(comparison),
        measures=tables.measures(comparison),
        claims=_claims(comparison),
        verdicts=comparison_lib.verdicts(comparison),
        data=templating.data(
            {
                "runs": labels,
                "networks": comparison.networks(),
                "measures": [_measure(measure) for measure in found],
            }
        ),
    )


def _claims(comparison: Comparison) -> dict[str, Any] | None:
    """The table of claims, with a word for the colour of every answer."""
    table = tables.claims(comparison)
    if table is None:
        return None
    return {
        "title": table.title,
        "headings": [column.heading for column in table.columns],
        "notes": table.notes,
        "rows": [
            {
                "claim": row.claim,
                "answers": [
                    answer
                    and {
                        "kind": claims.KINDS[answer.holds],
                        "words": tables.answer_in_words(answer),
                        "orientation": answer.orientation and answer.holds != "inconclusive",
                        "value": tables.answer_in_numbers(row.claim, answer),
                    }
                    for answer in row.answers
                ],
            }
            for row in comparison_lib.claims(comparison)
        ],
    }


def _measure(measure: Measure) -> dict[str, Any]:
    return {
        "network": measure.network,
        "name": measure.name,
        "label": measure.label,
        "values": [
            found
            and {
                "value": found.value,
                "low": found.low,
                "high": found.high,
                "learnt": found.learnt,
                "text": tables.shown(measure, found),
            }
            for found in measure.values
        ],
    }
