"""The fast gradient sign method (FGSM).

Goodfellow, Shlens & Szegedy, "Explaining and Harnessing Adversarial Examples" (ICLR 2015): one
step of epsilon along the sign of the loss gradient.
"""

import dataclasses

from ddefense.attacks import sign_attack
from ddefense.attacks.classifier import Classifier
from ddefense.attacks.sign_attack import Classes, Images, SignAttack


def fgsm(
    attacked: Classifier,
    images: Images,
    labels: Classes,
    targets: Classes | None = None,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    settings: SignAttack,
    batch_size: int = 256,
) -> Images:
    r"""Moves every feature by epsilon in the direction that its loss gradient points.

    $$x' = \mathrm{clip}(x + \varepsilon\,\mathrm{sign}(\nabla_x L(x, y)))$$

    towards a target $-\varepsilon\,\mathrm{sign}(\nabla_x L(x, t))$. A feature whose gradient is
    exactly zero does not move; with `settings.loss` = `softmax` that is every feature of an image
    on which the network's float32 softmax saturates.

    Args:
        attacked: the network.
        images: float32, shape [N, H, W, C], within bounds.
        labels: true classes, shape [N].
        targets: classes to reach, shape [N]; None to leave the label.
        bounds: smallest and largest value of a feature; results are clipped to them.
        settings: epsilon, loss and temperature are used.
        batch_size: images attacked together; the last bits of a gradient depend on it.

    Returns:
        float32 images in the order of `images`.

    Raises:
        ValueError: if an argument is out of its range, naming what was received and expected.
        StoppedError: if the run was asked to stop.
    """
    sign_attack.check(attacked, images, labels, targets, bounds, settings, batch_size)
    one = dataclasses.replace(settings, steps=1, step_size=settings.epsilon)
    return sign_attack.run(attacked, images, images, labels, targets, bounds, one, batch_size)
