"""Exporting T = 1 networks as SavedModels that TF Serving loads."""

from ddefense.exporting.checksums import ChecksumError
from ddefense.exporting.saved_model import Exported, ExportError, export_for_serving, versions

__all__ = ["ChecksumError", "ExportError", "Exported", "export_for_serving", "versions"]
