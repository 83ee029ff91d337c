"""What was measured on the networks of an evaluation, without attacking them."""

from ddefense import markdown, records
from ddefense.reporting import lookup
from ddefense.reporting.tables.table import Cell, Column, Table, fixed


def networks(results: records.Results) -> Table:
    """Accuracy, confidence, scale of the logits and gradient amplitude per network."""
    rows: list[list[Cell]] = []
    for network in results.networks:
        scale = network.logits
        deployed = None if network.gradients is None else network.gradients.deployed
        rows.append(
            [
                lookup.row_label(results, network),
                100 * network.test_accuracy,
                100 * network.confidence,
                *((None,) * 2 if scale is None else (scale.mean_abs, scale.median_top_two_gap)),
                *((None,) * 4 if deployed is None else _amplitude(deployed)),
            ]
        )
    return Table(
        name="networks",
        title="The networks, deployed at T = 1",
        columns=(
            Column("network", "network", text=True),
            Column("accuracy_percent", "accuracy %", fixed(2)),
            Column("confidence_percent", "confidence %", fixed(2)),
            Column("logit_mean_abs", "mean abs(z)", fixed(1)),
            Column("median_top_two_gap", "median gap of the two largest z", fixed(1)),
            Column("median_log10", "gradient amplitude, log10", fixed(2)),
            Column("float32_median_log10", "the same in float32", fixed(2)),
            Column("float32_zero_samples_percent", "images all 0 in float32 %", fixed(1)),
            Column("samples", "images"),
        ),
        rows=rows,
        notes=(
            markdown.Markdown(
                "*Confidence* is the mean of max F_i(x) where the prediction is right, else 0. "
                "*Gradient amplitude* is the median over images of the mean abs(dF_i/dx_j), "
                "computed where nothing underflows; where float32 sees 0, attacks by gradients "
                "through the softmax see nothing."
            ),
        ),
    )


def _amplitude(deployed: records.GradientRecord) -> tuple[float | None, ...]:
    return (
        deployed.median_log10,
        deployed.float32_median_log10,
        100 * deployed.float32_zero_samples,
        deployed.samples,
    )
