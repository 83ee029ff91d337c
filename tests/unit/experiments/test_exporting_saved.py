"""What cannot be exported together, and what is taken from results and datasets."""

import dataclasses
import logging
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from ddefense import config, exporting, networks, records
from ddefense.distill_config import DistillConfig, DistillJob
from ddefense.experiments import (
    distilling_saved,
    evaluating,
    exporting_saved,
    known_results,
)
from ddefense.settings import ConfigError

pytestmark = pytest.mark.slow

DIGITS = Path(__file__).resolve().parents[3] / "docs" / "results" / "digits"
OURS = DIGITS / "networks" / "distilled_t20.keras"


def asked(network, tmp_path, **settings):
    return exporting_saved.Export(network=network, base=tmp_path / "out" / "model", **settings)


def assert_refused(match, network, tmp_path, **settings):
    with pytest.raises(ConfigError, match=match):
        exporting_saved.run(asked(network, tmp_path, **settings))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def tiny(make_tiny_network, tmp_path):
    """A saved network, and where it is."""
    make_tiny_network(20.0).save(tmp_path / "tiny.keras")
    return tmp_path / "tiny.keras"


def test_the_exported_network_is_that_at_temperature_1(tiny, tmp_path, tiny_images, caplog):
    caplog.set_level(logging.INFO, "absl")
    done = exporting_saved.run(asked(tiny, tmp_path, class_names=("a", "b", "c")))
    assert done.exported.path == tmp_path / "out" / "model" / "1"
    assert done.exported.max_difference < 1e-6
    assert done.test_accuracy is None
    assert (done.card.name, done.card.deployed_temperature) == ("model", 1.0)
    assert not done.range_given
    assert done.card.caveats == [
        "The range of the features that it was trained on was not given; [0, 1] was assumed."
    ]
    assert "WARNING" not in caplog.text
    assert f"{tiny} is saved at T = 20; exported at T = 1" in caplog.text
    deployed = networks.deployed(networks.load(tiny))
    assert done.card.class_names == ["a", "b", "c"]
    assert networks.temperature_of(deployed) == 1.0


def test_what_is_no_network_is_refused(tmp_path):
    (tmp_path / "text.keras").write_text("no network")
    assert_refused("^network: expected a .keras file", tmp_path / "text.keras", tmp_path)


def test_a_network_that_gives_nan_is_bad_input_and_refused_before_the_plan(
    make_tiny_network, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "absl")
    network = make_tiny_network(1.0)
    network.get_layer("logits").bias.assign([np.nan, 0.0, 0.0])
    network.save(tmp_path / "nan.keras")
    assert_refused(
        r"^network: .*nan\.keras: .*finite answers.*'logits/bias' are not finite",
        *(tmp_path / "nan.keras", tmp_path),
    )
    assert "classes" not in caplog.text
    assert "exporting" not in caplog.text


def test_a_network_of_vectors_is_refused(tmp_path):
    keras.Sequential([keras.Input((7,)), keras.layers.Dense(3, name="logits")]).save(
        tmp_path / "vectors.keras"
    )
    assert_refused(
        r"^network: .*vectors\.keras: Expected .*images", tmp_path / "vectors.keras", tmp_path
    )


def test_class_names_of_another_number_are_refused(tiny, tmp_path):
    assert_refused(
        r"^class_names: .* 3 classes; received 2: a, b", tiny, tmp_path, class_names=("a", "b")
    )


def test_a_dataset_of_other_images_is_refused(tiny, tmp_path):
    assert_refused(r"^dataset: .*\(4, 4, 1\) and 3 classes", tiny, tmp_path, dataset="digits")


def test_a_range_against_the_results_is_refused(tmp_path):
    assert_refused(
        r"^value_range: expected 0,1, .*received 0,255\.",
        OURS,
        tmp_path,
        results=known_results.find(OURS),
        value_range=(0.0, 255.0),
    )


def test_results_of_other_weights_are_refused(tmp_path):
    network = networks.load(OURS)
    kernel = network.layers[-2].kernel
    kernel.assign(np.nextafter(kernel.numpy(), 1, dtype=np.float32))
    network.save(tmp_path / OURS.name)
    known = known_results.find(tmp_path / OURS.name, DIGITS)
    assert_refused(
        r"^results: expected results about the weights of .*others",
        tmp_path / OURS.name,
        tmp_path,
        results=known,
    )


def in_a_run(folder, network=OURS, **changes):
    """A run directory whose results are about one network, and where that network is."""
    results = records.load(records.Results, DIGITS / "results.json")
    record = next(n for n in results.networks if n.name == OURS.stem)
    record = dataclasses.replace(record, **changes)
    (folder / "networks").mkdir(parents=True)
    records.dump(dataclasses.replace(results, networks=[record]), folder / "results.json")
    return Path(shutil.copy(network, folder / "networks" / OURS.name))


@pytest.fixture(scope="module")
def digest():
    return exporting.weights_of(networks.load(OURS))[1]


