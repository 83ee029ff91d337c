"""SavedModels of any maker evaluated: what is run, what is left out, what is kept."""

import dataclasses
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddefense import attack_catalog, attacks, datasets, files, records, reporting
from ddefense import config as config_lib
from ddefense.attacks import saved_model
from ddefense.experiments import adopting, evaluating
from ddefense.records import RunError
from ddefense.settings import ConfigError

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
    """Saves a model; what `evaluating.evaluate` takes."""

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


def only(results):
    """The record of the one network evaluated."""
    (network,) = results.networks
    return network


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
    found = evaluating.evaluate(model, toy, config, tmp_path / "run")
    images = keras.Input(SHAPE)
    logits = keras.layers.Dense(CLASSES, use_bias=False)(keras.layers.Flatten()(images))
    network = keras.Model(images, logits)
    network.set_weights([8.0 * np.eye(4, CLASSES)])
    expected = evaluating.evaluate(network, toy, config, tmp_path / "keras")
    assert only(found).test_accuracy == only(expected).test_accuracy == pytest.approx(6 / 7)
    assert found.sample_indices == expected.sample_indices
    assert only(expected).attacks["jsma_f"].successes > 0
    for name, attack in only(expected).attacks.items():
        assert only(found).attacks[name].successes == attack.successes
        assert only(found).attacks[name].mean_distance == pytest.approx(attack.mean_distance)
    assert [(c.name, c.value) for c in found.controls] == [
        (c.name, pytest.approx(c.value)) for c in expected.controls
    ]
    assert {c.name for c in found.controls} >= {"zero_gradients", "unbounded_reaches_all"}


def test_the_record_says_what_was_evaluated(tmp_path, toy, save):
    model = save()
    found = evaluating.evaluate(model, toy, CONFIG, tmp_path / "run")
    assert records.load(records.Results, tmp_path / "run" / "results.json") == found
    network = only(found)
    assert network.model == model.record
    assert (network.model.output, network.model.outputs) == ("p", "probabilities")
    assert (network.name, network.defense, network.gradients) == ("model", "unknown", None)
    assert found.environment["network"] == str(model.path)
    assert found.environment["network_sha256"] == files.folder_sha256(model.path)
    assert (found.verdict.masks_gradients, found.verdict.stops_adaptive_attacker) == (None, None)
    copied = tmp_path / "run" / "stages" / "adopt_network" / "saved_model" / "saved_model.pb"
    assert copied.read_bytes() == (model.path / "saved_model.pb").read_bytes()


@pytest.mark.parametrize("outputs", [{"logits_output": "z"}, {"probabilities_output": "p"}])
def test_the_page_shows_what_there_is(tmp_path, toy, save, outputs):
    evaluating.evaluate(save(**outputs), toy, CONFIG, tmp_path / "run")
    reporting.render(tmp_path / "run")
    (name,) = outputs.values()
    for page in ("report.md", "report.html"):
        assert f"the output {name} of classify." in (tmp_path / "run" / page).read_text()
    drawn = (tmp_path / "run" / "figures" / "gradients.png").exists()
    assert drawn == ("logits_output" in outputs)


def test_a_model_is_compared_with_an_undistilled_network(tmp_path, toy, save):
    """Masked in its probabilities, and open to who asks for its logits."""
    found = evaluating.evaluate(
        save(8000.0, logits_output="z"),
        toy,
        with_attacks("jsma_f", "pgd_linf", "cw_l2"),
        tmp_path / "run",
        undistilled=substitute(tmp_path),
        temperature=1000.0,
    )
    assert [network.name for network in found.networks] == ["substitute", "model"]
    assert found.verdict.masks_gradients is True


def test_a_version_of_a_model_has_the_name_of_the_model(tmp_path, toy, save):
    model = save()
    (tmp_path / "mine").mkdir()
    version = dataclasses.replace(model, path=model.path.rename(tmp_path / "mine" / "7"))
    found = evaluating.evaluate(version, toy, with_attacks("fgsm"), tmp_path / "run")
    assert only(found).name == "mine"


def test_an_outlier_class_is_one_of_a_keras_network(tmp_path, toy, save):
    with pytest.raises(ConfigError, match=r"^outlier_class: expected with a Keras network"):
        evaluating.evaluate(save(), toy, CONFIG, tmp_path / "run", outlier_class=True)


def test_masked_gradients_are_seen_in_probabilities_too(tmp_path, toy, save):
    found = evaluating.evaluate(save(8000.0), toy, CONFIG, tmp_path / "run")
    jsma = only(found).attacks["jsma_f"]
    assert jsma.details["zero_maps"] == jsma.attempts == 8
    (check,) = (control for control in found.controls if control.name == "zero_gradients")
    assert (check.passed, check.value, check.samples) == (False, 1.0, 5)


def test_every_attack_that_is_said_to_can_do_with_probabilities(tmp_path, toy, save):
    names = attack_catalog.PROBABILITY_ATTACKS
    if not attack_catalog.ATTACKS["labels_only"].installed:
        names = tuple(name for name in names if name != "labels_only")
    found = evaluating.evaluate(
        save(), toy, with_attacks(*names), tmp_path / "run", substitute=substitute(tmp_path)
    )
    assert set(only(found).attacks) == set(names)


