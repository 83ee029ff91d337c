"""`results.json`: what goes in comes out, and what is wrong is named."""

import dataclasses
import json
import pathlib

import pydantic
import pytest

from ddefense import records


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.json"


@pytest.fixture
def written(results, path):
    """The JSON of the results, to be damaged."""
    records.dump(results, path)
    return json.loads(path.read_text())


def set_at(tree, where, value):
    *parents, last = where
    for key in parents:
        tree = tree[key]
    tree[last] = value


def test_round_trip(results, path):
    records.dump(results, path)
    loaded = records.load(records.Results, path)
    assert loaded == results
    assert loaded.config.digest() == results.config.digest()
    assert loaded.networks[1].initial == results.networks[1].initial
    assert isinstance(loaded.config.temperatures, tuple)
    assert isinstance(loaded.dataset.image_shape, tuple)


def test_floats_keep_every_bit(path):
    record = records.RobustnessRecord(capped=0.1 + 0.2, uncapped=1 / 3, unreached=5e-324, cap=1e300)
    records.dump(record, path)
    assert records.load(records.RobustnessRecord, path) == record


def test_dump_is_readable_and_always_the_same(results, path):
    records.dump(results, path)
    text = path.read_bytes()
    assert text.endswith(b"}\n")
    assert b'\n "networks"' in text
    records.dump(records.load(records.Results, path), path)
    assert path.read_bytes() == text
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_finds_its_networks(results):
    assert results.baseline().name == "baseline"
    assert [n.temperature for n in results.distilled()] == [20, 100]
    assert results.schema_version == records.SCHEMA_VERSION


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        (("networks", 1, "test_accuracy"), "high", "networks.1.test_accuracy"),
        (("networks", 1, "test_accuracy"), None, "networks.1.test_accuracy"),
        (("networks", 0, "defense"), "prayer", "networks.0.defense"),
        (("networks", 0, "attacks", "jsma_f", "steps"), 1.5, "networks.0.attacks.jsma_f.steps"),
        (("networks", 0, "logits"), [], "networks.0.logits"),
        (("dataset", "image_shape"), [28, 28], "dataset.image_shape"),
        (("sample_indices",), 3, "sample_indices"),
        (("config", "epochs"), 0, "config"),
        (("config", "attacks"), ["deepfool"], "config"),
    ],
)
def test_a_wrong_value_is_named_with_its_file(written, path, where, value, named):
    set_at(written, where, value)
    path.write_text(json.dumps(written))
    with pytest.raises(records.RunError) as error:
        records.load(records.Results, path)
    assert str(path) in str(error.value)
    assert named in str(error.value)
    assert "run again" in str(error.value)


@pytest.mark.parametrize(
    "where",
    [
        ("surprise",),
        ("dataset", "surprise"),
        ("config", "surprise"),
        ("networks", 0, "surprise"),
        ("networks", 1, "initial", "soft_labels", "surprise"),
        ("networks", 0, "attacks", "jsma_f", "surprise"),
    ],
)
def test_an_unknown_key_is_refused(written, path, where):
    set_at(written, where, 1)
    path.write_text(json.dumps(written))
    with pytest.raises(records.RunError, match="surprise"):
        records.load(records.Results, path)


@pytest.mark.parametrize("key", ["networks", "config", "timings"])
def test_a_missing_key_is_refused(written, path, key):
    del written[key]
    path.write_text(json.dumps(written))
    with pytest.raises(records.RunError, match=key):
        records.load(records.Results, path)


COMMITTED = pathlib.Path(__file__).parents[3] / "docs" / "results"


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10", "cifar10_warm"])
def test_results_of_schema_2_are_read_with_one_record_of_every_attack(name, tmp_path):
    old = json.loads((COMMITTED / name / "results.json").read_text())
    assert old["schema_version"] == 2
    found = records.load(records.Results, COMMITTED / name / "results.json")
    for network, before in zip(found.networks, old["networks"], strict=True):
        assert list(network.attacks) == [*before["attacks"], *before.get("norm_attacks", {})]
        assert list(network.readings) == list(before["attacks"])
        for attack, jsma in before["attacks"].items():
            record = network.attacks[attack]
            assert record.settings == {"theta": jsma["theta"], "max_features": jsma["max_features"]}
            assert record.mean_distance == jsma["mean_features"]
            assert record.details["steps"] == jsma["steps"]
            assert record.success_rate == jsma["success_rate"]
            assert record.robustness.capped == before["robustness"][attack]["capped"]
    records.dump(found, tmp_path / "results.json")
    assert records.load(records.Results, tmp_path / "results.json") == found


@pytest.mark.parametrize("networks", [3, [{"attacks": {"jsma_f": 3}}], [{"attacks": []}]])
def test_damaged_results_of_schema_2_are_refused(written, path, networks):
    path.write_text(json.dumps(written | {"schema_version": 2, "networks": networks}))
    with pytest.raises(records.RunError, match="Expected"):
        records.load(records.Results, path)


@pytest.mark.parametrize("version", [0, 1, 4, 99])
def test_another_schema_is_refused(written, path, version):
    written["schema_version"] = version
    path.write_text(json.dumps(written))
    with pytest.raises(records.RunError, match="schema_version"):
        records.load(records.Results, path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_number_is_refused(written, path, value):
    with pytest.raises(pydantic.ValidationError, match="finite number"):
        records.RobustnessRecord(capped=value, uncapped=None, unreached=0.0, cap=0.1)
    for where in (
        ("networks", 0, "confidence"),
        ("networks", 0, "training", "loss", 1),
        ("networks", 0, "attacks", "jsma_f", "success_interval", 0),
        ("timings", "baseline"),
    ):
        tree = json.loads(json.dumps(written))
        set_at(tree, where, value)
        path.write_text(json.dumps(tree))
        with pytest.raises(records.RunError, match=".".join(map(str, where))):
            records.load(records.Results, path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: b"",
        lambda text: b"\xff\xfe" + text,
        lambda text: text.replace(b":", b"", 1),
        lambda text: b"[]",
        lambda text: b"null",
        lambda text: bytes(len(text)),
    ],
    ids=["half", "empty", "not UTF-8", "not JSON", "list", "null", "zeros"],
)
def test_a_damaged_file_is_named(results, path, damage):
    records.dump(results, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(records.RunError, match=r"results.json to be a Results record"):
        records.load(records.Results, path)


def test_a_missing_file_is_named(path):
    with pytest.raises(records.RunError, match=r"results.json, but No such file"):
        records.load(records.Results, path)
    with pytest.raises(records.RunError, match="Is a directory"):
        records.load(records.Results, path.parent)


def test_records_cannot_be_changed(results):
    with pytest.raises(dataclasses.FrozenInstanceError):
        results.networks[0].test_accuracy = 1.0


def test_a_record_of_another_kind_is_refused(results, path):
    records.dump(results.dataset, path)
    with pytest.raises(records.RunError, match="LogitRecord"):
        records.load(records.LogitRecord, path)
