"""The training loop: what it computes, and how it fails."""

import ast
import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import ddefense
from ddefense import distillation, networks, training
from ddefense.records import RunError

SETTINGS = training.TrainingSettings(
    temperature=5.0, epochs=2, batch_size=4, learning_rate=0.5, momentum=0.5, seed=3
)
LABELS = distillation.hard_labels(np.arange(10) % 3, 3)


def changed(**changes):
    return dataclasses.replace(SETTINGS, **changes)


def assert_same_bits(one, other):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_same_history(one, other):
    for field in dataclasses.fields(training.History):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


@pytest.mark.slow
def test_the_loss_falls_on_digits(digits):
    network = networks.build("mnist", temperature=1.0, seed=0, dropout=0.0)
    images, labels = digits.train.images[:480], digits.train.labels[:480]
    settings = changed(temperature=1.0, epochs=6, batch_size=16, learning_rate=0.03, seed=0)
    history = training.fit(network, images, distillation.hard_labels(labels, 10), settings)
    assert history.epoch_loss[0] == pytest.approx(np.log(10), rel=0.05)
    assert history.epoch_loss[-1] < 0.3 * history.epoch_loss[0]
    assert history.epoch_accuracy[-1] > 0.8
    predicted = networks.predict(network, digits.test.images).argmax(axis=1)
    assert (predicted == digits.test.labels).mean() > 0.8


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_steps_are_those_of_momentum_descent_on_the_softmax_layer(
    make_tiny_network, tiny_images, temperature
):
    soft = np.random.default_rng(0).dirichlet(np.ones(3), size=10).astype(np.float32)
    network, reference = make_tiny_network(temperature), make_tiny_network(temperature)
    assert_same_bits(network, reference)
    history = training.fit(network, tiny_images, soft, changed(temperature=temperature))

    velocities = [np.zeros(w.shape, np.float32) for w in reference.trainable_variables]
    losses = []
    for epoch in range(2):
        order = np.random.default_rng([3, epoch]).permutation(10)
        for batch in (order[:4], order[4:8], order[8:]):
            with tf.GradientTape() as tape:
                probabilities = reference(tiny_images[batch], training=True)
                loss = -tf.reduce_mean(
                    tf.reduce_sum(soft[batch] * tf.math.log(probabilities), axis=1)
                )
            gradients = tape.gradient(loss, reference.trainable_variables)
            for i, (w, g) in enumerate(zip(reference.trainable_variables, gradients, strict=True)):
                velocities[i] = 0.5 * velocities[i] - 0.5 * g.numpy()
                w.assign_add(velocities[i])
            losses.append(float(loss))
    np.testing.assert_allclose(history.step_loss, losses, rtol=1e-5)
    for found, expected in zip(network.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    # Means over images: the last batch holds two of ten.
    np.testing.assert_allclose(
        history.epoch_loss, np.reshape(losses, (2, 3)) @ [0.4, 0.4, 0.2], rtol=1e-5
    )


def rows_in_the_last_batch(make_row_network, seed, epochs=1):
    """Trains on one-hot images; each use moves its row by rate / (T * batch) * (y - 1/3)."""
    network, images = make_row_network(10)
    settings = changed(seed=seed, epochs=epochs, momentum=0.0, learning_rate=1e-3)
    training.fit(network, images, LABELS, settings)
    step = 1e-3 / 5.0 * (LABELS - 1 / 3)
    return (network.get_weights()[0] / step).mean(axis=1)


def test_every_image_is_used_once_per_epoch(make_row_network):
    uses = rows_in_the_last_batch(make_row_network, seed=0)
    np.testing.assert_allclose(np.sort(uses), [1 / 4] * 8 + [1 / 2] * 2, rtol=1e-3)


@pytest.mark.slow
def test_each_seed_and_each_epoch_has_its_own_order(make_row_network):
    found = [rows_in_the_last_batch(make_row_network, seed) for seed in range(8)]
    assert len({tuple(np.round(rows, 2)) for rows in found}) > 4
    orders = []
    for epochs in range(1, 9):
        orders.append(np.round(rows_in_the_last_batch(make_row_network, 0, epochs), 2))
    differences = {tuple(np.round(b - a, 2)) for a, b in itertools.pairwise(orders)}
    assert len(differences) > 3


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_same_seed_gives_the_same_bits(make_tiny_network, tiny_images, dropout):
    one, other = make_tiny_network(dropout=dropout), make_tiny_network(dropout=dropout)
    histories = [training.fit(n, tiny_images, LABELS, SETTINGS) for n in (one, other)]
    assert_same_bits(one, other)
    assert_same_history(*histories)


def test_another_seed_gives_other_weights(make_tiny_network, tiny_images):
    one, other = make_tiny_network(), make_tiny_network()
    training.fit(one, tiny_images, LABELS, SETTINGS)
    training.fit(other, tiny_images, LABELS, changed(seed=4))
    assert any((a != b).any() for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


def test_dropout_is_on_and_differs_between_epochs(make_tiny_network, tiny_images):
    # With one batch of everything and a tiny rate, only dropout can move the loss.
    still = changed(batch_size=10, epochs=4, learning_rate=1e-12)
    quiet = training.fit(make_tiny_network(dropout=0.0), tiny_images, LABELS, still)
    noisy = training.fit(make_tiny_network(dropout=0.5), tiny_images, LABELS, still)
    np.testing.assert_allclose(quiet.step_loss, quiet.step_loss[0], rtol=1e-6)
    assert len(set(noisy.step_loss.tolist())) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("max_steps", "expected"),
    # An epoch of ten images has three steps, the last of two images.
    [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (7, 7), (11, 11), (12, 12), (13, 12), (99, 12)],
)
def test_max_steps_is_exact(make_tiny_network, tiny_images, max_steps, expected):
    network = make_tiny_network()
    history = training.fit(network, tiny_images, LABELS, changed(epochs=4, max_steps=max_steps))
    assert len(history.step_loss) == expected
    assert len(history.epoch_loss) == -(-expected // 3)
    # The last epoch's steps are the first ones of a whole epoch.
    whole = training.fit(make_tiny_network(), tiny_images, LABELS, changed(epochs=4))
    np.testing.assert_array_equal(history.step_loss, whole.step_loss[:expected])


def test_a_loss_that_is_not_finite_names_the_step_and_the_remedy(make_tiny_network, tiny_images):
    settings = changed(learning_rate=1e30, epochs=20)
    with pytest.raises(RunError, match="expected a finite loss") as caught:
        training.fit(make_tiny_network(), tiny_images, LABELS, settings, label="initial_t5")
    message = str(caught.value)
    assert message.startswith("initial_t5: ")
    for part in ("temperature 5", "Lower the learning rate (1e+30)", "momentum (0.5)"):
        assert part in message
    step = int(re.search(r"at step (\d+) ", message).group(1))
    assert f"(epoch {-(-step // 3)}," in message
    # Up to the step before all was well.
    history = training.fit(
        make_tiny_network(), tiny_images, LABELS, dataclasses.replace(settings, max_steps=step - 1)
    )
    assert len(history.step_loss) == step - 1


def test_the_named_step_counts_earlier_epochs(make_row_network):
    # One label of the last image is NaN, and only the second run may use that image.
    network, images = make_row_network(10)
    labels = LABELS.copy()
    order = np.random.default_rng([3, 0]).permutation(10)
    labels[order[5]] = np.nan
    with pytest.raises(RunError, match=r"received nan at step 2 \(epoch 1,"):
        training.fit(network, images, labels, SETTINGS)


def test_no_code_of_the_package_trains_through_keras():
    root = Path(ddefense.__file__).parent
    calls = [
        (path.name, node.func.attr, getattr(node.func.value, "id", None))
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    used = [
        call
        for call in calls
        if call[1] in ("fit", "train_on_batch", "compile") and call[2] != "re"
    ]
    assert {call[1:] for call in used} == {("fit", "training")}
    assert ("pair.py", "fit", "training") in used
