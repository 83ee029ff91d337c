"""An attack with the settings that a configuration gives it, ready to be run on any network."""

import dataclasses
import importlib
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ddefense.attack_catalog import ATTACKS, Norm, Targets
from ddefense.attacks.classifier import AdversarialSamples, Classifier
from ddefense.config import Config


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
    batch_size: int
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


def prepare(name: str, config: Config, *, temperature: float) -> Prepared:
    """Gives an attack of the catalogue its settings.

    Its module has a function `settings_of(config, spec, temperature)`, and `BATCH_SIZE` if it does
    not take that of the configuration.

    Args:
        name: one of `attack_catalog.ATTACKS`.
        config: says with which settings.
        temperature: T > 0 by which attacks on logits / T divide.
    """
    spec = ATTACKS[name]
    path, function = spec.code.split(":")
    module = importlib.import_module(path)
    return Prepared(
        attack=getattr(module, function),
        settings=module.settings_of(config, spec, temperature),
        norm=spec.norm,
        targets=spec.targets,
        samples=getattr(config, spec.samples),
        batch_size=getattr(module, "BATCH_SIZE", config.attack_batch_size),
        budget=None if spec.bound is None else getattr(config, spec.bound),
    )
