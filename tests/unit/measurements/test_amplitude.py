"""Gradient amplitude against autodiff of its definition, and where float32 ends."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddefense import measurements, records

EDGES = [-40, -35, -30, -25, -20, -15, -10, -5, -3]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(4).random((70, 3, 3, 1)).astype(np.float32)


def amplitudes(network, images, temperature):
    """Mean over classes and features of abs(dF_i/dx_j) of each image."""
    x = tf.constant(images, network.input.dtype)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        columns = tf.unstack(tf.nn.softmax(network(x) / temperature), axis=1)
    rows = [tape.gradient(column, x).numpy().reshape(len(images), -1) for column in columns]
    return np.abs(np.stack(rows)).mean(axis=(0, 2))


def test_equals_autodiff(build_network, images):
    # More images than are measured together, and temperatures in no order.
    found = measurements.gradient_amplitude(build_network(), images, [5.0, 1.0])
    assert [record.temperature for record in found] == [5.0, 1.0]
    for record in found:
        exact = amplitudes(build_network(dtype="float64"), images, record.temperature)
        log10 = np.log10(exact)
        assert record.samples == 70
        assert record.median_log10 == pytest.approx(np.median(log10), abs=1e-4)
        quantiles = np.quantile(log10, (0.05, 0.25, 0.75, 0.95))
        assert record.quantiles_log10 == pytest.approx(quantiles.tolist(), abs=1e-4)
        single = amplitudes(build_network(), images, record.temperature)
        assert record.float32_median_log10 == pytest.approx(
            np.log10(np.median(single.astype(np.float64))), abs=1e-4
        )
        assert record.float32_zero_samples == 0
        assert record.histogram_edges_log10 == EDGES
        counts = np.histogram(log10, [-np.inf, *EDGES, np.inf])[0]
        assert record.histogram == pytest.approx((counts / 70).tolist())


@pytest.mark.parametrize("scale", [1.0, 5.0, 30.0, 200.0, 1e5])
def test_histogram_covers_every_image(build_network, images, scale):
    (record,) = measurements.gradient_amplitude(build_network(scale), images[:40], [1.0])
    assert len(record.histogram) == len(record.histogram_edges_log10) + 1
    assert sum(record.histogram) == pytest.approx(1)
    assert record.quantiles_log10 == sorted(record.quantiles_log10)


def test_saturation_leaves_nothing_to_float32_but_the_logarithm(build_network, images):
    network = build_network(1e5)
    (record,) = measurements.gradient_amplitude(network, images[:40], [1.0])
    assert record.float32_zero_samples == 1
    assert record.float32_zero_entries == 1
    assert record.float32_median_log10 is None
    assert np.isfinite(record.median_log10)
    # Of the order of exp(-gap).
    ordered = np.sort(network(images[:40]).numpy().astype(np.float64), axis=1)
    gap = np.median(ordered[:, -1] - ordered[:, -2])
    assert record.median_log10 == pytest.approx(-gap / np.log(10), rel=0.01)
    assert record.histogram[0] > 0.9


def test_counts_the_entries_that_are_zero(build_network, images):
    # A network that sees one pixel of nine has eight of nine entries at exactly 0.
    network = build_network()
    kernel, *others = network.get_weights()
    kernel[1:] = 0
    network.set_weights([kernel, *others])
    (record,) = measurements.gradient_amplitude(network, images[:20], [1.0])
    assert record.float32_zero_entries == pytest.approx(8 / 9, abs=0.02)
    assert record.float32_zero_samples < 0.5


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_dead_network_is_recorded(build_network, images, tmp_path, count):
    (record,) = measurements.gradient_amplitude(build_network(0.0), images[:count], [1.0])
    assert record.median_log10 < -1e6
    assert record.histogram == [1] + [0] * 9
    assert record.float32_zero_samples == 1
    records.dump(record, tmp_path / "gradients.json")
    assert records.load(records.GradientRecord, tmp_path / "gradients.json") == record


def test_a_steep_network_falls_into_the_last_bin(images):
    x = keras.Input((3, 3, 1))
    network = keras.Model(x, keras.layers.Dense(2, use_bias=False)(keras.layers.Flatten()(x)))
    network.set_weights([np.array([[500, -500]] * 9, np.float32)])
    (record,) = measurements.gradient_amplitude(network, np.zeros_like(images[:4]), [1.0])
    # dF/dx = 1/4 (500 + 500) at equal logits.
    assert record.median_log10 == pytest.approx(np.log10(250))
    assert record.histogram == [0] * 9 + [1]
