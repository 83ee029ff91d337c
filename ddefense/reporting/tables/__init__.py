"""Tables of a run, one function each: results -> `Table`, written as CSV and as Markdown."""

from collections.abc import Callable

from ddefense import records
from ddefense.reporting.runs import Runs
from ddefense.reporting.tables import seeds
from ddefense.reporting.tables.attacks import attack_details, robustness, success
from ddefense.reporting.tables.claims import claims
from ddefense.reporting.tables.networks import confidence, gradients, training
from ddefense.reporting.tables.setup import architecture, training_parameters
from ddefense.reporting.tables.table import Cell, Column, Table, markdown_table

TABLES: tuple[Callable[[records.Results], Table], ...] = (
    claims,
    success,
    attack_details,
    training,
    gradients,
    robustness,
    confidence,
    architecture,
    training_parameters,
)
"""Every table, in the order of the report."""
TABLES_OF_SEEDS: tuple[Callable[[Runs], Table], ...] = (
    seeds.claims,
    seeds.success,
    seeds.networks,
    seeds.robustness,
    seeds.by_seed,
)
"""The same for several seeds."""

__all__ = ["TABLES", "TABLES_OF_SEEDS", "Cell", "Column", "Table", "markdown_table"]
