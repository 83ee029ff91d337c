"""Networks by name, all Keras functional models: images -> logits -> TemperatureSoftmax.

To add one in the paper's style, add a line to the table in `paper.py`.
"""

from ddefense.networks.finite import NO_CLASS, check_finite, predicted_classes
from ddefense.networks.heads import (
    LOGITS,
    deployed,
    logits_of,
    saving_lambdas,
    temperature_of,
    trainable_copy,
    unused_name,
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
    "NO_CLASS",
    "build",
    "check_finite",
    "deployed",
    "load",
    "load_own",
    "logits_of",
    "predict",
    "predicted_classes",
    "saving_lambdas",
    "temperature_of",
    "trainable_copy",
    "unused_name",
    "with_outlier_class",
    "with_scaled_logits",
    "with_temperature",
    "without_softmax",
]
