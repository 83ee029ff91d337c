"""What all tests share. TensorFlow is imported only where a collected test imports it."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest

# An example may have to share its core.
hypothesis.settings.register_profile("ddefense", deadline=None)
hypothesis.settings.load_profile("ddefense")

# Read once, when TensorFlow is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As `import ddefense` sets it: a test may import TensorFlow first.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _deterministic_ops():
    # The whole collection is imported by now; what runs no TensorFlow must not wait for it.
    if "tensorflow" in sys.modules:
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


@pytest.fixture(autouse=True)
def _seeded():
    # A layer without a seed of its own must not make a test fail one day in a hundred.
    if "keras" in sys.modules:
        import keras

        keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def digits():
    from ddefense import datasets

    return datasets.load("digits")


@pytest.fixture(scope="session")
def tiny_dataset(digits):
    """70 training and 60 test images that the paper's MNIST network takes."""
    from ddefense.datasets import Split

    return dataclasses.replace(
        digits,
        train=Split(digits.train.images[:70], digits.train.labels[:70]),
        test=Split(digits.test.images[:60], digits.test.labels[:60]),
    )


@pytest.fixture(scope="session")
def make_tiny_network():
    """Builds a small network, 4x4 grey images -> three classes; its weights depend on the seed."""
    import keras

    from ddefense.layers import TemperatureSoftmax

    def make(temperature=1.0, *, seed=0, dropout=0.0, dtype=None):
        def glorot(offset):
            return keras.initializers.GlorotUniform(seed=100 * seed + offset)

        images = keras.Input((4, 4, 1), name="images")
        x = keras.layers.Flatten(name="flatten")(images)
        x = keras.layers.Dense(
            8, activation="relu", kernel_initializer=glorot(1), name="dense", dtype=dtype
        )(x)
        x = keras.layers.Dropout(dropout, seed=100 * seed + 3, name="dropout", dtype=dtype)(x)
        logits = keras.layers.Dense(3, kernel_initializer=glorot(2), name="logits", dtype=dtype)(x)
        probabilities = TemperatureSoftmax(temperature, name="probabilities")(logits)
        return keras.Model(images, probabilities, name="tiny_network")

    return make


@pytest.fixture(scope="session")
def tiny_images():
    """Ten 4x4 images, every one different; batches of four leave two over."""
    return np.random.default_rng(1).uniform(size=(10, 4, 4, 1)).astype(np.float32)


@pytest.fixture(scope="session")
def load_prepared():
    """Loads what TFDS prepared; skips where it is not at hand, and never downloads."""
    import tensorflow_datasets as tfds

    from ddefense import datasets

    def load(name):
        data_dir = os.environ.get("TFDS_DATA_DIR")
        if not tfds.builder(name, data_dir=data_dir).is_prepared():
            pytest.skip(f"{name} is not prepared in TFDS_DATA_DIR, nor in TFDS's default folder")
        return datasets.load(name, data_dir=data_dir)

    return load


@pytest.fixture(scope="session")
def mnist_data(load_prepared):
    return load_prepared("mnist")


@pytest.fixture(scope="session")
def cifar10_data(load_prepared):
    return load_prepared("cifar10")


@pytest.fixture(scope="session")
def fashion_mnist_data(load_prepared):
    return load_prepared("fashion_mnist")


@pytest.fixture(scope="session")
def start_python():
    """Starts a Python in which this checkout's `ddefense` can be imported."""

    def start(*arguments, cwd, **variables):
        environ = {k: v for k, v in os.environ.items() if not k.startswith("COV_")}
        environ |= {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
        return subprocess.Popen(
            [sys.executable, "-P", *map(str, arguments)],
            cwd=cwd,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def run_python(start_python):
    """Runs a Python as `start_python` does, to its end."""

    def run(*arguments, cwd, **variables):
        process = start_python(*arguments, cwd=cwd, **variables)
        try:
            out, err = process.communicate(timeout=600)
        except BaseException:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture
def interruptible():
    """Lets processes that are started get Ctrl-C, which a shell ignores in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
