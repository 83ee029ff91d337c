"""The page of a run: HTML that a reader understands in a minute and can dig into."""

from ddefense.reporting.page.gallery import BUDGET, Gallery, of_samples
from ddefense.reporting.page.writing import write

__all__ = ["BUDGET", "Gallery", "of_samples", "write"]
