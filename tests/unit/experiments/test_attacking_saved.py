"""Attacks on a saved network: what is refused before any work, and what a run leaves."""

import dataclasses
import hashlib
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from ddefense import config as config_lib
from ddefense import networks, records
from ddefense.experiments import attacking_saved, controlling
from ddefense.experiments.pair import NETWORK
from ddefense.layers import TemperatureSoftmax
from ddefense.networks import LOGITS
from ddefense.records import RunError

pytestmark = pytest.mark.slow

NETWORKS = Path(__file__).parents[3] / "docs" / "results" / "digits" / "networks"
CONFIG = config_lib.preset(
    "smoke",
    "digits",
    attacks=("fgsm", "jsma_f", "fgsm_temperature"),
    samples=3,
    max_features=20,
)


def stage_names(directory):
    return sorted(path.name for path in (directory / "stages").iterdir())


# --- what a run leaves ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    directory = tmp_path_factory.mktemp("attacked") / "run"
    path = NETWORKS / "distilled_t20.keras"
    found = attacking_saved.run(
        CONFIG, directory, network=path, temperature=20.0, command="bin/attack --network=it"
    )
    return found, directory


def test_the_results_are_written_as_returned(attacked):
    found, directory = attacked
    assert records.load(records.AttackRun, directory / "attack.json") == found
    assert records.load(config_lib.Config, directory / "config.json") == CONFIG
    assert sorted(path.name for path in directory.iterdir()) == [
        "attack.json",
        "config.json",
        "stages",
    ]


def test_the_results_say_what_was_attacked_and_how(attacked, digits):
    found, directory = attacked
    path = NETWORKS / "distilled_t20.keras"
    assert found.network == str(path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.substitute, found.temperature) == (None, 20.0)
    assert (found.dataset, found.config) == ("digits", CONFIG)
    assert found.environment["command"] == "bin/attack --network=it"
    assert found.environment["resumed_stages"] == 0
    attacks = [f"{name}_on_attacked" for name in CONFIG.attacks]
    stages = ["attacked", "measure_attacked", "samples", *attacks, "controls_on_attacked"]
    assert stage_names(directory) == sorted(stages)
    assert set(found.timings) == {*stages, "this_process"}
    network = keras.models.load_model(path, compile=False)
    predicted = networks.predict(network, digits.test.images).argmax(axis=1)
    assert found.test_accuracy == pytest.approx((predicted == digits.test.labels).mean())
    right = np.flatnonzero(predicted == digits.test.labels)
    assert found.sample_indices == right[:3].tolist()


def test_every_attack_is_in_the_results(attacked):
    found, _ = attacked
    assert list(found.attacks) == ["jsma_f", "fgsm", "fgsm_temperature"]
    assert found.attacks["jsma_f"].attempts == 27
    assert {record.samples for record in found.attacks.values()} == {3}
    assert found.transfer == []
    # The network is known to answer its softmax with nothing.
    assert found.attacks["jsma_f"].details["zero_maps"] == 27
    assert found.attacks["fgsm"].successes == 0
    assert found.attacks["fgsm_temperature"].settings["temperature"] == 20.0
    assert found.attacks["fgsm_temperature"].successes > 0


def assert_deployed_copy(copy, path, images):
    """Asserts that a file holds the network of another one, at T = 1."""
    ours, theirs = (keras.models.load_model(file, compile=False) for file in (copy, path))
    assert networks.temperature_of(ours) == 1.0
    logits = (networks.predict(networks.logits_of(network), images) for network in (ours, theirs))
    np.testing.assert_array_equal(*logits)


def test_the_run_directory_holds_the_network_itself(attacked, digits):
    _, directory = attacked
    copy = directory / "stages" / "attacked" / NETWORK
    assert_deployed_copy(copy, NETWORKS / "distilled_t20.keras", digits.test.images[:5])


def of_the_seed(results):
    """What does not depend on when and where it was run."""
    return dataclasses.replace(results, environment={}, timings={})


def test_a_second_run_attacks_nothing_and_finds_the_same(attacked, tmp_path):
    found, directory = attacked
    shutil.copytree(directory, tmp_path / "run")

    def arrays():
        return {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "stages").rglob("*")}

    before = arrays()
    again = attacking_saved.run(
        CONFIG, tmp_path / "run", network=NETWORKS / "distilled_t20.keras", temperature=20.0
    )
    assert of_the_seed(again) == of_the_seed(found)
    assert arrays() == before


