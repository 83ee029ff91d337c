"""What `bin/distill` prints when it is done: the two networks side by side."""

from ddefense import records
from ddefense.reporting.tables.table import Cell, Column, Table, fixed

_WARNING = (
    "Defensive distillation is broken by adaptive attacks: measure this network with bin/evaluate "
    "before you say that it resists anything."
)
_OF_EXTENDED = (
    "The distilled network has one class more, the last one, by which it refuses images; a test "
    "image that is refused counts as wrong here. bin/evaluate takes it with --outlier_class."
)


def table(record: records.DistillationRecord) -> Table:
    """Accuracy, training, size and latency of both networks, one row each."""
    batches = sorted(record.initial.cost.latency_seconds)
    columns = (
        Column("network", "network", text=True),
        Column("test_accuracy_percent", "test accuracy %", fixed(2)),
        Column("epochs", "epochs"),
        Column("final_loss", "last loss", fixed(4)),
        Column("parameters", "parameters"),
        Column("megabytes", "weights, MB", fixed(2)),
        *(
            Column(f"latency_{size}_ms", f"ms for {size} image{'s' * (size > 1)}", fixed(2))
            for size in batches
        ),
    )
    roles = ("initial", "distilled") if record.student is None else ("teacher", "student")
    rows = [
        _row(role, trained, batches)
        for role, trained in zip(roles, (record.initial, record.distilled), strict=True)
    ]
    how = f"at T = {record.settings['temperature']:g}"
    if record.method == "extended":
        how = "with an outlier class"
    return Table(
        name="distillation",
        title=f"{record.network} distilled {how} on {record.dataset.name}",
        columns=columns,
        rows=rows,
        notes=(*_notes(record), _WARNING),
    )


def _row(role: str, trained: records.TrainedRecord, batches: list[int]) -> list[Cell]:
    accuracy, training, cost = trained.test_accuracy, trained.training, trained.cost
    return [
        role,
        None if accuracy is None else 100 * accuracy,
        training.epochs,
        training.loss[-1] if training.loss else None,
        cost.parameters,
        cost.weight_bytes / 1e6,
        *(1000 * cost.latency_seconds[size] for size in batches),
    ]


def _notes(record: records.DistillationRecord) -> list[str]:
    soft = record.soft_labels
    notes = [
        f"The soft labels have a mean entropy of {soft.mean_entropy:.3g} nats; the largest "
        f"probability is the true class for {100 * soft.agreement_with_hard:.2f} % of the "
        f"{record.dataset.num_train} training images."
    ]
    if record.agreement is not None:
        notes.append(
            f"Both networks predict the same class on {100 * record.agreement:.2f} % of the "
            f"{record.dataset.num_test} test images."
        )
    if record.method == "extended":
        notes.append(_OF_EXTENDED)
    if record.student is not None:
        old, new = record.initial.cost, record.distilled.cost
        faster = [
            f"{old.latency_seconds[size] / new.latency_seconds[size]:.2f} times as fast on {size}"
            for size in sorted(old.latency_seconds)
        ]
        notes.append(
            f"The student has {new.parameters / old.parameters:.3f} times the parameters of its "
            f"teacher; it is {' and '.join(faster)} images at a time."
        )
    return notes
