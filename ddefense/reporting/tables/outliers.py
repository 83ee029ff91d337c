"""What a network with an outlier class does with clean and with adversarial images."""

from ddefense import markdown, records
from ddefense.reporting import lookup, outcomes
from ddefense.reporting.tables.table import Cell, Column, Interval, Table, fixed

_RATES = ("recovery", "detection", "success", "other")
_MEANING = markdown.Markdown(
    "*Recovery* is the share of adversarial images that get the class of the image they were made "
    "from, *detection* that of those which get the outlier class, *success* that of those which "
    "get the target (without targets: any wrong class but that for outliers), *other* the rest; in "
    "brackets 95 % intervals. An attack that gives up leaves the image as it was, which counts as "
    "recovery. FGSM and PGD without targets do not know of the outlier class, and may end there; "
    "the others aim past it. Bounds of an attack, such as epsilon, are not looked at here."
)


def outliers(results: records.Results) -> Table | None:
    """One row per attack; None where no network has an outlier class."""
    found = [(n, n.outliers) for n in results.networks if n.outliers is not None]
    if not found:
        return None
    rows: list[list[Cell]] = [
        [
            lookup.row_label(results, network),
            outcomes.label(results.networks, attack),
            "targeted" if record.targeted else "untargeted",
            record.attempts,
            *(_interval(record, rate) for rate in _RATES),
        ]
        for network, outlier in found
        for attack in outcomes.attacks_in([network])
        if (record := outlier.attacks.get(attack)) is not None
    ]
    return Table(
        name="outliers",
        title="Recovery, detection and success with the outlier class, %",
        columns=(
            Column("network", "network", text=True),
            Column("attack", "attack", text=True),
            Column("targets", "targets", text=True),
            Column("attempts", "attempts"),
            *(Column(f"{rate}_percent", rate, fixed(1), kind=Interval) for rate in _RATES),
        ),
        rows=rows,
        notes=(*(_clean(outlier) for _, outlier in found), _MEANING),
    )


def _interval(record: records.OutlierAttackRecord, rate: str) -> Interval:
    low, high = getattr(record, f"{rate}_interval")
    return Interval(100 * getattr(record, rate), 100 * low, 100 * high)


def _clean(found: records.OutlierRecord) -> str:
    """What it does with clean images."""
    accepted = ""
    if found.accuracy_of_accepted is not None:
        accepted = f" Of those not refused {100 * found.accuracy_of_accepted:.2f} % are right."
    return (
        f"Of {found.images} clean test images {100 * found.accuracy:.2f} % get their class, "
        f"{100 * found.false_detections:.2f} % are refused as outliers, and "
        f"{100 * found.errors:.2f} % get a wrong class.{accepted}"
    )
