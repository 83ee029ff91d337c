"""Images per second of the package's training loop, of Keras' `model.fit` and of PyTorch.

All train the paper's network with dropout on the same arrays in alternating rounds after a
warm-up; the figures are medians. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import stored_network
from peer_environments import PeerUnavailableError, last_error, python_of

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
NUM_CLASSES = 10
DROPOUT = 0.5
# Image shape, learning rate, momentum and whether the network standardises its input.
NETWORKS = {
    "mnist": ((28, 28, 1), 0.1, 0.5, False),
    "cifar10": ((32, 32, 3), 0.01, 0.9, True),
}
# As many as the loop of the package takes in one compiled call.
STEPS_PER_CALL = 25
OURS, KERAS = "ddefense", "model.fit"
PYTORCH = {"PyTorch, NCHW": "nchw", "PyTorch, channels_last": "channels_last"}
KERAS_TARGET, PYTORCH_TARGET = 1.0, 0.9

# One epoch, measured.
Round = Callable[[], dict[str, Any]]


def main() -> None:
    """Runs the benchmark."""
    options = _parse()
    measure.limit_threads(options.threads)
    sys.path.insert(0, str(REPOSITORY))
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    environment = measure.machine()
    images, labels = _data(options)
    variant = _variant(options)
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = {OURS: _local(_ours(options, images, labels, "float32", jit_compile=False))}
        if variant != OURS:
            loop = _ours(options, images, labels, options.precision, jit_compile=options.jit)
            runs[variant] = _local(loop)
        runs[KERAS] = _local(_keras(options, images, labels))
        worker = _pytorch(options, Path(folder), images, labels, skipped)
        if worker is not None:
            runs |= {name: _remote(worker, layout) for name, layout in PYTORCH.items()}
        try:
            rounds = _measure(runs, options.rounds, len(images))
        finally:
            if worker is not None:
                worker.kill()
                worker.wait()
    report: dict[str, Any] = {
        "benchmark": "training_throughput",
        "environment": environment | {"load_average_at_the_end": measure.load_average()},
        "versions": measure.versions(("ddefense", "tensorflow", "tensorflow-cpu", "keras")),
        "options": {k: v for k, v in vars(options).items() if k not in ("output", "environments")},
        "skipped": skipped,
        "results": {name: _result(figures) for name, figures in rounds.items()},
        "peak_rss_mib": measure.peak_resident_mib(),
    }
    report["targets"] = _targets(rounds, variant)
    print(_markdown(report, options))
    if options.output:
        measure.write_json(options.output, report)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--network", choices=sorted(NETWORKS), default="mnist")
    add("--steps", type=int, default=50, help="optimizer steps of one round (an epoch)")
    add("--rounds", type=int, default=5, help="alternating rounds")
    add("--threads", type=int, default=2, help="threads of every run")
    add("--batch-size", type=int, default=128)
    add("--temperature", type=float, default=20.0)
    add("--labels", choices=("hard", "soft"), default="soft")
    add("--precision", choices=("float32", "mixed_bfloat16"), default="float32")
    add("--jit", action="store_true", help="a run of our loop compiled with XLA, too")
    add("--no-pytorch", action="store_true", help="leave PyTorch out")
    add("--environments", type=Path, default=Path(".benchmarks"), help="of PyTorch; made here")
    add("--output", type=Path, help="JSON file for everything that was measured")
    return parser.parse_args()


def _variant(options: argparse.Namespace) -> str:
    """Returns the name of our loop's run with the options' precision and compiler."""
    words = [options.precision] if options.precision != "float32" else []
    words += ["XLA"] if options.jit else []
    return ", ".join([OURS, *words])


def _data(options: argparse.Namespace) -> tuple[Any, Any]:
    import numpy as np

    generator = np.random.default_rng(0)
    count = options.steps * options.batch_size
    images = generator.random((count, *NETWORKS[options.network][0]), np.float32)
    if options.labels == "soft":
        labels = generator.dirichlet(np.ones(NUM_CLASSES), count).astype(np.float32)
    else:
        labels = np.eye(NUM_CLASSES, dtype=np.float32)[generator.integers(0, NUM_CLASSES, count)]
    return images, labels


def _build(options: argparse.Namespace, precision: str = "float32") -> Any:
    """Returns the network in Keras: images -> logits."""
    import numpy as np

    from ddefense import networks

    shape, _, _, standardized = NETWORKS[options.network]
    # Mean and variance of the random images.
    statistics = np.full(shape, 1 / 2, np.float32), np.full(shape, 1 / 12, np.float32)
    return networks.logits_of(
        networks.build(
            options.network,
            temperature=options.temperature,
            seed=0,
            dropout=DROPOUT,
            statistics=statistics if standardized else None,
            precision=precision,
        )
    )


def _optimizer(options: argparse.Namespace) -> Any:
    import keras

    _, learning_rate, momentum, _ = NETWORKS[options.network]
    return keras.optimizers.SGD(learning_rate, momentum=momentum)


def _ours(
    options: argparse.Namespace, images: Any, labels: Any, precision: str, *, jit_compile: bool
) -> Callable[[], None]:
    """Returns one epoch as `ddefense.training.fit` makes it, compiled beforehand."""
    import numpy as np
    import tensorflow as tf

    from ddefense import training

    train_steps = training.make_train_steps(
        _build(options, precision),
        _optimizer(options),
        options.temperature,
        options.batch_size,
        jit_compile,
    )
    data = (tf.constant(images), tf.constant(labels))
    generator = np.random.default_rng(0)
    per_call = STEPS_PER_CALL * options.batch_size

    def epoch() -> None:
        order = generator.permutation(len(images)).astype(np.int32)
        for start in range(0, len(order), per_call):
            losses, correct = train_steps(*data, tf.constant(order[start : start + per_call]))
            if not np.isfinite(losses.numpy()).all():
                raise AssertionError("the loss is not finite")
            int(correct)

    return epoch


def _keras(options: argparse.Namespace, images: Any, labels: Any) -> Callable[[], None]:
    """Returns one epoch of `model.fit`, set up as it is fastest on a CPU: no metrics, no XLA."""
    import keras

    logits, temperature = _build(options), options.temperature

    def loss(wanted: Any, values: Any) -> Any:
        return keras.losses.categorical_crossentropy(wanted, values / temperature, from_logits=True)

    logits.compile(_optimizer(options), loss, jit_compile=False)

    def epoch() -> None:
        logits.fit(images, labels, batch_size=options.batch_size, epochs=1, verbose=0)

    return epoch


def _pytorch(
    options: argparse.Namespace, folder: Path, images: Any, labels: Any, skipped: dict[str, str]
) -> subprocess.Popen[str] | None:
    """Starts PyTorch's process on the same network and data; None where it cannot be had."""
    import numpy as np

    if options.no_pytorch:
        return None
    try:
        python = python_of("pytorch", options.environments)
    except PeerUnavailableError as error:
        skipped["PyTorch"] = f"cannot be installed: {error}"
        print(f"Skipping PyTorch: {error}", file=sys.stderr, flush=True)
        return None
    stored_network.save(_build(options), folder / "weights.npz")
    np.savez(folder / "data.npz", images=images, labels=labels)
    _, learning_rate, momentum, _ = NETWORKS[options.network]
    settings = {
        "setup": folder,
        "threads": options.threads,
        "batch-size": options.batch_size,
        "temperature": options.temperature,
        "learning-rate": learning_rate,
        "momentum": momentum,
        "dropout": DROPOUT,
    }
    return subprocess.Popen(
        [str(python), str(HERE / "torch_training_worker.py")]
        + [f"--{name}={value}" for name, value in settings.items()],
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _local(epoch: Callable[[], None]) -> Round:
    return lambda: measure.round_figures(epoch)


def _remote(worker: subprocess.Popen[str], layout: str) -> Round:
    def run() -> dict[str, Any]:
        if worker.stdin is None or worker.stdout is None or worker.stderr is None:
            raise AssertionError("the worker has no pipes")
        worker.stdin.write(layout + "\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
        if not line:
            raise SystemExit(f"PyTorch failed: {last_error(worker.stderr.read())}")
        figures: dict[str, Any] = json.loads(line)
        return figures

    return run


def _measure(runs: dict[str, Round], rounds: int, images: int) -> dict[str, list[dict[str, Any]]]:
    for name, run in runs.items():
        print(f"warm-up: {name}", file=sys.stderr, flush=True)
        run()
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for index in range(rounds):
        print(f"round {index + 1}", file=sys.stderr, flush=True)
        for name, run in runs.items():
            measured = run()
            measured["images_per_second"] = images / measured["wall_seconds"]
            measured["images_per_cpu_second"] = images / measured["cpu_seconds"]
            figures[name].append(measured)
    return figures


def _result(figures: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "images_per_second": measure.median(f["images_per_second"] for f in figures),
        "images_per_cpu_second": measure.median(f["images_per_cpu_second"] for f in figures),
        "rounds": figures,
    }


def _targets(rounds: dict[str, list[dict[str, Any]]], variant: str) -> list[dict[str, Any]]:
    targets = [_target(rounds, OURS, KERAS, KERAS_TARGET)]
    pytorch = [name for name in PYTORCH if name in rounds]
    if pytorch:
        fastest = max(pytorch, key=lambda name: _speed(rounds[name]))
        targets.append(_target(rounds, OURS, fastest, PYTORCH_TARGET))
    if variant != OURS:
        targets.append(_target(rounds, variant, OURS, None))
    return targets


def _speed(figures: list[dict[str, Any]]) -> float:
    return measure.median(f["images_per_second"] for f in figures) or 0.0


def _target(
    rounds: dict[str, list[dict[str, Any]]], name: str, peer: str, limit: float | None
) -> dict[str, Any]:
    return measure.target(
        f"images/s of {name} / images/s of {peer}",
        _speed(rounds[name]) / (_speed(rounds[peer]) or 1.0),
        ">=",
        limit,
        [
            a["images_per_second"] / b["images_per_second"]
            for a, b in zip(rounds[name], rounds[peer], strict=True)
        ],
    )


def _markdown(report: dict[str, Any], options: argparse.Namespace) -> str:
    rows = []
    for name, result in report["results"].items():
        speeds = [f["images_per_second"] for f in result["rounds"]]
        rows.append(
            [
                name,
                f"{result['images_per_second']:.0f}",
                f"{min(speeds):.0f}-{max(speeds):.0f}",
                f"{result['images_per_cpu_second']:.0f}",
            ]
        )
    title = {"mnist": "MNIST", "cifar10": "CIFAR-10"}[options.network]
    lines = [
        "# Training throughput",
        "",
        measure.machine_line(report["environment"], options.threads) + ". "
        f"The paper's {title} network, batch {options.batch_size}, {options.labels} labels at "
        f"T = {options.temperature:g}, medians of {options.rounds} rounds of "
        f"{options.steps} steps.",
        "",
        measure.markdown_table(["loop", "images/s", "range", "images / CPU s"], rows),
        "",
        measure.targets_table(report["targets"]),
    ]
    lines += [f"\nSkipped: {name}, {reason}" for name, reason in report["skipped"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
