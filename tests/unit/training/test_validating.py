"""What is measured after each epoch, on images that are not learnt from."""

import dataclasses

import keras
import numpy as np
import pytest

from ddefense import distillation, interruption, networks, training
from ddefense.datasets import Split
from ddefense.training import Objective, TrainingOptions

T = 5.0
SETTINGS = training.TrainingSettings(
    temperature=T, epochs=3, batch_size=4, learning_rate=0.5, momentum=0.5, seed=3
)
LABELS = distillation.hard_labels(np.arange(10) % 3, 3)
# More than one batch of what is evaluated together.
IMAGES = np.random.default_rng(5).uniform(size=(300, 4, 4, 1)).astype(np.float32)
ROWS = np.random.default_rng(6).dirichlet(np.ones(3), size=300).astype(np.float32)
CLASSES = np.random.default_rng(7).integers(0, 3, 300)


def rows_of(window):
    return lambda number: ROWS[number * window : (number + 1) * window]


def options(**changes):
    return TrainingOptions(**({"validation": (Split(IMAGES, CLASSES), rows_of(300))} | changes))


def softmax(z, temperature):
    e = np.exp(z / temperature)
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "objective",
    [Objective(), Objective(alpha=0.3, scale_by_temperature_squared=True, class_weights={1: 2.0})],
)
def test_by_hand(make_tiny_network, tiny_images, objective):
    """Loss of the same objective, dropout off; accuracy against the true classes."""
    network = make_tiny_network(T, dropout=0.5)
    history = training.fit(
        network, tiny_images, LABELS, SETTINGS, options=options(objective=objective)
    )
    z = networks.predict(networks.logits_of(network), IMAGES).astype(np.float64)
    hard = -np.log(softmax(z, 1.0))[np.arange(300), CLASSES]
    soft = -(ROWS * np.log(softmax(z, T))).sum(axis=1)
    expected = soft
    if objective.uses_classes:
        expected = np.where(CLASSES == 1, 2.0, 1.0) * (0.3 * hard + 0.7 * T**2 * soft)
    assert history.val_loss.shape == history.val_accuracy.shape == (3,)
    assert history.val_loss[-1] == pytest.approx(expected.mean(), rel=1e-5)
    assert history.val_accuracy[-1] == (z.argmax(axis=1) == CLASSES).mean()
    assert len(set(history.val_loss.tolist())) == 3


def test_it_changes_nothing_of_the_training(make_tiny_network, tiny_images, assert_same_bits):
    watched, alone = make_tiny_network(dropout=0.5), make_tiny_network(dropout=0.5)
    found = training.fit(watched, tiny_images, LABELS, SETTINGS, options=options())
    expected = training.fit(alone, tiny_images, LABELS, SETTINGS)
    assert_same_bits(watched, alone)
    np.testing.assert_array_equal(found.step_loss, expected.step_loss)
    assert expected.val_loss.size == 0


def test_a_stream_is_measured_as_images_in_memory_are(make_tiny_network, tiny_images, in_windows):
    stream = (in_windows(IMAGES, CLASSES, 128), rows_of(128))
    # Batches of other sizes: a sum of floats in another order.
    found, expected = (
        training.fit(make_tiny_network(), tiny_images, LABELS, SETTINGS, options=given)
        for given in (options(validation=stream), options())
    )
    np.testing.assert_allclose(found.val_loss, expected.val_loss, rtol=1e-6)
    np.testing.assert_array_equal(found.val_accuracy, expected.val_accuracy)


