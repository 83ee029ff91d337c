"""Cards whose texts were written by somebody else."""

import dataclasses
import pathlib

import pytest

from ddefense import exporting, records
from ddefense.exporting import card_text
from tests import html_of
from tests.hostile import HARMLESS, HOSTILE, changed

_CARD = "exported_models/digits_distilled_t100/1/assets.extra/model_card.json"


@pytest.fixture(scope="module")
def card():
    path = pathlib.Path(exporting.__file__).parents[2] / _CARD
    found = records.load(records.ModelCard, path)
    extra = records.ExtraFileRecord(
        name="a.tflite", content="a form", size_bytes=1, sha256="0", test_accuracy=None
    )
    return dataclasses.replace(
        found,
        extra_files=[extra],
        caveats=["It may be doubted."],
        keras_sha256="0",
        undistilled=found.undistilled or found.measured,
        about=found.about or "others",
    )


@pytest.mark.parametrize("payload", HOSTILE)
def test_no_text_of_a_card_becomes_an_element(card, payload):
    hostile, harmless = (
        html_of.parsed(card_text.markdown(changed(card, mark))) for mark in (payload, HARMLESS)
    )
    assert [e for e in hostile.elements if e[0] != "br"] == harmless.elements
    for value in (card.name, card.class_names[0], card.verdict.sentence, card.dataset.name):
        assert html_of.words(f"{payload}{value}{payload}") in hostile.text
