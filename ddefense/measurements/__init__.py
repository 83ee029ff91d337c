"""Measurements of a trained network, each a small function (network, data) -> record.

To add one: a function here, a field in `ddefense.records`, a table or figure in
`ddefense.reporting`.
"""

from ddefense.measurements.amplitude import gradient_amplitude
from ddefense.measurements.architecture import architecture
from ddefense.measurements.attack_success import judge, robustness, success_record
from ddefense.measurements.predictions import (
    accuracy,
    agreement,
    confidence,
    logit_scale,
    soft_label_summary,
)

__all__ = [
    "accuracy",
    "agreement",
    "architecture",
    "confidence",
    "gradient_amplitude",
    "judge",
    "logit_scale",
    "robustness",
    "soft_label_summary",
    "success_record",
]
