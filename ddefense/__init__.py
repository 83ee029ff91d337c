"""Defensive distillation: train, distil, attack, measure and report.

Importing this package is cheap: it loads no TensorFlow. Import the subpackage you need, such as
`ddefense.distillation` or `ddefense.attacks`.
"""

from ddefense.version import __version__

__all__ = ["__version__"]
