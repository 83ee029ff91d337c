"""Defensive distillation: initial network -> soft labels -> distilled network.

Its successor, `extended`, makes the soft labels of the initial network's uncertainty. The steps in
their order are stages of `ddefense.experiments`.
"""

from ddefense.distillation.extended import outlier_labels, outlier_labels_by_window
from ddefense.distillation.labels import check_soft_labels, hard_labels, soft_labels
from ddefense.distillation.network_pair import Histories, Pair

__all__ = [
    "Histories",
    "Pair",
    "check_soft_labels",
    "hard_labels",
    "outlier_labels",
    "outlier_labels_by_window",
    "soft_labels",
]
