"""Networks that were trained elsewhere: the same record as a run's, and what it says."""

import dataclasses
import pathlib
import shutil

import keras
import numpy as np
import pytest

from ddefense import config as config_lib
from ddefense import datasets, files, records, reporting
from ddefense.experiments import adopting, evaluating, known_results
from ddefense.exporting import card
from ddefense.records import RunError
from ddefense.settings import ConfigError

SHAPE, CLASSES, T = (1, 4, 1), 3, 1000.0
NAMES = ("jsma_f", "jsma_f_temperature", "pgd_linf", "fgsm", "cw_l2")


def build(scale):
    """The class is the brightest of the first pixels."""
    images = keras.Input(SHAPE)
    x = keras.layers.Dense(CLASSES, use_bias=False)(keras.layers.Flatten()(images))
    network = keras.Model(images, keras.layers.Softmax()(x), name="toy_network")
    network.set_weights([scale * np.eye(4, CLASSES)])
    return network


@pytest.fixture(scope="module")
def config(toy):
    return evaluating.settings(
        toy,
        preset="smoke",
        attacks=NAMES,
        samples=4,
        gradient_samples=5,
        epsilon=0.15,
        pgd_steps=10,
        max_features=2,
    )


@pytest.fixture(scope="module")
def files_of(tmp_path_factory):
    """A network, and the same with logits that no softmax survives, as if distilled."""
    folder = tmp_path_factory.mktemp("networks")
    paths = {}
    for name, scale in (("plain", 8.0), ("distilled", 8.0 * T)):
        paths[name] = folder / f"{name}.keras"
        build(scale).save(paths[name])
    return paths


@pytest.fixture(scope="module")
def compared(tmp_path_factory, toy, config, files_of):
    directory = tmp_path_factory.mktemp("compared") / "run"
    found = evaluating.evaluate(
        files_of["distilled"],
        toy,
        config,
        directory,
        undistilled=files_of["plain"],
        temperature=T,
        command="bin/evaluate --network=it",
    )
    return found, directory


@pytest.fixture(scope="module")
def alone(tmp_path_factory, toy, config, files_of):
    directory = tmp_path_factory.mktemp("alone") / "run"
    config = dataclasses.replace(config, attacks=("jsma_f", "pgd_linf"))
    return evaluating.evaluate(build(8.0), toy, config, directory), directory


def test_the_results_are_those_of_a_run(compared, config):
    found, directory = compared
    assert records.load(records.Results, directory / "results.json") == found
    assert records.load(config_lib.Config, directory / "config.json") == config
    assert found.is_evaluation
    assert [network.name for network in found.networks] == ["plain", "distilled"]
    assert [network.defense for network in found.networks] == ["none", "distillation"]
    assert [network.temperature for network in found.networks] == [1.0, T]
    for network in found.networks:
        assert (network.training, network.initial, network.seed) == (None, None, None)
        assert network.test_accuracy == pytest.approx(6 / 7)
        assert {*network.attacks} == set(NAMES)
        assert network.attacks["jsma_f"].attempts == 4 * (CLASSES - 1)
    assert found.dataset.num_test == 7
    assert found.exports == []


def test_the_verdict_is_about_both(compared):
    found, _ = compared
    assert found.verdict.masks_gradients is True
    assert found.verdict.stops_adaptive_attacker is False
    assert found.verdict.sentence.startswith(
        "At T = 1000 the paper's attack (jsma_f) reaches 0.0 %"
    )
    failed = {(check.network, check.name) for check in found.controls if not check.passed}
    assert ("distilled", "zero_gradients") in failed
    assert ("distilled", "scaled_logits") in failed
    assert not any(network == "plain" for network, _ in failed)


def test_what_it_was_run_on_stands_in_the_environment(compared, toy, files_of):
    found, _ = compared
    environment = found.environment
    assert environment["command"] == "bin/evaluate --network=it"
    assert environment["network"] == str(files_of["distilled"])
    assert environment["undistilled"] == str(files_of["plain"])
    assert environment["network_sha256"] == files.sha256(files_of["distilled"])
    assert environment["data_sha256"] == adopting.digest_of(toy)
    assert environment["warnings"] == []


