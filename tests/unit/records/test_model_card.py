"""`model_card.json`: what goes in comes out, the same every time, and nothing else goes in."""

import dataclasses
import json

import pydantic
import pytest

from ddefense import records


@pytest.fixture
def card(results):
    network = results.networks[1]
    versions = records.VersionsRecord(
        python="3.11.9",
        tensorflow="2.21.0",
        keras="3.15.1",
        numpy="2.4.6",
        ddefense="0.1.0",
        device=None,
    )
    images = records.TensorRecord(dtype="float32", shape=[None, 28, 28, 1], content="in [0, 1]")
    return records.ModelCard(
        name=network.name,
        description="A network.",
        warning="Broken.",
        defense=network.defense,
        temperature=network.temperature,
        dataset=results.dataset,
        training=network.training,
        seed=0,
        measured=records.MeasuredRecord(
            test_accuracy=1 / 3,
            attacks=network.attacks,
            transfer=[],
        ),
        undistilled=None,
        controls=[],
        verdict=None,
        about=None,
        class_names=["größte", "b"],
        value_range=(0.0, 1.0),
        signatures={
            "serving_default": records.SignatureRecord(inputs={"images": images}, outputs={})
        },
        logits_exposed=False,
        weights=[records.WeightRecord(name="dense/kernel", shape=[16, 8], sha256="ab")],
        weights_sha256="cd",
        keras_sha256=None,
        versions=versions,
        measured_with=versions,
    )


def test_round_trip(card, tmp_path):
    path = tmp_path / "model_card.json"
    text = records.card_json(card)
    path.write_text(text)
    loaded = records.load(records.ModelCard, path)
    assert loaded == card
    assert loaded.measured.test_accuracy == 1 / 3
    assert records.card_json(loaded) == text


def test_json_is_readable(card):
    text = records.card_json(card)
    assert text.endswith("}\n")
    assert '\n "name": "distilled_t100",\n' in text
    assert "größte" in text
    found = json.loads(text)
    assert found["schema_version"] == records.CARD_SCHEMA_VERSION == 3
    assert found["deployed_temperature"] == 1.0
    assert found["extra_files"] == found["caveats"] == []
    assert found["signatures"]["serving_default"]["inputs"]["images"]["shape"] == [None, 28, 28, 1]


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("date", "2016-05-23"),
        ("defense", "magic"),
        ("weights_sha256", None),
        ("temperature", float("nan")),
        ("schema_version", 1),
    ],
)
def test_what_is_no_card_is_refused(card, where, value):
    fields = json.loads(records.card_json(card)) | {where: value}
    with pytest.raises(pydantic.ValidationError, match=where):
        pydantic.TypeAdapter(records.ModelCard).validate_python(fields)


def test_a_field_of_a_part_is_not_forgotten(card, tmp_path):
    fields = json.loads(records.card_json(card))
    del fields["versions"]["device"]
    path = tmp_path / "model_card.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(records.RunError, match=r"ModelCard record .* versions\.device"):
        records.load(records.ModelCard, path)


def test_cards_are_not_changed_but_made_anew(card):
    file = records.ExtraFileRecord(
        name="model_int8.tflite", content="int8", size_bytes=10, sha256="ef", test_accuracy=0.5
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        card.extra_files = [file]
    other = dataclasses.replace(card, extra_files=[file])
    assert json.loads(records.card_json(other))["extra_files"] == [dataclasses.asdict(file)]
