"""Gradient amplitude against autodiff of its definition, and where float32 ends."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddefense import measurements, records
from ddefense.measurements import amplitude
from ddefense.reporting.tables.table import fixed

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
    assert fixed(2)(record.median_log10) == "-inf"
    assert tf.constant(record.median_log10) > -np.inf  # TensorBoard takes no more
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


def many_classes(scale=1.0, classes=40):
    """More classes than have their gradients in one graph."""
    x = keras.Input((3, 3, 1))
    network = keras.Model(x, keras.layers.Dense(classes)(keras.layers.Flatten()(x)))
    rng = np.random.default_rng(6)
    network.set_weights([scale * rng.normal(size=(9, classes)), rng.normal(size=classes)])
    return network


def test_many_classes_equal_autodiff_too(images):
    network = many_classes()
    for record in measurements.gradient_amplitude(network, images, [5.0, 1.0]):
        log10 = np.log10(amplitudes(network, images, record.temperature).astype(np.float64))
        assert record.samples == 70
        assert record.median_log10 == pytest.approx(np.median(log10), abs=1e-4)
        assert record.float32_median_log10 == pytest.approx(np.median(log10), abs=1e-4)
        assert record.float32_zero_samples == 0


def test_class_by_class_or_all_in_one_graph(build_network, images, monkeypatch):
    together = measurements.gradient_amplitude(build_network(30.0), images[:20], [20.0, 1.0])
    monkeypatch.setattr(amplitude, "_MOST_UNROLLED", 1)
    monkeypatch.setattr(amplitude, "_MOST_ENTRIES", 9 * 3 * 7)  # seven images at a time
    apart = measurements.gradient_amplitude(build_network(30.0), images[:20], [20.0, 1.0])
    for one, other in zip(together, apart, strict=True):
        assert one.median_log10 == pytest.approx(other.median_log10, rel=1e-5)
        assert one.histogram == other.histogram
        assert one.float32_zero_entries == pytest.approx(other.float32_zero_entries, abs=0.01)


@pytest.mark.parametrize(
    ("shape", "classes", "expected"),
    [
        ((28, 28, 1), 10, 64),
        ((32, 32, 3), 10, 64),
        ((224, 224, 3), 100, 2),
        ((224, 224, 3), 1000, 1),
        ((8, 8, 1), 1000, 64),
        ((8, 8, 1), 10_000, 52),
    ],
)
def test_fewer_images_fit_where_jacobians_are_large(shape, classes, expected):
    assert amplitude._batch_size(shape, classes) == expected


def test_the_share_of_images_whose_outputs_do_not_move(images):
    """The network sees the first pixel alone, and only where it is above a half."""
    x = keras.Input((3, 3, 1))
    first = keras.layers.ReLU(threshold=0.5)(keras.layers.Flatten()(x))
    network = keras.Model(x, keras.layers.Dense(2, use_bias=False)(first))
    network.set_weights([np.array([[1.0, 0.0], *[[0.0, 0.0]] * 8])])
    dark = float((images[:, 0, 0, 0] <= 0.5).mean())
    assert 0 < dark < 1
    assert measurements.zero_jacobians(network, images) == pytest.approx(dark)


@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_of_probabilities_it_is_that_of_the_softmax_of_logits(build_network, images, scale):
    network = build_network(scale)
    (record,) = measurements.gradient_amplitude(network, images, [1.0])
    probabilities = keras.Model(network.input, keras.layers.Softmax()(network.output))
    found = measurements.zero_jacobians(probabilities, images)
    assert found == pytest.approx(record.float32_zero_samples)
