"""What a run refuses before it makes anything, and what it exports."""

import contextlib
import dataclasses
import pathlib
import shutil

import keras
import pytest

from ddefense import attacks, exporting, records
from ddefense import config as config_lib
from ddefense.experiments import attacking_saved, reproduce
from ddefense.serving import checksums

RUN, EXPORTS = pathlib.Path("run"), pathlib.Path("exported")
FIRST = ["exported/digits_baseline/1", "exported/digits_distilled_t20/1"]
SECOND = "exported/digits_distilled_t20/2"


@pytest.mark.parametrize(
    ("field", "value", "limit"), [("samples", 361, "360"), ("max_features", 786, "784")]
)
def test_a_setting_that_does_not_fit_the_dataset_is_refused(tmp_path, field, value, limit):
    config = config_lib.preset("smoke", "digits", **{field: value})
    with pytest.raises(
        config_lib.ConfigError, match=rf"{field}: expected at most {limit}.*{value}"
    ):
        reproduce.run(config, tmp_path / "run", reproduce.Job(tmp_path / "exported"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "run",
    [
        lambda config, path: reproduce.run(config, path / "run", reproduce.Job(path / "exported")),
        lambda config, path: attacking_saved.run(config, path / "run", network=path / "no.keras"),
    ],
    ids=["reproduce", "attack"],
)
def test_an_attack_whose_library_is_missing_is_refused(tmp_path, monkeypatch, run):
    """Not after hours, when it is its turn."""
    monkeypatch.setattr(attacks, "labels_only_available", lambda: False)
    config = config_lib.preset("smoke", "digits", attacks=("fgsm", "labels_only", "jsma_z"))
    with pytest.raises(config_lib.ConfigError) as caught:
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