@pytest.mark.parametrize(
    ("name", "temperature"), [("distilled_t5", 20.0), ("distilled_t20", 5.0)], ids=str
)
def test_another_network_or_temperature_needs_a_directory_of_its_own(
    attacked, tmp_path, name, temperature
):
    _, directory = attacked
    shutil.copytree(directory, tmp_path / "run")
    with pytest.raises(RunError, match="stage attacked made with other settings"):
        attacking_saved.run(
            CONFIG, tmp_path / "run", network=NETWORKS / f"{name}.keras", temperature=temperature
        )
    assert records.load(records.AttackRun, tmp_path / "run" / "attack.json") == attacked[0]


def test_samples_made_on_a_substitute_are_replayed(tmp_path, digits):
    config = dataclasses.replace(
        CONFIG,
        attacks=("transfer_cw_l2",),
        cw_samples=2,
        cw_steps=100,
        cw_search_steps=6,
        kappas=(0.0, 1.0),
    )
    found = attacking_saved.run(
        config,
        tmp_path / "run",
        network=NETWORKS / "distilled_t20.keras",
        substitute=NETWORKS / "baseline.keras",
        temperature=20.0,
    )
    assert found.substitute == str(NETWORKS / "baseline.keras")
    assert stage_names(tmp_path / "run") == [
        "attacked",
        "controls_on_attacked",
        "measure_attacked",
        "samples",
        "substitute",
        "transfer_cw_l2_from_substitute",
        "transfer_cw_l2_on_attacked",
    ]
    copy = tmp_path / "run" / "stages" / "substitute" / NETWORK
    assert_deployed_copy(copy, NETWORKS / "baseline.keras", digits.test.images[:5])
    assert [transfer.kappa for transfer in found.transfer] == [0.0, 1.0]
    assert [transfer.crafted for transfer in found.transfer] == [1.0, 1.0]
    first, second = (transfer.mean_distance for transfer in found.transfer)
    assert first < second
    record = found.attacks["transfer_cw_l2"]
    assert (record.samples, record.settings["crafted_on"]) == (2, "substitute")
    assert record.success_rate == found.transfer[-1].misclassified


@pytest.mark.parametrize("sequential", [False, True])
def test_any_network_of_one_input_with_a_layer_named_logits_will_do(
    tmp_path, digits, save, sequential
):
    """Also one without a softmax, in whatever style it was written."""
    path = save("mine", linear_classifier(digits, sequential))
    config = dataclasses.replace(CONFIG, attacks=("fgsm",))
    found = attacking_saved.run(config, tmp_path / "run", network=path)
    assert found.test_accuracy > 0.8
    assert found.temperature is None
    assert found.warnings == []
    assert found.attacks["fgsm"].success_rate == 1.0


def test_the_checks_for_masked_gradients_go_with_the_attacks(attacked):
    found, directory = attacked
    assert {check.network for check in found.controls} == {"attacked"}
    # No pgd_linf among the attacks: nothing to compare with fgsm.
    assert [check.name for check in found.controls] == [
        "zero_gradients",
        "unbounded_reaches_all",
        "random_restarts",
    ]
    zero, unbounded, restarts = found.controls
    assert zero.samples == CONFIG.gradient_samples == 100
    assert not zero.passed
    rates = records.load(
        controlling.SignRates, directory / "stages" / "controls_on_attacked" / "rates.json"
    )
    assert (rates.samples, rates.restarts) == (3, CONFIG.pgd_restarts)
    assert (unbounded.value, unbounded.samples) == (rates.unbounded, 3)
    assert restarts.value == rates.many_starts - rates.one_start


def with_head(*head, shape=(28, 28, 1)):
    """A linear classifier of digits that ends in other layers."""
    return lambda: on_digits([keras.layers.Flatten(), *(layer() for layer in head)], shape)