@pytest.mark.slow
def test_a_report_is_drawn_of_it(compared, tmp_path):
    _, directory = compared
    shutil.copytree(directory, tmp_path / "run")
    written = {path.relative_to(tmp_path / "run") for path in reporting.render(tmp_path / "run")}
    assert pathlib.Path("figures/attack_rates.png") in written
    assert pathlib.Path("figures/sample_grid.svg") in written
    text = (tmp_path / "run" / "report.md").read_text()
    assert text.startswith("# Evaluation of distilled (T = 1000) against plain on toy\n")


@pytest.mark.slow
def test_a_network_alone_has_no_verdict(alone, tmp_path):
    found, directory = alone
    (network,) = found.networks
    assert (network.name, network.defense, network.temperature) == ("network", "unknown", 1.0)
    assert found.environment["network"] == "toy_network"
    assert found.verdict.masks_gradients is None
    assert "no undistilled network to compare with" in found.verdict.sentence
    # No fgsm among the attacks: nothing to compare pgd_linf with.
    assert [check.name for check in found.controls] == [
        *("zero_gradients", "unbounded_reaches_all", "random_restarts")
    ]
    shutil.copytree(directory, tmp_path / "run")
    reporting.render(tmp_path / "run")
    text = (tmp_path / "run" / "report.md").read_text()
    assert text.startswith("# Evaluation of network on toy\n")


@pytest.mark.slow
def test_a_distilled_network_alone(tmp_path, toy, config, files_of):
    config = dataclasses.replace(config, attacks=("pgd_linf", "pgd_linf_temperature"))
    directory = tmp_path / "run"
    found = evaluating.evaluate(files_of["distilled"], toy, config, directory, temperature=T)
    (network,) = found.networks
    assert (network.defense, network.temperature) == ("distillation", T)
    assert network.attacks["pgd_linf"].successes == 0
    assert network.attacks["pgd_linf_temperature"].successes > 0
    reporting.render(directory)
    # No reading of JSMA, so no samples of one.
    assert not (directory / "figures" / "sample_grid.png").exists()


def test_a_second_evaluation_attacks_nothing(alone, toy, config, tmp_path):
    """In another process the layers of the same network have other names."""
    found, directory = alone
    shutil.copytree(directory, tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "stages").rglob("*")}
    config = dataclasses.replace(config, attacks=("jsma_f", "pgd_linf"))
    again = evaluating.evaluate(build(8.0), toy, config, tmp_path / "run")
    assert again.networks == found.networks
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "stages").rglob("*")} == before
    for network, temperature in ((build(7.0), None), (build(8.0), 2.0)):
        with pytest.raises(RunError, match="adopt_network made with other settings"):
            evaluating.evaluate(network, toy, config, tmp_path / "run", temperature=temperature)


def test_the_checks_by_gradient_go_with_any_attack(tmp_path, toy, config):
    config = dataclasses.replace(config, attacks=("jsma_f",))
    found = evaluating.evaluate(build(8.0), toy, config, tmp_path / "run")
    assert [check.name for check in found.controls] == [
        *("zero_gradients", "unbounded_reaches_all", "random_restarts")
    ]


@pytest.mark.parametrize(
    ("temperature", "targets"), [(T, "all"), (5.0, "random"), (None, "random")]
)
def test_every_class_is_aimed_at_only_at_the_temperatures_asked_for(
    tmp_path, toy, config, temperature, targets
):
    config = dataclasses.replace(config, attacks=("cw_l2",), cw_all_targets_at=(T, 100.0))
    found = evaluating.evaluate(build(8.0), toy, config, tmp_path / "run", temperature=temperature)
    assert found.networks[0].norm_attacks["cw_l2"].targets == targets


@pytest.mark.slow
def test_images_of_another_range(tmp_path, toy, config, alone):
    """Samples are kept in the range of the data, everything measured is of images in [0, 1]."""
    wide = dataclasses.replace(
        toy,
        test=datasets.Split(toy.test.images * np.float32(255), toy.test.labels),
        value_range=(0.0, 255.0),
    )
    config = dataclasses.replace(config, attacks=("jsma_f", "pgd_linf"))
    found = evaluating.evaluate(build(8.0 / 255), wide, config, tmp_path / "run")
    assert found.dataset.value_range == (0.0, 255.0)
    (ours,), (theirs,) = found.networks, alone[0].networks
    assert ours.attacks["jsma_f"].successes == theirs.attacks["jsma_f"].successes > 0
    assert ours.attacks["pgd_linf"].mean_distance == pytest.approx(
        theirs.attacks["pgd_linf"].mean_distance, rel=1e-4
    )
    samples = records.Samples.load(tmp_path / "run" / "samples.npz")
    np.testing.assert_array_equal(samples.images, wide.test.images[found.sample_indices])
    changed = samples.adversarial("network", "jsma_f", pair=0)
    assert changed.max() == 255.0
    reporting.render(tmp_path / "run")
    assert "brought from [0, 255]" in (tmp_path / "run" / "report.md").read_text()