@pytest.mark.parametrize(
    "name", sorted({*attack_catalog.ATTACKS} - {*attack_catalog.PROBABILITY_ATTACKS})
)
def test_no_other_attack_can(tmp_path, toy, save, name):
    model = save()
    with pytest.raises(ConfigError, match=f"{name}, which cannot be run on probabilities"):
        evaluating.evaluate(model, toy, with_attacks(name), tmp_path / "run", temperature=2.0)
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
    found = evaluating.evaluate(
        save(8000.0, logits_output="z"),
        toy,
        with_attacks(*names),
        tmp_path / "run",
        temperature=1000.0,
    )
    assert set(only(found).attacks) == set(names)
    assert only(found).attacks["jsma_f"].successes == 0
    assert only(found).attacks["jsma_f_exact"].successes > 0
    assert only(found).attacks["pgd_linf"].successes == 0
    assert only(found).attacks["pgd_linf_temperature"].successes > 0
    assert only(found).attacks["cw_l2"].success_rate == 1.0


def test_without_gradients_labels_alone_are_left(tmp_path, toy, save):
    model = save(signature="refuse")
    assert evaluating.impossible_on(model.record, attack_catalog.ATTACKS)[0] == tuple(
        name for name in attack_catalog.ATTACKS if name not in attack_catalog.GRADIENT_FREE_ATTACKS
    )
    with pytest.raises(ConfigError, match=r"jsma_f, fgsm, pgd_linf, .* without gradients"):
        evaluating.evaluate(model, toy, CONFIG, tmp_path / "run")
    names = attack_catalog.GRADIENT_FREE_ATTACKS
    if not attack_catalog.ATTACKS["labels_only"].installed:
        names = ("transfer_cw_l2",)
    found = evaluating.evaluate(
        model,
        toy,
        dataclasses.replace(with_attacks(*names), cw_steps=100, cw_initial_c=1.0),
        tmp_path / "run",
        substitute=substitute(tmp_path),
    )
    assert set(only(found).attacks) == set(names)
    assert only(found).attacks["transfer_cw_l2"].successes > 0
    assert (only(found).logits, only(found).gradients) == (None, None)
    # No check by gradients was made, and none is said to have passed.
    assert found.controls == []
    assert only(found).model.no_gradients != ""


def test_gradients_of_zeros_are_found_by_the_check(tmp_path, toy, save):
    model = save(signature="decide")
    found = evaluating.evaluate(model, toy, CONFIG, tmp_path / "run")
    jsma = only(found).attacks["jsma_f"]
    assert jsma.details["zero_maps"] == jsma.attempts
    assert only(found).attacks["fgsm"].successes == 0
    checks = {check.name: check for check in found.controls}
    assert (checks["zero_gradients"].value, checks["zero_gradients"].passed) == (1.0, False)


def test_a_second_run_finds_the_same(tmp_path, toy, save):
    model = save()
    first = evaluating.evaluate(model, toy, CONFIG, tmp_path / "run")
    # Everything is in the run directory.
    second = evaluating.evaluate(model, toy, CONFIG, tmp_path / "run")
    assert dataclasses.replace(second, environment={}, timings={}) == dataclasses.replace(
        first, environment={}, timings={}
    )
    shutil.rmtree(model.path / "variables")
    other = save(4.0)
    with pytest.raises(RunError, match="made with other settings"):
        evaluating.evaluate(other, toy, CONFIG, tmp_path / "run")


def test_a_killed_copy_is_made_again(tmp_path, toy, save):
    model = save()
    half = tmp_path / "run" / "stages" / ".partial-adopt_network" / "saved_model"
    half.mkdir(parents=True)
    (half / "saved_model.pb").write_bytes(b"half of it")
    records.dump(CONFIG, tmp_path / "run" / "config.json")
    found = evaluating.evaluate(model, toy, CONFIG, tmp_path / "run")
    assert only(found).test_accuracy == pytest.approx(6 / 7)


@pytest.mark.parametrize("value_range", [(0.0, 255.0), (-1.0, 1.0)])
def test_distances_mean_the_same_in_any_range(tmp_path, toy, save, value_range):
    low, high = value_range
    images = (low + toy.test.images * (high - low)).astype(np.float32)
    scaled = dataclasses.replace(
        toy, test=datasets.Split(images, toy.test.labels), value_range=value_range
    )
    model = save(8.0, value_range)
    found = evaluating.evaluate(model, scaled, CONFIG, tmp_path / "run")
    # The model may take another range than the images have.
    mixed = evaluating.evaluate(model, toy, CONFIG, tmp_path / "mixed")
    plain = evaluating.evaluate(save(), toy, CONFIG, tmp_path / "plain")
    assert only(found).attacks["jsma_f"].successes == only(plain).attacks["jsma_f"].successes
    assert only(found).attacks["pgd_linf"].mean_distance == pytest.approx(
        only(plain).attacks["pgd_linf"].mean_distance, rel=1e-4
    )
    assert only(mixed).attacks == only(plain).attacks
