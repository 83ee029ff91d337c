"""A classifier of one's own, distilled on a folder of photos through the command line."""

import json
import re
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddefense import networks, records

pytestmark = pytest.mark.slow

CLASSES = ("left", "middle", "right")
COMMAND = (
    "--data=photos",
    "--network=mine.keras",
    "--temperature=5",
    "--epochs=6",
    "--batch_size=8",
    "--optimizer=adam",
    "--learning_rate=0.01",
    "--validation_share=0.2",
)


def draw(folder):
    """Photos of bright stripes, of two sizes."""
    rng = np.random.default_rng(0)
    for place, name in enumerate(CLASSES):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(40):
            photo = rng.integers(0, 90, size=(12, 12 + 6 * (number % 2), 3)).astype(np.uint8)
            third = photo.shape[1] // 3
            photo[:, place * third : (place + 1) * third] += 150
            path = folder / "photos" / name / f"{number}.png"
            path.write_bytes(tf.io.encode_png(photo).numpy())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    draw(folder)
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(len(CLASSES), activation="softmax"),
        ]
    )
    network.save(folder / "mine.keras")
    return folder


@pytest.fixture(scope="module")
def run(start_distill, folder):
    return start_distill(folder, *COMMAND).finish()


@pytest.fixture(scope="module")
def record(run):
    return records.load(records.DistillationRecord, run.workdir / "distillation.json")


def deployed(run, name):
    return networks.load(run.workdir / "networks" / f"{name}.keras")


def test_the_log_says_what_will_be_done_and_what_was_written(run):
    lines = run.process.stderr.splitlines()
    pattern = r"photos: \d+ training and \d+ test images of shape \(12, 12, 3\), 3 classes: left"
    assert any(re.match(pattern, line) for line in lines)
    assert any(line.startswith("plan: train mine.keras at T = 5 for 6 epochs of") for line in lines)
    assert lines[-3:] == [
        "initial network: run/networks/initial.keras",
        "distilled network: run/networks/distilled.keras",
        "record: run/distillation.json",
    ]
    assert any(line.startswith("| initial | ") for line in lines)
    assert any(line.startswith("Defensive distillation is broken") for line in lines)
    assert "WARNING" not in run.process.stderr


def test_a_run_leaves_what_the_documentation_promises(run):
    assert {path.name for path in run.workdir.iterdir()} == {
        "config.json",
        "distillation.json",
        "inputs.json",
        "networks",
        "stages",
    }
    assert not list(run.workdir.rglob(".tmp-*"))


def test_the_record_is_complete(record):
    assert (record.method, record.network, record.student) == ("defensive", "mine.keras", None)
    assert record.dataset.name == "photos"
    assert record.dataset.class_names == list(CLASSES)
    assert record.dataset.image_shape == (12, 12, 3)
    assert record.dataset.num_train + record.dataset.num_test == 120
    assert record.settings["temperature"] == 5
    assert record.initial.training.epochs == record.distilled.training.epochs == 6
    assert len(record.distilled.validation_loss) == 6
    assert record.initial.cost.parameters == record.distilled.cost.parameters
    assert record.initial.test_accuracy > 0.9
    assert record.distilled.test_accuracy > 0.9
    assert record.agreement > 0.9
    assert 0 < record.soft_labels.mean_entropy < np.log(3)
    assert record.environment["command"].startswith("bin/distill --workdir=run --data=photos")


def test_the_networks_are_deployed_at_temperature_1(run, record):
    for name in ("initial", "distilled"):
        network = deployed(run, name)
        assert networks.temperature_of(network) == 1.0
        assert network.input_shape == (None, 12, 12, 3)


