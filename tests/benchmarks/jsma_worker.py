"""Runs one implementation of the JSMA once, in its own process and environment.

`jsma_peers.py` starts this file; it is of no use alone. It reads the network's weights and the
attack list from a folder, warms up on one attack (`--warm-up`), times the attack and writes the
adversarial images and the figures. Every framework is imported inside the function that needs it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import stored_network
from stored_network import StoredNetwork

THETA = 1.0
MAX_FEATURES = 112
NUM_CLASSES = 10
MATRIX_SIDE = 2048

Run = Callable[[Any, Any], Any]
Make = Callable[[argparse.Namespace, StoredNetwork], Run]


def main() -> None:
    """Runs the attack that the command line names."""
    arguments = _parse()
    measure.limit_threads(arguments.threads)
    import numpy as np

    network = stored_network.load(arguments.setup / "weights.npz")
    with np.load(arguments.setup / "attacks.npz") as stored:
        images = stored["images"][: arguments.count]
        targets = stored["targets"][: arguments.count]
    run = ATTACKS[arguments.attack](arguments, network)
    rates = [matmul_rate()] if arguments.floor else []
    start = time.perf_counter()
    run(images[: arguments.warm_up].copy(), targets[: arguments.warm_up].copy())
    warm_up = time.perf_counter() - start
    adversarial, figures = measure.timed(lambda: run(images.copy(), targets.copy()))
    adversarial = np.asarray(adversarial, np.float32)
    if adversarial.shape != images.shape:
        raise ValueError(f"the attack gave {adversarial.shape} for {images.shape}")
    if arguments.floor:
        rates.append(matmul_rate())
    figures |= {
        "attacks": len(images),
        "warm_up_seconds": warm_up,
        "matmul_flops_per_cpu_second": rates,
        "versions": measure.versions(
            (
                "ddefense",
                "numpy",
                "tensorflow",
                "tensorflow-cpu",
                "keras",
                "torch",
                "adversarial-robustness-toolbox",
                "cleverhans",
                "torchattacks",
                "advertorch",
            )
        ),
    }
    np.savez(arguments.result.with_suffix(".npz"), images=adversarial)
    arguments.result.with_suffix(".json").write_text(json.dumps(figures))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attack", choices=sorted(ATTACKS))
    parser.add_argument("--setup", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--network", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=0)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--floor", action="store_true")
    return parser.parse_args()


def matmul_rate() -> float:
    """Returns the FLOPs per CPU second of a large float32 matrix product in TensorFlow."""
    import tensorflow as tf

    matrix = tf.random.stateless_uniform((MATRIX_SIDE, MATRIX_SIDE), (1, 2))
    tf.matmul(matrix, matrix).numpy()
    rates = []
    for _ in range(3):
        start = time.process_time()
        tf.matmul(matrix, matrix).numpy()
        rates.append(2 * MATRIX_SIDE**3 / (time.process_time() - start))
    best = measure.median(rates)
    if best is None:
        raise AssertionError("no rates")
    return best


def _tensorflow_threads(threads: int) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def _ddefense(variant: str) -> Make:
    def make(arguments: argparse.Namespace, stored: StoredNetwork) -> Run:
        _tensorflow_threads(arguments.threads)
        import keras

        import ddefense.layers  # noqa: F401  registers the layers of a stored network
        from ddefense import attacks, networks

        network = keras.models.load_model(arguments.network, compile=False)
        attacked = attacks.classifier(networks.logits_of(network))
        settings = attacks.JSMA(reading=variant, theta=THETA, max_features=MAX_FEATURES)
        options = {"batch_size": arguments.batch_size} if arguments.batch_size else {}

        def run(images: Any, targets: Any) -> Any:
            # It looks at labels only to refuse them as targets.
            labels = (targets + 1) % attacked.num_classes
            return attacks.jsma(
                attacked, images, labels, targets, settings=settings, **options
            ).images

        return run

    return make


def _art(batch_size: int, grouped: bool) -> Make:
    def make(arguments: argparse.Namespace, stored: StoredNetwork) -> Run:
        _tensorflow_threads(arguments.threads)
        import keras
        import numpy as np
        from art.attacks.evasion import SaliencyMapMethod
        from art.estimators.classification import TensorFlowV2Classifier

        classifier = TensorFlowV2Classifier(
            _keras_network(stored),
            nb_classes=NUM_CLASSES,
            input_shape=stored.shape,
            loss_object=keras.losses.CategoricalCrossentropy(),
            clip_values=(0.0, 1.0),
        )
        # ART goes on after a change while changed / features <= gamma.
        attack = SaliencyMapMethod(
            classifier,
            theta=THETA,
            gamma=(MAX_FEATURES - 1) / stored.features,
            batch_size=batch_size,
            verbose=False,
        )
        one_hot = np.eye(NUM_CLASSES, dtype=np.float32)

        def run(images: Any, targets: Any) -> Any:
            if not grouped:
                return attack.generate(images, one_hot[targets])
            adversarial = np.empty_like(images)
            for target in np.unique(targets):
                chosen = targets == target
                adversarial[chosen] = attack.generate(images[chosen], one_hot[targets[chosen]])
            return adversarial

        return run

    return make


def _keras_network(stored: StoredNetwork) -> Any:
    """Returns the network in Keras: images -> probabilities."""
    import keras

    layers: list[Any] = [keras.Input(stored.shape)]
    if stored.mean is not None:
        layers.append(
            keras.layers.Normalization(axis=(1, 2, 3), mean=stored.mean, variance=stored.variance)
        )
    kernels = stored.weights[::2]
    for index, kernel in enumerate(kernels):
        last = index == len(kernels) - 1
        if kernel.ndim == 4:
            layers.append(keras.layers.Conv2D(kernel.shape[-1], 3, activation="relu"))
            if index % 2:
                layers.append(keras.layers.MaxPooling2D())
            continue
        if kernels[index - 1].ndim == 4:
            layers.append(keras.layers.Flatten())
        activation = "softmax" if last else "relu"
        layers.append(keras.layers.Dense(kernel.shape[-1], activation=activation))
    network = keras.Sequential(layers)
    network.set_weights(stored.weights)
    return network


def _cleverhans(arguments: argparse.Namespace, stored: StoredNetwork) -> Run:
    import numpy as np
    import tensorflow

    tf = tensorflow.compat.v1
    tf.disable_v2_behavior()
    # CleverHans 3 was written for TensorFlow 1 and NumPy 1; these names are gone since.
    vars(np).setdefault("product", np.prod)
    tf.contrib = types.ModuleType("contrib")
    from tensorflow.python.platform import app, flags  # noqa: F401  load the submodules

    sys.modules["tensorflow"] = tf
    sys.modules["tensorflow_addons"] = types.ModuleType("tensorflow_addons")
    from cleverhans.attacks import SaliencyMapMethod
    from cleverhans.model import CallableModelWrapper

    constants = [tf.constant(w) for w in stored.weights]
    layers = list(zip(constants[::2], constants[1::2], strict=True))

    def logits(images: Any) -> Any:
        values = images
        if stored.standardization is not None:
            mean, deviation = stored.standardization
            values = (values - tf.constant(mean)) / tf.constant(deviation)
        for index, (kernel, bias) in enumerate(layers):
            if kernel.shape.ndims == 4:
                values = tf.nn.relu(tf.nn.conv2d(values, kernel, [1, 1, 1, 1], "VALID") + bias)
                if index % 2:
                    values = tf.nn.max_pool(values, [1, 2, 2, 1], [1, 2, 2, 1], "VALID")
                continue
            values = tf.matmul(tf.reshape(values, (-1, int(kernel.shape[0]))), kernel) + bias
            if index < len(layers) - 1:
                values = tf.nn.relu(values)
        return values

    session = tf.Session(
        config=tf.ConfigProto(
            intra_op_parallelism_threads=arguments.threads,
            inter_op_parallelism_threads=arguments.threads,
        )
    )
    attack = SaliencyMapMethod(CallableModelWrapper(logits, "logits"), sess=session)
    image = tf.placeholder(tf.float32, (None, *stored.shape))
    wanted = tf.placeholder(tf.float32, (None, NUM_CLASSES))
    adversarial = attack.generate(
        image,
        y_target=wanted,
        theta=THETA,
        gamma=MAX_FEATURES / stored.features + 1e-9,
        clip_min=0.0,
        clip_max=1.0,
    )
    one_hot = np.eye(NUM_CLASSES, dtype=np.float32)

    def run(images: Any, targets: Any) -> Any:
        results = [
            session.run(
                adversarial, {image: images[i : i + 1], wanted: one_hot[targets[i : i + 1]]}
            )
            for i in range(len(images))
        ]
        return np.concatenate(results)

    return run


def _torch_run(attack: Callable[[Any, Any], Any], threads: int) -> Run:
    """Returns the attack on NumPy arrays, one image a call (the fastest for both peers)."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)

    def run(images: Any, targets: Any) -> Any:
        results = []
        for image, target in zip(images.transpose(0, 3, 1, 2).copy(), targets, strict=True):
            result = attack(torch.from_numpy(image[None]), torch.tensor([int(target)]))
            results.append(result.detach().numpy())
        return np.concatenate(results).transpose(0, 2, 3, 1)

    return run


