"""A problem that can be attacked by hand: the class is the brightest of the first three pixels.

A network for it is linear, so distances to its boundaries are known; its logits can be scaled until
float32 softmaxes saturate.
"""

import json
import types

import numpy as np
import pytest

SHAPE, CLASSES = (1, 4, 1), 3
# By how much the brightest pixel of each image exceeds the second. The third is another 0.1 darker.
GAPS = (0.12, 0.22, 0.27, 0.36, 0.44, 0.52)
BRIGHTEST = 0.8
# The test image of this index has another label than its brightest pixel says.
MISLABELLED = 2


def make_images():
    rows, labels = np.arange(len(GAPS)), np.arange(len(GAPS)) % CLASSES
    images = np.full((len(GAPS), 4), 0.5)
    images[rows, labels] = BRIGHTEST
    images[rows, (labels + 1) % CLASSES] = BRIGHTEST - np.array(GAPS)
    images[rows, (labels + 2) % CLASSES] = BRIGHTEST - np.array(GAPS) - 0.1
    return images.astype(np.float32).reshape(-1, *SHAPE), labels


@pytest.fixture
def finish_again():
    """Has the record of a stage, or of a part, be about the files that are there now."""
    from ddefense import files

    def finish(directory):
        record = json.loads((directory / "stage.json").read_text())
        record["content"] = files.folder_sha256(directory, without=("stage.json", "scratch"))
        (directory / "stage.json").write_text(json.dumps(record))

    return finish


@pytest.fixture(scope="session")
def toy():
    """A dataset of which a network gets all test images right but one."""
    from ddefense import datasets

    images, labels = make_images()
    train = datasets.Split(images, labels)
    images = np.insert(images, MISLABELLED, images[0], axis=0)
    test = datasets.Split(images, np.insert(labels, MISLABELLED, labels[0] + 1))
    return datasets.Dataset("toy", "mnist", train, test, ("left", "middle", "right"))


@pytest.fixture(scope="session")
def make_trained():
    """Leaves a network where a training stage would have, with logits `scale` times the pixels."""
    import keras

    from ddefense import records
    from ddefense.experiments import pair
    from ddefense.layers import TemperatureSoftmax

    def build(scale, temperature):
        images = keras.Input(SHAPE, name="images")
        x = keras.layers.Flatten(name="flatten")(images)
        logits = keras.layers.Dense(CLASSES, use_bias=False, name="logits")(x)
        probabilities = TemperatureSoftmax(temperature, name="probabilities")(logits)
        network = keras.Model(images, probabilities, name="toy")
        network.set_weights([scale * np.eye(4, CLASSES)])
        return network

    def make(stages, name, *, scale=8.0, temperature=1.0, defense="none"):
        def work(directory):
            build(scale, temperature).save(directory / pair.NETWORK)
            training = records.TrainingRecord(
                temperature=temperature,
                epochs=1,
                steps=1,
                warm_start_steps=0,
                loss=[0.5],
                accuracy=[1.0],
                stalled=False,
            )
            records.dump(training, directory / "training.json")

        artefact = stages.run(name, {"scale": scale, "temperature": temperature}, [], work)
        return pair.Trained(name, temperature, artefact, defense)

    return make


@pytest.fixture(scope="session")
def by_hand():
    """What is known of the images that a network gets right.

    `gaps` and `labels` of each; `gap_to(targets)` is how much brighter the label's pixel is than
    that of a target per image.
    """
    labels, gaps = make_images()[1], np.array(GAPS)

    def gap_to(targets):
        rows = np.arange(len(targets))
        return gaps[rows] + np.where(targets == (labels[rows] + 1) % CLASSES, 0, 0.1)

    test_indices = [i for i in range(len(GAPS) + 1) if i != MISLABELLED]
    return types.SimpleNamespace(gaps=gaps, labels=labels, gap_to=gap_to, test_indices=test_indices)
