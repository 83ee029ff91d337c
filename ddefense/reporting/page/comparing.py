"""The page of a comparison: several runs side by side, in one file."""

from typing import Any

from ddefense.reporting import comparability
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
        claims=tables.claims(comparison),
        verdicts=comparison_lib.verdicts(comparison),
        data=templating.data(
            {
                "runs": labels,
                "networks": comparison.networks(),
                "measures": [_measure(measure) for measure in found],
            }
        ),
    )


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
