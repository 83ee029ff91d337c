"""The Jacobian of the softmax: the closed form, autodiff and exact decimals agree."""

import decimal
import tracemalloc

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from ddefense.maths import gradients

TEMPERATURES = [0.5, 1.0, 5.0, 100.0]


def autodiff(network, images, temperature):
    """Logits, their Jacobian and that of F, all in float64."""
    x = tf.constant(images, tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        z = network(x)
        outputs = [tf.unstack(z, axis=1), tf.unstack(tf.nn.softmax(z / temperature), axis=1)]
    of_z, of_f = (
        np.stack([tape.gradient(o, x).numpy().reshape(len(images), -1) for o in output], axis=1)
        for output in outputs
    )
    return z.numpy(), of_z, of_f


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(0)
    images = keras.Input((4, 4, 1), dtype="float64")
    x = keras.layers.Conv2D(2, 3, activation="relu", dtype="float64")(images)
    x = keras.layers.Flatten(dtype="float64")(x)
    x = keras.layers.Dense(6, activation="relu", dtype="float64")(x)
    model = keras.Model(images, keras.layers.Dense(4, dtype="float64")(x))
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def decimal_log10_amplitude(logits, logit_gradients, temperature):
    """log10 of the mean of abs(dF_i/dx_j) of one image, in 60 decimal digits."""
    with decimal.localcontext(prec=60, Emin=-100_000, Emax=100_000):
        t = decimal.Decimal(temperature)
        powers = [(decimal.Decimal(float(z)) / t).exp() for z in logits]
        f = [power / sum(powers) for power in powers]
        columns = [[decimal.Decimal(float(g)) for g in column] for column in logit_gradients.T]
        entries = [
            abs(f[i] * sum(f[k] * (g[i] - g[k]) for k in range(len(f))) / t)
            for g in columns
            for i in range(len(f))
        ]
        return float((sum(entries) / len(entries)).log10())


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_closed_form_equals_autodiff(network, temperature):
    images = np.random.default_rng(1).random((5, 4, 4, 1))
    z, of_z, of_f = autodiff(network, images, temperature)
    closed = gradients.softmax_jacobian(z, of_z, temperature)
    assert np.abs(of_f).max() > 1e-6
    np.testing.assert_allclose(closed, of_f, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_closed_form_is_that_of_the_talk(temperature):
    # (1/T) e^(z_i/T) / g^2 sum_l (dz_i/dx - dz_l/dx) e^(z_l/T), written out.
    rng = np.random.default_rng(2)
    z, of_z = rng.normal(size=(3, 4)), rng.normal(size=(3, 4, 6))
    closed = gradients.softmax_jacobian(z, of_z, temperature)
    power = np.exp(z / temperature)
    g = power.sum(axis=1)
    for n, i, j in np.ndindex(closed.shape):
        total = sum((of_z[n, i, j] - of_z[n, k, j]) * power[n, k] for k in range(4))
        expected = power[n, i] / g[n] ** 2 * total / temperature
        assert closed[n, i, j] == pytest.approx(expected, rel=1e-10, abs=1e-15)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_amplitude_equals_that_of_autodiff(network, temperature):
    images = np.random.default_rng(3).random((5, 4, 4, 1))
    z, of_z, of_f = autodiff(network, images, temperature)
    np.testing.assert_allclose(
        gradients.log10_mean_abs_jacobian(z, of_z, temperature),
        np.log10(np.abs(of_f).mean(axis=(1, 2))),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize(
    ("gap", "temperature"), [(5, 1), (90, 1), (750, 1), (750, 100), (20_000, 2)]
)
def test_amplitude_is_exact_at_any_gap(gap, temperature):
    rng = np.random.default_rng(4)
    z = np.array([gap, 0.0, -3.0, -1.5])
    of_z = rng.normal(size=(4, 7)) * gap
    found = gradients.log10_mean_abs_jacobian(z[None], of_z[None], temperature)
    assert found.dtype == np.float64
    assert found[0] == pytest.approx(decimal_log10_amplitude(z, of_z, temperature), rel=1e-12)


def test_amplitude_survives_where_float64_does_not():
    of_z = np.random.default_rng(5).normal(size=(1, 3, 4))
    z = np.array([[750.0, 0.0, -20.0]])
    assert scipy.special.softmax(z)[0].tolist() == [1, 0, 0]
    assert not gradients.softmax_jacobian(z, of_z, 1.0).any()
    # exp(-750) is 10^-325.7, times the size of the gradients.
    assert gradients.log10_mean_abs_jacobian(z, of_z, 1.0)[0] == pytest.approx(-325.7, abs=1)


def test_amplitude_takes_float32_logits_without_loss():
    rng = np.random.default_rng(6)
    z = (rng.normal(size=(3, 4)) * 300).astype(np.float32)
    of_z = rng.normal(size=(3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(
        gradients.log10_mean_abs_jacobian(z, of_z, 3.0),
        gradients.log10_mean_abs_jacobian(z.astype(np.float64), of_z.astype(np.float64), 3.0),
    )


def test_amplitude_of_a_dead_network_is_minus_infinity():
    # Gradients that all outputs share cancel in F as well.
    for of_z in (np.zeros((2, 3, 4)), np.ones((2, 3, 4))):
        found = gradients.log10_mean_abs_jacobian(np.zeros((2, 3)), of_z, 1.0)
        assert found.tolist() == [-np.inf, -np.inf]


def test_amplitude_by_hand():
    # Two equal logits at T = 2: dF_0/dx = 1/2 * 1/4 * (3 - 1) = 1/4 = -dF_1/dx.
    found = gradients.log10_mean_abs_jacobian(np.zeros((1, 2)), np.array([[[3.0], [1.0]]]), 2.0)
    assert found[0] == pytest.approx(np.log10(0.25))
    closed = gradients.softmax_jacobian(np.zeros((1, 2)), np.array([[[3.0], [1.0]]]), 2.0)
    np.testing.assert_allclose(closed, [[[0.25], [-0.25]]])


def test_rows_a_few_at_a_time_give_the_same_amplitude(monkeypatch):
    rng = np.random.default_rng(0)
    logits, rows = rng.normal(size=(3, 11)), rng.normal(size=(3, 11, 5))
    expected = gradients.log10_mean_abs_jacobian(logits, rows, 5.0)
    monkeypatch.setattr(gradients, "_MOST_ENTRIES", 4 * 3 * 11)
    found = gradients.log10_mean_abs_jacobian(logits, rows, 5.0)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_memory_does_not_grow_by_the_square_of_the_classes():
    classes = 4000
    logits, rows = np.zeros((1, classes)), np.ones((1, classes, 4))
    tracemalloc.start()
    gradients.log10_mean_abs_jacobian(logits, rows, 5.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 9 * gradients._MOST_ENTRIES * np.dtype(np.float64).itemsize
