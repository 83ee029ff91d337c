"""Runs one implementation of a norm attack once, in its own process and environment.

`norm_peers.py` starts this file; it is of no use alone. It reads the network, the attack list and
the settings from a folder, warms up, times the attack and writes the adversarial images and the
figures. Every framework is imported inside the function that needs it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import stored_network

NUM_CLASSES = 10
BOUNDS = (0.0, 1.0)
# Images a call; for each peer what took least CPU time on the paper's MNIST network.
FOOLBOX_BATCH = 100
TORCH_BATCH = 50
PACKAGES = (
    "ddefense",
    "numpy",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "torch",
    "adversarial-robustness-toolbox",
    "foolbox",
    "eagerpy",
    "torchattacks",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all implementations of an attack are given alike.

    Attributes:
        steps: most iterations of C&W at one constant.
        search_steps: constants that C&W tries.
        learning_rate: of Adam in C&W.
        initial_c: its first constant.
        art_initial_c: the same for ART, whose constants grow more slowly.
        fixed_c: the only constant, where there is no search.
        epsilon: L-infinity bound of FGSM and PGD.
        step_size: of PGD.
        pgd_steps: of PGD.
        art_batch_size: images that ART attacks together.
    """

    steps: int = 1000
    search_steps: int = 9
    learning_rate: float = 1e-2
    initial_c: float = 1e-3
    art_initial_c: float = 0.1
    fixed_c: float = 10.0
    epsilon: float = 0.3
    step_size: float = 0.01
    pgd_steps: int = 40
    art_batch_size: int = 1

    def short(self) -> Settings:
        """A few iterations of the same: enough to trace and compile."""
        return dataclasses.replace(self, steps=2, search_steps=1, pgd_steps=2)


@dataclasses.dataclass(frozen=True)
class Attacks:
    """The attack list.

    Attributes:
        images: shape [N, H, W, C], float32.
        labels: true classes, shape [N], int64.
        targets: classes that C&W aims at, shape [N], int64.
        start: a random point of each image's ball, where PGD may start; like `images`.
    """

    images: Any
    labels: Any
    targets: Any
    start: Any

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int) -> list[Attacks]:
        """The same in parts of `size`."""
        return [self.part(first, first + size) for first in range(0, len(self), size)]

    def part(self, first: int, last: int) -> Attacks:
        """The attacks from `first` to before `last`."""
        arrays = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Attacks(*(array[first:last] for array in arrays))


Run = Callable[[Attacks, Settings], Any]
Make = Callable[[argparse.Namespace], Run]


