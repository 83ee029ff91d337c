"""What is minimised: the truth beside the labels, weights of classes, regularizers."""

import dataclasses

import keras
import numpy as np
import pytest

from ddefense import distillation, networks, training
from ddefense.datasets import Split
from ddefense.layers import TemperatureSoftmax
from ddefense.training import Objective

T = 4.0
SETTINGS = training.TrainingSettings(
    temperature=T, epochs=1, batch_size=10, learning_rate=0.5, momentum=0.0, seed=3
)
ROWS = np.random.default_rng(0).dirichlet(np.ones(3), size=10).astype(np.float32)
CLASSES = np.array([0, 1, 2, 2, 1, 0, 0, 0, 1, 2])
# What a student of all that there is learns from.
MIXED = {"alpha": 0.3, "scale_by_temperature_squared": True, "class_weights": {0: 0.5, 2: 3.0}}


def fit(network, images, objective, settings=SETTINGS):
    options = training.TrainingOptions(objective=objective)
    return training.fit(network, Split(images, CLASSES), ROWS, settings, options=options)


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        {"alpha": 1.0},
        {"alpha": 0.25},
        {"alpha": 0.25, "scale_by_temperature_squared": True},
        {"scale_by_temperature_squared": True},
        {"class_weights": {0: 0.5, 2: 3.0}},
        MIXED,
    ],
)
def test_a_step_by_hand(make_row_network, fields, jit_compile):
    """Logits are rows of a zero matrix, one per image: a step is the gradient of the logits."""
    network, images = make_row_network(10)
    start = np.random.default_rng(1).normal(size=(10, 3)).astype(np.float32)
    network.set_weights([start])
    settings = dataclasses.replace(SETTINGS, jit_compile=jit_compile)
    history = fit(network, images, Objective(**fields), settings)

    alpha = fields.get("alpha", 0.0)
    squared = T**2 if fields.get("scale_by_temperature_squared") else 1.0
    weights = np.ones(10)
    for index, weight in fields.get("class_weights", {}).items():
        weights[index == CLASSES] = weight
    truth, z = np.eye(3)[CLASSES], start.astype(np.float64)
    hard, soft = softmax(z), softmax(z / T)
    losses = -alpha * (truth * np.log(hard)).sum(axis=1)
    losses -= (1 - alpha) * squared * (ROWS * np.log(soft)).sum(axis=1)
    gradient = alpha * (hard - truth) + (1 - alpha) * squared * (soft - ROWS) / T
    expected = start - 0.5 * weights[:, None] * gradient / 10
    np.testing.assert_allclose(history.step_loss, [(weights * losses).mean()], rtol=1e-5)
    np.testing.assert_allclose(network.get_weights()[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"alpha": 0.0}, {"class_weights": {}}])
def test_one_that_is_the_papers_costs_nothing(make_tiny_network, operations_of, fields):
    def operations(*objective):
        logits = networks.logits_of(make_tiny_network())
        steps = training.make_train_steps(
            logits, keras.optimizers.SGD(0.1), T, 4, False, None, *objective
        )
        return operations_of(steps)

    assert operations(Objective(**fields)) == operations()
    assert len(operations(Objective(alpha=0.5))) > len(operations())


def test_weights_of_one_change_nothing(make_tiny_network, tiny_images, assert_same_bits):
    weighted, plain = make_tiny_network(), make_tiny_network()
    fit(weighted, tiny_images, Objective(class_weights=dict.fromkeys(range(3), 1.0)))
    fit(plain, tiny_images, Objective())
    assert_same_bits(weighted, plain)


def test_the_batches_are_those_of_the_true_classes(make_row_network):
    """Weights that leave one class alone move the rows of its images alone."""
    network, images = make_row_network(10)
    settings = dataclasses.replace(SETTINGS, batch_size=3, epochs=2)
    fit(network, images, Objective(class_weights={0: 0.0, 1: 0.0}), settings)
    moved = np.abs(network.get_weights()[0]).max(axis=1) > 0
    np.testing.assert_array_equal(moved, CLASSES == 2)


