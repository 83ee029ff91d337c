"""Pages of HTML: of a run, to understand in a minute and to dig into; of several runs."""

from ddefense.reporting.page.comparing import write as write_comparison
from ddefense.reporting.page.gallery import BUDGET, Gallery, of_samples
from ddefense.reporting.page.writing import write

__all__ = ["BUDGET", "Gallery", "of_samples", "write", "write_comparison"]
