"""Attacks on a network, given as a Keras model or as any differentiable function.

JSMA is Papernot's crafting framework in two parts: a direction-sensitivity estimate
(`forward_derivative`) and a perturbation selection (`jsma`).

To add a reading of JSMA, add a line to the table in `forward_derivative.py`; to add another
attack, write a module whose function takes a `Classifier`, images, labels, targets and bounds and
returns adversarial images; then name it in `ddefense.config` and `ddefense.experiments.attacking`.
"""

from ddefense.attacks.classifier import Classifier, classifier
from ddefense.attacks.forward_derivative import ForwardDerivative, forward_derivative
from ddefense.attacks.jsma import AdversarialSamples, Stop, jsma
from ddefense.attacks.targets import every_wrong_class

__all__ = [
    "AdversarialSamples",
    "Classifier",
    "ForwardDerivative",
    "Stop",
    "classifier",
    "every_wrong_class",
    "forward_derivative",
    "jsma",
]