def test_samples_may_be_transferred_from_a_substitute(tmp_path, toy, config, files_of):
    config = dataclasses.replace(config, attacks=("transfer_cw_l2",), cw_samples=2)
    found = evaluating.evaluate(
        files_of["distilled"], toy, config, tmp_path / "run", substitute=build(4.0), temperature=T
    )
    (network,) = found.networks
    assert network.transfer[0].crafted == 1.0
    assert network.attacks["transfer_cw_l2"].settings["crafted_on"] == "substitute"
    assert found.environment["substitute"] == "toy_network"


def test_files_of_one_name_are_told_apart(tmp_path, toy, config, files_of):
    (tmp_path / "other").mkdir()
    other = shutil.copy(files_of["plain"], tmp_path / "other" / "distilled.keras")
    config = dataclasses.replace(config, attacks=("fgsm",))
    found = evaluating.evaluate(
        files_of["distilled"],
        toy,
        config,
        tmp_path / "run",
        undistilled=pathlib.Path(other),
        temperature=T,
    )
    assert [network.name for network in found.networks] == ["undistilled", "network"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["samples", "substitute", "fgsm_on_network", "config"])
def test_a_file_of_any_name(tmp_path, toy, config, files_of, name):
    """Also of one that a stage has."""
    path = pathlib.Path(shutil.copy(files_of["plain"], tmp_path / f"{name}.keras"))
    config = dataclasses.replace(config, attacks=("fgsm",))
    found = evaluating.evaluate(path, toy, config, tmp_path / "run")
    assert [network.name for network in found.networks] == [name]


@pytest.mark.slow
def test_the_network_that_is_doubted_is_named(tmp_path, toy, config, caplog):
    wrong = keras.models.clone_model(network := build(8.0))
    wrong.set_weights([-weights for weights in network.get_weights()])
    config = dataclasses.replace(config, attacks=("fgsm",), samples=1)
    with pytest.raises(RunError, match=r"^samples"):  # no image is right to begin with
        evaluating.evaluate(wrong, toy, config, tmp_path / "wrong")
    assert "gets only 0.00 % of the test images of toy right" in caplog.text  # that is why
    found = evaluating.evaluate(
        wrong, toy, config, tmp_path / "run", undistilled=network, temperature=2.0
    )
    (warning,) = found.environment["warnings"]
    assert warning.startswith("The network (")
    config = dataclasses.replace(config, misclassified=True)
    found = evaluating.evaluate(
        network, toy, config, tmp_path / "other", undistilled=wrong, temperature=2.0
    )
    (warning,) = found.environment["warnings"]
    assert warning.startswith("The undistilled network (")


@pytest.mark.slow
def test_a_network_that_is_mostly_wrong_is_doubted(tmp_path, toy, config):
    flipped = dataclasses.replace(
        toy, test=datasets.Split(toy.test.images, (toy.test.labels + 2) % CLASSES)
    )
    config = dataclasses.replace(config, attacks=("fgsm",), samples=1)
    found = evaluating.evaluate(build(8.0), flipped, config, tmp_path / "run")
    (warning,) = found.environment["warnings"]
    assert "gets only 14.29 % of the test images of toy right" in warning
    assert warning.startswith("The network (")
    reporting.render(tmp_path / "run")
    assert f"**WARNING**: {warning}" in (tmp_path / "run" / "report.md").read_text()


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
    found = evaluating.warnings(accuracy, digits, undistilled=undistilled, name="It")
    assert len(found) == bool(words)
    assert all(words in warning for warning in found)


def test_the_card_of_an_export_finds_what_was_measured(compared, files_of):
    found, directory = compared
    known = known_results.find(files_of["distilled"], directory)
    assert known.name == "distilled"
    findings = card.findings_in(found, "distilled")
    assert findings.training is None
    assert findings.measured.test_accuracy == found.networks[1].test_accuracy
    assert findings.undistilled.test_accuracy == found.networks[0].test_accuracy
    assert findings.verdict == found.verdict
    from ddefense import networks

    deployed = networks.deployed(networks.load(files_of["distilled"]))
    assert known.weights_sha256 == card.weights_of(deployed)[1]