ENDINGS = {
    "logits of any name": with_head(lambda: dense(name="scores")),
    "a softmax of the last layer": with_head(lambda: dense(name="logits", activation="softmax")),
    "a layer of softmax at another T": with_head(
        lambda: dense(), lambda: TemperatureSoftmax(5.0, name="p")
    ),
    "a softmax that is called logits": with_head(
        lambda: dense(name="scores"), lambda: keras.layers.Softmax(name="logits")
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_network_may_end_in_logits_or_in_a_softmax(tmp_path, save, digits, name):
    """Whatever it ends in, the same logits are attacked."""
    network = ENDINGS[name]()
    network.set_weights(linear_classifier(digits, False).get_weights())
    config = dataclasses.replace(CONFIG, attacks=("fgsm",))
    found = attacking_saved.run(config, tmp_path / "run", network=save("mine", network))
    assert found.test_accuracy > 0.8
    kept = keras.models.load_model(tmp_path / "run" / "stages" / "attacked" / NETWORK)
    images = digits.test.images[:5]
    np.testing.assert_allclose(
        networks.predict(networks.logits_of(kept), images),
        networks.predict(linear_classifier(digits, False), images),
        rtol=1e-5,
    )


def test_a_network_for_images_of_any_size_takes_those_of_the_data(tmp_path, save):
    pool = keras.layers.GlobalAveragePooling2D()
    layers = [keras.layers.Conv2D(10, 3, kernel_initializer="ones"), pool, dense()]
    path = save("any_size", on_digits(layers, (None, None, 1)))
    config = dataclasses.replace(CONFIG, attacks=("fgsm",), samples=1)
    attacking_saved.run(config, tmp_path / "run", network=path)
    kept = keras.models.load_model(tmp_path / "run" / "stages" / "attacked" / NETWORK)
    assert kept.input_shape == (None, 28, 28, 1)


@pytest.fixture
def linear(save, digits):
    return save("linear", linear_classifier(digits, False))


def test_a_network_that_hides_nothing_passes_every_check(tmp_path, linear):
    config = dataclasses.replace(CONFIG, attacks=("pgd_linf", "fgsm"))
    found = attacking_saved.run(config, tmp_path / "run", network=linear)
    assert [(check.name, check.passed) for check in found.controls] == [
        ("zero_gradients", True),
        ("iterative_beats_one_step", True),
        ("unbounded_reaches_all", True),
        ("random_restarts", True),
    ]
    assert found.controls[1].value == found.attacks["pgd_linf"].success_rate
    assert found.controls[1].limit == found.attacks["fgsm"].success_rate


@pytest.mark.parametrize("restarts", [1, 3])
def test_the_random_starts_of_the_control_are_those_asked_for(tmp_path, linear, restarts):
    config = dataclasses.replace(CONFIG, attacks=("fgsm",), pgd_restarts=restarts)
    found = attacking_saved.run(config, tmp_path / "run", network=linear)
    starts = "1 random start " if restarts == 1 else "3 random starts "
    assert f" from {starts}" in found.controls[-1].explanation


@pytest.mark.parametrize(
    ("temperature", "targets", "attempts"),
    [(20.0, "all", 18), (5.0, "random", 2), (None, "random", 2)],
    ids=str,
)
def test_every_class_is_aimed_at_only_at_the_temperatures_asked_for(
    tmp_path, linear, temperature, targets, attempts
):
    config = dataclasses.replace(
        CONFIG,
        attacks=("cw_l2",),
        cw_samples=2,
        cw_steps=5,
        cw_search_steps=1,
        cw_all_targets_at=(20.0, 100.0),
    )
    found = attacking_saved.run(config, tmp_path / "run", network=linear, temperature=temperature)
    record = found.attacks["cw_l2"]
    assert (record.targets, record.attempts) == (targets, attempts)
    # What was asked for is recorded as it was.
    assert found.config == records.load(config_lib.Config, tmp_path / "run" / "config.json")
    assert found.config.cw_all_targets_at == (20.0, 100.0)


@pytest.fixture
def warned(caplog):
    """The warnings logged so far."""
    return lambda: [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


def test_a_network_that_is_mostly_wrong_is_attacked_with_a_warning(tmp_path, save, digits, warned):
    """Half of its classes have the number of another, as those of another dataset may."""
    network = linear_classifier(digits, False)
    shifted = [1, 2, 3, 4, 5, 0, 6, 7, 8, 9]
    network.set_weights([weights[..., shifted] for weights in network.get_weights()])
    config = dataclasses.replace(CONFIG, attacks=("fgsm",))
    found = attacking_saved.run(config, tmp_path / "run", network=save("shifted", network))
    assert 0.2 < found.test_accuracy < 0.5
    (warning,) = found.warnings
    assert f"only {100 * found.test_accuracy:.2f} % of the test images of digits" in warning
    assert "another dataset" in warning
    assert "another range than [0, 1]" in warning
    assert warned() == [warning]
    assert records.load(records.AttackRun, tmp_path / "run" / "attack.json") == found


def test_the_warning_comes_before_samples_are_missed(tmp_path, save, digits, warned):
    network = linear_classifier(digits, False)
    network.set_weights([-weights for weights in network.get_weights()])
    path = save("upside_down", network)
    with pytest.raises(RunError, match="--samples: expected at most 0"):
        attacking_saved.run(CONFIG, tmp_path / "run", network=path, temperature=1.0)
    assert [line.split(" of the test")[0] for line in warned()] == ["The network gets only 0.00 %"]


def linear_classifier(digits, sequential):
    """The mean image of each class as weights: enough to get most images right."""
    images, labels = digits.train.images.reshape(len(digits.train), -1), digits.train.labels
    means = np.stack([images[labels == i].mean(axis=0) for i in range(10)], axis=1)
    logits = keras.layers.Dense(10, name="logits")
    if sequential:
        network = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), logits])
    else:
        inputs = keras.Input((28, 28, 1))
        network = keras.Model(inputs, logits(keras.layers.Flatten()(inputs)))
    network.set_weights([means, -0.5 * (means**2).sum(axis=0)])
    return network


