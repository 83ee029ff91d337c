"""The softmax at a temperature: its values, its life on disk, what it refuses."""

import keras
import numpy as np
import pytest

from ddefense.layers import TemperatureSoftmax


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        # e^0, e^ln 2, e^ln 5 share 8.
        (1.0, [0.125, 0.25, 0.625]),
        # At T = 1/2 the odds are squared: 1, 4, 25 share 30.
        (0.5, [1 / 30, 4 / 30, 25 / 30]),
        # At T = 2 they are square roots.
        (2.0, np.sqrt([1, 2, 5]) / np.sqrt([1, 2, 5]).sum()),
    ],
)
def test_values_by_hand(temperature, expected):
    logits = np.log([[1.0, 2.0, 5.0]]).astype(np.float32)
    found = keras.ops.convert_to_numpy(TemperatureSoftmax(temperature)(logits))
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


def test_one_is_the_default_and_integers_will_do():
    assert TemperatureSoftmax().temperature == 1.0
    assert TemperatureSoftmax(20).temperature == 20.0
    assert isinstance(TemperatureSoftmax(20).temperature, float)


def test_logits_of_hundreds_saturate_without_nan():
    found = keras.ops.convert_to_numpy(TemperatureSoftmax(1.0)(np.float32([[800.0, 0.0, -800.0]])))
    np.testing.assert_array_equal(found, [[1.0, 0.0, 0.0]])


def test_many_rows_saturate_exactly_whatever_the_processor():
    # Where TensorFlow leaves oneDNN out, the largest of these is 0.99999994 from two rows on.
    logits = 1e5 * np.random.default_rng(0).permuted(np.tile(np.arange(10.0), (64, 1)), axis=1)
    found = keras.ops.convert_to_numpy(TemperatureSoftmax(1.0)(logits.astype(np.float32)))
    assert set(np.unique(found)) == {0.0, 1.0}


def test_the_last_axis_is_normalised_whatever_the_rank():
    logits = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    found = keras.ops.convert_to_numpy(TemperatureSoftmax(3.0)(logits))
    assert found.shape == logits.shape
    np.testing.assert_allclose(found.sum(axis=-1), np.ones((2, 3)), rtol=1e-6)


def test_config_round_trip():
    layer = TemperatureSoftmax(30.0, name="head", dtype="float64")
    again = TemperatureSoftmax.from_config(layer.get_config())
    assert again.temperature == 30.0
    assert again.name == "head"
    assert again.get_config() == layer.get_config()


def test_a_saved_model_keeps_its_temperature(tmp_path):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, TemperatureSoftmax(7.5)(keras.layers.Dense(4)(inputs)))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.layers[-1].temperature == 7.5
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(again(values), model(values))


@pytest.mark.parametrize("shape", [(None, 10), (5, 10), (None, None, 3)])
def test_output_shape_is_the_input_shape(shape):
    assert TemperatureSoftmax(2.0).compute_output_shape(shape) == shape
    assert TemperatureSoftmax(2.0)(keras.KerasTensor(shape)).shape == shape


def test_half_precision_networks_still_give_float32_probabilities():
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs = keras.Input((3,))
        # Glorot's weights of a fixed seed: others may give gaps that underflow in float32 too.
        initializer = keras.initializers.GlorotUniform(seed=0)
        logits = keras.layers.Dense(10, kernel_initializer=initializer)(inputs)
        model = keras.Model(inputs, TemperatureSoftmax(1.0)(logits))
    finally:
        keras.config.set_dtype_policy(previous)
    values = 20 * np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    z = keras.Model(inputs, logits)(values)
    assert z.dtype == "float16"
    gaps = np.ptp(keras.ops.convert_to_numpy(z).astype(np.float32), axis=1)
    assert 18 < gaps.max() < 80
    found = keras.ops.convert_to_numpy(model(values))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), np.ones(50), atol=1e-6)
    # A gap of 18 is where a float16 softmax gives 0.
    assert (found > 0).all()


@pytest.mark.parametrize(
    "temperature", [0, -1, 0.0, float("nan"), float("inf"), "a", True, None], ids=repr
)
def test_an_invalid_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match="Expected a finite number > 0") as caught:
        TemperatureSoftmax(temperature)
    assert f"temperature={temperature!r}" in str(caught.value)


def test_the_temperature_cannot_be_changed():
    layer = TemperatureSoftmax(20.0)
    with pytest.raises(AttributeError):
        layer.temperature = 1.0
    assert layer.temperature == 20.0
