"""Defensive distillation: train, distil, attack, measure, export and report.

    pair = ddefense.distill(network, (images, labels), temperature=20, epochs=3)
    results = ddefense.evaluate(pair.distilled, (images, labels), attacks=("jsma_f",), samples=10)
    path = ddefense.export(pair.distilled, "exported_models/mine")

Importing this package is cheap: it loads no TensorFlow before one of these functions is used.
"""

import os
from typing import TYPE_CHECKING, Any

from ddefense.version import __version__

if TYPE_CHECKING:
    from ddefense.api import attack, distill, evaluate, export, report

__all__ = ["__version__", "attack", "distill", "evaluate", "export", "report"]


# Before TensorFlow is imported, which reads it then. On some processors (seen on one with AVX2
# alone) it leaves oneDNN out, and what it does instead rounds the softmax of a certain class to
# 0.99999994: gradients that are exactly 0 elsewhere are rounding errors there, and the same network
# would be judged differently.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def __getattr__(name: str) -> Any:
    """Imports the library on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ddefense import api

    return getattr(api, name)


def __dir__() -> list[str]:
    """Public names, those that were not imported yet included."""
    return sorted([*globals(), *__all__])
