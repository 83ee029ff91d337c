"""Exporting T = 1 networks as SavedModels that TF Serving loads."""

from ddefense.exporting.card import (
    REFUSES,
    Findings,
    card_of,
    findings_in,
    findings_of,
    notes,
    weights_of,
)
from ddefense.exporting.existing import adopt, check_weights, is_export_of
from ddefense.exporting.saved_model import Exported, ExportError, check, export_for_serving

__all__ = [
    "REFUSES",
    "ExportError",
    "Exported",
    "Findings",
    "adopt",
    "card_of",
    "check",
    "check_weights",
    "export_for_serving",
    "findings_in",
    "findings_of",
    "is_export_of",
    "notes",
    "weights_of",
]
