"""What `bin/distill` prints when it is done: the two networks side by side."""

from ddefense import evidence, records
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
        _row(f"{role}{_not_learnt(record, trained)}", trained, batches)
        for role, trained in zip(roles, (record.initial, record.distilled), strict=True)
    ]
    if record.given_accuracy is not None:
        rows.insert(0, ["as given", 100 * record.given_accuracy, *[None] * (len(columns) - 2)])
    how = f"at T = {record.settings['temperature']:g}"
    if record.method == "extended":
        how = "with an outlier class"
    return Table(
        name="distillation",
        title=f"{record.network} distilled {how} on {record.dataset.name}",
        columns=columns,
        rows=rows,
        notes=(*_loss(record), *_best(record), *_notes(record), _WARNING),
    )


def _not_learnt(record: records.DistillationRecord, trained: records.TrainedRecord) -> str:
    """That a network is no better than guessing, if it was tested; else empty."""
    if trained.test_accuracy is None:
        return ""
    images, classes = record.dataset.num_test, len(record.dataset.class_names)
    learnt = evidence.learnt([trained.test_accuracy], images=images, classes=classes)
    return "" if learnt else " (did not learn)"


def _loss(record: records.DistillationRecord) -> list[str]:
    """What the distilled network lost in accuracy against the first one, if anything."""
    before, after = record.initial.test_accuracy, record.distilled.test_accuracy
    loss = "" if before is None or after is None else evidence.loss_in_words(before - after)
    first = "initial network" if record.student is None else "teacher"
    return [f"{loss.capitalize()} against the {first}."] if loss else []


def _best(record: records.DistillationRecord) -> list[str]:
    """That the network as given is better than both that were trained, if it is."""
    trained = (record.initial.test_accuracy, record.distilled.test_accuracy)
    given = record.given_accuracy
    if given is None or any(accuracy is None or accuracy >= given for accuracy in trained):
        return []
    return ["The network as given has the highest test accuracy."]


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
