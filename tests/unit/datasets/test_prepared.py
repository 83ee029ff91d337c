"""Datasets that TFDS prepares: the real MNIST, and what happens without it."""

import socket
import time

import numpy as np
import pytest

from ddefense import datasets
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


def test_missing_data_and_no_network_fail_at_once_and_say_what_to_do(tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        # Bound but not listening: connections are refused, wherever the tests run.
        proxy = f"http://127.0.0.1:{unused.getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy)
            monkeypatch.setenv(name.upper(), proxy)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        start = time.monotonic()
        with pytest.raises(RunError) as caught:
            datasets.load("mnist", data_dir=tmp_path)
    assert time.monotonic() - start < 15
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path) in message
    for part in ("mnist", "--data_dir", "TFDS_DATA_DIR", "tensorflow_datasets", "build mnist"):
        assert part in message
    assert not list(tmp_path.rglob("*.*"))  # no trace of a download
