"""Exporting, checking and configuring through the command line, on networks of ours and others."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from ddefense import networks, records
from ddefense.exporting import quantized
from ddefense.serving import checksums, runtime

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "docs" / "results" / "digits"
OURS = DIGITS / "networks" / "distilled_t100.keras"
DISTILLED = (f"--network={OURS}", "--dataset=digits", "--quantize=int8", "--write_server_config")
MINE = ("--network=mine.keras", "--class_names=cat,dog", "--value_range=0,255")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a network of a user: a softmax in the last layer, trained on images in 0-255."""
    folder = tmp_path_factory.mktemp("export")
    images = keras.Input((6, 5, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
    x = keras.layers.Dense(8, activation="relu")(x)
    classes = keras.layers.Dense(2, activation="softmax")(x)
    keras.Model(images, classes).save(folder / "mine.keras")
    with_code = keras.layers.Lambda(lambda batch: batch / 255, name="scale")(images)
    outputs = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(with_code))
    keras.Model(images, outputs).save(folder / "code.keras")
    return folder


@pytest.fixture(scope="module")
def start(start_run, folder):
    def start(*arguments):
        return start_run(folder, *arguments, program=("-m", "ddefense.cli.export"), flags=())

    return start


@pytest.fixture(scope="module")
def runs(start):
    """What several tests look at, run side by side: most of the time goes into starting."""
    # Alone, so that not each of the others compiles TensorFlow's modules.
    code = start("--network=code.keras", "--export_dir=others").end()
    started = {
        "distilled": start(*DISTILLED, "--export_dir=exported"),
        "mine": start(*MINE, "--expose_logits", "--export_dir=others"),
        "stopped": start(*MINE, "--export_dir=stopped"),
    }
    started["stopped"].wait_for("exporting")
    started["stopped"].send(signal.SIGTERM)
    return {"code": code, **{name: run.end() for name, run in started.items()}}


@pytest.fixture(scope="module")
def distilled(runs, folder):
    assert runs["distilled"].returncode == 0, runs["distilled"].stderr
    return folder / "exported" / "digits_distilled_t100" / "1"


@pytest.fixture(scope="module")
def mine(runs, folder):
    assert runs["mine"].returncode == 0, runs["mine"].stderr
    return folder / "others" / "mine" / "1"


def answers_of(version, signature, inputs):
    model = runtime.SavedModel(version)
    try:
        return model.run(signature, inputs)
    finally:
        model.close()


def test_the_log_says_what_it_does_and_where_it_is(runs, distilled):
    log = runs["distilled"].stderr.splitlines()
    assert runs["distilled"].stdout == ""
    assert log[0].startswith(f"exporting {OURS} as the next version of exported/digits_distilled")
    assert log[1] == f"results about it: {DIGITS / 'results.json'}"
    assert log[-1] == "exported: exported/digits_distilled_t100/1"
    rows = [line.split(" | ")[0].strip("| ") for line in log if line.startswith("| ")]
    assert rows[2:] == ["serving_default", "serving_uint8", "serving_encoded", "serving_labels"]
    assert not [line for line in log if re.search("warning|deprecat|tensorflow lite", line, re.I)]


def test_a_version_is_complete_and_seen_whole(distilled):
    assert checksums.check(distilled) == 8
    assert not list(distilled.parent.glob(".tmp-*"))
    names = {path.name for path in (distilled / "assets.extra").iterdir()}
    assert names == {
        *("SHA256SUMS", "tf_serving_warmup_requests", "model_card.json", "MODEL_CARD.md"),
        "digits_distilled_t100_int8.tflite",
    }


def test_it_answers_as_the_network(distilled, digits):
    images = digits.test.images[:20]
    found = answers_of(distilled, "serving_default", {"images": images})
    expected = networks.predict(keras.models.load_model(OURS, compile=False), images)
    np.testing.assert_allclose(found["probabilities"], expected, rtol=0, atol=1e-6)


def test_the_card_has_the_results_and_both_accuracies(runs, distilled, digits):
    card = records.load(records.ModelCard, distilled / "assets.extra" / "model_card.json")
    results = records.load(records.Results, DIGITS / "results.json")
    record = next(n for n in results.networks if n.name == "distilled_t100")
    assert (card.name, card.temperature, card.dataset) == ("distilled_t100", 100, results.dataset)
    assert card.measured.attacks == record.attacks
    (extra,) = card.extra_files
    content = (distilled / "assets.extra" / extra.name).read_bytes()
    pixels = np.rint(digits.test.images * 255).astype(np.uint8)
    right = (quantized.predict(content, pixels).argmax(axis=1) == digits.test.labels).mean()
    assert extra.test_accuracy == right > 0.9
    log = runs["distilled"].stderr
    assert f"Test accuracy: {100 * record.test_accuracy:.2f} %." in log
    assert f"test accuracy {100 * right:.2f} %. TFLite in 8-bit integers" in log
    assert f"itself gets {100 * record.test_accuracy:.2f} % of the same 360 test images" in log


def test_the_server_is_told_of_the_model(distilled):
    text = (distilled.parents[1] / "models.config").read_text()
    read = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = read.model_config_list.config
    assert (model.name, model.base_path) == (
        *("digits_distilled_t100", "/models/digits_distilled_t100"),
    )
    assert {path.name for path in distilled.parents[1].glob("*.config")} == {
        *("models.config", "batching.config", "monitoring.config"),
    }


def test_a_users_network_is_asked_in_0_to_1_and_answers_with_its_labels(mine, folder):
    network = keras.models.load_model(folder / "mine.keras", compile=False)
    pixels = np.random.default_rng(0).integers(256, size=(5, 6, 5, 3)).astype(np.uint8)
    expected = networks.predict(network, pixels.astype(np.float32))
    found = answers_of(mine, "serving_uint8", {"images": pixels})
    np.testing.assert_allclose(found["probabilities"], expected, rtol=0, atol=1e-6)
    floats = pixels.astype(np.float32) / 255
    found = answers_of(mine, "serving_default", {"images": floats})
    np.testing.assert_allclose(found["probabilities"], expected, rtol=0, atol=1e-6)
    card = json.loads((mine / "assets.extra" / "model_card.json").read_text())
    assert (card["class_names"], card["value_range"]) == (["cat", "dog"], [0, 255])
    assert (card["measured"], card["defense"]) == (None, "unknown")


def test_exposed_logits_come_with_a_warning(runs, mine):
    images = np.zeros((1, 6, 5, 3), np.float32)
    assert answers_of(mine, "logits", {"images": images})["logits"].shape == (1, 2)
    assert "WARNING: --expose_logits: whoever can ask for logits attacks" in runs["mine"].stderr
    assert "--expose_logits" not in runs["distilled"].stderr


def test_a_file_that_carries_code_is_refused(runs, mine, folder):
    code = runs["code"]
    assert code.returncode == 2
    *_, message, usage = code.stderr.splitlines()
    assert message.startswith("--network: ")
    assert "'scale' (Lambda)" in message
    assert usage.startswith("Usage: bin/export [flags]")
    assert [path.name for path in (folder / "others").iterdir()] == ["mine"]


def test_an_export_that_is_asked_to_stop_leaves_nothing(runs, folder):
    assert runs["stopped"].returncode == 143
    assert runs["stopped"].stderr.splitlines()[-1] == "Stopped as asked."
    assert not list((folder / "stopped").rglob("*"))


def test_a_killed_export_leaves_no_version_and_the_next_one_follows(start, mine, folder):
    before = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}
    killed = start(*MINE, "--export_dir=others")
    killed.wait_until(lambda: list(mine.parent.glob(".tmp-*/saved_model.pb")))
    killed.kill()
    assert [path.name for path in mine.parent.iterdir() if path.name.isdecimal()] == ["1"]
    start(*MINE, "--export_dir=others").finish()
    assert [path.name for path in mine.parent.glob("[0-9]*")] in (["1", "2"], ["2", "1"])
    assert {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()} == before
    assert checksums.check(mine.parent / "2") == 7


def verify(directory):
    """Through the script itself, with this Python as the active one."""
    found = subprocess.run(
        [ROOT / "bin" / "export", f"--verify={directory}"],
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""
    return found.returncode, found.stderr.splitlines()[-2:]


def test_an_export_is_verified_and_a_tampered_version_named(distilled, tmp_path):
    model = tmp_path / "digits"
    for version in ("1", "2"):
        shutil.copytree(distilled, model / version)
    card = model / "2" / "assets.extra" / "MODEL_CARD.md"
    card.write_text(card.read_text().replace("94.44 %", "99.44 %"))
    (model / "2" / "assets.extra" / "new").touch()
    status, (good, bad) = verify(model)
    assert status == 1
    assert good == (
        f"ok {model / '1'}: 8 files as they were written; it loads and answers 8 warm-up requests"
    )
    assert bad.startswith(f"FAIL {model / '2'}: ")
    assert "changed: assets.extra/MODEL_CARD.md" in bad
    assert "not in the manifest: assets.extra/new" in bad
    shutil.rmtree(model / "2")
    assert verify(model / "1") == (0, [good])
