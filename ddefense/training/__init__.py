"""The training loop: compiled GradientTape steps, a finite-loss guard, resumable by epoch."""

from ddefense.training.devices import check_devices, check_splits
from ddefense.training.history import History
from ddefense.training.loop import fit
from ddefense.training.objective import Objective, balanced_class_weights
from ddefense.training.optimizers import copy_of, excluded_from_decay
from ddefense.training.settings import TrainingOptions, TrainingSettings
from ddefense.training.steps import Perturb, make_train_steps
from ddefense.training.windows import Labels

__all__ = [
    "History",
    "Labels",
    "Objective",
    "Perturb",
    "TrainingOptions",
    "TrainingSettings",
    "balanced_class_weights",
    "check_devices",
    "check_splits",
    "copy_of",
    "excluded_from_decay",
    "fit",
    "make_train_steps",
]
