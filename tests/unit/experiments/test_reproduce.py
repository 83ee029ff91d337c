"""What a run refuses before it makes anything, and what it exports."""

import contextlib
import dataclasses
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest

from ddefense import attack_catalog, exporting, files, records
from ddefense import config as config_lib
from ddefense.experiments import evaluating, reproduce
from ddefense.pipeline import workdir
from ddefense.serving import checksums
from ddefense.settings import ConfigError

pytestmark = pytest.mark.slow

RUN, EXPORTS = pathlib.Path("run"), pathlib.Path("exported")
FIRST = ["exported/digits_baseline/1", "exported/digits_distilled_t20/1"]
SECOND = "exported/digits_distilled_t20/2"


@pytest.mark.parametrize(
    ("field", "value", "limit"), [("samples", 361, "360"), ("max_features", 786, "784")]
)
def test_a_setting_that_does_not_fit_the_dataset_is_refused(tmp_path, field, value, limit):
    config = config_lib.preset("smoke", "digits", **{field: value})
    with pytest.raises(ConfigError, match=rf"{field}: expected at most {limit}.*{value}"):
        reproduce.run(config, tmp_path / "run", reproduce.Job(tmp_path / "exported"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "run",
    [
        lambda config, path: reproduce.run(config, path / "run", reproduce.Job(path / "exported")),
        lambda config, path: evaluating.evaluate(path / "no.keras", None, config, path / "run"),
    ],
    ids=["reproduce", "evaluate"],
)
def test_an_attack_whose_library_is_missing_is_refused(tmp_path, monkeypatch, run):
    """Not after hours, when it is its turn."""
    monkeypatch.setattr(attack_catalog.AttackSpec, "installed", False)
    config = config_lib.preset("smoke", "digits", attacks=("fgsm", "labels_only", "jsma_z"))
    with pytest.raises(ConfigError) as caught:
        run(config, tmp_path)
    message = str(caught.value)
    for part in ("attacks: labels_only", "pip install", "--attacks=fgsm,jsma_z"):
        assert part in message
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def config():
    """As little as a run can be."""
    return config_lib.preset(
        "smoke",
        "digits",
        attacks=("jsma_f",),
        samples=1,
        epochs=1,
        warm_start_steps=0,
        gradient_samples=10,
        max_features=2,
    )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """The folder of a finished run, not to be changed, and what it returned."""
    folder = tmp_path_factory.mktemp("reproduce")
    with contextlib.chdir(folder):
        return folder, reproduce.run(config, RUN, reproduce.Job(EXPORTS))


@pytest.fixture
def again(config, finished, tmp_path, monkeypatch):
    """Runs once more where a copy of the finished run is."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return lambda: reproduce.run(config, RUN, reproduce.Job(EXPORTS))


def versions():
    return sorted(str(path) for path in EXPORTS.glob("*/*"))


def test_exports_have_the_card_of_their_network(finished):
    folder, results = finished
    assert [export.path for export in results.exports] == FIRST
    for export in results.exports:
        version = folder / export.path
        card = records.load(records.ModelCard, version / "assets.extra" / "model_card.json")
        measured = next(n for n in results.networks if n.name == export.network)
        assert card.name == export.network
        assert card.dataset == results.dataset
        assert card.measured.attacks == measured.attacks
        assert card.measured.test_accuracy == measured.test_accuracy
        assert card.verdict == results.verdict
        distilled = export.network == "distilled_t20"
        of_others = "the distilled networks of its run, not this one"
        assert card.about == (export.network if distilled else of_others)
        assert (card.undistilled is not None) == distilled
        assert card.versions.tensorflow == results.environment["tensorflow"]
        text = (version / "assets.extra" / "MODEL_CARD.md").read_text()
        assert card.verdict.sentence in text
        assert str(folder) not in text + records.card_json(card)
        assert exporting.is_export_of(version, card)
        kept = keras.models.load_model(
            folder / RUN / "networks" / f"{export.network}.keras", compile=False
        )
        digest = exporting.card_of(kept, name="a", environment={}).weights_sha256
        assert digest == card.weights_sha256 == measured.weights_sha256


def test_a_finished_run_exports_nothing_again(finished, again):
    kept = {path: path.stat().st_mtime_ns for path in EXPORTS.rglob("*")}
    assert again().exports == finished[1].exports
    assert {path: path.stat().st_mtime_ns for path in EXPORTS.rglob("*")} == kept


def test_an_export_whose_stage_was_not_finished_is_taken_over(finished, again):
    """A process killed between the two."""
    for stage in (RUN / "stages").glob("export_*"):
        shutil.rmtree(stage)
    assert again().exports == finished[1].exports
    assert versions() == FIRST


def test_an_export_that_is_gone_is_made_again(finished, again):
    shutil.rmtree(EXPORTS / "digits_baseline")
    assert again().exports == finished[1].exports
    assert versions() == FIRST


def test_a_damaged_export_is_made_again(again):
    (pathlib.Path(FIRST[1]) / "saved_model.pb").write_bytes(b"")
    assert [export.path for export in again().exports] == [FIRST[0], SECOND]
    assert versions() == [*FIRST, SECOND]
    # The damaged one is left alone, and the new one is not made twice.
    assert [export.path for export in again().exports] == [FIRST[0], SECOND]
    assert versions() == [*FIRST, SECOND]


def test_another_card_is_another_version(again):
    """As an earlier version of this package, or with another verdict, would have written it."""
    version = pathlib.Path(FIRST[1])
    path = version / "assets.extra" / "model_card.json"
    card = records.load(records.ModelCard, path)
    verdict = dataclasses.replace(card.verdict, sentence="All is well.")
    path.write_text(records.card_json(dataclasses.replace(card, verdict=verdict)))
    checksums.write(version)
    assert [export.path for export in again().exports] == [FIRST[0], SECOND]


# --- what a run was made of is another, or damaged ------------------------------------------------


def replace(stage, write):
    """Puts something else in the place of a finished stage, as if it had been made so."""
    directory = RUN / "stages" / stage
    write(directory)
    record = json.loads((directory / "stage.json").read_text())
    record["content"] = files.folder_sha256(directory, without=("stage.json",))
    (directory / "stage.json").write_text(json.dumps(record))


def other_weights(directory):
    """Those of the same network, had it been trained a little otherwise."""
    path = directory / "network.keras"
    network = keras.models.load_model(path, compile=False)
    network.set_weights([1.01 * weight for weight in network.get_weights()])
    network.save(path)


def made(stages=RUN / "stages"):
    """When each stage was finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in stages.glob("*/stage.json")}


