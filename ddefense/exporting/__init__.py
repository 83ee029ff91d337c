"""Exporting T = 1 networks as SavedModels that TF Serving loads."""

from ddefense.exporting.saved_model import Exported, ExportError, export_for_serving

__all__ = ["ExportError", "Exported", "export_for_serving"]
