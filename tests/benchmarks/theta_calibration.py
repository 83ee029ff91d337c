"""Success of `jsma_f` on an undistilled network against theta, to choose a dataset's theta.

The attacked samples are those of a run: the first test images that the network gets right, towards
every other class. See docs/decisions/0008-cifar10.md for the choice made with it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import measure

REPOSITORY = Path(__file__).resolve().parents[2]


def main() -> None:
    """Runs the calibration."""
    options = _parse()
    sys.path.insert(0, str(REPOSITORY))
    import keras
    import numpy as np

    from ddefense import attacks, datasets, measurements, networks

    dataset = datasets.load(options.dataset, data_dir=options.data_dir)
    logits = networks.logits_of(keras.models.load_model(options.network, compile=False))
    predicted = networks.predict(logits, dataset.test.images).argmax(axis=1)
    right = np.flatnonzero(predicted == dataset.test.labels)[: options.samples]
    images, labels = dataset.test.images[right], dataset.test.labels[right]
    sample, target = attacks.every_wrong_class(labels, dataset.num_classes)
    attacked = attacks.classifier(logits, bounds=dataset.value_range)
    chosen = attacks.one_wrong_class(labels, dataset.num_classes, 0)
    rows = []
    for theta in options.thetas:
        settings = attacks.JSMA(theta=theta, max_features=options.max_features)
        made = attacks.jsma(attacked, images[sample], labels[sample], target, settings=settings)
        outcome = measurements.judge(
            logits,
            images[sample],
            made.images,
            labels=labels[sample],
            targets=target,
            bounds=dataset.value_range,
            norm="l0",
            budget=options.max_features,
        )
        record = measurements.success_record(
            outcome,
            sample,
            norm="l0",
            settings=vars(settings),
            targets="all",
            random_target_rows=target == chosen[sample],
            seed=0,
        )
        rows.append(
            {
                "theta": theta,
                "success_rate": record.success_rate,
                "success_interval": record.success_interval,
                "mean_features": record.mean_distance,
            }
        )
        print(
            f"theta {theta:g}: {100 * record.success_rate:.2f} % of {record.attempts}, "
            f"{record.mean_distance} features",
            flush=True,
        )
    if options.output:
        report = {
            "benchmark": "theta_calibration",
            "environment": measure.machine(),
            "versions": measure.versions(("ddefense", "tensorflow", "tensorflow-cpu", "keras")),
            "options": {
                k: str(v) if isinstance(v, Path) else v
                for k, v in vars(options).items()
                if k not in ("output", "data_dir")
            },
            "test_accuracy": float((predicted == dataset.test.labels).mean()),
            "results": rows,
        }
        measure.write_json(options.output, report)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", default="cifar10")
    add("--data-dir", type=Path, help="folder of prepared TFDS data")
    add("--network", type=Path, required=True, help="the undistilled network, a .keras file")
    add("--samples", type=int, default=100)
    add("--max-features", type=int, default=112)
    add("--thetas", type=float, nargs="+", default=[1.0, 0.5, 0.25, 0.125, -0.5, -1.0])
    add("--output", type=Path, help="JSON file for everything that was measured")
    return parser.parse_args()


if __name__ == "__main__":
    main()
