"""The committed SavedModel: small, whole, and what its card and the committed run say it is."""

import pathlib
import subprocess

import numpy as np
import pytest

from ddefense import networks, records
from ddefense.serving import checksums, runtime

_ROOT = pathlib.Path(__file__).parents[2]
_RUN = _ROOT / "docs/results/digits"
_VERSION = _ROOT / "exported_models/digits_distilled_t100/1"
_LIMIT = 2_000_000


@pytest.fixture(scope="module")
def card():
    return records.load(records.ModelCard, _VERSION / "assets.extra/model_card.json")


def test_it_is_small():
    size = sum(path.stat().st_size for path in _VERSION.rglob("*") if path.is_file())
    assert size < _LIMIT
    # As docs/serving.md and exported_models/README.md round it.
    assert f"{size / 1e6:.1f} MB" == "1.5 MB"


def test_it_is_whole():
    assert checksums.check(_VERSION) == 7


@pytest.mark.skipif(not (_ROOT / ".git").exists(), reason="this is no checkout of git")
def test_every_file_of_it_is_committed():
    listed = subprocess.run(
        ["git", "ls-files", "exported_models"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    present = [str(path.relative_to(_ROOT)) for path in _VERSION.rglob("*") if path.is_file()]
    assert sorted(present) == sorted(name for name in listed if "/1/" in name)


def test_its_card_has_what_the_committed_run_measured(card):
    results = records.load(records.Results, _RUN / "results.json")
    (network,) = [network for network in results.networks if network.name == card.name]
    assert card.name == "distilled_t100"
    assert card.weights_sha256 == network.weights_sha256
    assert card.measured.test_accuracy == network.test_accuracy
    assert card.measured.attacks == network.attacks
    assert card.measured.attacks == network.attacks
    assert card.measured.transfer == network.transfer
    assert card.undistilled.attacks == results.baseline().attacks
    assert card.dataset == results.dataset


def test_it_answers_as_the_committed_network(digits):
    network = networks.deployed(networks.load(_RUN / "networks/distilled_t100.keras"))
    images = digits.test.images
    model = runtime.SavedModel(_VERSION)
    answer = model.run("serving_default", {"images": images[:100]})
    model.close()
    np.testing.assert_allclose(
        answer["probabilities"], networks.predict(network, images[:100]), rtol=0, atol=1e-6
    )
    assert (answer["classes"] == digits.test.labels[:100]).mean() > 0.9


def test_the_picture_in_the_docs_is_a_seven(digits):
    picture = np.array([(_ROOT / "docs/images/seven.png").read_bytes()], object)
    model = runtime.SavedModel(_VERSION)
    answer = model.run("serving_labels", {"image_bytes": picture})
    model.close()
    assert answer["labels"].tolist() == [b"7"]
