"""Attacks on SavedModels and on a user's own data: what is run, what is left out, what is kept."""

import dataclasses
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from ddefense.settings import ConfigError

from ddefense import attack_catalog, attacks, datasets, networks, records
from ddefense import config as config_lib
from ddefense.attacks import saved_model
from ddefense.experiments import adopting, attacking_saved
from ddefense.records import RunError

pytestmark = pytest.mark.slow

SHAPE, CLASSES = (1, 4, 1), 3
CONFIG = config_lib.Config(
    dataset="toy",
    temperatures=(20.0,),
    samples=4,
    gradient_samples=5,
    epsilon=0.15,
    pgd_steps=10,
    pgd_restarts=2,
    attacks=("jsma_f", "fgsm", "pgd_linf"),
    max_features=2,
    cw_samples=2,
    cw_all_targets_at=(),
    cw_steps=20,
    cw_search_steps=2,
    costly_samples=2,
    labels_only_queries=60,
    kappas=(0.0,),
)


class Brightest(tf.Module):
    """Its class is the brightest of the first pixels; its logits are `scale` times the pixels."""

    def __init__(self, scale, low=0.0, high=1.0):
        super().__init__()
        self.weights = tf.Variable(np.eye(4, CLASSES, dtype=np.float32) * scale)
        self.low, self.high = low, high

    @tf.function(input_signature=[tf.TensorSpec([None, *SHAPE], tf.float32)])
    def classify(self, images):
        pixels = tf.reshape((images - self.low) / (self.high - self.low), [-1, 4])
        logits = pixels @ self.weights
        return {"z": logits, "p": tf.nn.softmax(logits)}

    @tf.function(input_signature=[tf.TensorSpec([None, *SHAPE], tf.float32)])
    def decide(self, images):
        """The class alone, as probabilities of 0 and 1: its gradients are zero."""
        return {"p": tf.one_hot(tf.argmax(self.classify(images)["z"], axis=1), CLASSES)}

    @tf.function(input_signature=[tf.TensorSpec([None, *SHAPE], tf.float32)])
    def refuse(self, images):
        """Its gradient is an error in TensorFlow."""
        answer = self.classify(images)["p"]
        return {"p": tf.raw_ops.PreventGradient(input=answer, message="keep out")}


@pytest.fixture
def save(tmp_path):
    """Saves a model; what `attacking_saved.run` takes."""

    def save(scale=8.0, value_range=(0.0, 1.0), signature="classify", **outputs):
        path, model = tmp_path / "model", Brightest(scale, *value_range)
        signatures = {name: getattr(model, name) for name in ("classify", "decide", "refuse")}
        tf.saved_model.save(model, str(path), signatures=signatures)
        signature = saved_model.load_signature(path, signature)
        asked = outputs or {"probabilities_output": "p"}
        record = saved_model.describe(
            signature, image_shape=SHAPE, num_classes=CLASSES, value_range=value_range, **asked
        )
        return adopting.SavedModel(path, record)

    return save


def with_attacks(*names):
    return dataclasses.replace(CONFIG, attacks=names)


def substitute(folder):
    """An undistilled network in a file."""
    path = folder / "substitute.keras"
    images = keras.Input(SHAPE)
    logits = keras.layers.Dense(CLASSES, use_bias=False)(keras.layers.Flatten()(images))
    network = keras.Model(images, logits)
    network.set_weights([4.0 * np.eye(4, CLASSES)])
    network.save(path)
    return path


def test_probabilities_are_attacked_as_the_network_they_come_from(tmp_path, toy, save):
    """The attacks that need no more than probabilities find the same on both."""
    model = save()
    config = with_attacks("jsma_f", "fgsm", "pgd_linf", "fgsm_targeted", "pgd_linf_targeted")
    found = attacking_saved.run(config, tmp_path / "run", network=model, dataset=toy)
    images = keras.Input(SHAPE)
    logits = keras.layers.Dense(CLASSES, use_bias=False)(keras.layers.Flatten()(images))
    network = keras.Model(images, logits)
    network.set_weights([8.0 * np.eye(4, CLASSES)])
    expected = attacking_saved.run(config, tmp_path / "keras", network=network, dataset=toy)
    assert found.test_accuracy == expected.test_accuracy == pytest.approx(6 / 7)
    assert found.sample_indices == expected.sample_indices
    for name, attack in expected.attacks.items():
        assert found.attacks[name].successes == attack.successes > 0
    for name, attack in expected.attacks.items():
        assert found.attacks[name].successes == attack.successes
        assert found.attacks[name].mean_distance == pytest.approx(attack.mean_distance)
    assert [(c.name, c.value) for c in found.controls] == [
        (c.name, pytest.approx(c.value)) for c in expected.controls
    ]
    assert {c.name for c in found.controls} >= {"zero_gradients", "unbounded_reaches_all"}


