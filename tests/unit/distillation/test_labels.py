"""The labels that networks learn from."""

import numpy as np
import pytest

from ddefense import distillation, networks


def test_hard_labels_are_one_hot():
    found = distillation.hard_labels(np.array([2, 0, 1, 2]), 3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])


@pytest.fixture(scope="module")
def initial(make_tiny_network):
    """A network at T = 20 with logits of tens, as training at T leaves them, and dropout on."""
    network = make_tiny_network(20.0, dropout=0.5)
    logits = network.get_layer("logits")
    logits.kernel.assign(20.0 * logits.kernel)
    return network


@pytest.fixture(scope="module")
def logits(initial, tiny_images):
    return networks.predict(networks.logits_of(initial), tiny_images).astype(np.float64)


def softmax(logits, temperature):
    scaled = np.exp(logits / temperature)
    return scaled / scaled.sum(axis=1, keepdims=True)


def test_soft_labels_are_the_probabilities_at_t(initial, logits, tiny_images):
    found = distillation.soft_labels(initial, tiny_images, 20.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, softmax(logits, 20.0), rtol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), np.ones(10), atol=1e-6)
    # Neither those of the deployed network, nor a softmax of a softmax.
    assert np.abs(found - softmax(logits, 1.0)).max() > 0.1
    assert np.abs(found - softmax(softmax(logits, 1.0), 20.0)).max() > 0.01


def test_the_given_temperature_counts(initial, logits, tiny_images):
    found = distillation.soft_labels(initial, tiny_images, 5.0)
    np.testing.assert_allclose(found, softmax(logits, 5.0), rtol=1e-4, atol=1e-7)


def test_soft_labels_follow_their_images(initial, tiny_images):
    found = distillation.soft_labels(initial, tiny_images, 20.0)
    order = np.random.default_rng(3).permutation(len(tiny_images))
    assert len(np.unique(found, axis=0)) == len(found)  # or the test would say nothing
    permuted = distillation.soft_labels(initial, tiny_images[order], 20.0)
    np.testing.assert_allclose(permuted, found[order], rtol=1e-6)


def test_dropout_is_off(initial, tiny_images):
    one = distillation.soft_labels(initial, tiny_images, 20.0)
    np.testing.assert_array_equal(one, distillation.soft_labels(initial, tiny_images, 20.0))


def test_every_image_of_several_batches_gets_its_label(initial):
    images = np.random.default_rng(0).uniform(size=(600, 4, 4, 1)).astype(np.float32)
    logits = networks.predict(networks.logits_of(initial), images, batch_size=600)
    found = distillation.soft_labels(initial, images, 20.0)
    np.testing.assert_allclose(found, softmax(logits.astype(np.float64), 20.0), rtol=1e-5)


def test_soft_labels_that_cannot_be_are_refused():
    good = np.full((4, 5), 0.2, np.float32)
    np.testing.assert_array_equal(distillation.check_soft_labels(good, 4, 5), good)
    rounded = good + np.float32(1e-6)
    np.testing.assert_array_equal(distillation.check_soft_labels(rounded, 4, 5), rounded)
    for wrong in (np.nan, np.inf, -0.2, 0.3, 1.2):
        rows = good.copy()
        rows[2, 3] = wrong
        with pytest.raises(ValueError, match="for image 2"):
            distillation.check_soft_labels(rows, 4, 5)
    rows = good.copy()
    rows[2, :2] = -0.2, 0.6  # which sum to 1
    with pytest.raises(ValueError, match="for image 2"):
        distillation.check_soft_labels(rows, 4, 5)
    for shape in ((3, 5), (4, 6)):
        with pytest.raises(ValueError, match=r"\(4, 5\); received"):
            distillation.check_soft_labels(np.full(shape, 0.2, np.float32), 4, 5)
    with pytest.raises(ValueError, match="float64"):
        distillation.check_soft_labels(good.astype(np.float64), 4, 5)


def test_a_part_of_many_rows_is_checked_alone():
    rows = np.full((9, 5), 0.2, np.float32)
    rows[7, 3] = 0.3
    part = slice(3, 6)
    np.testing.assert_array_equal(distillation.check_soft_labels(rows, 9, 5, part), rows[part])
    with pytest.raises(ValueError, match="for image 7"):
        distillation.check_soft_labels(rows, 9, 5, slice(6, 12))
    with pytest.raises(ValueError, match=r"\(3, 5\); received .*\(9, 5\)"):
        distillation.check_soft_labels(rows, 3, 5, part)
