"""Trains and attacks at a number of temperatures on digits, in its own process.

`scaling.py` starts this file; it is of no use alone. A temperature costs what it costs a run of
the package: two trainings, the soft labels between them, and one attack, each compiled afresh.
What a process compiles once, whatever the temperatures, happens in a warm-up.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import measure

EPOCHS = 2
SAMPLES = 2
# Alike, so that every temperature is the same work.
FIRST_TEMPERATURE, STEP = 2.0, 0.05


def main() -> None:
    """Measures the number of temperatures that the command line asks for."""
    options = _parse()
    measure.limit_threads(options.threads)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    from ddefense import datasets

    data = datasets.load("digits")
    start = time.perf_counter()
    _temperature(data, FIRST_TEMPERATURE)
    warm_up = time.perf_counter() - start
    attack_seconds: list[float] = []

    def work() -> None:
        for index in range(1, options.count + 1):
            attack_seconds.append(_temperature(data, FIRST_TEMPERATURE + index * STEP))

    _, figures = measure.timed(work)
    figures |= {"warm_up_seconds": warm_up, "attack_cpu_seconds": sum(attack_seconds)}
    options.result.write_text(json.dumps(figures))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--result", type=Path, required=True)
    return parser.parse_args()


def _temperature(data: Any, temperature: float) -> float:
    """Does one temperature's work; returns the CPU seconds of its attack."""
    from ddefense import attacks, distillation, networks

    hard = distillation.hard_labels(data.train.labels, data.num_classes)
    initial = _trained(data, hard, temperature)
    soft = distillation.soft_labels(initial, data.train.images, temperature)
    logits = networks.logits_of(_trained(data, soft, temperature))
    images, labels = data.test.images[:SAMPLES], data.test.labels[:SAMPLES]
    sample, targets = attacks.every_wrong_class(labels, data.num_classes)
    start = time.process_time()
    attacked = attacks.classifier(logits)
    attacks.jsma(attacked, images[sample], labels[sample], targets, settings=attacks.JSMA())
    return time.process_time() - start


def _trained(data: Any, labels: Any, temperature: float) -> Any:
    from ddefense import networks, training

    network = networks.build(data.network, temperature=temperature, seed=0)
    settings = training.TrainingSettings(
        temperature=temperature,
        epochs=EPOCHS,
        batch_size=128,
        learning_rate=0.1,
        momentum=0.5,
        seed=0,
    )
    training.fit(network, data.train.images, labels, settings)
    return network


if __name__ == "__main__":
    main()