def test_results_with_a_digest_are_of_these_weights_wherever_the_file_lies(tmp_path, digest):
    path = in_a_run(tmp_path / "run", weights_sha256=digest)
    moved = tmp_path / OURS.name
    path.rename(moved)
    known = known_results.find(moved, tmp_path / "run")
    done = exporting_saved.run(asked(moved, tmp_path, results=known))
    assert done.card.weights_sha256 == digest
    assert done.card.caveats == []
    assert done.range_given


def test_results_with_another_digest_are_refused_in_the_run_itself(tmp_path, digest):
    """The file of the run was replaced by another network, under the same name."""
    other = DIGITS / "networks" / "distilled_t100.keras"
    path = in_a_run(tmp_path / "run", other, weights_sha256=digest)
    assert_refused(
        "^results: expected results about the weights of .*another SHA-256",
        path,
        tmp_path,
        results=known_results.find(path),
    )


def test_results_without_a_digest_are_taken_by_the_name(tmp_path, caplog):
    caplog.set_level(logging.INFO, "absl")
    path = in_a_run(tmp_path / "run", weights_sha256=None)
    done = exporting_saved.run(asked(path, tmp_path, results=known_results.find(path)))
    (caveat,) = done.card.caveats
    assert caveat.endswith("taken to be about this network by its name.")
    assert "holds no digest of the weights" in caplog.text
    text = (done.exported.path / "assets.extra" / "MODEL_CARD.md").read_text()
    assert f"- {caveat}\n" in text


def test_results_with_another_accuracy_are_refused(tmp_path, digits):
    """By two images; one may be rounded otherwise elsewhere."""
    results = records.load(records.Results, DIGITS / "results.json")
    accuracy = next(n for n in results.networks if n.name == OURS.stem).test_accuracy
    one, two = (
        in_a_run(tmp_path / str(images), test_accuracy=accuracy - images / len(digits.test))
        for images in (1, 2)
    )
    assert_refused(
        r"^results: expected the accuracy .* % of the test images of digits; .* says ",
        two,
        tmp_path,
        results=known_results.find(two),
        dataset="digits",
    )
    done = exporting_saved.run(
        asked(one, tmp_path, results=known_results.find(one), dataset="digits")
    )
    assert done.test_accuracy == pytest.approx(accuracy)


def test_what_is_measured_now_goes_into_the_card(tmp_path, digits):
    done = exporting_saved.run(asked(OURS, tmp_path, dataset="digits"))
    assert done.card.measured.test_accuracy == done.test_accuracy > 0.9
    assert done.card.measured.attacks == {}
    assert (done.card.dataset.name, done.card.dataset.num_test) == ("digits", len(digits.test))
    assert (done.card.defense, done.card.training, done.card.verdict) == ("unknown", None, None)
    assert done.card.measured_with == done.card.versions
    text = (done.exported.path / "assets.extra" / "MODEL_CARD.md").read_text()
    assert f"{100 * done.test_accuracy:.2f} % of the 360 test images of digits." in text


# --- runs of bin/evaluate -------------------------------------------------------------------------


def test_attacks_and_warnings_of_an_evaluation_are_on_the_card(tmp_path, digits):
    directory = tmp_path / "run"
    settings = config.preset("smoke", "digits", attacks=("fgsm",), samples=2)
    run = evaluating.evaluate(OURS, digits, settings, directory, temperature=20.0)
    doubted = dataclasses.replace(run, environment={"warnings": ["It is doubtful."]})
    records.dump(doubted, directory / "results.json")
    known = known_results.find(OURS, directory)
    done = exporting_saved.run(asked(OURS, tmp_path, results=known))
    assert done.card.measured.attacks == run.networks[0].attacks
    assert [control.name for control in done.card.controls] == [c.name for c in run.controls]
    assert "It is doubtful." in done.card.caveats


# --- the range of the features --------------------------------------------------------------------


@pytest.mark.parametrize("value_range", [None, (0.0, 255.0)])
def test_a_network_of_bytes_without_a_range_is_warned_of(tmp_path, caplog, value_range):
    images = keras.Input((4, 4, 1))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255, name="scale")(images))
    keras.Model(images, keras.layers.Dense(3, "softmax")(x)).save(tmp_path / "a.keras")
    done = exporting_saved.run(asked(tmp_path / "a.keras", tmp_path, value_range=value_range))
    warned = "WARNING: the network's layer 'scale' scales features" in caplog.text
    assert warned == (value_range is None)
    assert "such as --value_range=0,255" in caplog.text or not warned
    assert done.range_given == (not warned)
    assert done.card.value_range == (value_range or (0.0, 1.0))
    assert ["`scale` looks made for a wider" in caveat for caveat in done.card.caveats] == (
        [True] if warned else []
    )


# --- results and datasets -------------------------------------------------------------------------


def test_a_copy_has_the_results_and_is_measured(tmp_path, digits):
    shutil.copy(OURS, tmp_path)
    known = known_results.find(tmp_path / OURS.name, DIGITS / "results.json")
    done = exporting_saved.run(
        asked(tmp_path / OURS.name, tmp_path, results=known, dataset="digits")
    )
    record = next(n for n in known.results.networks if n.name == "distilled_t20")
    assert done.card.measured.test_accuracy == record.test_accuracy
    assert done.test_accuracy == pytest.approx(record.test_accuracy, abs=1e-9)
    assert done.card.class_names == list(digits.class_names)
    assert done.card.extra_files == []


