"""The training loop: compiled GradientTape steps, a finite-loss guard, resumable by epoch."""

from ddefense.training.history import History
from ddefense.training.loop import TrainingSettings, fit
from ddefense.training.steps import make_train_steps

__all__ = ["History", "TrainingSettings", "fit", "make_train_steps"]
