"""What holds for all attacks of Carlini & Wagner."""

import dataclasses
import functools
import sys

import numpy as np
import pytest
import tensorflow as tf

from ddefense import attacks, interruption
from ddefense.attacks import (
    CarliniWagner,
    CarliniWagnerL0,
    CarliniWagnerL2,
    carlini_wagner,
    cw_l0,
    cw_l2,
    cw_linf,
)

CLASSES = 3
RATE = 0.1
ADAM = {"steps": 100, "initial_c": 0.1, "learning_rate": RATE}
QUICK = {
    cw_l0: CarliniWagnerL0(**ADAM),
    cw_l2: CarliniWagnerL2(**ADAM, search_steps=5),
    cw_linf: CarliniWagner(steps=100),
}


@pytest.fixture(params=QUICK)
def attack(request, monkeypatch):
    """The images that one of the attacks makes, with quick settings."""
    monkeypatch.setattr(sys.modules[cw_linf.__module__], "LEARNING_RATE", RATE)

    def run(*given, batch_size=64, kappa=0.0, **named):
        settings = dataclasses.replace(QUICK[request.param], kappa=kappa)
        return request.param(*given, **named, settings=settings, batch_size=batch_size).images

    return functools.update_wrapper(run, request.param)


@pytest.fixture(scope="module")
def attacked(network):
    return attacks.classifier(network)


@pytest.fixture(scope="module")
def labels(images, predict):
    return predict(images)


@pytest.fixture(scope="module")
def targets(labels):
    return (labels + 1) % CLASSES


def margin(network, images, targets):
    """Of each target over the best other class, image by image."""
    logits = np.concatenate([network(image[None]).numpy() for image in images])
    own = np.eye(CLASSES, dtype=bool)[targets]
    return logits[own] - np.where(own, -np.inf, logits).max(axis=1)


def changed(made, images):
    return (made != images).any(axis=(1, 2, 3))


@pytest.mark.slow
def test_reaches_the_targets(attack, attacked, network, images, labels, targets):
    made = attack(attacked, images, labels, targets)
    assert made.dtype == np.float32
    assert made.shape == images.shape
    assert changed(made, images).all()
    assert (margin(network, made, targets) > 0).all()


@pytest.mark.slow
def test_leaves_the_label_without_a_target(attack, attacked, predict, images, labels, targets):
    made = attack(attacked, images, labels)
    assert (predict(made) != labels).all()
    if attack.__wrapped__ is cw_l2:
        aimed = attack(attacked, images, labels, targets)
        other = attack(attacked, images, labels, (labels + 2) % CLASSES)
        distance = [np.square(x - images).sum(axis=(1, 2, 3)) for x in (made, aimed, other)]
        # Which class is nearest is decided on the way, and not always for the best.
        assert (distance[0] <= 1.05 * np.minimum(*distance[1:])).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kappa", [1.0, 5.0])
def test_reaches_kappa(attack, attacked, network, images, labels, targets, kappa):
    made = attack(attacked, images, labels, targets, kappa=kappa)
    reached = changed(made, images)
    assert reached.any()
    assert (margin(network, made, targets)[reached] >= kappa).all()


@pytest.mark.slow
def test_reaches_a_network_whose_softmax_saturates(attack, saturated, images, labels, targets):
    logits = attacks.classifier(saturated)
    made = attack(logits, images, labels, targets)
    assert (margin(saturated, made, targets) > 0).all()


def test_keeps_within_bounds(attack, images):
    low, high = -2.0, 6.0
    moved = images * np.float32(high - low) + np.float32(low)
    weights = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
    linear = attacks.classifier(
        lambda x: tf.reshape(x, [-1, 16]) @ weights, image_shape=(4, 4, 1), bounds=(low, high)
    )
    labels = linear(moved).numpy().argmax(axis=1)
    made = attack(linear, moved, labels, 1 - labels)
    assert made.min() >= low
    assert made.max() <= high
    assert (linear(made).numpy().argmax(axis=1) == 1 - labels).all()


@pytest.mark.slow
def test_gives_the_original_back_where_nothing_is_found(attack, images):
    # The offset is more than all features together can move.
    weights = np.full((16, 2), [[-1, 1]], np.float32)
    offset = np.array([1000, 0], np.float32)
    stubborn = attacks.classifier(
        lambda x: tf.reshape(x, [-1, 16]) @ weights + offset, image_shape=(4, 4, 1)
    )
    labels = np.zeros(len(images), np.int64)
    made = attack(stubborn, images, labels, 1 - labels)
    np.testing.assert_array_equal(made, images)


