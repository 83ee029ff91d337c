"""Defensive distillation: initial network -> soft labels -> distilled network.

Its successor, `extended`, makes the soft labels of the initial network's uncertainty.
"""

from ddefense.distillation.extended import (
    outlier_labels,
    outlier_labels_by_window,
    uncertainty,
)
from ddefense.distillation.labels import check_soft_labels, hard_labels, soft_labels
from ddefense.distillation.pair import Histories, Pair, make_soft_labels
from ddefense.distillation.soft_label_files import SoftLabelFiles

__all__ = [
    "Histories",
    "Pair",
    "SoftLabelFiles",
    "check_soft_labels",
    "hard_labels",
    "make_soft_labels",
    "outlier_labels",
    "outlier_labels_by_window",
    "soft_labels",
    "uncertainty",
]
