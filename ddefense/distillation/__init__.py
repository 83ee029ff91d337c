"""Defensive distillation: initial network -> soft labels -> distilled network."""

from ddefense.distillation.labels import hard_labels, soft_labels

__all__ = ["hard_labels", "soft_labels"]
