"""Datasets that TFDS prepares: the real ones, imitations, and what happens without them."""

import os
import pathlib
import re
import shutil
import socket
import time

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds

from ddefense import datasets, networks
from ddefense.datasets import catalog, prepared
from ddefense.datasets.checking import Declared
from ddefense.records import RunError


def test_mnist_is_the_real_one(mnist_data):
    assert (len(mnist_data.train), len(mnist_data.test)) == (60_000, 10_000)
    assert mnist_data.image_shape == (28, 28, 1)
    assert mnist_data.class_names == tuple("0123456789")
    assert mnist_data.value_range == (0.0, 1.0)
    np.testing.assert_array_equal(
        np.bincount(mnist_data.train.labels),
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    )
    np.testing.assert_array_equal(
        np.bincount(mnist_data.test.labels),
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    )
    # Mean and deviation of the training pixels, which everybody quotes.
    assert mnist_data.train.images.mean(dtype=np.float64) == pytest.approx(0.1307, abs=1e-4)
    assert mnist_data.train.images.std(dtype=np.float64) == pytest.approx(0.3081, abs=1e-4)


def test_mnist_comes_in_a_fixed_order(mnist_data):
    np.testing.assert_array_equal(mnist_data.train.labels[:10], [4, 1, 0, 7, 8, 1, 2, 7, 1, 6])
    np.testing.assert_array_equal(mnist_data.test.labels[:10], [2, 0, 4, 8, 7, 6, 0, 6, 3, 1])


def test_pixels_are_bytes_divided_by_255(mnist_data):
    scaled = mnist_data.test.images[:500] * np.float32(255)
    np.testing.assert_allclose(scaled, np.round(scaled), atol=1e-4)
    assert len(np.unique(np.round(scaled))) > 200


@pytest.mark.slow
def test_cifar10_is_the_real_one(cifar10_data):
    assert cifar10_data.network == "cifar10"
    assert cifar10_data.train.images.shape == (50_000, 32, 32, 3)
    assert cifar10_data.test.images.shape == (10_000, 32, 32, 3)
    assert cifar10_data.class_names == (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    np.testing.assert_array_equal(np.bincount(cifar10_data.train.labels), [5000] * 10)
    np.testing.assert_array_equal(np.bincount(cifar10_data.test.labels), [1000] * 10)
    # Means and deviations of red, green and blue over the training pixels, which everybody quotes.
    pixels = cifar10_data.train.images.reshape(-1, 3)
    means = pixels.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=1e-4)
    squares = np.square(pixels).mean(axis=0, dtype=np.float64)
    deviations = np.sqrt(squares - np.square(means))
    np.testing.assert_allclose(deviations, [0.2470, 0.2435, 0.2616], atol=1e-4)


def test_cifar10_comes_in_a_fixed_order(cifar10_data):
    np.testing.assert_array_equal(cifar10_data.train.labels[:10], [7, 8, 4, 4, 6, 5, 2, 9, 6, 6])
    np.testing.assert_array_equal(cifar10_data.test.labels[:10], [7, 0, 6, 9, 5, 1, 7, 0, 3, 2])


@pytest.mark.slow
def test_cifar10_is_standardised_inside_its_network_alone(cifar10_data):
    """The paper's test values lie in [-2.22, 2.62]; so far, and no further, does this agree."""
    assert cifar10_data.standardized
    assert cifar10_data.value_range == (0.0, 1.0)
    assert (cifar10_data.test.images.min(), cifar10_data.test.images.max()) == (0.0, 1.0)
    mean, variance = cifar10_data.feature_statistics()
    assert mean.shape == variance.shape == (32, 32, 3)
    assert variance.min() > 0.05  # so that no feature is blown up
    network = networks.build("cifar10", temperature=1.0, seed=0, statistics=(mean, variance))
    inside = keras.Model(network.input, network.get_layer("standardize").output)
    values = networks.predict(inside, cifar10_data.test.images)
    assert (round(float(values.min()), 2), round(float(values.max()), 2)) == (-2.21, 2.63)


IMITATIONS = 40


@pytest.fixture
def imitated(tmp_path):
    """What TFDS prepared of Fashion-MNIST, as far as its description goes; images are noise."""
    builder = tfds.builder("fashion_mnist", data_dir=tmp_path)
    splits = [
        tfds.core.SplitInfo(name=n, shard_lengths=[IMITATIONS], num_bytes=1, filename_template=None)
        for n in ("train", "test")
    ]
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    pathlib.Path(builder.data_dir).mkdir(parents=True)
    builder.info.write_to_directory(builder.data_dir)
    with tfds.testing.mock_data(
        IMITATIONS, data_dir=str(tmp_path), policy=tfds.testing.MockPolicy.USE_FILES
    ):
        yield


