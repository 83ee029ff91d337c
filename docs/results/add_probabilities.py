"""Adds to `samples.npz` of a run what earlier versions did not keep: probabilities.

    python docs/results/add_probabilities.py docs/results/mnist

The networks beside the samples are run on the images in them. Nothing else changes, and nothing is
written unless they succeed exactly where the run says that attacks did.
"""

import dataclasses
import pathlib
import sys

import keras
import numpy as np

from ddefense import measurements, networks, records


def main(directory: pathlib.Path) -> None:
    """Adds the probabilities of every network of a run."""
    results = records.load(records.Results, directory / "results.json")
    samples = records.Samples.load(directory / "samples.npz")
    clean, outcomes = {}, {}
    for record in results.networks:
        logits = networks.logits_of(networks.load(directory / "networks" / f"{record.name}.keras"))
        clean[record.name] = probabilities(logits, samples.images)
        for attack in record.attacks:
            outcome = samples.outcomes[record.name, attack]
            images = [
                samples.adversarial(record.name, attack, pair)
                for pair in range(len(outcome.target))
            ]
            found = probabilities(logits, np.stack(images))
            reached = (found.argmax(axis=1) == outcome.target) & (
                outcome.num_features <= record.attacks[attack].max_features
            )
            if (reached != outcome.success).any():
                sys.exit(
                    f"Expected {attack} to succeed on {record.name} where samples.npz says so, "
                    f"but {(reached != outcome.success).sum()} of its attempts end otherwise here."
                )
            outcomes[record.name, attack] = dataclasses.replace(outcome, probabilities=found)
    dataclasses.replace(samples, outcomes=outcomes, probabilities=clean).save(
        directory / "samples.npz"
    )


def probabilities(logits: keras.Model, images: np.ndarray) -> np.ndarray:
    """What a network gives images at T = 1."""
    return measurements.probabilities_of(networks.predict(logits, images))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