def main() -> None:
    """Runs the attack that the command line names."""
    arguments = _parse()
    measure.limit_threads(arguments.threads)
    import numpy as np

    settings = Settings(**json.loads(arguments.settings))
    with np.load(arguments.setup / "norm_attacks.npz") as stored:
        attacks = Attacks(**stored).part(0, arguments.count)
    run = ATTACKS[arguments.attack](arguments)
    run(attacks, settings.short())
    adversarial, figures = measure.timed(lambda: run(attacks, settings))
    adversarial = np.asarray(adversarial, np.float32)
    if adversarial.shape != attacks.images.shape:
        raise ValueError(f"the attack gave {adversarial.shape} for {attacks.images.shape}")
    figures |= {"attacks": len(attacks), "versions": measure.versions(PACKAGES)}
    np.savez(arguments.result.with_suffix(".npz"), images=adversarial)
    arguments.result.with_suffix(".json").write_text(json.dumps(figures))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attack", choices=sorted(ATTACKS))
    parser.add_argument("--setup", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--settings", required=True, help="JSON object of `Settings`")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=0, help="of our attacks; 0: their own")
    return parser.parse_args()


def _keras_network(arguments: argparse.Namespace) -> Any:
    """Returns the Keras model images -> logits, after limiting TensorFlow's threads."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    import keras

    return keras.models.load_model(arguments.setup / "logits.keras", compile=False)


def _compiled_network(arguments: argparse.Namespace) -> Any:
    """Returns the network as a compiled function, which TensorFlow's peers run fastest on."""
    import tensorflow as tf

    network = _keras_network(arguments)
    return tf.function(lambda images, training=False: network(images), reduce_retracing=True)


# What an attack of ours is asked to do: (classifier, attacks, settings, options) -> images.
Ours = Callable[[Any, Attacks, Settings, dict[str, int]], Any]


def _ddefense(attack: Ours) -> Make:
    def make(arguments: argparse.Namespace) -> Run:
        network = _keras_network(arguments)
        from ddefense.attacks import classifier

        attacked = classifier(network)
        options = {"batch_size": arguments.batch_size} if arguments.batch_size else {}
        return lambda attacks, settings: attack(attacked, attacks, settings, options)

    return make


def _our_cw(attacked: Any, attacks: Attacks, settings: Settings, options: dict[str, int]) -> Any:
    from ddefense.attacks import CarliniWagnerL2, cw_l2

    return cw_l2(
        attacked,
        attacks.images,
        attacks.labels,
        attacks.targets,
        settings=CarliniWagnerL2(
            steps=settings.steps,
            search_steps=settings.search_steps,
            learning_rate=settings.learning_rate,
            initial_c=settings.initial_c,
        ),
        **options,
    ).images


def _our_cw_fixed(
    attacked: Any, attacks: Attacks, settings: Settings, options: dict[str, int]
) -> Any:
    fixed = dataclasses.replace(settings, search_steps=1, initial_c=settings.fixed_c)
    return _our_cw(attacked, attacks, fixed, options)


def _our_fgsm(attacked: Any, attacks: Attacks, settings: Settings, options: dict[str, int]) -> Any:
    from ddefense.attacks import SignAttack, fgsm

    wanted = SignAttack(epsilon=settings.epsilon, loss="logits")
    return fgsm(attacked, attacks.images, attacks.labels, settings=wanted, **options).images


def _our_pgd(random_start: bool) -> Ours:
    def attack(attacked: Any, attacks: Attacks, settings: Settings, options: dict[str, int]) -> Any:
        from ddefense.attacks import PGD, pgd_linf

        return pgd_linf(
            attacked,
            attacks.images,
            attacks.labels,
            settings=PGD(
                epsilon=settings.epsilon,
                steps=settings.pgd_steps,
                step_size=settings.step_size,
                loss="logits",
            ),
            start=attacks.start if random_start else attacks.images,
            **options,
        ).images

    return attack


def _art(arguments: argparse.Namespace) -> Run:
    network = _compiled_network(arguments)
    import numpy as np
    from art.attacks.evasion import CarliniL2Method
    from art.estimators.classification import TensorFlowV2Classifier

    one_hot = np.eye(NUM_CLASSES, dtype=np.float32)

    def run(attacks: Attacks, settings: Settings) -> Any:
        classifier = TensorFlowV2Classifier(
            network,
            nb_classes=NUM_CLASSES,
            input_shape=attacks.images.shape[1:],
            clip_values=BOUNDS,
        )
        attack = CarliniL2Method(
            classifier,
            targeted=True,
            max_iter=settings.steps,
            binary_search_steps=settings.search_steps,
            learning_rate=settings.learning_rate,
            initial_const=settings.art_initial_c,
            batch_size=settings.art_batch_size,
            verbose=False,
        )
        return attack.generate(attacks.images, one_hot[attacks.targets])

    return run


# An attack of Foolbox on one batch: (foolbox, model, attacks, settings) -> images.
OfFoolbox = Callable[[Any, Any, Attacks, Settings], Any]


def _foolbox(attack: OfFoolbox) -> Make:
    def make(arguments: argparse.Namespace) -> Run:
        network = _compiled_network(arguments)
        import foolbox
        import numpy as np

        model = foolbox.TensorFlowModel(network, bounds=BOUNDS, device="/CPU:0")

        def run(attacks: Attacks, settings: Settings) -> Any:
            batches = attacks.batches(FOOLBOX_BATCH)
            return np.concatenate([attack(foolbox, model, some, settings) for some in batches])

        return run

    return make


def _foolbox_cw(foolbox: Any, model: Any, attacks: Attacks, settings: Settings) -> Any:
    import tensorflow as tf

    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=settings.search_steps,
        steps=settings.steps,
        stepsize=settings.learning_rate,
        initial_const=settings.initial_c,
    )
    wanted = foolbox.criteria.TargetedMisclassification(tf.constant(attacks.targets))
    return attack(model, tf.constant(attacks.images), wanted, epsilons=None)[0].numpy()


