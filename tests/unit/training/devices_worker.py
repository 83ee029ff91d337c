"""Trains on one and on two logical CPUs, which TensorFlow must make before it does anything.

Usage: python devices_worker.py <folder>; see `test_devices.py`.
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
import threading
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from ddefense import distillation, interruption, networks, training
from ddefense.datasets import Split
from ddefense.progress import Progress
from ddefense.training import checkpoints, devices

SGD = training.TrainingSettings(
    temperature=5.0, epochs=2, batch_size=8, learning_rate=0.3, momentum=0.5, seed=3
)
# 83 = 10 * 8 + 3, 2 * 41 + 1 and 41 * 2 + 1: the last batch has two shares of one and two images,
# or fewer images than there are devices.
CLASSES = np.arange(83) % 3
IMAGES = np.random.default_rng(0).uniform(size=(83, 4, 4, 1)).astype(np.float32)
LABELS = np.random.default_rng(1).dirichlet(np.ones(3), size=83).astype(np.float32)
PENALTIES = {"kernel_regularizer": "l2", "activity_regularizer": "l2"}


def build(*, dropout=0.0, synchronized=None, dtype=None, **settings):
    def glorot(seed):
        return keras.initializers.GlorotUniform(seed=seed)

    x = images = keras.Input((4, 4, 1))
    x = keras.layers.Normalization(
        axis=(1, 2, 3), mean=IMAGES.mean(axis=0), variance=IMAGES.var(axis=0)
    )(x)
    x = keras.layers.Conv2D(4, 3, activation="relu", kernel_initializer=glorot(1))(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(
        8, activation="relu", kernel_initializer=glorot(2), dtype=dtype, **settings
    )(x)
    if synchronized is not None:
        x = keras.layers.BatchNormalization(synchronized=synchronized, name="batch_norm")(x)
    x = keras.layers.Dropout(dropout, seed=4)(x)
    logits = keras.layers.Dense(3, kernel_initializer=glorot(3), name="logits")(x)
    return networks.with_temperature(keras.Model(images, logits), 5.0)


def fit(network, count, options=None, checkpoint=None, **settings):
    changed = dataclasses.replace(SGD, devices=count, **settings)
    return training.fit(network, IMAGES, LABELS, changed, options=options, checkpoint=checkpoint)


def run(found, name, count, options=None, checkpoint=None, built=None, **settings):
    network = build(**(built or {}))
    history = fit(network, count, options() if options else None, checkpoint, **settings)
    keep(found, name, network, history)


def keep(found, name, network, history):
    for field in ("step_loss", "epoch_accuracy", "val_loss", "val_accuracy"):
        found[f"{name}/{field}"] = getattr(history, field)
    for i, weight in enumerate(network.get_weights()):
        found[f"{name}/weight_{i}"] = weight


def pairs(found):
    """The same training on one device and on two."""
    objective = training.Objective(
        alpha=0.3, scale_by_temperature_squared=True, class_weights={1: 2.0}
    )
    decayed = {"learning_rate_decay": 0.5, "momentum_decay": 0.5, "decay_epochs": 1}
    for name, settings in {
        "sgd": {"built": PENALTIES, **decayed},
        "few": {"batch_size": 41, "built": PENALTIES},
        "adam": {"options": lambda: training.TrainingOptions(optimizer=keras.optimizers.Adam())},
        "student": {
            "options": lambda: training.TrainingOptions(objective=objective),
            "learning_rate": 0.02,
        },
        "normalized": {"built": {"synchronized": True}},
        "compiled": {"jit_compile": True},
    }.items():
        run(found, f"{name}/one", 1, **settings)
        run(found, f"{name}/two", 2, **settings)


def watched(found, folder):
    """Validation, callbacks and early stopping, on one device and on two."""
    for name, count in (("one", 1), ("two", 2)):
        path = folder / f"{name}.keras"
        options = training.TrainingOptions(
            validation=(
                Split(IMAGES[:20], CLASSES[:20]),
                distillation.hard_labels(CLASSES[:20], 3),
            ),
            metrics=[keras.metrics.TopKCategoricalAccuracy(2, name="top_2")],
            callbacks=[
                keras.callbacks.ModelCheckpoint(path),
                keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5),
            ],
            early_stopping=1,
        )
        network = build()
        history = fit(network, count, options, epochs=3)
        keep(found, f"watched/{name}", network, history)
        found[f"watched/{name}/top_2"] = history.val_metrics["val_top_2"]
        found[f"watched/{name}/rates"] = history.learning_rate
        found[f"watched/{name}/saved"] = networks.predict(keras.models.load_model(path), IMAGES)


@contextlib.contextmanager
def asked_after(calls):
    """Asks for a stop once the loop has made so many calls of its steps."""
    note, sizes, update = threading.Event(), [], Progress.update

    def counting(self, amount, **metrics):
        update(self, amount, **metrics)
        sizes.append(amount)
        if len(sizes) == calls:
            note.set()

    with (
        mock.patch.object(Progress, "update", counting),
        mock.patch.object(interruption, "_asked", note),
    ):
        yield


def dropout(found, folder):
    """With dropout on two devices: twice, and stopped within and between epochs."""
    # 42 steps an epoch, in calls of 25 and 17.
    settings = {"batch_size": 2, "built": {"dropout": 0.5}}
    run(found, "dropout/first", 2, **settings)
    run(found, "dropout/again", 2, **settings)
    run(found, "dropout/other", 2, seed=4, **settings)
    for calls in (1, 2, 3):
        checkpoint = folder / f"{calls}.npz"
        with asked_after(calls), contextlib.suppress(interruption.StoppedError):
            run({}, "", 2, checkpoint=checkpoint, **settings)
            raise AssertionError("It was not stopped.")
        run(found, f"dropout/resumed_{calls}", 2, checkpoint=checkpoint, **settings)
    copy = devices.mirrored_copy(build(dropout=0.5), devices.make_strategy(2))
    checkpoints.seed_generators(copy, seed=3, epoch=0)
    (state,) = checkpoints._generators(copy)
    found["states"] = np.stack([own.numpy() for own in state.value.values])


def refusals():
    """What is said of what is not done."""
    clipping = training.TrainingOptions(optimizer=keras.optimizers.Adam(clipnorm=1.0))
    found = {}
    for name, count, settings, built in (
        ("too many", 3, {}, {}),
        ("batch norm", 2, {}, {"synchronized": False}),
        ("compiled batch norm", 2, {"jit_compile": True}, {"synchronized": True}),
        ("activities", 2, {}, {"synchronized": True, **PENALTIES}),
        ("clipping", 2, {"options": clipping}, {}),
        ("float16", 2, {}, {"dtype": "mixed_float16"}),
    ):
        network = build(**built)
        before = network.get_weights()
        try:
            fit(network, count, **settings)
        except ValueError as error:
            found[name] = f"{type(error).__name__}: {error}"
        unchanged = zip(before, network.get_weights(), strict=True)
        assert all(np.array_equal(old, new) for old, new in unchanged)
    return found


def main(folder):
    tf.config.experimental.enable_op_determinism()
    (cpu,) = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    found = {}
    pairs(found)
    watched(found, folder)
    dropout(found, folder)
    np.savez(folder / "found.npz", **found)
    (folder / "refused.json").write_text(json.dumps(refusals()))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
