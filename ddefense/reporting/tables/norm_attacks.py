"""Attacks measured by a norm: settings and counts, Carlini & Wagner's cases, and transfer."""

from ddefense import markdown, records
from ddefense.reporting import lookup, outcomes, published
from ddefense.reporting.tables.table import (
    Cell,
    Column,
    Interval,
    Reached,
    Table,
    fixed,
    percent_of,
)

_NETWORK = Column("network", "network", text=True)
_CASES = ("best", "average", "worst")
_COLOUR = " L0 counts features, a colour channel each; theirs may count pixels."
_SOURCE = (
    "Published are mean distances of Carlini and Wagner (2017) over 1,000 images, "
    f"undistilled and at T = {published.CARLINI_WAGNER_TEMPERATURE:g}, with "
    f"{published.CARLINI_WAGNER_SUCCESS.value:g} % success (N: "
    f"{published.Source.NOTES.description}; the unverified ones are from memory)."
)


def norm_attacks(results: records.Results) -> Table | None:
    """One row per network and attack: settings, counts and distances; None without any."""
    rows: list[list[Cell]] = []
    for network in results.networks:
        for attack in outcomes.attacks_in(results.networks):
            record = network.norm_attacks.get(attack)
            if record is not None:
                rows.append(
                    [
                        lookup.row_label(results, network),
                        attack,
                        record.targets,
                        record.samples,
                        record.successes,
                        record.attempts,
                        record.started,
                        100 * record.success_rate_over_all,
                        outcomes.NORMS[record.norm],
                        record.mean_distance,
                        record.median_distance,
                        _settings(record),
                    ]
                )
    if not rows:
        return None
    return Table(
        name="norm_attacks",
        title="Attacks measured by a norm",
        columns=(
            _NETWORK,
            Column("attack", "attack", text=True),
            Column("targets", "targets", text=True),
            Column("samples", "images"),
            Column("successes", "successes"),
            Column("attempts", "attempts"),
            Column("started", "started there"),
            Column("over_all_percent", "success over all attempts %", fixed(1)),
            Column("norm", "norm", text=True),
            Column("mean_distance", "mean distance", _distance),
            Column("median_distance", "median distance", _distance),
            Column("settings", "settings", text=True),
        ),
        rows=rows,
        notes=(
            markdown.Markdown(
                "*Attempts* do not start where they aim at. Those that do, because the network "
                "errs on the unchanged image, are *started there*; only *over all attempts* "
                "counts them. Distances are over the successes."
            ),
        ),
    )


def _settings(record: records.AttackRecord) -> str:
    return ", ".join(
        f"{name} = {outcomes.setting(value)}" for name, value in record.settings.items()
    )


def _distance(value: Cell) -> str:
    return outcomes.significant(value) if isinstance(value, (int, float)) else str(value)


def carlini_wagner(results: records.Results) -> Table | None:
    """Best, average and worst case per network, and the published ones; None without any.

    Nothing was published of the networks of an evaluation.
    """
    rows: list[list[Cell]] = []
    published_cases = () if results.is_evaluation else _CASES
    for attack in published.CARLINI_WAGNER[published.reference(results.dataset.name)]:
        for network in results.networks:
            record = network.norm_attacks.get(attack)
            if record is not None:
                theirs = _published(results.dataset.name, network, attack)
                rows.append(
                    [
                        outcomes.label(results.networks, attack),
                        lookup.row_label(results, network),
                        record.samples,
                        record.attempts,
                        *(_case(getattr(record, case)) for case in _CASES),
                        *(
                            None if theirs is None else str(getattr(theirs, case))
                            for case in published_cases
                        ),
                    ]
                )
    if not rows:
        return None
    colour = _COLOUR if results.dataset.image_shape[-1] > 1 else ""
    theirs_label = "published" + published.label(results.dataset.name).removeprefix("paper")
    return Table(
        name="carlini_wagner",
        title="Carlini and Wagner's attacks: share of images reached, %, at their mean distance",
        columns=(
            Column("attack", "attack", text=True),
            _NETWORK,
            Column("samples", "images"),
            Column("attempts", "attempts"),
            *(Column(case, f"{case} case", fixed(1), kind=Reached) for case in _CASES),
            *(Column(f"published_{c}", f"{theirs_label}, {c}", text=True) for c in published_cases),
        ),
        rows=rows,
        notes=(
            markdown.Markdown(
                "*Best*, *average* and *worst*: the easiest, one random and the hardest of an "
                "image's targets; *average* is the same target on every network. Best and worst "
                "need every target, and `-` is one random target. A distance is the mean over the "
                "images reached in that case."
            ),
            *((_SOURCE + colour,) if published_cases else ()),
        ),
    )


def _case(case: records.CaseRecord | None) -> Reached | None:
    if case is None or case.success_rate is None:
        return None
    return Reached(100 * case.success_rate, case.mean_distance)


def _published(dataset: str, network: records.NetworkRecord, attack: str) -> published.Cases | None:
    """Theirs for a network, if they attacked one like it."""
    undistilled, distilled = published.CARLINI_WAGNER[published.reference(dataset)][attack]
    if network.defense == "none":
        return undistilled
    like = network.temperature == published.CARLINI_WAGNER_TEMPERATURE
    return distilled if network.defense == "distillation" and like else None


def transfer(results: records.Results) -> Table | None:
    """Replayed samples of a substitute per network and confidence; None without any."""
    rows: list[list[Cell]] = [
        [
            lookup.row_label(results, network),
            record.kappa,
            record.samples,
            record.started,
            100 * record.crafted,
            _interval(record),
            percent_of(record.reached),
            record.mean_distance,
        ]
        for network in results.networks
        for record in network.transfer
    ]
    if not rows:
        return None
    return Table(
        name="transfer",
        title="Transfer of C&W L2 from an undistilled substitute, by confidence kappa",
        columns=(
            _NETWORK,
            Column("kappa", "kappa"),
            Column("samples", "images"),
            Column("started", "wrong unchanged"),
            Column("crafted_percent", "fool the substitute %", fixed(1)),
            Column("misclassified", "misclassified %", fixed(1), kind=Interval),
            Column("reached_percent", "target reached %", fixed(1)),
            Column("mean_distance", "mean L2", _distance),
        ),
        rows=rows,
        notes=(
            markdown.Markdown(
                "One random target each; in brackets 95 % bootstrap intervals. Shares of what is "
                "misclassified or reached leave out the images that the network gets *wrong "
                "unchanged*. The attacker sees nothing of the attacked network, and trains the "
                "substitute without any defence. Carlini and Wagner (2017) report about 100 % on "
                f"distilled networks from kappa = {published.TRANSFER_KAPPA.value:g} on (N)."
            ),
        ),
    )


def _interval(record: records.TransferRecord) -> Interval | None:
    if record.misclassified is None or record.misclassified_interval is None:
        return None
    low, high = record.misclassified_interval
    return Interval(100 * record.misclassified, 100 * low, 100 * high)
