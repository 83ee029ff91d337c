"""Measurements of a trained network, each a small function (network, data) -> record.

To add one: a function here, a field in `ddefense.records`, a table or figure in
`ddefense.reporting`.
"""

from ddefense.measurements.amplitude import gradient_amplitude, zero_jacobians
from ddefense.measurements.architecture import architecture
from ddefense.measurements.controls import (
    iterative_beats_one_step,
    random_restarts,
    scaled_logits,
    unbounded_reaches_all,
    zero_gradients,
    zero_share,
)
from ddefense.measurements.cost import costs
from ddefense.measurements.counting import comparisons
from ddefense.measurements.outlier_rates import outlier_rates, outlier_record
from ddefense.measurements.predictions import (
    accuracy,
    agreement,
    confidence,
    logit_scale,
    soft_label_summary,
    soft_labels_by_window,
)
from ddefense.measurements.success import (
    Outcome,
    judge,
    probabilities_of,
    robustness,
    success_record,
    transfer_record,
)
from ddefense.measurements.verdict import verdict

__all__ = [
    "Outcome",
    "accuracy",
    "agreement",
    "architecture",
    "comparisons",
    "confidence",
    "costs",
    "gradient_amplitude",
    "iterative_beats_one_step",
    "judge",
    "logit_scale",
    "outlier_rates",
    "outlier_record",
    "probabilities_of",
    "random_restarts",
    "robustness",
    "scaled_logits",
    "soft_label_summary",
    "soft_labels_by_window",
    "success_record",
    "transfer_record",
    "unbounded_reaches_all",
    "verdict",
    "zero_gradients",
    "zero_jacobians",
    "zero_share",
]
