"""Training on images that are read in windows."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from ddefense import distillation, interruption, training
from ddefense.datasets import Split
from ddefense.records import RunError

SETTINGS = training.TrainingSettings(
    temperature=5.0, epochs=2, batch_size=4, learning_rate=0.5, momentum=0.5, seed=3
)
IMAGES = np.random.default_rng(0).uniform(size=(119, 4, 4, 1)).astype(np.float32)
ROWS = np.random.default_rng(1).dirichlet(np.ones(3), size=119).astype(np.float32)
CLASSES = np.arange(119) % 3
# Windows of 56, 56 and 7 images; two images a step, so 28 steps, 28 and 4, in calls of 25 at most.
LONG = dataclasses.replace(SETTINGS, batch_size=2, learning_rate=0.3)
CALLS = [50, 6, 50, 6, 7]


def rows_of(window, rows=ROWS):
    return lambda number: rows[number * window : (number + 1) * window]


def by_hand(network, orders, settings):
    """Momentum descent in eager Keras on batches that never reach beyond an order."""
    velocities = [np.zeros(w.shape, np.float32) for w in network.trainable_variables]
    losses = []
    for order in orders:
        for start in range(0, len(order), settings.batch_size):
            batch = order[start : start + settings.batch_size]
            with tf.GradientTape() as tape:
                probabilities = network(IMAGES[batch], training=True)
                loss = -tf.reduce_mean(
                    tf.reduce_sum(ROWS[batch] * tf.math.log(probabilities), axis=1)
                )
            gradients = tape.gradient(loss, network.trainable_variables)
            for i, gradient in enumerate(gradients):
                velocities[i] = (
                    settings.momentum * velocities[i] - settings.learning_rate * gradient.numpy()
                )
                network.trainable_variables[i].assign_add(velocities[i])
            losses.append(float(loss))
    return losses


def test_each_window_is_shuffled_by_itself_in_every_epoch(make_tiny_network, in_windows):
    settings = dataclasses.replace(SETTINGS, batch_size=16, learning_rate=0.1)
    network, reference = make_tiny_network(5.0), make_tiny_network(5.0)
    examples = in_windows(IMAGES, CLASSES, 50)
    history = training.fit(network, examples, rows_of(50), settings)
    orders = [
        50 * number + np.random.default_rng([3, epoch, number]).permutation(size)
        for epoch in range(2)
        for number, size in enumerate((50, 50, 19))
    ]
    losses = by_hand(reference, orders, settings)
    np.testing.assert_allclose(history.step_loss, losses, rtol=1e-4)
    for found, expected in zip(network.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    sizes = [16, 16, 16, 2] * 2 + [16, 3]
    np.testing.assert_allclose(
        history.epoch_loss, np.reshape(losses, (2, 10)) @ np.array(sizes) / 119, rtol=1e-4
    )
    assert examples.passes == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("window", [119, 500])
def test_a_stream_of_one_window_gives_the_bits_of_images_in_memory(
    make_tiny_network, in_windows, assert_same_bits, window
):
    found, expected = make_tiny_network(dropout=0.5), make_tiny_network(dropout=0.5)
    examples = in_windows(IMAGES, CLASSES, window)
    history = training.fit(found, examples, rows_of(window), LONG)
    in_memory = training.fit(expected, IMAGES, ROWS, LONG)
    assert_same_bits(found, expected)
    np.testing.assert_array_equal(history.step_loss, in_memory.step_loss)
    np.testing.assert_array_equal(history.epoch_accuracy, in_memory.epoch_accuracy)
    assert examples.passes == [0]  # what fits is read once


def test_examples_in_memory_take_an_array_of_labels_too(make_tiny_network, assert_same_bits):
    found, expected = make_tiny_network(), make_tiny_network()
    training.fit(found, Split(IMAGES, CLASSES), ROWS, SETTINGS)
    training.fit(expected, IMAGES, ROWS, SETTINGS)
    assert_same_bits(found, expected)


def test_an_array_of_labels_is_cut_as_the_images_are(
    make_tiny_network, in_windows, assert_same_bits
):
    found, expected = make_tiny_network(), make_tiny_network()
    training.fit(found, in_windows(IMAGES, CLASSES, 50), ROWS, SETTINGS)
    training.fit(expected, in_windows(IMAGES, CLASSES, 50), rows_of(50), SETTINGS)
    assert_same_bits(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(
    "stops",
    [
        (1,),  # within the first window
        (2,),  # between two windows
        (3, 1, 1),  # within the second; behind it; between two epochs
        (8,),
        (1, 0, 6),  # asked again at once
    ],
)
def test_a_run_stopped_within_an_epoch_gives_the_bits_of_an_uninterrupted_one(
    make_tiny_network, in_windows, asked_after, assert_same_bits, tmp_path, dropout, stops
):
    def train(network, checkpoint=None):
        examples = in_windows(IMAGES, CLASSES, 56)
        return training.fit(network, examples, rows_of(56), LONG, checkpoint=checkpoint)

    whole = make_tiny_network(dropout=dropout)
    expected = train(whole)
    checkpoint, taken = tmp_path / "checkpoint.npz", []
    for i, calls in enumerate(stops):
        with asked_after(calls) as sizes, pytest.raises(interruption.StoppedError):
            train(make_tiny_network(dropout=dropout, seed=i), checkpoint)
        taken += sizes
    last = make_tiny_network(dropout=dropout, seed=9)
    with asked_after(None) as sizes:
        found = train(last, checkpoint)
    assert taken + sizes == CALLS * 2  # nothing was lost and nothing done twice
    assert_same_bits(last, whole)
    np.testing.assert_array_equal(found.step_loss, expected.step_loss)
    np.testing.assert_array_equal(found.epoch_loss, expected.epoch_loss)
    np.testing.assert_array_equal(found.epoch_accuracy, expected.epoch_accuracy)


def test_a_resumed_run_skips_whole_windows(make_tiny_network, in_windows, asked_after, tmp_path):
    examples, checkpoint = in_windows(IMAGES, CLASSES, 56), tmp_path / "checkpoint.npz"
    with asked_after(4), pytest.raises(interruption.StoppedError):
        training.fit(make_tiny_network(), examples, rows_of(56), LONG, checkpoint=checkpoint)
    training.fit(make_tiny_network(), examples, rows_of(56), LONG, checkpoint=checkpoint)
    assert examples.passes == [0, 2, 0]


@pytest.mark.slow
@pytest.mark.parametrize(("max_steps", "epochs"), [(1, 1), (28, 1), (30, 1), (61, 2)])
def test_max_steps_may_end_in_any_window(make_tiny_network, in_windows, max_steps, epochs):
    def train(**changes):
        settings = dataclasses.replace(LONG, **changes)
        return training.fit(
            make_tiny_network(), in_windows(IMAGES, CLASSES, 56), rows_of(56), settings
        )

    found = train(max_steps=max_steps)
    assert len(found.epoch_loss) == epochs
    np.testing.assert_array_equal(found.step_loss, train().step_loss[:max_steps])


def test_an_epoch_reads_to_the_end(make_tiny_network, in_windows):
    """Examples compare themselves with what they were, and only there see that some were added."""

    class Growing(in_windows):
        def windows(self, first=0):
            yield from super().windows(first)
            raise RunError("images: expected 119; received more.")

    with pytest.raises(RunError, match="received more"):
        training.fit(make_tiny_network(), Growing(IMAGES, CLASSES, 56), rows_of(56), LONG)


@pytest.mark.parametrize(
    ("examples", "labels", "message"),
    [
        (
            Split(IMAGES, CLASSES),
            ROWS[:100],
            r"labels: expected a row of 3 .* 119 images .*received the shape \(100, 3\)",
        ),
        (IMAGES, distillation.hard_labels(CLASSES, 4), r"received the shape \(119, 4\)"),
        (
            IMAGES[..., 0][:, :, :2, None],
            ROWS,
            r"images: expected the shape \(4, 4, 1\).*received \(4, 2, 1\)",
        ),
        (IMAGES[:0], ROWS[:0], "images: expected at least one; received none"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(
    make_tiny_network, assert_same_bits, examples, labels, message
):
    network = make_tiny_network()
    with pytest.raises(ValueError, match=message):
        training.fit(network, examples, labels, SETTINGS)
    assert_same_bits(network, make_tiny_network())