# --- what is refused ------------------------------------------------------------------------------


@pytest.fixture
def save(tmp_path):
    """Saves a network in a folder of its own."""

    def save(name, network):
        path = tmp_path / f"{name}.keras"
        network.save(path)
        return path

    return save


def on_digits(layers, shape=(28, 28, 1)):
    images = x = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(images, x)


def dense(**settings):
    return keras.layers.Dense(10, **settings)


def two_inputs():
    one, other = keras.Input((28, 28, 1)), keras.Input((28, 28, 1))
    x = keras.layers.Flatten()(keras.layers.add([one, other]))
    return keras.Model([one, other], dense(name="logits")(x))


def of_colours():
    pool = keras.layers.GlobalAveragePooling2D(name="logits")
    return on_digits([keras.layers.Conv2D(10, 3), pool], (None, None, 3))


def seven_classes():
    return on_digits([keras.layers.Flatten(), keras.layers.Dense(7, name="logits")])


WRONG_NETWORKS = {
    "two softmaxes": (
        lambda: on_digits(
            [keras.layers.Flatten(), dense(activation="softmax"), keras.layers.Softmax()]
        ),
        ["one softmax", "ends in two"],
    ),
    "probabilities named logits": (
        lambda: on_digits(
            [
                keras.layers.Flatten(),
                dense(activation="softmax"),
                keras.layers.Identity(name=LOGITS),
            ]
        ),
        ["expected logits", "these are probabilities"],
    ),
    "another shape": (
        lambda: on_digits([keras.layers.Flatten(), dense(name="logits")], (32, 32, 3)),
        ["digits", "(28, 28, 1)", "(32, 32, 3)"],
    ),
    "other channels": (of_colours, ["digits", "(28, 28, 1)", "(None, None, 3)"]),
    "other classes": (seven_classes, ["10 classes", "and 7 "]),
    "no batch of rows": (
        lambda: on_digits([keras.layers.Conv2D(10, 3, name="logits")]),
        ["shape [N, classes >= 2]", "(None, 26, 26, 10)"],
    ),
    "no logits": (
        lambda: on_digits([keras.layers.Conv2D(10, 3), keras.layers.Flatten()]),
        ["ends in a softmax, or in logits", "Flatten"],
    ),
    "two inputs": (two_inputs, ["one input", "2 inputs"]),
}


@pytest.mark.parametrize("flag", ["network", "substitute"])
@pytest.mark.parametrize("name", WRONG_NETWORKS)
def test_a_network_that_cannot_be_attacked_is_refused(tmp_path, save, flag, name):
    build, named = WRONG_NETWORKS[name]
    path = save("wrong", build())
    assert_refused(tmp_path, flag, path, [*named, str(path)])