def test_the_record_says_what_was_attacked(tmp_path, toy, save):
    model = save()
    found = attacking_saved.run(CONFIG, tmp_path / "run", network=model, dataset=toy)
    assert records.load(records.AttackRun, tmp_path / "run" / "attack.json") == found
    assert found.network == str(model.path)
    assert found.model == model.record
    assert (found.model.output, found.model.outputs) == ("p", "probabilities")
    assert found.data_sha256 == adopting.digest_of(toy)
    copied = tmp_path / "run" / "stages" / "attacked" / "saved_model" / "saved_model.pb"
    assert copied.read_bytes() == (model.path / "saved_model.pb").read_bytes()


def test_masked_gradients_are_seen_in_probabilities_too(tmp_path, toy, save):
    found = attacking_saved.run(CONFIG, tmp_path / "run", network=save(8000.0), dataset=toy)
    assert found.attacks["jsma_f"].details["zero_maps"] == found.attacks["jsma_f"].attempts == 8
    (check,) = (control for control in found.controls if control.name == "zero_gradients")
    assert (check.passed, check.value, check.samples) == (False, 1.0, 5)


def test_every_attack_that_is_said_to_can_do_with_probabilities(tmp_path, toy, save):
    names = attack_catalog.PROBABILITY_ATTACKS
    if not attacks.labels_only_available():
        names = tuple(name for name in names if name != "labels_only")
    found = attacking_saved.run(
        with_attacks(*names),
        tmp_path / "run",
        network=save(),
        substitute=substitute(tmp_path),
        dataset=toy,
    )
    assert {*found.attacks} == set(names)


@pytest.mark.parametrize(
    "name", sorted({*attack_catalog.ATTACKS} - {*attack_catalog.PROBABILITY_ATTACKS})
)
def test_no_other_attack_can(tmp_path, toy, save, name):
    model = save()
    with pytest.raises(ConfigError, match=f"{name}, which cannot be run on probabilities"):
        attacking_saved.run(
            with_attacks(name), tmp_path / "run", network=model, dataset=toy, temperature=2.0
        )
    assert not (tmp_path / "run").exists()
    # Not by decree: the attack itself refuses them.
    network = saved_model.network_of(
        saved_model.load_signature(model.path, "classify"), model.record
    )
    attacked = attacks.classifier(network, "probabilities")
    images, labels = toy.train.images, toy.train.labels
    prepared = attacks.prepare(name, with_attacks(name), temperature=2.0)
    with pytest.raises(ValueError, match="logits"):
        prepared(attacked, images, labels, (labels + 1) % CLASSES)


def test_logits_are_attacked_with_everything(tmp_path, toy, save):
    names = ("jsma_f", "jsma_f_exact", "jsma_z", "pgd_linf", "pgd_linf_temperature", "cw_l2")
    found = attacking_saved.run(
        with_attacks(*names),
        tmp_path / "run",
        network=save(8000.0, logits_output="z"),
        dataset=toy,
        temperature=1000.0,
    )
    assert {*found.attacks} == set(names)
    assert found.attacks["jsma_f"].successes == 0
    assert found.attacks["jsma_f_exact"].successes > 0
    assert found.attacks["pgd_linf"].successes == 0
    assert found.attacks["pgd_linf_temperature"].successes > 0
    assert found.attacks["cw_l2"].success_rate == 1.0