def test_gives_the_original_back_where_it_is_adversarial(attack, attacked, images, labels, targets):
    made = attack(attacked, images, targets, labels)  # targets are reached already
    np.testing.assert_array_equal(made, images)
    made = attack(attacked, images, targets)  # labels are left already
    np.testing.assert_array_equal(made, images)


@pytest.mark.slow
def test_rows_do_not_depend_on_their_company(attack, attacked, images, labels, targets):
    together = attack(attacked, images, labels, targets)
    for batch_size in (1, 5):
        apart = attack(attacked, images, labels, targets, batch_size=batch_size)
        np.testing.assert_allclose(apart, together, atol=1e-4)
    order = np.random.default_rng(0).permutation(len(images))
    mixed = attack(attacked, images[order], labels[order], targets[order], batch_size=5)
    np.testing.assert_allclose(mixed, together[order], atol=1e-4)


@pytest.mark.slow
def test_gives_the_same_twice(attack, attacked, images, labels, targets):
    first, again = (attack(attacked, images, labels, targets, batch_size=5) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.slow
def test_leaves_its_arguments_alone(attack, attacked, images, labels, targets):
    given = [values.copy() for values in (images, labels, targets)]
    for values in given:
        values.flags.writeable = False
    attack(attacked, *given)
    np.testing.assert_array_equal(given[0], images)


@pytest.mark.slow
def test_the_length_of_a_chunk_does_not_matter(
    monkeypatch, attack, attacked, images, labels, targets
):
    usual = attack(attacked, images, labels, targets)
    monkeypatch.setattr(carlini_wagner, "_CHUNK", 3)
    np.testing.assert_allclose(attack(attacked, images, labels, targets), usual, atol=1e-4)


def test_stops_when_asked(monkeypatch, attack, attacked, images, labels, targets):
    monkeypatch.setattr(interruption, "asked", lambda: True)
    with pytest.raises(interruption.StoppedError):
        attack(attacked, images, labels, targets)


def test_needs_logits(attack, network, images, labels, targets):
    probabilities = attacks.classifier(
        lambda x: tf.nn.softmax(network(x)), "probabilities", image_shape=(4, 4, 1)
    )
    with pytest.raises(ValueError, match=f"{attack.__name__}: expected a network that returns log"):
        attack(probabilities, images, labels, targets)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((12, 3, 4, 1), np.float32)}, "images: expected shape"),
        ({"images": np.zeros((0, 4, 4, 1), np.float32)}, "images: expected shape"),
        ({"images": np.full((12, 4, 4, 1), 2, np.float32)}, "within bounds"),
        ({"images": np.full((12, 4, 4, 1), np.nan, np.float32)}, "within bounds"),
        ({"labels": np.zeros(3, np.int64)}, "labels: expected 12 classes"),
        ({"targets": np.full(12, CLASSES)}, "targets: expected 12 classes"),
        ({"batch_size": 0}, "batch_size: expected an integer >= 1; received 0"),
    ],
)
def test_refuses_what_cannot_be(attack, attacked, images, labels, targets, changes, message):
    given = {"images": images, "labels": labels, "targets": targets} | changes
    with pytest.raises(ValueError, match=message):
        attack(attacked, **given)


def test_refuses_a_target_that_is_the_label(attack, attacked, images, labels):
    with pytest.raises(ValueError, match="targets: expected a class other than the label"):
        attack(attacked, images, labels, labels)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kappa", -1.0),
        ("kappa", float("nan")),
        ("steps", 0),
        ("steps", 1.5),
        ("search_steps", 0),
        ("search_steps", True),
        ("learning_rate", 0.0),
        ("initial_c", float("inf")),
    ],
)
def test_refuses_settings_that_cannot_be(field, value):
    with pytest.raises(ValueError, match=f"^{field}: expected .* received {value!r}"):
        CarliniWagnerL2(**{field: value})


def test_rounding_at_kappa_is_not_adversarial():
    logits = np.array([[0, 100, 100], [0, 100, 100.01], [0, 100, 100.0005]], np.float32)
    table = attacks.classifier(
        lambda x: tf.reshape(x, [-1, 3]) * 1.0, image_shape=(1, 3, 1), bounds=(0.0, 200.0)
    )
    for targeted, classes in ((True, [2, 2, 2]), (False, [1, 1, 1])):
        margins = carlini_wagner.compile_margins(table, targeted=targeted, kappa=0.0)
        margin, slope, adversarial = margins(
            tf.constant(logits), tf.constant(classes, dtype=tf.int32)
        )
        np.testing.assert_allclose(margin, [0, 0.01, 0.0005], atol=1e-5)
        np.testing.assert_array_equal(slope[1], [0, -1, 1])
        np.testing.assert_array_equal(adversarial, [False, True, False])