def test_balanced_weights_by_hand():
    weights = training.balanced_class_weights(np.array([0, 0, 0, 0, 0, 0, 2, 2]), 4)
    assert weights == {0: 8 / (2 * 6), 2: 8 / (2 * 2)}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 1.0),
        ({"alpha": 0.25}, 1.0),
        ({"scale_by_temperature_squared": True}, 16.0),
        ({"alpha": 0.25, "scale_by_temperature_squared": True}, 0.25 + 0.75 * 16),
    ],
)
def test_the_scale_is_what_a_network_that_knows_nothing_pays(make_row_network, fields, expected):
    objective = Objective(**fields)
    assert objective.scale(T) == pytest.approx(expected)
    network, images = make_row_network(10)  # whose logits are 0
    history = fit(network, images, objective)
    np.testing.assert_allclose(history.step_loss, [expected * np.log(3)], rtol=1e-5)
    assert history.stalled(3, objective.scale(T))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha": 1.5}, r"alpha: expected a number in \[0, 1\]; received 1.5"),
        ({"alpha": float("nan")}, "alpha: expected"),
        ({"class_weights": {0: -1.0}}, "class_weights: expected .* received -1.0 for 0"),
        ({"class_weights": {0: float("inf")}}, "class_weights: expected .* received inf"),
        ({"class_weights": {-1: 1.0}}, "class_weights: expected .* for -1"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Objective(**fields)


def test_weights_of_classes_that_are_not_there_are_refused(make_tiny_network, tiny_images):
    objective = Objective(class_weights={3: 1.0})
    with pytest.raises(ValueError, match=r"class_weights: expected .* below 3.*received 3"):
        fit(make_tiny_network(), tiny_images, objective)


def regularized(**settings):
    images = keras.Input((4, 4, 1))
    x = keras.layers.Flatten()(images)
    initializer = keras.initializers.GlorotUniform(seed=1)
    logits = keras.layers.Dense(3, kernel_initializer=initializer, name="logits", **settings)(x)
    return keras.Model(images, TemperatureSoftmax(T)(logits))


def test_a_regularizer_of_weights_is_minimised_and_not_reported(tiny_images):
    plain, found = regularized(), regularized(kernel_regularizer=keras.regularizers.L2(0.1))
    start = plain.get_weights()[0]
    expected_history = fit(plain, tiny_images, Objective())
    history = fit(found, tiny_images, Objective())
    # The gradient of 0.1 * sum(w^2) is 0.2 * w.
    np.testing.assert_allclose(
        found.get_weights()[0], plain.get_weights()[0] - 0.5 * 0.2 * start, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(history.step_loss, expected_history.step_loss)


def test_a_regularizer_of_activities_is_minimised_as_keras_does(tiny_images):
    """Against `model.fit`, of one batch of everything."""
    settings = {"activity_regularizer": keras.regularizers.L2(0.05)}
    found, reference = regularized(**settings), regularized(**settings)
    fit(found, tiny_images, Objective(), dataclasses.replace(SETTINGS, epochs=3))
    reference.compile(keras.optimizers.SGD(0.5), "categorical_crossentropy")
    reference.fit(tiny_images, ROWS, batch_size=10, epochs=3, verbose=0)
    for one, other in zip(found.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    plain = regularized()
    fit(plain, tiny_images, Objective(), dataclasses.replace(SETTINGS, epochs=3))
    assert np.abs(plain.get_weights()[0] - found.get_weights()[0]).max() > 1e-4


def test_class_weights_are_those_of_keras(make_tiny_network, tiny_images):
    """Against `model.fit`, batches in our order."""
    network, reference = make_tiny_network(1.0), make_tiny_network(1.0)
    weights = {0: 0.5, 1: 1.0, 2: 3.0}
    hard = distillation.hard_labels(CLASSES, 3)
    options = training.TrainingOptions(objective=Objective(class_weights=weights))
    settings = dataclasses.replace(SETTINGS, temperature=1.0, batch_size=4)
    history = training.fit(network, tiny_images, hard, settings, options=options)
    order = np.random.default_rng([3, 0]).permutation(10)
    reference.compile(keras.optimizers.SGD(0.5), "categorical_crossentropy")
    found = reference.fit(
        tiny_images[order],
        hard[order],
        batch_size=4,
        shuffle=False,
        class_weight=weights,
        verbose=0,
    )
    for one, other in zip(network.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(history.epoch_loss, found.history["loss"], rtol=1e-5)
