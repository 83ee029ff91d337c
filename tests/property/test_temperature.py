"""Properties of the softmax at a temperature, its Jacobian and the loss."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ddefense.layers import TemperatureSoftmax
from ddefense.maths import gradients, losses

TEMPERATURES = st.floats(0.5, 100)
LOGITS = npst.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(2, 6)),
    elements=st.floats(-50, 50, width=32),
)


def probabilities(logits, temperature):
    return TemperatureSoftmax(temperature)(logits).numpy().astype(np.float64)


@given(LOGITS, TEMPERATURES)
def test_probabilities_sum_to_one(logits, temperature):
    found = probabilities(logits, temperature)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


@given(LOGITS, TEMPERATURES, st.floats(-100, 100, width=32))
def test_a_shift_of_all_logits_changes_nothing(logits, temperature, shift):
    shifted = probabilities(logits + np.float32(shift), temperature)
    np.testing.assert_allclose(shifted, probabilities(logits, temperature), atol=1e-4)


@given(LOGITS, TEMPERATURES)
def test_the_class_does_not_depend_on_the_temperature(logits, temperature):
    found = probabilities(logits, temperature)
    winner = logits.argmax(axis=1)
    np.testing.assert_array_equal(found[np.arange(len(found)), winner], found.max(axis=1))


@given(LOGITS, TEMPERATURES, TEMPERATURES)
def test_entropy_never_falls_as_the_temperature_grows(logits, one, other):
    low, high = (
        scipy.stats.entropy(probabilities(logits, t), axis=1) for t in sorted([one, other])
    )
    assert (high >= low - 1e-5).all()


@given(LOGITS, TEMPERATURES)
def test_the_layer_equals_float64(logits, temperature):
    expected = scipy.special.softmax(logits.astype(np.float64) / temperature, axis=1)
    np.testing.assert_allclose(probabilities(logits, temperature), expected, atol=2e-5)


@st.composite
def logits_and_gradients(draw):
    logits = draw(LOGITS).astype(np.float64)
    features = draw(st.integers(1, 5))
    elements = st.floats(-10, 10, width=16)
    return logits, draw(npst.arrays(np.float64, (*logits.shape, features), elements=elements))


@given(logits_and_gradients(), TEMPERATURES)
def test_the_rows_of_the_jacobian_sum_to_zero(drawn, temperature):
    jacobian = gradients.softmax_jacobian(*drawn, temperature)
    np.testing.assert_allclose(jacobian.sum(axis=1), 0, atol=1e-12)


@given(logits_and_gradients(), TEMPERATURES)
def test_the_jacobian_is_that_of_the_probabilities(drawn, temperature):
    # (diag(F) - F F^T) / T times the gradients of the logits.
    logits, of_logits = drawn
    f = scipy.special.softmax(logits / temperature, axis=1)
    of_z = (f[:, :, None] * np.eye(f.shape[1]) - f[:, :, None] * f[:, None, :]) / temperature
    found = gradients.softmax_jacobian(logits, of_logits, temperature)
    np.testing.assert_allclose(found, of_z @ of_logits, atol=1e-12)


@given(logits_and_gradients(), TEMPERATURES)
def test_the_jacobian_falls_by_the_temperature_where_the_probabilities_stay(drawn, temperature):
    logits, of_logits = drawn
    np.testing.assert_allclose(
        gradients.softmax_jacobian(logits * temperature, of_logits, temperature) * temperature,
        gradients.softmax_jacobian(logits, of_logits, 1.0),
        rtol=1e-9,
        atol=1e-13,
    )
    np.testing.assert_allclose(
        gradients.log10_mean_abs_jacobian(logits * temperature, of_logits, temperature),
        gradients.log10_mean_abs_jacobian(logits, of_logits, 1.0) - np.log10(temperature),
        rtol=1e-6,
        atol=1e-6,
    )


@given(logits_and_gradients(), TEMPERATURES)
def test_the_amplitude_is_that_of_the_jacobian(drawn, temperature):
    amplitude = np.abs(gradients.softmax_jacobian(*drawn, temperature)).mean(axis=(1, 2))
    found = gradients.log10_mean_abs_jacobian(*drawn, temperature)
    np.testing.assert_allclose(10**found, amplitude, rtol=1e-6, atol=1e-12)


@given(LOGITS, TEMPERATURES, st.integers(0, 2**32 - 1))
def test_cross_entropy_is_at_least_the_entropy_of_the_labels(logits, temperature, seed):
    labels = np.random.default_rng(seed).dirichlet(np.ones(logits.shape[1]), len(logits))
    labels = labels.astype(np.float32)
    entropy = scipy.stats.entropy(labels.astype(np.float64), axis=1).mean()
    assert float(losses.soft_label_cross_entropy(labels, logits, temperature)) >= entropy - 1e-4


@given(LOGITS, TEMPERATURES)
def test_cross_entropy_is_the_entropy_of_matching_labels(logits, temperature):
    labels = probabilities(logits, temperature)
    found = losses.soft_label_cross_entropy(labels.astype(np.float32), logits, temperature)
    assert float(found) == pytest.approx(scipy.stats.entropy(labels, axis=1).mean(), abs=1e-4)