def assert_refused(tmp_path, flag, path, named):
    """Either network may be the one; in one line, and before anything is made."""
    paths = {name: NETWORKS / "baseline.keras" for name in ("network", "substitute")}
    config = dataclasses.replace(CONFIG, attacks=("transfer_cw_l2",))
    with pytest.raises(config_lib.ConfigError) as caught:
        attacking_saved.run(config, tmp_path / "run", **(paths | {flag: path}))
    message = str(caught.value)
    assert message.startswith(f"{flag}: ")
    assert "\n" not in message
    for part in named:
        assert part in message
    assert not (tmp_path / "run").exists()


def with_member(path, member, content):
    """A copy of a stored network with another content of a file in it."""
    with zipfile.ZipFile(NETWORKS / "baseline.keras") as source, zipfile.ZipFile(path, "w") as copy:
        for name in source.namelist():
            if name != member:
                copy.writestr(name, source.read(name))
            elif content is not None:
                copy.writestr(name, content)


def with_a_bit_flipped(path):
    content = bytearray((NETWORKS / "baseline.keras").read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "text": lambda path: path.write_text("no network"),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes((NETWORKS / "baseline.keras").read_bytes()[:9999]),
    "a bit flipped": with_a_bit_flipped,
    "no configuration": lambda path: with_member(path, "config.json", None),
    "another configuration": lambda path: with_member(path, "config.json", "{}"),
    "no JSON": lambda path: with_member(path, "config.json", "{"),
    "no weights": lambda path: with_member(path, "model.weights.h5", None),
    "other weights": lambda path: with_member(path, "model.weights.h5", b"no weights"),
    "a folder": lambda path: path.mkdir(),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_that_is_no_network_is_refused(tmp_path, name):
    path = tmp_path / "damaged.keras"
    DAMAGE[name](path)
    assert_refused(tmp_path, "network", path, ["a .keras file", str(path)])


@pytest.mark.parametrize("name", ["network.h5", "network"])
def test_a_file_of_another_kind_is_refused(tmp_path, name):
    shutil.copyfile(NETWORKS / "baseline.keras", tmp_path / name)
    assert_refused(tmp_path, "network", tmp_path / name, ["a .keras file", "save it as one"])


def test_transfer_without_a_substitute_is_refused(tmp_path):
    config = dataclasses.replace(CONFIG, attacks=("transfer_cw_l2",))
    with pytest.raises(config_lib.ConfigError, match="expected a substitute"):
        attacking_saved.run(config, tmp_path / "run", network=NETWORKS / "baseline.keras")
    assert not (tmp_path / "run").exists()


def test_attacks_on_logits_by_t_without_t_are_refused(tmp_path):
    names = ("jsma_f", "jsma_f_temperature", "pgd_linf_temperature")
    config = dataclasses.replace(CONFIG, attacks=names)
    with pytest.raises(config_lib.ConfigError) as caught:
        attacking_saved.run(config, tmp_path / "run", network=NETWORKS / "distilled_t20.keras")
    assert "a temperature with jsma_f_temperature, pgd_linf_temperature, rec" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_directory_of_another_configuration_is_refused(attacked, tmp_path):
    _, directory = attacked
    shutil.copytree(directory, tmp_path / "run")
    other = dataclasses.replace(CONFIG, epsilon=0.1)
    with pytest.raises(RunError, match=r"epsilon \(0.15 there, 0.1 now\)"):
        attacking_saved.run(
            other, tmp_path / "run", network=NETWORKS / "distilled_t20.keras", temperature=20.0
        )


def test_too_many_samples_are_refused_with_the_most_there_are(tmp_path):
    config = dataclasses.replace(CONFIG, attacks=("fgsm",), samples=360)
    with pytest.raises(RunError, match=r"--samples: expected at most 3\d\d,.*received 360"):
        attacking_saved.run(config, tmp_path / "run", network=NETWORKS / "distilled_t20.keras")


@pytest.mark.parametrize(
    ("accuracy", "undistilled", "words"),
    [
        (0.12, None, "it did not learn, so attacks on it say nothing"),  # of 360: from 9.0 %
        (0.30, None, "attacks on it say little"),
        (0.30, 0.95, "it did not learn, so attacks on it say nothing"),  # up to 34.9 %
        (0.45, 0.95, "attacks on it say little"),  # up to 50.2 %
        (0.90, 0.95, ""),
    ],
)
def test_a_network_that_did_not_learn_is_doubted_most(digits, accuracy, undistilled, words):
    found = attacking_saved.warnings(accuracy, digits, undistilled=undistilled)
    assert len(found) == bool(words)
    assert all(words in warning for warning in found)
