"""What every dataset promises, whatever its name."""

import dataclasses
import hashlib

import numpy as np
import pytest

from ddefense import datasets, networks

# name: images of the training and of the test split
SIZES = {
    "digits": (1437, 360),
    "mnist": (60_000, 10_000),
    "fashion_mnist": (60_000, 10_000),
    "cifar10": (50_000, 10_000),
}


def test_every_dataset_stands_in_this_table():
    assert set(SIZES) == set(datasets.NAMES)


@pytest.fixture(params=datasets.NAMES)
def dataset(request):
    embedded = request.param == "digits"
    return request.getfixturevalue(request.param if embedded else f"{request.param}_data")


def test_splits_hold_images_and_labels(dataset):
    assert (len(dataset.train), len(dataset.test)) == SIZES[dataset.name]
    for split in (dataset.train, dataset.test):
        assert split.images.dtype == np.float32
        assert split.images.shape == (len(split), *dataset.image_shape)
        assert split.labels.dtype == np.int64
        assert split.labels.shape == (len(split),)
        assert set(split.labels) == set(range(dataset.num_classes))


def test_values_fill_the_stated_range(dataset):
    splits = (dataset.train.images, dataset.test.images)
    found = (min(x.min() for x in splits), max(x.max() for x in splits))
    assert found == dataset.value_range


def test_class_names_are_distinct_text(dataset):
    assert len(set(dataset.class_names)) == dataset.num_classes >= 2
    assert all(isinstance(name, str) and name for name in dataset.class_names)


def test_its_network_takes_its_images(dataset):
    few = dataclasses.replace(
        dataset, train=datasets.Split(dataset.train.images[:100], dataset.train.labels[:100])
    )
    network = networks.build(
        dataset.network,
        temperature=1.0,
        seed=0,
        num_classes=dataset.num_classes,
        statistics=few.feature_statistics(),
    )
    assert network.input_shape == (None, *dataset.image_shape)
    assert networks.predict(network, dataset.test.images[:2]).shape == (2, dataset.num_classes)


def test_classes_are_spread_alike_over_both_splits(dataset):
    shares = [
        np.bincount(split.labels, minlength=dataset.num_classes) / len(split)
        for split in (dataset.train, dataset.test)
    ]
    np.testing.assert_allclose(shares[0], shares[1], atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "dataset",
    # Reading CIFAR-10 a second time takes 15 seconds.
    [pytest.param(n, marks=pytest.mark.slow if n == "cifar10" else ()) for n in datasets.NAMES],
    indirect=True,
)
def test_every_call_gives_the_same_arrays_in_the_same_order(dataset):
    again = datasets.load(dataset.name)  # the fixture's folder is the default one
    for one, other in ((dataset.train, again.train), (dataset.test, again.test)):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_no_test_image_was_trained_on(dataset):
    def hashes(split):
        return {hashlib.sha256(image.tobytes()).digest() for image in split.images}

    assert not hashes(dataset.train) & hashes(dataset.test)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="received 'cifar'") as caught:
        datasets.load("cifar")
    for name in datasets.NAMES:
        assert repr(name) in str(caught.value)
