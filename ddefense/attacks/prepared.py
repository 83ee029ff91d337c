"""An attack with the settings that a configuration gives it, ready to be run on any network."""

import dataclasses
import importlib
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ddefense.attacks.classifier import AdversarialSamples, Classifier
from ddefense.config import Config

Norm = Literal["l0", "l2", "linf"]
Targets = Literal["untargeted", "random", "all"]


class Attack(Protocol):
    """The one signature of all attacks."""

    def __call__(
        self,
        attacked: Classifier,
        images: npt.NDArray[np.float32],
        labels: npt.NDArray[np.integer],
        targets: npt.NDArray[np.integer] | None = None,
        *,
        settings: Any,
        batch_size: int = ...,
        first_row: int = 0,
    ) -> AdversarialSamples:
        """Attacks images; see `fgsm` for the arguments."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """An attack with its settings.

    Attributes:
        attack: the function.
        settings: its settings, a dataclass of numbers, texts and flags.
        batch_size: images attacked together.
        norm: in which its perturbations are measured.
        targets: which classes it aims at.
        samples: how many of the attacked images, the first ones.
        budget: the largest distance in that norm that counts as a success; None without one.
    """

    attack: Attack
    settings: Any
    norm: Norm
    targets: Targets
    samples: int
    batch_size: int = 256
    budget: float | None = None

    def __call__(
        self,
        attacked: Classifier,
        images: npt.NDArray[np.float32],
        labels: npt.NDArray[np.integer],
        targets: npt.NDArray[np.integer] | None,
        first_row: int = 0,
    ) -> AdversarialSamples:
        """Runs it."""
        return self.attack(
            *(attacked, images, labels, targets),
            settings=self.settings,
            batch_size=self.batch_size,
            first_row=first_row,
        )


_MODULES = {
    "fgsm": "fgsm",
    "pgd_linf": "pgd_linf",
    "jsma": "jsma",
}


def prepare(name: str, config: Config, *, temperature: float) -> Prepared:
    """Gives an attack its settings.

    Args:
        name: one of `config.ATTACKS`, but for `transfer_cw_l2`.
        config: its settings.
        temperature: T > 0 by which attacks on logits / T divide.
    """
    module = next((found for start, found in _MODULES.items() if name.startswith(start)), name)
    found: Prepared = importlib.import_module(f"ddefense.attacks.{module}").prepare(
        name, config, temperature
    )
    return found
