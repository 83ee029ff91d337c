"""Attacks on a network's logits.

JSMA is Papernot's crafting framework in two parts: a direction-sensitivity estimate
(`forward_derivative`) and a perturbation selection (`jsma`).

To add a reading of JSMA, add a line to the table in `forward_derivative.py`; to add another
attack, write a module whose function takes a network, images, targets and bounds and returns
`AdversarialSamples`.
"""

from ddefense.attacks.forward_derivative import ForwardDerivative, forward_derivative
from ddefense.attacks.jsma import AdversarialSamples, Stop, jsma
from ddefense.attacks.targets import every_wrong_class

__all__ = [
    "AdversarialSamples",
    "ForwardDerivative",
    "Stop",
    "every_wrong_class",
    "forward_derivative",
    "jsma",
]