@pytest.mark.slow
def test_the_same_command_gives_the_same_networks_again(run, folder, start_distill):
    before = [deployed(run, name).get_weights() for name in ("initial", "distilled")]
    again = start_distill(folder, *COMMAND).finish()
    for name, old in zip(("initial", "distilled"), before, strict=True):
        for one, two in zip(old, deployed(again, name).get_weights(), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_a_run_that_was_killed_resumes_with_the_same_bits(run, folder, start_distill, tmp_path):
    for name in ("photos", "mine.keras"):
        (tmp_path / name).symlink_to(folder / name)
    killed = start_distill(tmp_path, *COMMAND)
    killed.wait_until(lambda: any((tmp_path / "run").rglob("checkpoint.npz")))
    killed.send(signal.SIGKILL)
    killed.end()
    assert not (tmp_path / "run" / "distillation.json").exists()
    resumed = start_distill(tmp_path, *COMMAND).finish()
    for name in ("initial", "distilled"):
        pairs = zip(
            deployed(run, name).get_weights(), deployed(resumed, name).get_weights(), strict=True
        )
        for one, two in pairs:
            np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_other_images_in_the_same_directory_are_refused(folder, start_distill, tmp_path):
    draw(tmp_path)
    (tmp_path / "mine.keras").symlink_to(folder / "mine.keras")
    short = [flag.replace("epochs=6", "epochs=1") for flag in COMMAND]
    start_distill(tmp_path, *short).finish()
    (tmp_path / "photos" / "left" / "0.png").unlink()
    ended = start_distill(tmp_path, *short).end()
    assert ended.returncode == 1
    assert "was begun with other images or labels" in ended.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_student_is_compared_with_its_teacher(folder, start_distill, tmp_path):
    for name in ("photos", "mine.keras"):
        (tmp_path / name).symlink_to(folder / name)
    pixels = keras.Sequential(
        [keras.Input((12, 12, 3)), keras.layers.Flatten(), keras.layers.Dense(len(CLASSES))]
    )
    pixels.save(tmp_path / "student.keras")
    flags = ("--student=student.keras", "--alpha=0.1", "--scale_by_temperature_squared")
    ended = start_distill(tmp_path, *COMMAND, *flags).finish()
    log = ended.process.stderr
    assert "| teacher | " in log
    assert "| student | " in log
    assert "times the parameters of its teacher" in log
    found = json.loads((ended.workdir / "distillation.json").read_text())
    assert found["distilled"]["cost"]["parameters"] == 12 * 12 * 3 * 3 + 3
    assert found["settings"]["alpha"] == 0.1
    assert found["distilled"]["test_accuracy"] > 0.9


BAD = {
    "a corrupt photo is named": (
        lambda folder: (folder / "photos" / "left" / "3.png").write_bytes(b"\x89PNG broken"),
        r"photos/left/3.png",
    ),
    "a class without photos": (
        lambda folder: [photo.unlink() for photo in (folder / "photos" / "left").iterdir()],
        r"in the class folder photos/left; received none",
    ),
    "more classes in the data than in the network": (
        lambda folder: (
            (folder / "photos" / "left").rename(folder / "photos" / "a")
            and (folder / "photos" / "b").symlink_to(folder / "photos" / "a")
        ),
        r"expected 3 class folders .* received 4",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", list(BAD))
def test_bad_data_is_a_usage_message_before_training(case, folder, start_distill, tmp_path):
    draw(tmp_path)
    (tmp_path / "mine.keras").symlink_to(folder / "mine.keras")
    spoil, message = BAD[case]
    spoil(tmp_path)
    ended = start_distill(tmp_path, *COMMAND).end()
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert re.search(message, ended.stderr)
    assert "initial:" not in ended.stderr


@pytest.mark.slow
def test_the_successor_is_distilled_evaluated_and_exported(
    folder, start_distill, start_run, tmp_path
):
    for name in ("photos", "mine.keras"):
        (tmp_path / name).symlink_to(folder / name)
    flags = [flag for flag in COMMAND if not flag.startswith("--temperature")]
    log = start_distill(tmp_path, *flags, "--method=extended").finish().process.stderr
    assert "by 20 passes with dropout, train another one like it and an outlier class" in log
    assert "mine.keras distilled with an outlier class on photos" in log
    assert "bin/evaluate takes it with --outlier_class" in log
    made = "run/networks"
    command = (f"--network={made}/distilled.keras", f"--undistilled={made}/initial.keras")
    program, asked = ("-m", "ddefense.cli.evaluate"), ("--data=photos", "--preset=smoke")
    flags = ("--attacks=jsma_f,pgd_linf_targeted", "--samples=3", "--workdir=evaluated")
    refused = start_run(tmp_path, *command[:1], *asked, program=program, flags=flags).end()
    assert refused.returncode == 2
    assert "evaluate it with outlier_class" in refused.stderr
    ended = start_run(
        tmp_path, *command, *asked, "--outlier_class", program=program, flags=flags
    ).finish()
    log = ended.process.stderr
    assert "Recovery, detection and success with the outlier class, %" in log
    assert "clean test images" in log
    results = records.load(records.Results, tmp_path / "evaluated" / "results.json")
    assert set(results.networks[1].outliers.attacks) == {"jsma_f", "pgd_linf_targeted"}
    program = ("-m", "ddefense.cli.export")
    start_run(tmp_path, command[0], program=program, flags=()).finish()
    card = next((tmp_path / "exported_models").rglob("model_card.json"))
    assert json.loads(card.read_text())["class_names"] == [*CLASSES, "outlier"]
