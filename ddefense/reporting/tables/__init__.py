"""Tables of a run, one function each: results -> `Table`, written as CSV and as Markdown.

A function gives None where the run did not measure what its table shows.
"""

from collections.abc import Callable

from ddefense import records
from ddefense.reporting.runs import Runs
from ddefense.reporting.tables import evaluation, seeds
from ddefense.reporting.tables.attacks import attack_details, robustness, success
from ddefense.reporting.tables.claims import claims
from ddefense.reporting.tables.networks import confidence, gradients, training
from ddefense.reporting.tables.norm_attacks import carlini_wagner, norm_attacks, transfer
from ddefense.reporting.tables.outliers import outliers
from ddefense.reporting.tables.setup import architecture, training_parameters
from ddefense.reporting.tables.table import Cell, Column, Table
from ddefense.reporting.tables.verdict import controls, costs, verdict

TABLES: tuple[Callable[[records.Results], Table | None], ...] = (
    verdict,
    costs,
    claims,
    success,
    attack_details,
    carlini_wagner,
    transfer,
    norm_attacks,
    controls,
    training,
    gradients,
    robustness,
    confidence,
    architecture,
    training_parameters,
)
"""Every table, in the order of the report."""
TABLES_OF_EVALUATION: tuple[Callable[[records.Results], Table | None], ...] = (
    verdict,
    outliers,
    evaluation.networks,
    attack_details,
    robustness,
    carlini_wagner,
    transfer,
    norm_attacks,
    controls,
    architecture,
)
"""The same for networks that the run did not train."""
TABLES_OF_SEEDS: tuple[Callable[[Runs], Table | None], ...] = (
    seeds.verdict,
    seeds.claims,
    seeds.success,
    seeds.networks,
    seeds.robustness,
    seeds.by_seed,
)
"""The same for several seeds."""


def of_run(results: records.Results) -> list[Table]:
    """Every table that a run has data for, in the order of the report."""
    makers = TABLES_OF_EVALUATION if results.is_evaluation else TABLES
    return [table for make in makers if (table := make(results)) is not None]


def of_seeds(runs: Runs) -> list[Table]:
    """The same for several seeds."""
    return [table for make in TABLES_OF_SEEDS if (table := make(runs)) is not None]


__all__ = [
    "TABLES",
    "TABLES_OF_EVALUATION",
    "TABLES_OF_SEEDS",
    "Cell",
    "Column",
    "Table",
    "of_run",
    "of_seeds",
]