def test_metrics_get_what_they_take(make_tiny_network, tiny_images):
    """Integers or one-hot rows, and probabilities at T = 1 whatever the network was trained at."""
    metrics = [
        keras.metrics.SparseCategoricalAccuracy(name="sparse"),
        keras.metrics.CategoricalAccuracy(name="one_hot"),
        keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="top2"),
        keras.metrics.CategoricalCrossentropy(name="entropy"),
        keras.metrics.AUC(name="auc"),
        keras.metrics.F1Score(average="macro", name="f1"),
    ]
    network = make_tiny_network(T)
    history = training.fit(network, tiny_images, LABELS, SETTINGS, options=options(metrics=metrics))
    assert list(history.val_metrics) == [f"val_{metric.name}" for metric in metrics]
    for name in ("val_sparse", "val_one_hot"):
        np.testing.assert_allclose(history.val_metrics[name], history.val_accuracy, rtol=1e-6)
    z = networks.predict(networks.logits_of(network), IMAGES).astype(np.float64)
    probabilities = softmax(z, 1.0)
    top2 = np.argsort(-z, axis=1)[:, :2]
    assert history.val_metrics["val_top2"][-1] == pytest.approx(
        (top2 == CLASSES[:, None]).any(axis=1).mean()
    )
    assert history.val_metrics["val_entropy"][-1] == pytest.approx(
        -np.log(probabilities)[np.arange(300), CLASSES].mean(), rel=1e-4
    )
    # In one go instead of by batches, and only of the last epoch.
    for metric, name in ((keras.metrics.AUC(), "auc"), (keras.metrics.F1Score("macro"), "f1")):
        metric.update_state(np.eye(3)[CLASSES], probabilities)
        assert history.val_metrics[f"val_{name}"][-1] == pytest.approx(
            float(metric.result()), rel=1e-5
        )


def test_a_run_stopped_while_it_validates_repeats_no_step(
    make_tiny_network, tiny_images, asked_after, assert_same_bits, tmp_path
):
    checkpoint = tmp_path / "checkpoint.npz"
    metrics = [keras.metrics.SparseCategoricalAccuracy(name="a/b c")]

    def train(network, path=None):
        return training.fit(
            network,
            tiny_images,
            LABELS,
            SETTINGS,
            checkpoint=path,
            options=options(metrics=metrics),
        )

    whole = make_tiny_network(dropout=0.5)
    expected = train(whole)
    # An epoch is one call, and what asks for the stop is the first epoch's.
    with asked_after(1) as sizes, pytest.raises(interruption.StoppedError):
        train(make_tiny_network(dropout=0.5), checkpoint)
    assert sizes == [10]
    resumed = make_tiny_network(dropout=0.5, seed=9)
    with asked_after(None) as sizes:
        found = train(resumed, checkpoint)
    assert sizes == [10, 10]
    assert_same_bits(resumed, whole)
    # And once more from the end.
    for history in (found, train(make_tiny_network(dropout=0.5, seed=8), checkpoint)):
        for field in dataclasses.fields(training.History):
            np.testing.assert_equal(getattr(history, field.name), getattr(expected, field.name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"validation": None, "metrics": [keras.metrics.AUC(name="auc")]},
            r"metrics: expected validation images .* received \['auc'\]",
        ),
        (
            {"metrics": [keras.metrics.CategoricalAccuracy(name="accuracy")]},
            "metrics: expected names of their own.*received 'accuracy' twice",
        ),
        (
            {"metrics": [keras.metrics.AUC(name="a"), keras.metrics.AUC(name="a")]},
            "received 'a' twice",
        ),
        (
            {"metrics": [keras.metrics.F1Score(name="f1")]},
            r"expected one number of each; received 'f1', which gives the shape \(3,\)",
        ),
        (
            {"validation": (Split(IMAGES[:, :3], CLASSES), rows_of(300))},
            r"images: expected the shape \(4, 4, 1\)",
        ),
        (
            {"validation": (Split(IMAGES[:0], CLASSES[:0]), rows_of(300))},
            "images: expected at least one",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_training(
    make_tiny_network, tiny_images, assert_same_bits, changes, message
):
    network = make_tiny_network()
    with pytest.raises(ValueError, match=message):
        training.fit(network, tiny_images, LABELS, SETTINGS, options=options(**changes))
    assert_same_bits(network, make_tiny_network())
