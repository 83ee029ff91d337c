"""The fast gradient sign method (FGSM).

Goodfellow, Shlens & Szegedy, "Explaining and Harnessing Adversarial Examples" (ICLR 2015): one
step of epsilon along the sign of the loss gradient.
"""

from ddefense.attack_catalog import AttackSpec
from ddefense.attacks import sign_attack
from ddefense.attacks.classifier import AdversarialSamples, Classifier
from ddefense.attacks.sign_attack import BATCH_SIZE, Classes, Images, SignAttack
from ddefense.config import Config


def fgsm(
    attacked: Classifier,
    images: Images,
    labels: Classes,
    targets: Classes | None = None,
    *,
    settings: SignAttack,
    batch_size: int = BATCH_SIZE,
    first_row: int = 0,
) -> AdversarialSamples:
    r"""Moves every feature by epsilon in the direction that its loss gradient points.

    $$x' = \mathrm{clip}(x + \varepsilon\,\mathrm{sign}(\nabla_x L(x, y)))$$

    towards a target $-\varepsilon\,\mathrm{sign}(\nabla_x L(x, t))$. A feature whose gradient is
    exactly zero does not move; with `settings.loss` = `softmax` that is every feature of an image
    on which the network's float32 softmax saturates.

    Args:
        attacked: the network.
        images: float32, shape [N, H, W, C], within the bounds of the network.
        labels: true classes, shape [N].
        targets: classes to reach, shape [N]; None to leave the label.
        settings: of the attack.
        batch_size: images attacked together; the last bits of a gradient depend on it.
        first_row: not used, because nothing is random.

    Returns:
        Images, clipped to the bounds of the network.

    Raises:
        ValueError: if an argument is out of its range, naming what was received and expected.
        StoppedError: if the run was asked to stop.
    """
    del first_row
    sign_attack.check(attacked, images, labels, targets, settings, batch_size)
    made = sign_attack.run(
        *(attacked, images, images, labels if targets is None else targets, settings, batch_size),
        steps=1,
        step_size=settings.epsilon if targets is None else -settings.epsilon,
    )
    return AdversarialSamples(made)


def settings_of(config: Config, spec: AttackSpec, temperature: float) -> SignAttack:
    """The settings of the attack in a run; see `prepared.prepare`."""
    scaled = spec.gradient == "logits / T"
    return SignAttack(
        epsilon=config.epsilon,
        loss="logits" if scaled else "softmax",
        temperature=temperature if scaled else 1.0,
    )
