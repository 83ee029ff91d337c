"""The training loop: compiled GradientTape steps, a finite-loss guard, resumable by epoch."""

from ddefense.training.history import History
from ddefense.training.loop import TrainingSettings, fit
from ddefense.training.steps import Perturb, make_train_steps

__all__ = ["History", "Perturb", "TrainingSettings", "fit", "make_train_steps"]
