"""What `bin/distill` does with files: networks and data that are named, and what it leaves."""

import dataclasses
import shutil

import keras
import numpy as np
import pytest
from ddefense.settings import ConfigError

from ddefense import exporting, networks, records
from ddefense.distill_config import DistillConfig, DistillJob
from ddefense.experiments import distilling_saved
from ddefense.records import RunError

pytestmark = pytest.mark.slow

SHAPE, CLASSES = (6, 6, 1), 3


def build(seed=0, outputs=CLASSES, dropout=0.2):
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dropout(dropout, seed=seed),
            keras.layers.Dense(outputs, kernel_initializer=keras.initializers.GlorotUniform(seed)),
        ]
    )


@pytest.fixture
def job(tmp_path):
    """Images that are brighter the higher their class, and a network for them."""
    labels = np.arange(90) % CLASSES
    images = np.random.default_rng(0).uniform(0, 0.3, size=(90, *SHAPE)).astype(np.float32)
    images += 0.3 * labels[:, None, None, None]
    np.savez(tmp_path / "photos.npz", images=images, labels=labels, class_names=list("abc"))
    build().save(tmp_path / "mine.keras")
    return DistillJob(
        network=str(tmp_path / "mine.keras"),
        student=None,
        data=str(tmp_path / "photos.npz"),
        image_shape=None,
        value_range=(0.0, 1.0),
        class_names=None,
        test_share=0.2,
        config=DistillConfig(temperature=2, epochs=2, batch_size=16),
    )


def changed(job, *, config=None, **fields):
    fields["config"] = dataclasses.replace(job.config, **(config or {}))
    return dataclasses.replace(job, **fields)


def test_another_network_in_the_same_file_is_not_taken_for_the_old_one(job, tmp_path):
    distilling_saved.run(job, tmp_path / "run")
    build(seed=1).save(job.network)
    with pytest.raises(RunError, match="was begun with another network than --network names now"):
        distilling_saved.run(job, tmp_path / "run")


def test_the_same_network_saved_again_is_the_same(job, tmp_path):
    first = distilling_saved.run(job, tmp_path / "run")
    build().save(job.network)
    assert distilling_saved.run(job, tmp_path / "run") == first


def test_a_student_is_known_by_its_weights_too(job, tmp_path):
    build(seed=5).save(tmp_path / "student.keras")
    with_student = changed(job, student=str(tmp_path / "student.keras"))
    distilling_saved.run(with_student, tmp_path / "run")
    build(seed=6).save(tmp_path / "student.keras")
    with pytest.raises(RunError, match="another network than --student names now"):
        distilling_saved.run(with_student, tmp_path / "run")


def test_a_finished_run_keeps_its_record(job, tmp_path):
    """With the times of the process that trained."""
    first = distilling_saved.run(job, tmp_path / "run")
    again = distilling_saved.run(job, tmp_path / "run", command="again")
    assert again == first
    assert records.load(records.DistillationRecord, tmp_path / "run" / "distillation.json") == first


def test_the_record_says_who_did_not_learn(job, tmp_path):
    """Also where the loss of the distilled network is scaled, or has a class more."""
    still = {"learning_rate": 1e-9, "temperature": 20.0, "scale_by_temperature_squared": True}
    # Logits of 0 are those of a network that guesses.
    network = build()
    network.set_weights([np.zeros_like(weight) for weight in network.get_weights()])
    network.save(job.network)
    record = distilling_saved.run(changed(job, config=still), tmp_path / "run")
    assert record.given_accuracy == pytest.approx(1 / CLASSES)
    assert record.distilled.training.loss[-1] == pytest.approx(400 * np.log(3), rel=1e-3)
    assert record.initial.training.stalled
    assert record.distilled.training.stalled


@pytest.mark.parametrize("given", ["name", "file"])
def test_a_student_for_the_successor_has_a_class_more(job, tmp_path, given):
    extended = {"method": "extended", "temperature": 1.0, "epochs": 1}
    if given == "name":
        data = dict(np.load(job.data))
        images = np.repeat(np.repeat(data["images"], 3, axis=1), 3, axis=2)
        np.savez(job.data, **data | {"images": images})
        asked = changed(job, config=extended, network="small", student="small")
    else:
        build(outputs=CLASSES + 1).save(tmp_path / "student.keras")
        asked = changed(job, config=extended, student=str(tmp_path / "student.keras"))
    distilling_saved.run(asked, tmp_path / "run")
    distilled = networks.load(tmp_path / "run" / "networks" / "distilled.keras")
    assert distilled.output_shape == (None, CLASSES + 1)


def test_a_student_alone_tells_the_classes_of_the_data(job, tmp_path):
    data = dict(np.load(job.data))
    images = np.repeat(np.repeat(data["images"], 3, axis=1), 3, axis=2)
    np.savez(job.data, **data | {"images": images})
    networks.build(
        "small", temperature=1.0, seed=0, num_classes=CLASSES + 1, image_shape=(18, 18, 1)
    ).save(tmp_path / "student.keras")
    extended = {"method": "extended", "temperature": 1.0, "epochs": 1}
    asked = changed(job, config=extended, network="small", student=str(tmp_path / "student.keras"))
    record = distilling_saved.run(asked, tmp_path / "run")
    assert record.dataset.class_names == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "small"}, r"^network: small: image_shape: expected at least 16x16"),
        ({"student": "mnist"}, r"^student: mnist: image_shape: expected at least 16x16"),
    ],
)
def test_images_that_a_named_network_cannot_take(job, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        distilling_saved.run(changed(job, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_successor_needs_dropout_before_any_training(job, tmp_path):
    build(dropout=0.0).save(job.network)
    extended = changed(job, config={"method": "extended", "temperature": 1.0})
    with pytest.raises(ConfigError, match=r"^network: Expected a network with a dropout layer"):
        distilling_saved.run(extended, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.npz"))


def test_networks_that_are_not_those_of_the_record_are_written_again(job, tmp_path):
    run = tmp_path / "run"
    record = distilling_saved.run(job, run)
    paths = {name: run / "networks" / f"{name}.keras" for name in ("initial", "distilled")}
    paths["distilled"].write_bytes(paths["initial"].read_bytes())
    paths["initial"].unlink()
    again = distilling_saved.run(job, run)
    for name, path in paths.items():
        network = keras.models.load_model(path, compile=False)
        found = exporting.weights_of(network)[1]
        assert found == getattr(again, name).weights_sha256
        assert found == getattr(record, name).weights_sha256
    assert again.distilled.test_accuracy == record.distilled.test_accuracy


def test_soft_labels_of_another_first_network_are_made_again(job, tmp_path, caplog):
    """Killed while it distilled, and the first network is trained again, which went otherwise."""
    other, expected = (changed(job, config={"seed": seed}) for seed in (1, 0))
    distilling_saved.run(other, tmp_path / "other")
    run, theirs = tmp_path / "run", tmp_path / "other" / "training"
    first = distilling_saved.run(expected, run)
    # All but the first network is what was made of another.
    for name in ("distillation.json", "networks", "training/soft_labels", "training/distilled.npz"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(theirs / "soft_labels", run / "training" / "soft_labels")
    for name in ("distilled.npz", "made_from.sha256"):
        shutil.copy(theirs / name, run / "training" / name)
    with caplog.at_level("INFO", logger="absl"):
        again = distilling_saved.run(expected, run)
    assert caplog.text.count("initial is not what it was made from") == 1
    assert again.distilled.weights_sha256 == first.distilled.weights_sha256
    assert again.soft_labels == first.soft_labels