# --- a network with an outlier class --------------------------------------------------------------

PAST = ("jsma_f", "fgsm", "pgd_linf", "pgd_linf_targeted", "cw_l2", "transfer_cw_l2")


def refusing(scale):
    """The same with a class more: images of which the last pixel is the brightest are refused."""
    images = keras.Input(SHAPE)
    x = keras.layers.Dense(CLASSES + 1, use_bias=False)(keras.layers.Flatten()(images))
    network = keras.Model(images, keras.layers.Softmax()(x), name="refusing")
    network.set_weights([scale * np.eye(4)])
    return network


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, toy, config):
    directory = tmp_path_factory.mktemp("guarded") / "run"
    # Enough for FGSM, which raises the outlier's pixel as it does those of the other classes.
    config = dataclasses.replace(config, attacks=PAST, epsilon=0.5)
    networks = {"undistilled": build(8.0), "substitute": build(4.0)}
    found = evaluating.evaluate(
        refusing(8.0), toy, config, directory, outlier_class=True, **networks
    )
    return found, directory


def test_an_outlier_class_sorts_the_answers_to_every_attack(guarded, toy):
    found, _ = guarded
    plain, network = found.networks
    assert plain.outliers is None
    assert (network.defense, network.temperature) == ("distillation", 1.0)
    assert set(network.outliers.attacks) == set(PAST)
    assert (network.outliers.images, network.outliers.accuracy) == (7, pytest.approx(6 / 7))
    assert (network.outliers.false_detections, network.outliers.errors) == (0, pytest.approx(1 / 7))
    for name, rates in network.outliers.attacks.items():
        assert rates.recovery + rates.detection + rates.success + rates.other == pytest.approx(1)
        record = network.attacks[name]
        assert (rates.samples, rates.attempts) == (record.samples, record.attempts)
        # Every attack kept to its bounds here, so both say the same of success.
        assert rates.success == pytest.approx(record.success_rate)
        assert rates.targeted == (name in ("jsma_f", "pgd_linf_targeted", "cw_l2"))


def test_images_are_sorted_by_what_the_network_gives_them(guarded, toy):
    """By hand, from the images that the attacks left: the class is the brightest pixel."""
    found, directory = guarded
    labels = toy.test.labels[found.sample_indices]
    for name in ("fgsm", "pgd_linf_targeted"):
        (path,) = (directory / "stages").glob(f"{name}_on_network*/adversarial.npz")
        with np.load(path) as arrays:
            brightest = arrays["images"].reshape(-1, 4).argmax(axis=1)
            source = labels[arrays["original"]]
        rates = found.networks[1].outliers.attacks[name]
        assert rates.detection == (brightest == CLASSES).mean()
        assert rates.recovery == (brightest == source).mean()
    assert found.networks[1].outliers.attacks["fgsm"].detection > 0


@pytest.mark.slow
def test_the_verdict_and_the_report_are_about_the_outlier_class(guarded, tmp_path):
    found, directory = guarded
    assert found.verdict.sentence.startswith("With an outlier class the paper's attack (jsma_f)")
    assert found.verdict.sentence.endswith(
        "Extended defensive distillation does not stop an adaptive attacker."
    )
    shutil.copytree(directory, tmp_path / "run")
    reporting.render(tmp_path / "run")
    text = (tmp_path / "run" / "report.md").read_text()
    assert text.startswith("# Evaluation of network (outlier class) against undistilled on toy\n")
    assert "## The outlier class" in text
    assert (tmp_path / "run" / "tables" / "outliers.csv").is_file()


def test_gradients_that_lead_to_the_outlier_class_are_not_masked(guarded):
    found, _ = guarded
    assert all(check.passed for check in found.controls if check.network == "network")


def test_the_successor_is_at_temperature_1(tmp_path, toy, config):
    refused(
        *(tmp_path, "temperature: expected 1, or none, with outlier_class", "received 20"),
        config=config,
        toy=toy,
        network=refusing(1.0),
        outlier_class=True,
        temperature=20.0,
    )


def test_an_outlier_class_that_is_not_spoken_of_is_asked_for(tmp_path, toy, config):
    config = dataclasses.replace(config, attacks=("fgsm",))
    message = "network: expected a network for toy"
    hint = "If its last class is for outliers, evaluate it with outlier_class."
    refused(tmp_path, message, hint, config=config, toy=toy, network=refusing(1.0))
    refused(
        *(tmp_path, message, "4 classes with the outlier class"),
        config=config,
        toy=toy,
        network=build(1.0),
        outlier_class=True,
    )


