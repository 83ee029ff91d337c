"""Several devices: the training of one, split; a process of its own has two logical CPUs."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from ddefense.settings import ConfigError

from ddefense import distillation, training
from ddefense.training import loop

pytestmark = pytest.mark.slow

SETTINGS = training.TrainingSettings(
    temperature=5.0, epochs=2, batch_size=4, learning_rate=0.5, momentum=0.5, seed=3
)
ON_TWO = dataclasses.replace(SETTINGS, devices=2)
LABELS = distillation.hard_labels(np.arange(10) % 3, 3)
WORKER = pathlib.Path(__file__).with_name("devices_worker.py")


@pytest.fixture(scope="module")
def runs(run_python, tmp_path_factory):
    """What the worker found, by name, and what it was refused."""
    folder = tmp_path_factory.mktemp("devices")
    ended = run_python(WORKER, folder, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    with np.load(folder / "found.npz") as arrays:
        found = dict(arrays)
    return found, json.loads((folder / "refused.json").read_text())


def of(found, name):
    chosen = {key.removeprefix(name): key for key in found if key.startswith(f"{name}/")}
    assert chosen
    return {short: found[key] for short, key in chosen.items()}


@pytest.mark.parametrize(
    "name", ["sgd", "few", "adam", "student", "normalized", "compiled", "watched"]
)
def test_two_devices_train_as_one_does(runs, name):
    one, two = (of(runs[0], f"{name}/{devices}") for devices in ("one", "two"))
    assert one.keys() == two.keys()
    for key, expected in one.items():
        np.testing.assert_allclose(two[key], expected, rtol=1e-6, atol=1e-6, err_msg=key)
    assert one["/step_loss"][0] != one["/step_loss"][-1]


def assert_same_bits(found, one, other):
    expected, received = of(found, one), of(found, other)
    assert expected.keys() == received.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(received[key], value, err_msg=key)


def test_one_seed_gives_the_same_bits_twice(runs):
    assert_same_bits(runs[0], "dropout/first", "dropout/again")
    first, other = (runs[0][f"dropout/{name}/weight_0"] for name in ("first", "other"))
    assert (first != other).any()


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_resumed_training_gives_the_same_bits(runs, calls):
    assert_same_bits(runs[0], "dropout/first", f"dropout/resumed_{calls}")


def test_each_device_drops_units_of_its_own(runs):
    first, second = runs[0]["states"]
    assert (first != second).any()
    words = np.random.SeedSequence([3, 0, 0]).generate_state(2)
    np.testing.assert_array_equal(first, words.astype(first.dtype))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("too many", ["at most 2", "logical CPUs", "received 3"]),
        ("batch norm", ["synchronized=True", "'batch_norm'"]),
        ("compiled batch norm", ["no jit_compile", "'batch_norm'"]),
        ("activities", ["no activity_regularizer", "'batch_norm'"]),
        ("clipping", ["without clipnorm", "received 1.0"]),
        ("float16", ["float16", "mixed_bfloat16"]),
    ],
)
def test_what_would_differ_is_refused_before_any_step(runs, name, parts):
    message = runs[1][name]
    assert message.startswith("ConfigError: devices: expected ")
    for part in parts:
        assert part in message


def test_one_device_is_what_there_is_without_the_setting(
    make_tiny_network, tiny_images, monkeypatch, operations_of, assert_same_bits
):
    made = []

    def make_train_steps(*arguments):
        made.append(training.make_train_steps(*arguments))
        return made[-1]

    monkeypatch.setattr(loop, "make_train_steps", make_train_steps)
    networks = [make_tiny_network(dropout=0.5) for _ in range(2)]
    histories = [
        training.fit(network, tiny_images, LABELS, settings)
        for network, settings in zip(
            networks, (SETTINGS, dataclasses.replace(SETTINGS, devices=1)), strict=True
        )
    ]
    np.testing.assert_array_equal(histories[0].step_loss, histories[1].step_loss)
    assert_same_bits(*networks)
    assert operations_of(made[0]) == operations_of(made[1])
    assert not any("Collective" in kind for kind in operations_of(made[1]))


def test_more_devices_than_there_are_are_refused(make_tiny_network, tiny_images, monkeypatch):
    with pytest.raises(ConfigError, match=r"^devices: expected at most 1, the logical CPUs .* 2\."):
        training.fit(make_tiny_network(), tiny_images, LABELS, ON_TWO)
    training.check_devices(1)
    with pytest.raises(ConfigError, match=r"received 7\. Ask for fewer, or run it where"):
        training.check_devices(7)
    # A machine with a GPU splits over GPUs alone, however many CPUs it has.
    gpu = tf.config.LogicalDevice("/device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [gpu])
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [gpu] * (kind == "GPU"))
    with pytest.raises(ConfigError, match=r"at most 1, the GPUs .* CUDA_VISIBLE_DEVICES"):
        training.check_devices(2)


def test_samples_of_an_adversary_are_refused(make_tiny_network, tiny_images):
    with pytest.raises(ValueError, match=r"^devices: expected 1 with perturb, .* received 2\."):
        training.fit(
            make_tiny_network(), tiny_images, LABELS, ON_TWO, perturb=lambda images, *_: images
        )