def _torchattacks(arguments: argparse.Namespace, stored: StoredNetwork) -> Run:
    import torch_network
    import torchattacks

    # It makes ceil(features * gamma / 2) steps.
    attack = torchattacks.JSMA(
        torch_network.build(stored.weights, stored.standardization).eval(),
        theta=THETA,
        gamma=MAX_FEATURES / stored.features - 1e-9,
    )
    attack.set_mode_targeted_by_label(quiet=True)
    return _torch_run(attack, arguments.threads)


def _advertorch(arguments: argparse.Namespace, stored: StoredNetwork) -> Run:
    import torch_network

    network = torch_network.build(stored.weights, stored.standardization).eval()
    # advertorch imports a function that PyTorch has dropped and, for its JPEG code,
    # torchvision; the JSMA uses neither. (`torch.autograd.gradcheck` is a function by name.)
    gradcheck: Any = sys.modules["torch.autograd.gradcheck"]
    if not hasattr(gradcheck, "zero_gradients"):
        gradcheck.zero_gradients = lambda values: None
    transforms = types.ModuleType("torchvision.transforms")
    transforms.ToPILImage = transforms.ToTensor = lambda: None
    torchvision = types.ModuleType("torchvision")
    torchvision.transforms = transforms
    sys.modules.update({"torchvision": torchvision, "torchvision.transforms": transforms})
    from advertorch.attacks import JacobianSaliencyMapAttack

    attack = JacobianSaliencyMapAttack(
        network,
        num_classes=NUM_CLASSES,
        clip_min=0.0,
        clip_max=1.0,
        theta=THETA,
        gamma=MAX_FEATURES / stored.features + 1e-9,
    )
    return _torch_run(attack.perturb, arguments.threads)


ATTACKS: dict[str, Make] = {
    "ddefense-f": _ddefense("jsma_f"),
    "ddefense-z": _ddefense("jsma_z"),
    "art-default": _art(batch_size=1, grouped=False),
    "art-grouped": _art(batch_size=100, grouped=True),
    "cleverhans": _cleverhans,
    "torchattacks": _torchattacks,
    "advertorch": _advertorch,
}

if __name__ == "__main__":
    main()
