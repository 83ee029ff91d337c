"""The table that `bin/export` ends with."""

import dataclasses

import pytest

from ddefense import records
from ddefense.reporting import saved_export


@pytest.fixture
def make_card():
    def make(**settings):
        tensor = records.TensorRecord
        images = tensor(dtype="float32", shape=[None, 6, 5, 3], content="features in [0, 1]")
        outputs = {
            "probabilities": tensor(dtype="float32", shape=[None, 2], content=""),
            "classes": tensor(dtype="int64", shape=[None], content=""),
        }
        signature = records.SignatureRecord(inputs={"images": images}, outputs=outputs)
        unknown = dict.fromkeys(
            ("temperature", "dataset", "training", "seed", "measured", "undistilled", "verdict")
        )
        version = dict.fromkeys(("python", "tensorflow", "keras", "numpy", "ddefense", "device"))
        return records.ModelCard(
            name="model",
            description="",
            warning="",
            defense="unknown",
            controls=[],
            about=None,
            class_names=["cat", "dog"],
            value_range=(0.0, 1.0),
            signatures={"serving_default": signature},
            logits_exposed=False,
            weights=[],
            weights_sha256="",
            keras_sha256=None,
            versions=records.VersionsRecord(**version),
            measured_with=None,
            **unknown,
            **settings,
        )

    return make


@pytest.fixture
def version(tmp_path):
    (tmp_path / "1" / "variables").mkdir(parents=True)
    (tmp_path / "1" / "saved_model.pb").write_bytes(bytes(1_000_000))
    (tmp_path / "1" / "variables" / "weights").write_bytes(bytes(234_567))
    return tmp_path / "1"


def test_a_row_for_each_signature(make_card, version):
    table = saved_export.table(make_card(), version, 2.4e-7, None)
    assert table.title == f"Signatures of {version}"
    assert table.rows == [
        [
            "serving_default",
            "images float32 [N, 6, 5, 3]",
            "probabilities float32 [N, 2], classes int64 [N]",
        ]
    ]
    assert table.notes == (
        "1.23 MB in 2 files. Reloaded by TensorFlow's C++ runtime, its answers differ from the "
        "network's by 2e-07 at most. Test accuracy: not known.",
        "Clients send features in [0, 1], or bytes; the network gets [0, 1].",
    )


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 255.0)])
def test_the_range_that_the_network_gets_is_said(make_card, version, value_range):
    card = dataclasses.replace(make_card(), value_range=value_range)
    found = {
        given: saved_export.table(card, version, 0.0, None, range_given=given).notes[1]
        for given in (True, False)
    }
    low, high = value_range
    assert found[True].endswith(f"; the network gets [{low:g}, {high:g}].")
    assert found[False] == f"{found[True][:-1]}: --value_range if it was trained on another."


def test_accuracy_of_the_network_and_of_other_files(make_card, version):
    extra = records.ExtraFileRecord(
        name="model_int8.tflite",
        content="TFLite in 8-bit integers",
        size_bytes=335_736,
        sha256="",
        test_accuracy=0.975,
    )
    notes = saved_export.table(make_card(extra_files=[extra]), version, 0.0, 0.98125).notes
    assert "Test accuracy: 98.12 %." in notes[0]
    assert notes[2] == (
        "model_int8.tflite: 0.34 MB, test accuracy 97.50 %. TFLite in 8-bit integers."
    )