@pytest.mark.usefixtures("imitated")
def test_fashion_mnist_by_its_name():
    dataset = datasets.load("fashion_mnist")
    assert (dataset.name, dataset.network) == ("fashion_mnist", "mnist")
    assert not dataset.standardized
    assert dataset.feature_statistics() is None
    assert (dataset.num_classes, dataset.image_shape) == (10, (28, 28, 1))
    assert dataset.class_names == (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    for split in (dataset.train, dataset.test):
        assert split.images.shape == (IMITATIONS, 28, 28, 1)
        assert (split.images.dtype, split.labels.dtype) == (np.float32, np.int64)
        assert dataset.value_range == (0.0, 1.0)
        assert 0 <= split.images.min() < 0.01
        assert 0.99 < split.images.max() <= 1  # bytes as large as 254 are among the noise
        scaled = split.images * np.float32(255)
        np.testing.assert_allclose(scaled, np.round(scaled), atol=1e-4)
        assert 0 <= split.labels.min() < split.labels.max() < 10
    network = networks.build(dataset.network, temperature=1.0, seed=0)
    assert networks.predict(network, dataset.test.images[:3]).shape == (3, 10)


def test_fashion_mnist_is_the_real_one(fashion_mnist_data):
    for split, each in ((fashion_mnist_data.train, 6000), (fashion_mnist_data.test, 1000)):
        np.testing.assert_array_equal(np.bincount(split.labels), [each] * 10)
    images = fashion_mnist_data.train.images
    # Mean and deviation of the training pixels, which everybody quotes.
    assert images.mean(dtype=np.float64) == pytest.approx(0.2860, abs=1e-4)
    assert images.std(dtype=np.float64) == pytest.approx(0.3530, abs=1e-4)


@pytest.fixture
def proxy(monkeypatch):
    """A socket through which all requests go; it refuses them unless a test makes it listen."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, address)
            monkeypatch.setenv(name.upper(), address)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield bound


def fail_to_load(name, folder):
    """The message, and after how many seconds it came."""
    start = time.monotonic()
    with pytest.raises(RunError) as caught:
        datasets.load(name, data_dir=folder)
    assert not list(folder.rglob("*.*"))  # no trace of a download
    return str(caught.value), time.monotonic() - start


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_missing_data_and_no_network_fail_at_once_and_say_what_to_do(tmp_path, proxy, name):
    message, seconds = fail_to_load(name, tmp_path)
    assert seconds < 10
    assert "\n" not in message
    assert message.startswith(f"Dataset {name} is not prepared in {tmp_path}")
    assert re.search(r" and [a-z0-9.-]+\.[a-z]+ cannot be reached\. ", message)
    for part in ("--data_dir", "TFDS_DATA_DIR", "tensorflow_datasets", f"build {name}`"):
        assert part in message


def test_a_host_that_does_not_answer_is_not_waited_for(tmp_path, proxy, monkeypatch):
    assert prepared._PROBE_SECONDS <= 5
    monkeypatch.setattr(prepared, "_PROBE_SECONDS", 0.3)
    proxy.listen()  # connections are made, and nothing is ever said
    message, seconds = fail_to_load("cifar10", tmp_path)
    assert "www.cs.toronto.edu cannot be reached" in message
    assert seconds < 10


# --- damaged data ---------------------------------------------------------------------------------
def flipped(shard):
    with open(shard, "r+b") as file:
        file.seek(5_000_000)
        file.write(b"\xff" * 4)


def described_by_half(shard):
    os.truncate(shard.parent / "dataset_info.json", 200)


@pytest.mark.slow
@pytest.mark.parametrize("read", ["in memory", "as a stream"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda shard: os.truncate(shard, 3_000_000),
        flipped,
        lambda shard: shard.unlink(),
        described_by_half,
    ],
    ids=["truncated", "flipped", "missing", "description"],
)
def test_damaged_data_is_named_with_the_remedy(damage, read, tmp_path, mnist_data):
    root = pathlib.Path(os.environ["TFDS_DATA_DIR"])
    shutil.copytree(root / "mnist", tmp_path / "mnist", copy_function=shutil.copyfile)
    (shard,) = (tmp_path / "mnist").rglob("*train.tfrecord*")
    damage(shard)
    reads = {
        "in memory": lambda: prepared.load("mnist", network="mnist", data_dir=tmp_path),
        "as a stream": lambda: list(catalog.find("mnist", Declared(), tmp_path).train.read(0)),
    }
    with pytest.raises(RunError) as caught:
        reads[read]()
    message = str(caught.value)
    assert message.startswith(f"Dataset mnist in {tmp_path / 'mnist'}")
    assert "Remove that folder and prepare it again" in message
    assert "\n" not in message
