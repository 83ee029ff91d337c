"""Learning rate and momentum fall every so many epochs, as the paper has it for CIFAR-10."""

import dataclasses

import keras
import numpy as np
import pytest

from ddefense import distillation, networks, training
from ddefense.training import loop

CIFAR10 = training.TrainingSettings(
    temperature=1.0,
    epochs=50,
    batch_size=128,
    learning_rate=0.01,
    momentum=0.9,
    learning_rate_decay=0.95,
    momentum_decay=0.5,
    decay_epochs=10,
    seed=0,
)


@pytest.mark.parametrize(
    ("epoch", "learning_rate", "momentum"),
    [
        (0, 0.01, 0.9),
        (9, 0.01, 0.9),
        (10, 0.0095, 0.45),
        (19, 0.0095, 0.45),
        (20, 0.009025, 0.225),
        (30, 0.00857375, 0.1125),
        (49, 0.0081450625, 0.05625),
    ],
)
def test_rates_by_hand(epoch, learning_rate, momentum):
    assert CIFAR10.rates(epoch) == pytest.approx((learning_rate, momentum), rel=1e-12)


@pytest.mark.parametrize(
    ("decay_epochs", "expected"), [(1, [0.8, 0.4, 0.2, 0.1]), (3, [0.8, 0.8, 0.8, 0.4])]
)
def test_decay_epochs_says_how_often(decay_epochs, expected):
    settings = dataclasses.replace(
        CIFAR10, learning_rate=0.8, learning_rate_decay=0.5, decay_epochs=decay_epochs
    )
    assert [settings.rates(epoch)[0] for epoch in range(4)] == expected


def test_without_decay_they_stay():
    plain = training.TrainingSettings(
        temperature=1.0, epochs=99, batch_size=1, learning_rate=0.1, momentum=0.5, seed=0
    )
    assert {plain.rates(epoch) for epoch in range(99)} == {(0.1, 0.5)}


IMAGES = np.random.default_rng(0).uniform(size=(10, 2, 2, 1)).astype(np.float32)
LABELS = np.random.default_rng(1).dirichlet(np.ones(3), size=10).astype(np.float32)
T = 2.0


def linear_network():
    """Logits are the four pixels times a matrix."""
    images = keras.Input((2, 2, 1))
    kernel = keras.initializers.GlorotUniform(seed=0)
    x = keras.layers.Flatten()(images)
    logits = keras.layers.Dense(3, use_bias=False, kernel_initializer=kernel, name="logits")(x)
    return networks.with_temperature(keras.Model(images, logits), T)


def by_hand(matrix, rates, forget=False):
    """Losses and matrices of momentum descent in NumPy, batches of four of ten images."""
    matrix, velocity = matrix.astype(np.float64), np.zeros((4, 3))
    losses, matrices = [], []
    for epoch, (learning_rate, momentum) in enumerate(rates):
        if forget:
            velocity = np.zeros((4, 3))
        order = np.random.default_rng([3, epoch]).permutation(10)
        for batch in (order[:4], order[4:8], order[8:]):
            x, y = IMAGES[batch].reshape(-1, 4).astype(np.float64), LABELS[batch]
            scaled = np.exp(x @ matrix / T)
            probabilities = scaled / scaled.sum(axis=1, keepdims=True)
            losses.append(-(y * np.log(probabilities)).sum(axis=1).mean())
            gradient = x.T @ (probabilities - y) / (T * len(batch))
            velocity = momentum * velocity - learning_rate * gradient
            matrix = matrix + velocity
            matrices.append(matrix)
    return np.array(losses), matrices


@pytest.mark.slow
def test_every_step_is_the_one_by_hand_and_the_velocity_is_kept():
    settings = training.TrainingSettings(
        temperature=T,
        epochs=4,
        batch_size=4,
        learning_rate=0.8,
        momentum=0.9,
        learning_rate_decay=0.5,
        momentum_decay=0.5,
        decay_epochs=2,
        seed=3,
    )
    rates = [(0.8, 0.9), (0.8, 0.9), (0.4, 0.45), (0.4, 0.45)]
    start = linear_network().get_weights()[0]
    losses, matrices = by_hand(start, rates)
    for steps in (1, 6, 7, 8, 9, 12):  # the rates change after the sixth step
        network = linear_network()
        history = training.fit(
            network, IMAGES, LABELS, dataclasses.replace(settings, max_steps=steps)
        )
        np.testing.assert_allclose(history.step_loss, losses[:steps], rtol=1e-5)
        np.testing.assert_allclose(network.get_weights()[0], matrices[steps - 1], atol=1e-5)
    # Had the velocity been lost with the change, or the rates not changed, it would show at once.
    for other in (
        by_hand(start, rates, forget=True),
        by_hand(start, [(0.8, 0.9)] * 4),
        by_hand(start, [(0.4, 0.9)] * 4),
        by_hand(start, [(0.8, 0.9)] * 2 + [(0.8, 0.45)] * 2),
        by_hand(start, [(0.8, 0.9)] * 2 + [(0.4, 0.9)] * 2),
    ):
        assert np.abs(other[1][6] - matrices[6]).max() > 1e-3


def moves(make_row_network, settings):
    """What each epoch, of one step, adds to one weight whose gradient hardly changes."""
    labels = distillation.hard_labels(np.arange(10) % 3, 3)
    gradient = (1 / 3 - labels[0, 0]) / (5.0 * 10)
    positions = [0.0]
    for epochs in range(1, settings.epochs + 1):
        network, images = make_row_network(10)
        training.fit(network, images, labels, dataclasses.replace(settings, epochs=epochs))
        positions.append(float(network.get_weights()[0][0, 0]))
    return np.diff(positions) / -gradient


def test_each_epoch_uses_its_own_learning_rate(make_row_network):
    settings = dataclasses.replace(
        CIFAR10, temperature=5.0, epochs=5, batch_size=10, momentum=0.0, decay_epochs=2
    )
    expected = [0.01, 0.01, 0.0095, 0.0095, 0.009025]
    np.testing.assert_allclose(moves(make_row_network, settings), expected, rtol=1e-3)


@pytest.mark.slow
def test_each_epoch_uses_its_own_momentum(make_row_network):
    settings = dataclasses.replace(
        CIFAR10, temperature=5.0, epochs=5, batch_size=10, learning_rate_decay=1.0, decay_epochs=2
    )
    found = moves(make_row_network, settings)
    # Every move is the momentum times the one before, and the rate.
    used = (found[1:] - 0.01) / found[:-1]
    np.testing.assert_allclose(used, [0.9, 0.45, 0.45, 0.225], rtol=1e-2)


def test_steps_are_compiled_once_for_every_momentum(make_tiny_network, tiny_images, monkeypatch):
    """It takes seconds, for the paper's networks; a learning rate of its own takes none."""
    made = []

    def make_train_steps(*arguments):
        made.append(arguments)
        return training.make_train_steps(*arguments)

    monkeypatch.setattr(loop, "make_train_steps", make_train_steps)
    labels = distillation.hard_labels(np.arange(10) % 3, 3)
    settings = dataclasses.replace(CIFAR10, epochs=6, batch_size=4, decay_epochs=2)
    training.fit(make_tiny_network(), tiny_images, labels, settings)
    assert len(made) == 3
    made.clear()
    settings = dataclasses.replace(settings, momentum_decay=1.0)
    training.fit(make_tiny_network(), tiny_images, labels, settings)
    assert len(made) == 1
