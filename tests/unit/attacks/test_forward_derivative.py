"""Each reading of the forward derivative against autodiff of its definition."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddefense import attack_catalog, attacks

CLASSES = 3


def evaluate(network, name, images, targets, temperature=1.0):
    derivative = attacks.forward_derivative(network, name, temperature=temperature)
    return derivative(images, targets.astype(np.int32))


def of_target(rows, targets):
    return rows[np.arange(len(rows)), targets]


@pytest.fixture
def targets(images):
    return np.arange(len(images)) % CLASSES


@pytest.mark.parametrize("name", attack_catalog.JSMA_ATTACKS)
def test_gives_the_class_and_flat_maps(network, images, targets, predict, name):
    predicted, *maps = evaluate(network, name, images, targets)
    assert predicted.dtype == np.int64
    np.testing.assert_array_equal(predicted, predict(images))
    assert len(set(predicted.tolist())) > 1
    assert len(maps) == (2 if name in ("jsma_z", "jsma_f_literal") else 1)
    for found in maps:
        assert found.dtype == np.float32
        assert found.shape == (len(images), 16)


def test_z_is_the_jacobian_of_the_logits(network, images, targets, jacobian):
    rows = jacobian(network, images, lambda z: z)
    _, alpha, beta = evaluate(network, "jsma_z", images, targets)
    expected = of_target(rows, targets)
    np.testing.assert_allclose(alpha, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(beta, rows.sum(axis=1) - expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "temperature", "evaluated_at"),
    [
        ("jsma_f", 1.0, 1.0),
        ("jsma_f", 20.0, 1.0),  # the temperature belongs to another reading
        ("jsma_f_temperature", 20.0, 20.0),
        ("jsma_f_temperature", 1.0, 1.0),
    ],
)
def test_f_is_the_jacobian_of_the_probabilities(
    network, images, targets, jacobian, name, temperature, evaluated_at
):
    rows = jacobian(network, images, lambda z: tf.nn.softmax(z / evaluated_at))
    _, alpha = evaluate(network, name, images, targets, temperature)
    expected = of_target(rows, targets)
    np.testing.assert_allclose(alpha, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(alpha).max() > 1e-3
    # Beta, which is not taken, is -alpha.
    np.testing.assert_allclose(rows.sum(axis=1) - expected, -alpha, rtol=1e-4, atol=1e-6)


def test_exact_is_the_jacobian_of_the_probabilities_but_for_a_positive_factor(
    build_network, images, targets, jacobian
):
    network = build_network(dtype="float64")
    rows = jacobian(network, images, tf.nn.softmax)
    f = of_target(tf.nn.softmax(network(images)).numpy(), targets)
    _, alpha = evaluate(build_network(), "jsma_f_exact", images, targets)
    expected = of_target(rows, targets) / (f * (1 - f))[:, None]
    np.testing.assert_allclose(alpha, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 10.0, 30.0])
def test_literal_sums_the_rows_of_the_float32_jacobian(
    build_network, images, targets, jacobian, scale
):
    network = build_network(scale)
    rows = jacobian(network, images, tf.nn.softmax)
    assert rows.dtype == np.float32
    _, alpha, beta = evaluate(network, "jsma_f_literal", images, targets)
    mine = np.eye(CLASSES, dtype=bool)[targets]
    others = np.where(mine[:, :, None], np.float32(0), rows).sum(axis=1)
    largest = np.abs(rows).max(axis=(1, 2))[:, None]
    assert (np.abs(alpha - of_target(rows, targets)) <= 1e-4 * largest).all()
    assert (np.abs(beta - others) <= 1e-4 * largest).all()


@pytest.mark.slow
@pytest.mark.parametrize("gap", [4.0, 8.0, 10.0, 12.0])
@pytest.mark.parametrize("target", [0, 1, 2])
def test_literal_has_the_rounding_of_the_float32_jacobian_of_a_confident_network(
    jacobian, gap, target
):
    # Class 0 has all but exp(-gap) of the probability: 1 - p must not be taken from p - p^2.
    rng = np.random.default_rng(5)
    images = keras.Input((1, 40, 1))
    network = keras.Model(images, keras.layers.Dense(CLASSES)(keras.layers.Flatten()(images)))
    network.set_weights([rng.normal(size=(40, CLASSES)), np.array([gap, 0, -1.0])])
    image, targets = np.zeros((1, 1, 40, 1), np.float32), np.array([target])
    rows = jacobian(network, image, tf.nn.softmax)
    _, alpha, _ = evaluate(network, "jsma_f_literal", image, targets)
    expected = rows[:, target]
    assert np.abs(alpha - expected).max() <= 1e-5 * np.abs(expected).max()


def test_saturation_zeroes_the_float32_probabilities_but_not_the_exact_reading(
    saturated, build_network, images, targets, jacobian
):
    logits = saturated(images).numpy()
    gaps = np.sort(logits, axis=1)
    assert (gaps[:, -1] - gaps[:, -2] > 104).all()
    away = targets != logits.argmax(axis=1)

    _, alpha = evaluate(saturated, "jsma_f", images, targets)
    assert not alpha.any()
    _, alpha, _ = evaluate(saturated, "jsma_f_literal", images, targets)
    assert not alpha[away].any()

    _, alpha = evaluate(saturated, "jsma_f_exact", images, targets)
    assert np.isfinite(alpha).all()
    assert alpha.any(axis=1).all()
    # One class dominates, so the bracket is the difference of two logits' gradients.
    rows = jacobian(build_network(1000.0, "float64"), images, lambda z: z)
    expected = of_target(rows, targets) - of_target(rows, logits.argmax(axis=1))
    scale = np.abs(expected[away]).max()
    np.testing.assert_allclose(alpha[away], expected[away], rtol=1e-4, atol=1e-5 * scale)


def test_the_training_temperature_undoes_saturation(network, saturated, images, targets):
    _, healed = evaluate(saturated, "jsma_f_temperature", images, targets, 1000.0)
    _, healthy = evaluate(network, "jsma_f", images, targets)
    np.testing.assert_allclose(healed, healthy, rtol=1e-3, atol=1e-5)


def test_every_reading_of_the_settings_exists(network):
    for name in attack_catalog.JSMA_ATTACKS:
        attacks.forward_derivative(network, name)


def test_an_unknown_name_is_refused_with_the_known_ones(network):
    with pytest.raises(ValueError, match=r"jsma_f.*jsma_z.*received 'fgsm'"):
        attacks.forward_derivative(network, "fgsm")


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_literal_rows_are_summed_in_the_order_of_classes(classes):
    """Bit for bit what a sum over all rows at once gives, on the CPU and for so few classes."""

    def all_at_once(logits, target):
        p = tf.nn.softmax(logits)
        jacobian = (tf.eye(classes) - p[:, :, None]) * p[:, None, :]
        return [tf.reduce_sum(of[:, :, None] * jacobian, axis=1) for of in (target, 1 - target)]

    rng = np.random.default_rng(0)
    identity = attacks.classifier(
        lambda x: tf.reshape(x, [-1, classes]), image_shape=(1, classes, 1), bounds=(-9.0, 9.0)
    )
    derivative = attacks.forward_derivative(identity, "jsma_f_literal")
    for scale in (0.1, 1.0, 10.0, 100.0):
        logits = (scale * rng.normal(size=(32, 1, classes, 1))).astype(np.float32)
        targets = rng.integers(0, classes, 32)
        _, *found = derivative(logits, targets)
        expected = all_at_once(logits.reshape(32, classes), tf.one_hot(targets, classes))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_literal_takes_memory_by_the_number_of_classes(run_python, tmp_path):
    """All rows at once would take 32 x 2000 x 2000 x 4 bytes, 488 MiB, several times."""
    script = tmp_path / "script.py"
    script.write_text(
        "import resource, numpy as np, tensorflow as tf\n"
        "from ddefense import attacks\n"
        "classes = 2000\n"
        "identity = attacks.classifier(lambda x: tf.reshape(x, [-1, classes]),\n"
        "    image_shape=(1, classes, 1))\n"
        "images = np.zeros((32, 1, classes, 1), np.float32)\n"
        "peaks = []\n"
        "for name in ('jsma_z', 'jsma_f_literal'):\n"
        "    attacks.forward_derivative(identity, name)(images, np.arange(32))\n"
        "    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
        "print(peaks[1] - peaks[0])\n"
    )
    assert int(run_python(script, cwd=tmp_path).stdout) < 300
