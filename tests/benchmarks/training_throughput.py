"""Images per second of the package's training loop and of Keras' `model.fit`, side by side.

Both train the paper's network with dropout on the same arrays, in one process, in alternating
rounds after a warm-up; the figures are medians. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_CLASSES = 10
LEARNING_RATE = 0.1
MOMENTUM = 0.5
# As many as the loop of the package takes in one compiled call.
STEPS_PER_CALL = 25
TARGET = 1.0


def main() -> None:
    """Runs the benchmark."""
    options = _parse()
    measure.limit_threads(options.threads)
    sys.path.insert(0, str(REPOSITORY))
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    environment = measure.machine()
    generator = np.random.default_rng(0)
    images = generator.random((options.steps * options.batch_size, 28, 28, 1), np.float32)
    labels = _labels(options.labels, len(images), generator)
    runs = {
        "ddefense": _ours(options, images, labels),
        "model.fit": _keras(options, images, labels),
    }
    rounds = _measure(runs, options.rounds, len(images))
    report = {
        "benchmark": "training_throughput",
        "environment": environment | {"load_average_at_the_end": measure.load_average()},
        "versions": measure.versions(("ddefense", "tensorflow", "tensorflow-cpu", "keras")),
        "options": {k: v for k, v in vars(options).items() if k != "output"},
        "results": {
            name: {
                "images_per_second": measure.median(f["images_per_second"] for f in figures),
                "images_per_cpu_second": measure.median(
                    f["images_per_cpu_second"] for f in figures
                ),
                "rounds": figures,
            }
            for name, figures in rounds.items()
        },
        "peak_rss_mib": measure.peak_resident_mib(),
    }
    report["targets"] = [_target(rounds)]
    print(_markdown(report, options))
    if options.output:
        measure.write_json(options.output, report)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--steps", type=int, default=50, help="optimizer steps of one round (an epoch)")
    add("--rounds", type=int, default=5, help="alternating rounds")
    add("--threads", type=int, default=2, help="threads of TensorFlow")
    add("--batch-size", type=int, default=128)
    add("--temperature", type=float, default=20.0)
    add("--labels", choices=("hard", "soft"), default="soft")
    add("--output", type=Path, help="JSON file for everything that was measured")
    return parser.parse_args()


def _labels(kind: str, count: int, generator: Any) -> Any:
    import numpy as np

    if kind == "soft":
        return generator.dirichlet(np.ones(NUM_CLASSES), count).astype(np.float32)
    return np.eye(NUM_CLASSES, dtype=np.float32)[generator.integers(0, NUM_CLASSES, count)]


def _ours(options: argparse.Namespace, images: Any, labels: Any) -> Callable[[], None]:
    """Returns one epoch as `ddefense.training.fit` makes it, compiled beforehand."""
    import keras
    import numpy as np
    import tensorflow as tf

    from ddefense import networks, training

    network = networks.build("mnist", temperature=options.temperature, seed=0)
    train_steps = training.make_train_steps(
        networks.logits_of(network),
        keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM),
        options.temperature,
        options.batch_size,
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

    from ddefense import networks

    temperature = options.temperature
    logits = networks.logits_of(networks.build("mnist", temperature=temperature, seed=0))

    def loss(wanted: Any, values: Any) -> Any:
        return keras.losses.categorical_crossentropy(wanted, values / temperature, from_logits=True)

    optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM)
    logits.compile(optimizer, loss, jit_compile=False)

    def epoch() -> None:
        logits.fit(images, labels, batch_size=options.batch_size, epochs=1, verbose=0)

    return epoch


def _measure(
    runs: dict[str, Callable[[], None]], rounds: int, images: int
) -> dict[str, list[dict[str, Any]]]:
    for name, run in runs.items():
        print(f"warm-up: {name}", file=sys.stderr, flush=True)
        run()
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for index in range(rounds):
        print(f"round {index + 1}", file=sys.stderr, flush=True)
        for name, run in runs.items():
            load = measure.load_average()
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            figures[name].append(
                {
                    "wall_seconds": wall,
                    "cpu_seconds": cpu,
                    "images_per_second": images / wall,
                    "images_per_cpu_second": images / cpu,
                    "load_average": load,
                }
            )
    return figures


def _target(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    field = "images_per_second"
    ours = [f[field] for f in rounds["ddefense"]]
    keras = [f[field] for f in rounds["model.fit"]]
    ratio = (measure.median(ours) or 0.0) / (measure.median(keras) or 1.0)
    return measure.target(
        "images/s of ddefense / images/s of model.fit",
        ratio,
        ">=",
        TARGET,
        [a / b for a, b in zip(ours, keras, strict=True)],
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
    return "\n".join(
        [
            "# Training throughput",
            "",
            measure.machine_line(report["environment"], options.threads) + ". "
            f"The paper's MNIST network, batch {options.batch_size}, {options.labels} labels at "
            f"T = {options.temperature:g}, medians of {options.rounds} rounds of "
            f"{options.steps} steps.",
            "",
            measure.markdown_table(["loop", "images/s", "range", "images / CPU s"], rows),
            "",
            measure.targets_table(report["targets"]),
        ]
    )


if __name__ == "__main__":
    main()
