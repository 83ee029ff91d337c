"""Keras' callbacks in our loop: what they are told, and that what they ask for is done."""

import csv
import dataclasses
import importlib.util
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddefense import distillation, interruption, networks, training
from ddefense.datasets import Split
from ddefense.training import TrainingOptions

T = 5.0
SETTINGS = training.TrainingSettings(
    temperature=T, epochs=4, batch_size=4, learning_rate=0.5, momentum=0.5, seed=3
)
LABELS = distillation.hard_labels(np.arange(10) % 3, 3)
# Other labels of the same images: what is learnt makes the loss rise.
WRONG = (np.arange(10) + 1) % 3


def fit(network, images, *callbacks, settings=SETTINGS, checkpoint=None, classes=WRONG, **others):
    rows = distillation.hard_labels(classes, 3)
    options = TrainingOptions(
        callbacks=callbacks, validation=(Split(images, classes), lambda window: rows), **others
    )
    return training.fit(network, images, LABELS, settings, checkpoint=checkpoint, options=options)


class Recorder(keras.callbacks.Callback):
    """Writes down what it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def _tell(self, event, number, logs):
        self.told.append((event, number, dict(logs or {})))

    def on_train_begin(self, logs=None):
        self._tell("train_begin", None, logs)

    def on_train_end(self, logs=None):
        self._tell("train_end", None, logs)

    def on_epoch_begin(self, epoch, logs=None):
        self._tell("epoch_begin", epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._tell("epoch_end", epoch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        self._tell("batch_begin", batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self._tell("batch_end", batch, logs)

    def on_test_begin(self, logs=None):
        self._tell("test_begin", None, logs)

    def on_test_end(self, logs=None):
        self._tell("test_end", None, logs)


def test_they_are_told_what_keras_would_tell(make_tiny_network):
    """In compiled calls of 25 steps, as with `steps_per_execution=25`."""
    images = np.random.default_rng(0).uniform(size=(119, 4, 4, 1)).astype(np.float32)
    labels = distillation.hard_labels(np.arange(119) % 3, 3)
    recorder, network = Recorder(), make_tiny_network(T)
    settings = dataclasses.replace(SETTINGS, batch_size=2, epochs=2)
    options = TrainingOptions(
        callbacks=[recorder], validation=(Split(images, np.arange(119) % 3), lambda window: labels)
    )
    history = training.fit(network, images, labels, settings, options=options)
    calls = [("batch_begin", 0), ("batch_end", 24), ("batch_begin", 25), ("batch_end", 49)]
    calls += [("batch_begin", 50), ("batch_end", 59)]
    epochs = [
        [("epoch_begin", i), *calls, ("test_begin", None), ("test_end", None), ("epoch_end", i)]
        for i in range(2)
    ]
    assert [told[:2] for told in recorder.told] == [
        ("train_begin", None),
        *epochs[0],
        *epochs[1],
        ("train_end", None),
    ]
    assert recorder.params == {"verbose": 0, "epochs": 2, "steps": 60}
    assert {type(value) for _, _, logs in recorder.told for value in logs.values()} == {float}
    ends = [logs for event, _, logs in recorder.told if event == "epoch_end"]
    for epoch, logs in enumerate(ends):
        assert logs == {
            "loss": history.epoch_loss[epoch],
            "accuracy": history.epoch_accuracy[epoch],
            "learning_rate": history.learning_rate[epoch],
            "val_loss": history.val_loss[epoch],
            "val_accuracy": history.val_accuracy[epoch],
        }
    # Within an epoch loss and accuracy are means over what was used of it.
    running = [logs for event, _, logs in recorder.told if event == "batch_end"]
    assert running[0]["loss"] == pytest.approx(history.step_loss[:25].mean(), rel=1e-6)
    assert running[1]["loss"] == pytest.approx(history.step_loss[:50].mean(), rel=1e-6)
    assert running[2] == {name: ends[0][name] for name in ("loss", "accuracy")}
    assert next(logs for event, _, logs in recorder.told if event == "test_end") == {
        "loss": history.val_loss[0],
        "accuracy": history.val_accuracy[0],
    }


def test_their_model_is_the_deployed_network(make_tiny_network, tiny_images):
    network, recorder = make_tiny_network(T), Recorder()
    fit(network, tiny_images, recorder)
    np.testing.assert_array_equal(
        networks.predict(recorder.model, tiny_images),
        networks.predict(networks.with_temperature(network, 1.0), tiny_images),
    )
    assert int(recorder.model.optimizer.iterations) == 12


def test_they_change_nothing_that_they_do_not_ask_for(
    make_tiny_network, tiny_images, assert_same_bits
):
    watched, alone = make_tiny_network(dropout=0.5), make_tiny_network(dropout=0.5)
    fit(watched, tiny_images, Recorder(), keras.callbacks.EarlyStopping(patience=99))
    training.fit(alone, tiny_images, LABELS, SETTINGS)
    assert_same_bits(watched, alone)


class TestEarlyStopping:
    def test_stops_and_restores_the_best_weights(
        self, make_tiny_network, tiny_images, assert_same_bits
    ):
        stopping = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
        network, first = make_tiny_network(dropout=0.5), make_tiny_network(dropout=0.5)
        settings = dataclasses.replace(SETTINGS, epochs=50)
        history = fit(network, tiny_images, stopping, settings=settings)
        assert len(history.epoch_loss) == 3 == len(history.val_loss)
        assert len(history.step_loss) == 9
        assert history.val_loss.argmin() == 0
        fit(first, tiny_images, settings=dataclasses.replace(SETTINGS, epochs=1))
        assert_same_bits(network, first)

    @pytest.mark.slow
    @pytest.mark.parametrize("monitor", ["val_accuracy", "val_auc", "val_loss"])
    def test_knows_which_way_is_better(self, make_tiny_network, tiny_images, monitor):
        """A network that learns the opposite only gets worse, whatever is monitored."""
        stopping = keras.callbacks.EarlyStopping(monitor, patience=3)
        settings = dataclasses.replace(SETTINGS, epochs=12, learning_rate=2.0)
        metrics = [keras.metrics.AUC(name="auc")]
        history = fit(
            make_tiny_network(), tiny_images, stopping, settings=settings, metrics=metrics
        )
        values = {
            "val_accuracy": -history.val_accuracy,
            "val_loss": history.val_loss,
            "val_auc": -history.val_metrics["val_auc"],
        }[monitor]
        assert len(values) < 12
        assert stopping.stopped_epoch == len(values) - 1 == values.argmin() + 3

    def test_is_told_of_a_stop_in_the_middle_of_an_epoch(self, make_tiny_network):
        images = np.random.default_rng(0).uniform(size=(119, 4, 4, 1)).astype(np.float32)
        labels = distillation.hard_labels(np.arange(119) % 3, 3)

        class Impatient(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                self.model.stop_training = True

        settings = dataclasses.replace(SETTINGS, batch_size=2)
        history = training.fit(
            make_tiny_network(),
            images,
            labels,
            settings,
            options=TrainingOptions(callbacks=[Impatient()]),
        )
        assert len(history.step_loss) == 25
        assert history.epoch_loss == pytest.approx(history.step_loss.mean(), rel=1e-6)

    def test_a_run_that_it_ended_is_not_trained_on(
        self, make_tiny_network, tiny_images, asked_after, assert_same_bits, tmp_path
    ):
        def train(network):
            stopping = keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True)
            return fit(network, tiny_images, stopping, checkpoint=tmp_path / "checkpoint.npz")

        network, again = make_tiny_network(), make_tiny_network(seed=9)
        expected = train(network)
        assert len(expected.epoch_loss) == 2
        with asked_after(None) as sizes:
            found = train(again)
        assert sizes == []
        assert_same_bits(again, network)
        for field in dataclasses.fields(training.History):
            np.testing.assert_equal(getattr(found, field.name), getattr(expected, field.name))


class TestEarlyStoppingOfTheLoop:
    """`TrainingOptions.early_stopping`, which can be resumed."""

    @pytest.mark.slow
    @pytest.mark.parametrize("classes", [WRONG, np.arange(10) % 3])
    def test_does_what_that_of_keras_does(
        self, make_tiny_network, tiny_images, assert_same_bits, classes
    ):
        found, expected = make_tiny_network(), make_tiny_network()
        history = fit(found, tiny_images, classes=classes, early_stopping=2)
        stopping = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
        other = fit(expected, tiny_images, stopping, classes=classes)
        np.testing.assert_array_equal(history.val_loss, other.val_loss)
        assert len(history.val_loss) == (3 if classes is WRONG else 4)
        assert_same_bits(found, expected)

    @pytest.mark.slow
    @pytest.mark.parametrize("calls", [1, 2, 3])
    def test_goes_on_where_it_was_interrupted(
        self, make_tiny_network, tiny_images, asked_after, assert_same_bits, tmp_path, calls
    ):
        settings = {"checkpoint": tmp_path / "checkpoint.npz", "early_stopping": 3}
        with asked_after(calls), pytest.raises(interruption.StoppedError):
            fit(make_tiny_network(), tiny_images, **settings)
        found, expected = make_tiny_network(seed=9), make_tiny_network()
        with asked_after(None) as sizes:
            history = fit(found, tiny_images, **settings)
        assert len(sizes) == 4 - calls
        other = fit(expected, tiny_images, early_stopping=3)
        np.testing.assert_array_equal(history.val_loss, other.val_loss)
        assert_same_bits(found, expected)
        with asked_after(None) as sizes:  # and is finished
            fit(make_tiny_network(seed=9), tiny_images, **settings)
        assert sizes == []

    def test_needs_something_to_watch(self, make_tiny_network, tiny_images):
        options = TrainingOptions(early_stopping=1)
        with pytest.raises(ValueError, match="early_stopping: expected validation images"):
            training.fit(make_tiny_network(), tiny_images, LABELS, SETTINGS, options=options)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs the package tensorboard"
)
def test_a_run_with_tensorboard_is_resumed(
    make_tiny_network, tiny_images, asked_after, assert_same_bits, tmp_path
):
    checkpoint, board = tmp_path / "checkpoint.npz", tmp_path / "board"
    with asked_after(2), pytest.raises(interruption.StoppedError):
        fit(
            make_tiny_network(),
            tiny_images,
            keras.callbacks.TensorBoard(board),
            checkpoint=checkpoint,
        )
    found, expected = make_tiny_network(seed=9), make_tiny_network()
    with asked_after(None) as sizes:
        fit(found, tiny_images, keras.callbacks.TensorBoard(board), checkpoint=checkpoint)
    assert len(sizes) == 2
    training.fit(expected, tiny_images, LABELS, SETTINGS)
    assert_same_bits(found, expected)


@pytest.mark.slow
def test_a_run_with_callbacks_that_is_interrupted_starts_over(
    make_tiny_network, tiny_images, asked_after, assert_same_bits, tmp_path
):
    checkpoint = tmp_path / "checkpoint.npz"
    with asked_after(2), pytest.raises(interruption.StoppedError):
        fit(make_tiny_network(), tiny_images, Recorder(), checkpoint=checkpoint)
    assert not checkpoint.exists()
    found, expected = make_tiny_network(), make_tiny_network()
    with asked_after(None) as sizes:
        fit(found, tiny_images, Recorder(), checkpoint=checkpoint)
    assert len(sizes) == 4
    training.fit(expected, tiny_images, LABELS, SETTINGS)
    assert_same_bits(found, expected)


class TestLearningRate:
    def test_a_scheduler_sets_it(self, make_tiny_network, tiny_images, assert_same_bits):
        """The same rates as a decay of the settings gives."""
        scheduler = keras.callbacks.LearningRateScheduler(
            lambda epoch, rate: rate if epoch < 2 else 0.25
        )
        found, expected = make_tiny_network(), make_tiny_network()
        history = fit(found, tiny_images, scheduler)
        np.testing.assert_array_equal(history.learning_rate, [0.5, 0.5, 0.25, 0.25])
        settings = dataclasses.replace(SETTINGS, learning_rate_decay=0.5, decay_epochs=2)
        other = training.fit(expected, tiny_images, LABELS, settings)
        np.testing.assert_array_equal(other.learning_rate, history.learning_rate)
        assert_same_bits(found, expected)

    def test_a_scheduler_sets_that_of_the_first_epoch(self, make_tiny_network, tiny_images):
        scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 * (epoch + 1))
        history = fit(make_tiny_network(), tiny_images, scheduler)
        np.testing.assert_allclose(history.learning_rate, [0.1, 0.2, 0.3, 0.4], rtol=1e-6)

    def test_a_plateau_reduces_it(self, make_tiny_network, tiny_images):
        plateau = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1)
        history = fit(make_tiny_network(), tiny_images, plateau)
        np.testing.assert_array_equal(history.learning_rate, [0.5, 0.5, 0.25, 0.125])
        assert (np.diff(history.val_loss) > 0).all()


def test_model_checkpoints_are_deployed_networks(make_tiny_network, tiny_images, tmp_path):
    best = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.keras", monitor="val_accuracy", save_best_only=True
    )
    every = keras.callbacks.ModelCheckpoint(
        tmp_path / "epoch_{epoch}.weights.h5", monitor="val_accuracy", save_weights_only=True
    )
    network, first = make_tiny_network(T), make_tiny_network(T)
    fit(network, tiny_images, best, every, settings=dataclasses.replace(SETTINGS, epochs=2))
    fit(first, tiny_images, settings=dataclasses.replace(SETTINGS, epochs=1))
    saved = keras.models.load_model(tmp_path / "best.keras", compile=False)
    assert networks.temperature_of(saved) == 1.0
    np.testing.assert_array_equal(
        networks.predict(saved, tiny_images),
        networks.predict(networks.with_temperature(first, 1.0), tiny_images),
    )
    saved.load_weights(tmp_path / "epoch_2.weights.h5")
    for one, other in zip(saved.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_others_of_keras_work_too(make_tiny_network, tiny_images, tmp_path):
    history, path = keras.callbacks.History(), tmp_path / "log.csv"
    found = fit(make_tiny_network(), tiny_images, history, keras.callbacks.CSVLogger(path))
    np.testing.assert_array_equal(history.history["val_loss"], found.val_loss)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row["loss"]) for row in rows], found.epoch_loss)


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs the package tensorboard"
)
def test_tensorboard_writes_events(make_tiny_network, tiny_images, tmp_path):
    from tensorboard.backend.event_processing import event_accumulator

    board = keras.callbacks.TensorBoard(tmp_path, histogram_freq=1, update_freq=1)
    history = fit(make_tiny_network(), tiny_images, board)
    for part, loss in (("train", history.epoch_loss), ("validation", history.val_loss)):
        events = event_accumulator.EventAccumulator(
            str(tmp_path / part), size_guidance={event_accumulator.TENSORS: 0}
        )
        events.Reload()
        assert "epoch_loss" in events.Tags()["tensors"]
        written = [tf.make_ndarray(e.tensor_proto) for e in events.Tensors("epoch_loss")]
        np.testing.assert_allclose(written, loss, rtol=1e-6)


def test_tensorboard_without_its_package_is_refused(
    make_tiny_network, tiny_images, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"callbacks: .* package tensorboard.*pip install"):
        fit(make_tiny_network(), tiny_images, keras.callbacks.TensorBoard(tmp_path))


class Odd(keras.metrics.Mean):
    """Nobody knows whether more of it is better."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_pred)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            keras.callbacks.EarlyStopping("val_acc"),
            r"EarlyStopping to monitor one of \['loss', .*'val_accuracy'.*received 'val_acc'",
        ),
        (
            keras.callbacks.EarlyStopping("val_odd"),
            "whether 'val_odd' should fall or rise.*mode='min' or mode='max'",
        ),
        (keras.callbacks.BackupAndRestore("."), "expected any but BackupAndRestore.*checkpoint"),
    ],
)
def test_what_would_do_nothing_is_refused_before_any_training(
    make_tiny_network, tiny_images, assert_same_bits, callback, message
):
    network = make_tiny_network()
    with pytest.raises(ValueError, match=f"callbacks: .*{message}"):
        fit(network, tiny_images, callback, metrics=[Odd(name="odd")])
    assert_same_bits(network, make_tiny_network())


def test_validation_is_asked_for_where_it_is_monitored(make_tiny_network, tiny_images):
    options = TrainingOptions(callbacks=[keras.callbacks.EarlyStopping()])
    with pytest.raises(ValueError, match=r"received 'val_loss'. .* need validation images"):
        training.fit(make_tiny_network(), tiny_images, LABELS, SETTINGS, options=options)
