"""What every attack of the catalogue must keep, whatever it does; a new one joins by its entry."""

import inspect

import numpy as np
import pytest

from ddefense import attacks, config, interruption
from ddefense.attack_catalog import ATTACKS

CLASSES = 3
BOUNDS = (-0.5, 1.0)
CONFIG = config.Config(
    epsilon=0.2,
    theta=0.5,
    max_features=4,
    pgd_steps=3,
    cw_steps=200,
    cw_search_steps=2,
    cw_learning_rate=0.1,
    cw_initial_c=1.0,
    labels_only_queries=60,
    attack_batch_size=5,
    seed=3,
)


@pytest.fixture(params=ATTACKS)
def prepared(request):
    if request.param == "labels_only" and not ATTACKS["labels_only"].installed:
        pytest.skip("adversarial-robustness-toolbox is not installed")
    return attacks.prepare(request.param, CONFIG, temperature=2.0)


@pytest.fixture(scope="module")
def attacked(network):
    return attacks.classifier(network, bounds=BOUNDS)


@pytest.fixture(scope="module")
def originals():
    """Some features are at each bound."""
    drawn = np.random.default_rng(8).uniform(-0.8, 1.3, (7, 4, 4, 1))
    return drawn.clip(*BOUNDS).astype(np.float32)


@pytest.fixture
def given(prepared, originals, predict):
    """Images, labels and targets."""
    labels = predict(originals)
    return originals, labels, None if prepared.targets == "untargeted" else (labels + 1) % CLASSES


def test_has_the_signature_of_all(prepared):
    names = list(inspect.signature(prepared.attack).parameters)
    assert names[:7] == [
        *("attacked", "images", "labels", "targets", "settings", "batch_size", "first_row")
    ]


def test_keeps_within_bounds_and_budget(prepared, attacked, given):
    originals = given[0].copy()
    for array in given:
        if array is not None:
            array.flags.writeable = False
    made = prepared(attacked, *given)
    images = made.images
    assert (images.dtype, images.shape) == (np.float32, originals.shape)
    assert images.min() >= BOUNDS[0]
    assert images.max() <= BOUNDS[1]
    assert (images != originals).any()
    np.testing.assert_array_equal(given[0], originals)
    if prepared.budget is not None:
        change = np.abs(images - originals).reshape(len(images), -1)
        distance = {"l0": (change > 0).sum(axis=1), "linf": change.max(axis=1)}[prepared.norm]
        assert (distance <= prepared.budget + 1e-6).all()
    assert all(of_each.shape == (len(images),) for of_each in made.details.values())


def test_gives_the_same_twice_and_of_each_image_what_it_gives_within_a_longer_list(
    prepared, attacked, given
):
    whole = prepared(attacked, *given).images
    np.testing.assert_array_equal(prepared(attacked, *given).images, whole)
    rest = (None if array is None else array[3:] for array in given)
    np.testing.assert_allclose(prepared(attacked, *rest, 3).images, whole[3:], atol=1e-4)


def test_success_is_not_for_it_to_judge(prepared, attacked, given):
    assert not {"success", "reached"} & {*prepared(attacked, *given).details}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: np.full((7, 4, 4, 1), -0.6, np.float32)}, r"images: .*within bounds \[-0.5, 1\]"),
        ({1: np.full(7, CLASSES)}, "labels: expected 7 classes"),
        ({2: np.zeros(3, np.int64)}, "targets: expected"),
    ],
)
def test_refuses_what_cannot_be(prepared, attacked, given, changes, message):
    with pytest.raises(ValueError, match=message):
        prepared(attacked, *(changes.get(i, array) for i, array in enumerate(given)))


def test_stops_when_asked(prepared, attacked, given, monkeypatch):
    monkeypatch.setattr(interruption, "asked", lambda: True)
    with pytest.raises(interruption.StoppedError):
        prepared(attacked, *given)


@pytest.mark.parametrize("name", ["jsma_f", "jsma_z", "fgsm", "pgd_linf_temperature"])
def test_one_network_is_compiled_once_for_all_shards(network, originals, predict, name):
    traced = []

    def function(images):
        traced.append(None)
        return network(images)

    attacked = attacks.classifier(function, image_shape=(4, 4, 1), bounds=BOUNDS)
    prepared = attacks.prepare(name, CONFIG, temperature=2.0)
    labels = predict(originals)
    prepared(attacked, originals, labels, (labels + 1) % CLASSES)
    before = len(traced)
    prepared(attacked, originals[:3], labels[:3], (labels[:3] + 1) % CLASSES)
    assert len(traced) == before
