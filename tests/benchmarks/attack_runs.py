"""What an attack benchmark needs: a network, an attack list, and runs of `jsma_worker.py`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import stored_network
from peer_environments import PeerUnavailableError, last_error

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
NUM_CLASSES = 10
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}


def add_options(add: Callable[..., Any]) -> None:
    """Adds the command-line options that `prepare` and `run` read."""
    add("--dataset", choices=sorted(TITLES), default="mnist")
    add("--network", type=Path, help="a .keras file; default: one is trained and kept")
    add("--epochs", type=int, default=3, help="of that training")
    add("--environments", type=Path, default=Path(".benchmarks"), help="of the peers; made here")
    add("--data-dir", "--data_dir", type=Path, help="TFDS data (default: TFDS_DATA_DIR)")
    add("--threads", type=int, default=1, help="threads of every run")
    add("--batch-size", type=int, default=0, help="of our attack; 0: its own default")
    add("--timeout", type=float, default=3600, help="seconds one run may take")
    add("--output", type=Path, help="JSON file for everything that was measured")


def prepare(options: argparse.Namespace, samples: int, folder: Path) -> dict[str, Any]:
    """Writes the network, its weights and the attack list for every run to read.

    Args:
        options: see `add_options`.
        samples: images attacked, each towards its nine wrong classes.
        folder: where the files go.

    Returns:
        The `images` and `targets` of the attack list, the Keras model images -> `logits`, the
        `flops` of its forward pass, and its test `accuracy`.
    """
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    from ddefense import attacks, datasets, networks, records

    try:
        data = datasets.load(options.dataset, data_dir=options.data_dir)
    except records.RunError as error:
        raise SystemExit(f"--data-dir: {error}") from None
    network = _network(options, data)
    if network.input_shape[1:] != data.image_shape:
        raise SystemExit(
            f"--network: expected one for images of {data.image_shape}, received "
            f"{network.input_shape[1:]}"
        )
    network.save(folder / "network.keras")
    logits = networks.logits_of(network)
    stored_network.save(logits, folder / "weights.npz")
    predicted = networks.predict(logits, data.test.images).argmax(1)
    right = np.flatnonzero(predicted == data.test.labels)
    if len(right) < samples:
        raise SystemExit(f"The network is right on {len(right)} images only.")
    chosen = right[:samples]
    sample, targets = attacks.every_wrong_class(data.test.labels[chosen], NUM_CLASSES)
    # Neighbours in this list share an image; shuffled, any start of it is like the whole.
    order = np.random.default_rng(0).permutation(len(targets))
    images, targets = data.test.images[chosen][sample[order]], targets[order]
    np.savez(folder / "attacks.npz", images=images, targets=targets)
    return {
        "images": images,
        "targets": targets,
        "logits": logits,
        "flops": _forward_flops(logits),
        "accuracy": len(right) / len(predicted),
    }


def _network(options: argparse.Namespace, data: Any) -> Any:
    import keras

    import ddefense.layers  # noqa: F401  registers the layers of a stored network
    from ddefense import networks

    path = options.network
    if path is None:
        path = options.environments / f"{options.dataset}-network-{options.epochs}-epochs.keras"
        if not path.exists():
            print("Training the network ...", file=sys.stderr, flush=True)
            network = networks.build(
                data.network, temperature=1.0, seed=0, statistics=data.feature_statistics()
            )
            network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
            network.fit(
                data.train.images,
                data.train.labels,
                batch_size=128,
                epochs=options.epochs,
                verbose=2,
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            network.save(path)
    return keras.models.load_model(path, compile=False)


def _forward_flops(network: Any) -> float:
    """Returns the FLOPs of one image's forward pass: 2 a multiply-add, convolutions and dense."""
    import keras
    import numpy as np

    flops = 0.0
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D):
            flops += 2 * np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:3])
        elif isinstance(layer, keras.layers.Dense):
            flops += 2 * np.prod(layer.kernel.shape)
    return float(flops)


def run(
    options: argparse.Namespace,
    name: str,
    count: int,
    folder: Path,
    index: int,
    *,
    peer: Path | None = None,
    extra: tuple[str, ...] = (),
) -> tuple[dict[str, Any], Any]:
    """Runs one attack once, in a process of its own.

    Args:
        options: see `add_options`.
        name: of the attack in `jsma_worker.py`.
        count: attacks, from the start of the list.
        folder: what `prepare` filled.
        index: number of the round.
        peer: the Python of the peer's environment; None: ours.
        extra: further arguments of the worker.

    Returns:
        Its figures and the adversarial images.

    Raises:
        PeerUnavailableError: it failed; the message says how.
    """
    import numpy as np

    result = folder / f"{name}-{count}-{index}"
    command = [str(peer or sys.executable), str(HERE / "jsma_worker.py"), name]
    command += ["--setup", str(folder), "--result", str(result), "--count", str(count)]
    command += ["--threads", str(options.threads), *extra]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if peer is None:
        command += ["--network", str(folder / "network.keras")]
        command += ["--batch-size", str(options.batch_size)]
        environment["PYTHONPATH"] = str(REPOSITORY)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=options.timeout
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailableError(str(error)) from error
    if done.returncode:
        raise PeerUnavailableError(last_error(done.stderr))
    figures: dict[str, Any] = json.loads(result.with_suffix(".json").read_text())
    with np.load(result.with_suffix(".npz")) as stored:
        return figures, stored["images"]


def changed_features(adversarial: Any, clean: Any) -> Any:
    """Returns which features differ, shape [N, features]."""
    import numpy as np

    return (np.abs(adversarial - clean) > 1e-6).reshape(len(clean), -1)
