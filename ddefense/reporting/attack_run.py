"""What `bin/attack` prints when it is done."""

from ddefense import records
from ddefense.reporting.tables.table import Cell, Column, Interval, Table, fixed
from ddefense.reporting.tables.verdict import MEANING_OF_A_FAIL

_UNITS = {"l0": "features", "l2": "L2", "linf": "L-infinity"}


def table(run: records.AttackRun) -> Table:
    """One row per attack: success, distance and attempts; below, what makes them doubtful."""
    columns = (
        Column("attack", "attack", text=True),
        Column("success_percent", "success %", fixed(1), kind=Interval),
        Column("mean_distance", "mean distance", fixed(3)),
        Column("unit", "in", text=True),
        Column("targets", "targets", text=True),
        Column("attempts", "attempts"),
        Column("started", "started there"),
        Column("over_all_percent", "over all %", fixed(1)),
    )
    rows: list[list[Cell]] = []
    for name, record in run.attacks.items():
        unit = _UNITS[record.norm]
        rows.append([name, *_cells(record, record.mean_distance, unit, record.targets)])
    temperature = "" if run.temperature is None else f", T = {run.temperature:g}"
    return Table(
        name="attacks",
        title=f"Attacks on {run.network} ({run.dataset}{temperature}), with 95 % intervals in "
        "brackets",
        columns=columns,
        rows=rows,
        notes=(
            f"Test accuracy {100 * run.test_accuracy:.2f} %. Distances are means over successes. "
            "Attempts that start where they aim at, because the network errs on the unchanged "
            "image, are counted in the last column alone.",
            *(() if run.model is None else (_model(run.model),)),
            *(f"WARNING: {warning}" for warning in run.warnings),
            *_checks(run.controls),
        ),
    )


def _model(model: records.SavedModelRecord) -> str:
    """What of a SavedModel was attacked."""
    text = f"Attacked: {model.outputs}, the output {model.output} of {model.signature}"
    return f"{text}, without gradients: {model.no_gradients}." if model.no_gradients else f"{text}."


def _checks(controls: list[records.ControlRecord]) -> list[str]:
    """Sentences on the checks for masked gradients: those that failed, or that none did."""
    failed = [check for check in controls if not check.passed]
    if failed:
        lines = [f"FAIL {check.name}: {check.explanation}" for check in failed]
        return [*lines, MEANING_OF_A_FAIL]
    names = ", ".join(check.name for check in controls)
    return [f"Checks for masked gradients, all passed: {names}."] if names else []


def _cells(
    record: records.SuccessRecord, distance: float | None, unit: str, targets: str
) -> list[Cell]:
    success = None
    if record.success_rate is not None and record.success_interval is not None:
        low, high = record.success_interval
        success = Interval(100 * record.success_rate, 100 * low, 100 * high)
    over_all = 100 * record.success_rate_over_all
    return [success, distance, unit, targets, record.attempts, record.started, over_all]
