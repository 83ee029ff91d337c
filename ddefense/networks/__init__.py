"""Networks by name, all Keras functional models: images -> logits -> TemperatureSoftmax.

To add one in the paper's style, add a line to the table in `paper.py`.
"""

from ddefense.networks.heads import (
    LOGITS,
    deployed,
    logits_of,
    temperature_of,
    trainable_copy,
    with_scaled_logits,
    with_temperature,
    without_softmax,
)
from ddefense.networks.inference import predict
from ddefense.networks.loading import load, load_own
from ddefense.networks.outlier_class import with_outlier_class
from ddefense.networks.paper import NAMES, build

__all__ = [
    "LOGITS",
    "NAMES",
    "build",
    "deployed",
    "load",
    "load_own",
    "logits_of",
    "predict",
    "temperature_of",
    "trainable_copy",
    "with_outlier_class",
    "with_scaled_logits",
    "with_temperature",
    "without_softmax",
]