def test_an_attack_that_aims_past_the_outlier_class_joins_the_preset(toy):
    found = evaluating.settings(toy, preset="smoke", outlier_class=True)
    plain = evaluating.settings(toy, preset="smoke")
    assert set(found.attacks) == {*plain.attacks, "pgd_linf_targeted"}
    asked = evaluating.settings(toy, preset="smoke", outlier_class=True, attacks=("fgsm",))
    assert asked.attacks == ("fgsm",)


# --- settings -------------------------------------------------------------------------------------


def test_settings_lack_nothing_they_need(toy):
    found = evaluating.settings(toy, preset="smoke")
    assert not {name for name in found.attacks if "_temperature" in name or "transfer" in name}
    known = evaluating.settings(toy, preset="smoke", temperature=20.0, substitute=True)
    assert set(known.attacks) == set(config_lib.preset("smoke", "digits").attacks)


def test_settings_fit_the_data(toy):
    """Four features and seven test images; presets count on more."""
    found = evaluating.settings(toy, preset="paper")
    assert (found.samples, found.max_features) == (7, 4)
    assert evaluating.settings(toy, max_features=2).max_features == 2
    # What is asked for is not changed behind anybody's back.
    assert evaluating.settings(toy, samples=8).samples == 8


def test_colour_images_have_the_epsilon_of_the_field(toy):
    images = np.zeros((2, 1, 4, 3), np.float32)
    split = datasets.Split(images, np.zeros(2, np.int64))
    colour = dataclasses.replace(toy, train=split, test=split)
    assert evaluating.settings(colour).epsilon == config_lib.COLOUR_EPSILON
    assert evaluating.settings(colour, epsilon=0.1).epsilon == 0.1
    assert evaluating.settings(toy).epsilon == config_lib.Config().epsilon
    known = dataclasses.replace(colour, name="cifar10")
    assert evaluating.settings(known).epsilon == config_lib.preset("quick", "cifar10").epsilon


# --- what is refused ------------------------------------------------------------------------------


def refused(directory, *named, config, toy, **settings):
    network = settings.pop("network", None) or build(8.0)
    with pytest.raises(ConfigError) as caught:
        evaluating.evaluate(network, toy, config, directory / "run", **settings)
    for part in named:
        assert part in str(caught.value)
    assert not (directory / "run").exists()


def test_an_undistilled_network_expects_a_temperature(tmp_path, toy, config):
    refused(
        *(tmp_path, "temperature: expected the T"), config=config, toy=toy, undistilled=build(1.0)
    )


def test_attacks_that_lack_what_they_need(tmp_path, toy, config):
    for name, flag in (("transfer_cw_l2", "substitute"), ("pgd_linf_temperature", "temperature")):
        changed = dataclasses.replace(config, attacks=(name,))
        refused(tmp_path, f"attacks: expected a {flag} with {name}", config=changed, toy=toy)


def test_more_samples_than_there_are(tmp_path, toy, config):
    config = dataclasses.replace(config, attacks=("fgsm",), samples=8)
    refused(tmp_path, "samples: expected at most 7", "toy", config=config, toy=toy)


@pytest.mark.parametrize("flag", ["network", "undistilled", "substitute"])
def test_a_network_for_other_images(tmp_path, toy, config, flag):
    images = keras.Input((2, 2, 1))
    other = keras.Model(images, keras.layers.Dense(CLASSES)(keras.layers.Flatten()(images)))
    settings = {"temperature": T, flag: other}
    config = dataclasses.replace(config, attacks=("fgsm",))
    refused(tmp_path, f"{flag}: expected a network for toy", config=config, toy=toy, **settings)


def test_more_samples_than_it_gets_right(tmp_path, toy, config):
    config = dataclasses.replace(config, attacks=("fgsm",), samples=7)
    with pytest.raises(RunError, match="at most 6, the test images that network gets right of 7"):
        evaluating.evaluate(build(8.0), toy, config, tmp_path / "run")


def test_the_digest_of_the_file_is_of_its_content(compared, files_of):
    found, directory = compared
    marker = (directory / "stages" / "adopt_network" / "stage.json").read_text()
    assert found.networks[1].weights_sha256 is not None
    assert files.sha256(files_of["distilled"]) != files.sha256(files_of["plain"])
    assert '"finished": true' in marker