def test_a_network_of_another_range_is_measured_and_quantized_in_it(
    tiny_dataset, tmp_path, monkeypatch, caplog
):
    ours = networks.logits_of(networks.load(OURS))
    images = keras.Input((28, 28, 1))
    scaled = keras.layers.Rescaling(1 / 255)(images)
    keras.Model(images, keras.layers.Softmax()(ours(scaled))).save(tmp_path / "bytes.keras")
    monkeypatch.setattr(exporting_saved.datasets, "load", lambda name, data_dir: tiny_dataset)
    found = {
        high: exporting_saved.run(
            asked(
                tmp_path / "bytes.keras",
                tmp_path / f"{high:g}",
                value_range=(0.0, high),
                dataset="digits",
                quantize=high == 255,
            )
        )
        for high in (255.0, 1.0)
    }
    assert found[255.0].test_accuracy > 0.9
    (extra,) = found[255.0].card.extra_files
    assert extra.name == "model_int8.tflite"
    assert extra.test_accuracy == pytest.approx(found[255.0].test_accuracy, abs=0.05)
    path = found[255.0].exported.path / "assets.extra" / extra.name
    assert path.stat().st_size == extra.size_bytes
    # Asked in a range that it was not trained on, it sees black.
    assert found[1.0].test_accuracy < 0.5
    assert "Does it expect features in another --value_range than 0,1?" in caplog.text


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """What `bin/distill --method=extended` leaves, of bytes of two classes."""
    folder = tmp_path_factory.mktemp("distilled")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    images = rng.integers(0, 100, size=(60, 6, 6, 1)) + 100 * labels[:, None, None, None]
    np.savez(folder / "photos.npz", images=images, labels=labels, class_names=["cat", "dog"])
    keras.utils.set_random_seed(0)
    keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(2, activation="softmax"),
        ]
    ).save(folder / "mine.keras")
    job = DistillJob(
        network=str(folder / "mine.keras"),
        student=None,
        data=str(folder / "photos.npz"),
        image_shape=None,
        value_range=(0.0, 255.0),
        class_names=None,
        test_share=0.2,
        config=DistillConfig(temperature=1, method="extended", epochs=2, seed=3),
    )
    return distilling_saved.run(job, folder / "run"), folder / "run"


@pytest.mark.parametrize("name", ["initial", "distilled"])
def test_a_distillation_is_on_the_card(distilled, tmp_path, name):
    record, folder = distilled
    path = folder / "networks" / f"{name}.keras"
    known = known_results.find(path)
    assert known == known_results.find(path, folder)
    assert (known.path, known.name, known.dataset) == (
        *(folder / "distillation.json", name),
        "photos",
    )
    done = exporting_saved.run(asked(path, tmp_path, results=known))
    card, trained = done.card, getattr(record, name)
    assert card.defense == ("none" if name == "initial" else "distillation")
    assert card.value_range == (0.0, 255.0)
    assert (card.seed, card.temperature) == (3, 1.0)
    assert card.measured.test_accuracy == done.test_accuracy == trained.test_accuracy
    assert card.dataset == record.dataset
    assert card.weights_sha256 == trained.weights_sha256
    refuses = any("is refused" in caveat for caveat in card.caveats)
    assert refuses == (name == "distilled")
    assert card.class_names == ["cat", "dog", *(["outlier"] if refuses else [])]


def test_a_distillation_of_other_weights_is_refused(distilled, tmp_path):
    _, folder = distilled
    moved = tmp_path / "distilled.keras"
    shutil.copy(folder / "networks" / "initial.keras", moved)
    assert_refused(
        r"^results: expected results about the weights of .*with others, of another SHA-256",
        moved,
        tmp_path,
        results=known_results.find(moved, folder),
    )
    other = shutil.copy(moved, tmp_path / "mine.keras")
    with pytest.raises(ConfigError, match=r"^results: .*'mine'.*about initial and distilled"):
        known_results.find(Path(other), folder / "distillation.json")


def test_results_are_found_beside_the_network_from_any_folder(tmp_path, monkeypatch):
    run = tmp_path / "run"
    (run / "networks").mkdir(parents=True)
    shutil.copy(OURS, run / "networks")
    shutil.copy(OURS, run / "networks" / "other.keras")
    path = run / "networks" / OURS.name
    assert known_results.find(path) is None
    shutil.copy(DIGITS / "results.json", run)
    found = known_results.find(path)
    assert (found.path, found.name, found.network) == (run / "results.json", OURS.stem, path)
    assert found.results == records.load(records.Results, DIGITS / "results.json")
    assert known_results.find(run / "networks" / "other.keras") is None
    for folder, name in ((run / "networks", ""), (run, "networks"), (tmp_path, "run/networks")):
        monkeypatch.chdir(folder)
        found = known_results.find(Path(name, OURS.name))
        assert found.path.samefile(run / "results.json")
        assert dataclasses.asdict(found)["name"] == OURS.stem
