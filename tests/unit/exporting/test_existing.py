"""A version that is there already is taken over only if it is the same and whole."""

import dataclasses
import shutil

import pytest

from ddefense import records
from ddefense.exporting import (
    ExportError,
    Findings,
    adopt,
    card_of,
    check_weights,
    export_for_serving,
    is_export_of,
    notes,
    weights_of,
)
from ddefense.serving import checksums

RANGE = (-1.0, 1.0)


def card_for(network):
    return card_of(network, name="model", environment={}, value_range=RANGE)


@pytest.fixture(scope="module")
def network(make_tiny_network):
    return make_tiny_network()


@pytest.fixture(scope="module")
def card(network):
    return card_for(network)


@pytest.fixture(scope="module")
def exported(network, card, tmp_path_factory):
    """One version, not to be changed."""
    base = tmp_path_factory.mktemp("exports") / "model"
    return export_for_serving(network, base, value_range=RANGE, notes=notes(card))


@pytest.fixture
def base(exported, tmp_path):
    """A model's directory with a copy of it as version 1."""
    shutil.copytree(exported.path.parent, tmp_path / "model")
    return tmp_path / "model"


def test_the_same_is_taken_over_with_its_difference_measured_again(
    network, card, base, exported, monkeypatch
):
    found = adopt(network, base, card)
    assert found.path == base / "1"
    assert found.max_difference == pytest.approx(exported.max_difference, abs=1e-7)
    assert [path.name for path in base.iterdir()] == ["1"]
    # Relative, as a user may give it.
    monkeypatch.chdir(base.parent)
    assert str(adopt(network, type(base)("model"), card).path) == "model/1"


def test_there_may_be_no_version(network, card, tmp_path):
    assert adopt(network, tmp_path / "nothing", card) is None


def test_the_newest_is_taken_or_none(network, card, base):
    for name in ("9", "10"):
        shutil.copytree(base / "1", base / name)
    assert adopt(network, base, card).path == base / "10"
    # Servers would go on serving the damaged one, and never an older one.
    (base / "10" / "saved_model.pb").unlink()
    assert adopt(network, base, card) is None


def test_another_card_is_another_export(network, card, base):
    renamed = dataclasses.replace(card, name="another")
    assert adopt(network, base, renamed) is None
    assert not is_export_of(base / "1", renamed)
    (base / "1" / "assets.extra" / "model_card.json").unlink()
    assert adopt(network, base, card) is None


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda version: flip_last_byte(version / "variables" / "variables.data-00000-of-00001"),
        lambda version: (version / "assets.extra" / "MODEL_CARD.md").unlink(),
        lambda version: (version / "more").touch(),
        lambda version: (version / "assets.extra" / "SHA256SUMS").unlink(),
        lambda version: (version / "assets.extra" / "model_card.json").write_bytes(b"\xff"),
    ],
    ids=["changed", "missing", "more", "no manifest", "no text"],
)
def test_a_damaged_version_is_not_taken(network, card, base, damage):
    assert is_export_of(base / "1", card)
    damage(base / "1")
    assert not is_export_of(base / "1", card)
    assert adopt(network, base, card) is None


@pytest.mark.slow
def test_its_answers_count_and_not_its_papers(network, card, base):
    """The same weights for features of another range, under this one's card and manifest."""
    other = export_for_serving(network, base, value_range=(0.0, 1.0), notes=notes(card))
    assert is_export_of(other.path, card)
    assert adopt(network, base, card) is None


@pytest.mark.parametrize("name", ["saved_model.pb", "assets.extra/tf_serving_warmup_requests"])
def test_what_cannot_be_asked_is_not_taken(network, card, base, name):
    (base / "1" / name).unlink()
    checksums.write(base / "1")
    assert is_export_of(base / "1", card)
    assert adopt(network, base, card) is None


def test_a_card_is_the_same_when_read_back(card, base):
    loaded = records.load(records.ModelCard, base / "1" / "assets.extra" / "model_card.json")
    assert is_export_of(base / "1", loaded)


@pytest.mark.slow
def test_weights_that_are_not_those_of_the_card_are_refused(make_tiny_network, card, base):
    """Swapped with every checksum made anew."""
    check_weights(base / "1")
    network = make_tiny_network(seed=1)
    other = export_for_serving(network, base, value_range=RANGE, notes=notes(card))
    with pytest.raises(ExportError, match="about another network") as caught:
        check_weights(other.path)
    assert card.weights_sha256 in str(caught.value)
    assert not is_export_of(other.path, card)
    assert is_export_of(base / "1", card)
    (other.path / "assets.extra" / "model_card.json").write_text("{}")
    with pytest.raises(ExportError, match="cannot be read"):
        check_weights(other.path)
    (other.path / "assets.extra" / "model_card.json").unlink()
    check_weights(other.path)


def test_a_card_of_other_weights_is_not_written(network, make_tiny_network):
    findings = Findings(weights_sha256=weights_of(network)[1])
    assert card_of(network, name="model", environment={}, findings=findings)
    with pytest.raises(ValueError, match="about the weights of this network"):
        card_of(make_tiny_network(seed=1), name="model", environment={}, findings=findings)
