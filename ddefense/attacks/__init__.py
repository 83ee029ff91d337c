"""Attacks on a network, given as a Keras model or as any differentiable function.

JSMA is Papernot's crafting framework in two parts: a direction-sensitivity estimate
(`forward_derivative`) and a perturbation selection (`jsma`).

| name in results | function | perturbation | uses |
|---|---|---|---|
| `jsma_*` | `jsma` | few features | forward derivative of one of five readings |
| `fgsm*` | `fgsm` | L-infinity, within epsilon | one gradient of a loss |
| `pgd_linf*` | `pgd_linf` | L-infinity, within epsilon | many of them |
| `cw_l2`, `cw_l0`, `cw_linf` | the same | smallest L2, L0, L-infinity | gradients of the logits |
| `transfer_cw_l2` | `cw_l2` | L2 | a substitute; nothing of the network |
| `labels_only` | `labels_only` | smallest L2 | the predicted class alone |

`saved_model` makes a network of a SavedModel of any maker.

To add a reading of JSMA, add a line to the table in `forward_derivative.py`; to add another
attack, write a module with a function of the same signature and `settings_of`, see `prepared`, and
add its entry to `ddefense.attack_catalog`.
"""

from ddefense.attacks.carlini_wagner import CarliniWagner, CarliniWagnerL0, CarliniWagnerL2
from ddefense.attacks.classifier import AdversarialSamples, Classifier, classifier
from ddefense.attacks.cw_l0 import cw_l0
from ddefense.attacks.cw_l2 import cw_l2
from ddefense.attacks.cw_linf import cw_linf
from ddefense.attacks.fgsm import fgsm
from ddefense.attacks.forward_derivative import ForwardDerivative, forward_derivative
from ddefense.attacks.jsma import JSMA, jsma
from ddefense.attacks.labels_only import LabelsOnly, labels_only
from ddefense.attacks.pgd_linf import pgd_linf, pgd_perturbation, random_start
from ddefense.attacks.prepared import Prepared, prepare
from ddefense.attacks.sign_attack import PGD, SignAttack, default_step_size
from ddefense.attacks.targets import every_wrong_class, one_wrong_class

__all__ = [
    "JSMA",
    "PGD",
    "AdversarialSamples",
    "CarliniWagner",
    "CarliniWagnerL0",
    "CarliniWagnerL2",
    "Classifier",
    "ForwardDerivative",
    "LabelsOnly",
    "Prepared",
    "SignAttack",
    "classifier",
    "cw_l0",
    "cw_l2",
    "cw_linf",
    "default_step_size",
    "every_wrong_class",
    "fgsm",
    "forward_derivative",
    "jsma",
    "labels_only",
    "one_wrong_class",
    "pgd_linf",
    "pgd_perturbation",
    "prepare",
    "random_start",
]