def _foolbox_fgsm(foolbox: Any, model: Any, attacks: Attacks, settings: Settings) -> Any:
    return _foolbox_sign(foolbox.attacks.LinfFastGradientAttack(), model, attacks, settings)


def _foolbox_pgd(random_start: bool) -> OfFoolbox:
    def attack(foolbox: Any, model: Any, attacks: Attacks, settings: Settings) -> Any:
        import eagerpy
        import tensorflow as tf

        class FromStart(foolbox.attacks.LinfProjectedGradientDescentAttack):  # type: ignore[misc]
            """PGD from our random start, in place of one from a generator of its own."""

            def get_random_start(self, x0: Any, epsilon: float) -> Any:
                return eagerpy.astensor(tf.constant(attacks.start))

        made = FromStart(
            abs_stepsize=settings.step_size, steps=settings.pgd_steps, random_start=random_start
        )
        return _foolbox_sign(made, model, attacks, settings)

    return attack


def _foolbox_sign(attack: Any, model: Any, attacks: Attacks, settings: Settings) -> Any:
    import tensorflow as tf

    images, labels = tf.constant(attacks.images), tf.constant(attacks.labels)
    return attack(model, images, labels, epsilons=settings.epsilon)[0].numpy()


def _torchattacks(arguments: argparse.Namespace) -> Run:
    import numpy as np
    import torch
    import torch_network
    import torchattacks

    torch.set_num_threads(arguments.threads)
    stored = stored_network.load(arguments.setup / "weights.npz")
    network = torch_network.build(stored.weights, stored.standardization).eval()
    network = network.to(memory_format=torch.channels_last)

    def run(attacks: Attacks, settings: Settings) -> Any:
        attack = torchattacks.CW(
            network, c=settings.fixed_c, steps=settings.steps, lr=settings.learning_rate
        )
        attack.set_mode_targeted_by_label(quiet=True)
        results = []
        for some in attacks.batches(TORCH_BATCH):
            # Transposed alone, the images are channels_last already.
            images = torch.from_numpy(some.images).permute(0, 3, 1, 2)
            adversarial = attack(images, torch.from_numpy(some.targets))
            results.append(adversarial.detach().permute(0, 2, 3, 1).numpy())
        return np.concatenate(results)

    return run


ATTACKS: dict[str, Make] = {
    "ddefense-cw": _ddefense(_our_cw),
    "ddefense-cw-fixed": _ddefense(_our_cw_fixed),
    "ddefense-fgsm": _ddefense(_our_fgsm),
    "ddefense-pgd": _ddefense(_our_pgd(random_start=False)),
    "ddefense-pgd-random": _ddefense(_our_pgd(random_start=True)),
    "art-cw": _art,
    "foolbox-cw": _foolbox(_foolbox_cw),
    "foolbox-fgsm": _foolbox(_foolbox_fgsm),
    "foolbox-pgd": _foolbox(_foolbox_pgd(random_start=False)),
    "foolbox-pgd-random": _foolbox(_foolbox_pgd(random_start=True)),
    "torchattacks-cw-fixed": _torchattacks,
}

if __name__ == "__main__":
    main()
