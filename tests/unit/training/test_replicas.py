"""Training on two devices is training on one, but for the last bits and the dropout masks."""

import json

import pytest

# Devices are divided before TensorFlow starts, which in this process it has.
ON_TWO_DEVICES = """
import dataclasses, json, pathlib, sys
import keras, numpy as np, tensorflow as tf

from ddefense import networks, training
from ddefense.config import ConfigError

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.experimental.enable_op_determinism()
folder = pathlib.Path(sys.argv[1])

generator = np.random.default_rng(0)
images = generator.uniform(size=(33, 28, 28, 1)).astype(np.float32)
labels = generator.dirichlet(np.ones(10), 33).astype(np.float32)
# Steps of 16, 16 and 1 images: one device of two has none in the last.
settings = training.TrainingSettings(
    temperature=5.0, epochs=2, batch_size=16, learning_rate=0.05, momentum=0.9, seed=3
)

def train(devices=1, dropout=0.0, epochs=2, checkpoint=None, options=None, regularized=False):
    network = networks.build("mnist", temperature=5.0, seed=1, dropout=dropout)
    if regularized:
        # A variable is told of its regularizer when it is made.
        network.get_layer("dense_1").kernel_regularizer = keras.regularizers.L2(0.01)
        weights, network = network.get_weights(), keras.models.clone_model(network)
        network.set_weights(weights)
    changed = dataclasses.replace(settings, devices=devices, epochs=epochs)
    history = training.fit(
        network, images, labels, changed, checkpoint=checkpoint, options=options
    )
    return network.get_weights(), history

def apart(one, other):
    weights = max(float(np.abs(a - b).max()) for a, b in zip(one[0], other[0], strict=True))
    losses = float(np.abs(one[1].step_loss - other[1].step_loss).max())
    return {
        "weights": weights,
        "losses": losses,
        "accuracy": float(np.abs(one[1].epoch_accuracy - other[1].epoch_accuracy).max()),
    }

def refused(**arguments):
    try:
        train(**arguments)
    except ConfigError as error:
        return str(error)

found = {"plain": apart(train(), train(2))}
adam = training.TrainingOptions(optimizer=keras.optimizers.Adam(0.001))
found["adam"] = apart(train(options=adam), train(2, options=adam))
weighted = training.TrainingOptions(
    objective=training.Objective(alpha=0.3, class_weights={0: 2.0, 3: 0.5})
)
found["weighted"] = apart(train(options=weighted), train(2, options=weighted))
found["regularized"] = apart(train(regularized=True), train(2, regularized=True))
found["regularizer_counts"] = apart(train(2), train(2, regularized=True))
masked = train(2, dropout=0.5)
found["same_seed"] = apart(masked, train(2, dropout=0.5))
found["dropout_counts"] = apart(masked, train(2))
path = folder / "checkpoint.npz"
train(2, dropout=0.5, epochs=1, checkpoint=path)
found["resumed"] = apart(masked, train(2, dropout=0.5, checkpoint=path))
found["three"] = refused(devices=3)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(run_python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    ended = run_python("-c", ON_TWO_DEVICES, folder, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", ["plain", "adam", "weighted", "regularized"])
def test_two_devices_learn_what_one_does(found, case):
    assert found[case]["losses"] < 2e-6
    # Adam divides by small numbers, which makes more of the last bits.
    assert found[case]["weights"] < (2e-4 if case == "adam" else 1e-6)
    assert found[case]["accuracy"] == 0


def test_the_cases_differ(found):
    assert found["regularizer_counts"]["weights"] > 1e-4
    assert found["dropout_counts"]["weights"] > 1e-4


@pytest.mark.parametrize("case", ["same_seed", "resumed"])
def test_with_dropout_one_seed_gives_the_same_bits_twice(found, case):
    assert found[case] == {"weights": 0, "losses": 0, "accuracy": 0}


def test_more_devices_than_there_are_are_refused(found):
    assert found["three"] == (
        "devices: expected at most 2, the CPUs that TensorFlow sees on this machine, for it sees "
        "no GPU; received 3. Lower it, or show TensorFlow more of them."
    )
