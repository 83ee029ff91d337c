"""What became of the networks: training, gradient amplitude (Fig. 9) and confidence."""

import math
from collections.abc import Iterable

from ddefense import markdown, records
from ddefense.reporting import lookup, published
from ddefense.reporting.tables.table import Cell, Column, Table, fixed

_NETWORK = Column("network", "network", text=True)


def training(results: records.Results) -> Table:
    """Accuracy and training of the initial and the distilled network per temperature."""
    undistilled = results.baseline().test_accuracy
    rows: list[list[Cell]] = []
    for network in results.networks:
        first, trained = network.initial, network.training
        change = None if network.defense == "none" else network.test_accuracy - undistilled
        rows.append(
            [
                lookup.row_label(results, network),
                None if first is None else 100 * first.test_accuracy,
                100 * network.test_accuracy,
                None if change is None else 100 * change,
                None if first is None else 100 * first.agreement,
                None if first is None else first.soft_labels.mean_entropy,
                None if first is None else first.logits.mean_abs,
                network.scale.mean_abs,
                network.scale.median_top_two_gap,
                trained.loss[-1] if trained is not None and trained.loss else None,
                None if first is None else first.training.stalled,
                None if trained is None else trained.stalled,
            ]
        )
    return Table(
        name="training",
        title="Accuracy and training",
        columns=(
            _NETWORK,
            Column("initial_accuracy_percent", "initial accuracy %", fixed(2)),
            Column("accuracy_percent", accuracy_heading([results]), fixed(2)),
            Column("accuracy_change_points", "change, points", _signed),
            Column("agreement_percent", "initial and distilled agree %", fixed(2)),
            Column("soft_label_entropy_nats", "soft-label entropy, nats", fixed(4)),
            Column("initial_logit_mean_abs", "initial mean abs(z)", fixed(1)),
            Column("logit_mean_abs", "mean abs(z)", fixed(1)),
            Column("median_top_two_gap", "median gap of the two largest z", fixed(1)),
            Column("last_loss_nats", "last training loss, nats", fixed(4)),
            Column("initial_stalled", "initial stalled"),
            Column("stalled", "stalled"),
        ),
        rows=rows,
        notes=(
            markdown.Markdown(
                "*Stalled*: the training loss stayed within 1 % of that of guessing, at the end of "
                "training or for its first 3,000 steps."
            ),
        ),
    )


def accuracy_heading(runs: Iterable[records.Results]) -> str:
    """What the accuracy of deployed networks is called beside that of initial ones."""
    further = any(results.yardstick() is not None for results in runs)
    return f"distilled (or undistilled{', or adversarially trained' if further else ''}) accuracy %"


def gradients(results: records.Results) -> Table:
    """Amplitude of adversarial gradients, deployed and at the training temperature."""
    reference = lookup.network_at(results, 1.0) or results.baseline()
    start = reference.amplitude.training.median_log10
    rows: list[list[Cell]] = []
    for network in results.networks:
        deployed, at_t = network.amplitude.deployed, network.amplitude.training
        # The claim is about T, which says nothing of an adversarially trained network.
        other = network.defense == "adversarial_training"
        expected = None if other else start - math.log10(network.temperature)
        rows.append(
            [
                lookup.row_label(results, network),
                deployed.median_log10,
                *(_quantile(deployed, position) for position in (0, -1)),
                deployed.float32_median_log10,
                100 * deployed.float32_zero_samples,
                100 * deployed.float32_zero_entries,
                at_t.median_log10,
                expected,
                None if expected is None else at_t.median_log10 - expected,
                deployed.samples,
            ]
        )
    return Table(
        name="gradients",
        title="Adversarial gradient amplitude: log10 of the mean abs(dF_i/dx_j) of an image",
        columns=(
            _NETWORK,
            Column("median_log10", "median, T = 1", fixed(2)),
            Column("q05_log10", "5 %", fixed(2)),
            Column("q95_log10", "95 %", fixed(2)),
            Column("float32_median_log10", "median in float32", fixed(2)),
            Column("float32_zero_samples_percent", "images all 0 in float32 %", fixed(1)),
            Column("float32_zero_entries_percent", "entries 0 in float32 %", fixed(1)),
            Column("training_median_log10", "median at training T", fixed(2)),
            Column("expected_by_1_over_t_log10", "expected by 1/T", fixed(2)),
            Column("excess_log10", "difference", _signed),
            Column("samples", "images"),
        ),
        rows=rows,
        notes=(
            markdown.Markdown(
                "The first columns see the deployed network at T = 1, in the log domain where "
                "nothing underflows; *median in float32* is `-` where it is exactly 0. The slides "
                "argue that amplitude falls as 1/T, which is about the network evaluated at its "
                f"training T: *expected by 1/T* starts from the {_reference_name(reference)}. "
                "That the paper's amplitude is this mean, and the ranges of the figure, are "
                "unverified."
            ),
        ),
    )


def confidence(results: records.Results) -> Table:
    """Confidence per network."""
    paper = published.CONFIDENCE if results.dataset.name == "cifar10" else {}
    rows: list[list[Cell]] = []
    for network in results.networks:
        known = paper.get(network.temperature) if network.defense == "distillation" else None
        rows.append(
            [
                lookup.row_label(results, network),
                None if known is None else known.value,
                100 * network.confidence,
                100 * network.test_accuracy,
            ]
        )
    return Table(
        name="confidence",
        title="Confidence: mean of max F_i(x) where the prediction is right, else 0",
        columns=(
            _NETWORK,
            Column("paper_unverified_percent", "paper % (unverified, CIFAR10 only)", fixed(2)),
            Column("confidence_percent", "confidence %", fixed(2)),
            Column("accuracy_percent", "accuracy %", fixed(2)),
        ),
        rows=rows,
        notes=("Confidence can never exceed accuracy by this definition.",),
    )


def _quantile(record: records.GradientRecord, position: int) -> float | None:
    return record.quantiles_log10[position] if record.quantiles_log10 else None


def _reference_name(network: records.NetworkRecord) -> str:
    if network.defense == "none":
        return "undistilled network (the run has no T = 1)"
    return "network distilled at T = 1"


def _signed(value: Cell) -> str:
    return f"{value:+.2f}" if isinstance(value, (int, float)) else str(value)