def test_without_gradients_labels_alone_are_left(tmp_path, toy, save):
    model = save(signature="refuse")
    assert attacking_saved.impossible_on(model.record, attack_catalog.ATTACKS)[0] == tuple(
        name for name in attack_catalog.ATTACKS if name not in attack_catalog.GRADIENT_FREE_ATTACKS
    )
    with pytest.raises(ConfigError, match=r"jsma_f, fgsm, pgd_linf, .* without gradients"):
        attacking_saved.run(CONFIG, tmp_path / "run", network=model, dataset=toy)
    names = attack_catalog.GRADIENT_FREE_ATTACKS
    if not attacks.labels_only_available():
        names = ("transfer_cw_l2",)
    found = attacking_saved.run(
        dataclasses.replace(with_attacks(*names), cw_steps=100, cw_initial_c=1.0),
        tmp_path / "run",
        network=model,
        substitute=substitute(tmp_path),
        dataset=toy,
    )
    assert set(found.attacks) == set(names)
    assert found.attacks["transfer_cw_l2"].successes > 0
    # No check by gradients was made, and none is said to have passed.
    assert found.controls == []
    assert found.model.no_gradients != ""


def test_gradients_of_zeros_are_found_by_the_check(tmp_path, toy, save):
    model = save(signature="decide")
    found = attacking_saved.run(CONFIG, tmp_path / "run", network=model, dataset=toy)
    assert found.attacks["jsma_f"].details["zero_maps"] == found.attacks["jsma_f"].attempts
    assert found.attacks["fgsm"].successes == 0
    checks = {check.name: check for check in found.controls}
    assert (checks["zero_gradients"].value, checks["zero_gradients"].passed) == (1.0, False)


def test_a_second_run_finds_the_same(tmp_path, toy, save):
    model = save()
    first = attacking_saved.run(CONFIG, tmp_path / "run", network=model, dataset=toy)
    # Everything is in the run directory.
    second = attacking_saved.run(CONFIG, tmp_path / "run", network=model, dataset=toy)
    assert dataclasses.replace(second, environment={}, timings={}) == dataclasses.replace(
        first, environment={}, timings={}
    )
    shutil.rmtree(model.path / "variables")
    other = save(4.0)
    with pytest.raises(RunError, match="made with other settings"):
        attacking_saved.run(CONFIG, tmp_path / "run", network=other, dataset=toy)


def test_a_killed_copy_is_made_again(tmp_path, toy, save):
    model = save()
    half = tmp_path / "run" / "stages" / ".partial-attacked" / "saved_model"
    half.mkdir(parents=True)
    (half / "saved_model.pb").write_bytes(b"half of it")
    records.dump(CONFIG, tmp_path / "run" / "config.json")
    found = attacking_saved.run(CONFIG, tmp_path / "run", network=model, dataset=toy)
    assert found.test_accuracy == pytest.approx(6 / 7)


@pytest.mark.parametrize("value_range", [(0.0, 255.0), (-1.0, 1.0)])
def test_distances_mean_the_same_in_any_range(tmp_path, toy, save, value_range):
    low, high = value_range
    images = (low + toy.test.images * (high - low)).astype(np.float32)
    scaled = dataclasses.replace(
        toy, test=datasets.Split(images, toy.test.labels), value_range=value_range
    )
    model = save(8.0, value_range)
    found = attacking_saved.run(CONFIG, tmp_path / "run", network=model, dataset=scaled)
    # The model may take another range than the images have.
    mixed = attacking_saved.run(CONFIG, tmp_path / "mixed", network=model, dataset=toy)
    plain = attacking_saved.run(CONFIG, tmp_path / "plain", network=save(), dataset=toy)
    assert found.attacks["jsma_f"].successes == plain.attacks["jsma_f"].successes
    assert found.attacks["pgd_linf"].mean_distance == pytest.approx(
        plain.attacks["pgd_linf"].mean_distance, rel=1e-4
    )
    assert mixed.attacks == plain.attacks


def test_a_network_on_data_of_ones_own(tmp_path, toy, save):
    """Three classes: two targets for each sample."""
    network = networks.load(substitute(tmp_path))
    found = attacking_saved.run(CONFIG, tmp_path / "run", network=network, dataset=toy)
    assert (found.dataset, found.data_sha256) == ("toy", adopting.digest_of(toy))
    assert found.attacks["jsma_f"].attempts == 4 * 2
    assert found.model is None
    moved = dataclasses.replace(
        toy, test=datasets.Split(toy.test.images * np.float32(0.9), toy.test.labels)
    )
    with pytest.raises(RunError, match="made with other settings"):
        attacking_saved.run(CONFIG, tmp_path / "run", network=network, dataset=moved)