def test_what_was_measured_of_another_network_is_measured_again(finished, again, caplog):
    before, deployed = made(), RUN / "networks" / "baseline.keras"
    kept = (RUN / "networks" / "distilled_t20.keras").read_bytes()
    replace("baseline", other_weights)
    with caplog.at_level("INFO", logger="absl"):
        results = again()
    changed = {name for name, at in made().items() if at != before[name]}
    # The samples are the same: nothing that is made from them alone. Of the distilled network its
    # card alone is another, which compares it with the baseline.
    assert changed == {
        "baseline",
        "samples",
        "measure_baseline",
        "jsma_f_on_baseline",
        "jsma_f_on_baseline_times_20",
        "export_baseline",
        "export_distilled_t20",
    }
    said = "making measure_baseline again: baseline is not what it was made from"
    assert caplog.messages.count(said) == 1
    old, new = ({n.name: n for n in r.networks} for r in (finished[1], results))
    assert new["baseline"].weights_sha256 != old["baseline"].weights_sha256
    assert new["baseline"].logits != old["baseline"].logits
    assert new["distilled_t20"] == old["distilled_t20"]
    weights = exporting.weights_of(keras.models.load_model(deployed, compile=False))[1]
    assert weights == new["baseline"].weights_sha256
    assert (RUN / "networks" / "distilled_t20.keras").read_bytes() == kept
    assert [export.path for export in results.exports] == ["exported/digits_baseline/2", SECOND]
    for export in results.exports:
        card = records.load(
            records.ModelCard, pathlib.Path(export.path, "assets.extra", "model_card.json")
        )
        assert card.weights_sha256 == new[export.network].weights_sha256
        exporting.check_weights(pathlib.Path(export.path))
    assert records.load(records.Results, RUN / "results.json") == results


def test_soft_labels_that_were_changed_are_not_learnt_from(again):
    path = RUN / "stages" / "soft_labels_t20" / "soft_labels.npy"
    rows = np.load(path)
    np.save(path, np.roll(rows, 1, axis=1))
    shutil.rmtree(RUN / "stages" / "distilled_t20")
    with pytest.raises(records.RunError, match="is damaged") as caught:
        again()
    assert str(path.parent) in str(caught.value)
    # Made so, or so it says.
    replace("soft_labels_t20", lambda directory: np.save(path, 6.72 * rows))
    with pytest.raises(records.RunError, match="is damaged") as caught:
        again()
    assert str(path) in str(caught.value)
    assert "6.72" in str(caught.value)
    assert not (RUN / "stages" / "distilled_t20").exists()


def test_a_network_of_another_run_beside_the_results_is_replaced(finished, again):
    networks = RUN / "networks"
    shutil.copy(networks / "baseline.keras", networks / "distilled_t20.keras")
    (networks / "baseline.keras").write_bytes(b"")
    again()
    for record in finished[1].networks:
        network = keras.models.load_model(networks / f"{record.name}.keras", compile=False)
        assert exporting.weights_of(network)[1] == record.weights_sha256


def test_a_run_directory_of_an_earlier_version_is_refused(again):
    for marker in (RUN / "stages").glob("*/stage.json"):
        record = json.loads(marker.read_text())
        del record["content"], record["inputs"]
        marker.write_text(json.dumps(record))
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    with pytest.raises(records.RunError, match="earlier version") as caught:
        again()
    assert "workdir" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before


def test_results_of_other_samples_go_before_these_are_written(finished, again):
    """A process killed between the two leaves none that do not belong together."""
    results = finished[1]
    samples = records.Samples.load(RUN / "samples.npz")
    (RUN / "report.html").touch()
    workdir.leave(RUN, results, samples)
    assert (RUN / "report.html").exists()
    (RUN / "samples.npz").unlink()
    (RUN / "samples.npz").mkdir()  # which cannot be written
    other = dataclasses.replace(results, controls=[])
    with pytest.raises(OSError, match="directory"):
        workdir.leave(RUN, other, samples)
    assert not (RUN / "results.json").exists()
    assert not (RUN / "report.html").exists()
