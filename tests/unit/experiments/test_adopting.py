"""Networks that the run did not train: what is checked, kept, and taken for the same."""

import dataclasses
import pathlib

import keras
import numpy as np
import pytest
from ddefense.settings import ConfigError

from ddefense import datasets, networks
from ddefense.datasets import sources
from ddefense.experiments import adopting
from ddefense.experiments.stages import Stages
from ddefense.records import RunError

SHAPE, CLASSES = (1, 4, 1), 3


def build(*, bias=0.0, shape=SHAPE, activation=None, units=CLASSES, scale=8.0):
    """The class is the brightest of the first pixels; layers have the names that Keras gives."""
    layers = [keras.layers.Flatten(), keras.layers.Dense(units, activation=activation)]
    network = keras.Sequential([keras.Input(shape), *layers])
    network.layers[-1].set_weights([scale * np.eye(4, units), np.full(units, bias)])
    return network


def in_range(toy, low, high):
    images = (low + toy.test.images * (high - low)).astype(np.float32)
    test = datasets.Split(images, toy.test.labels)
    return dataclasses.replace(toy, test=test, value_range=(low, high))


def kept(subject, directory):
    """The network as it is loaded from a stage."""
    stages = Stages(directory)
    trained = adopting.adopt(stages, "attacked", subject, temperature=None)
    assert trained.temperature == 1.0
    return adopting.load_outputs(trained.network), trained


# --- the images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value_range", [(0.0, 255.0), (-1.0, 1.0), (2.0, 2.5)])
def test_images_are_brought_to_unit_range(toy, value_range):
    unit = adopting.in_unit_range(in_range(toy, *value_range))
    assert unit.value_range == (0.0, 1.0)
    assert unit.test.images.dtype == np.float32
    np.testing.assert_allclose(unit.test.images, toy.test.images, atol=1e-6)
    assert unit.test.images.min() >= 0
    assert unit.test.images.max() <= 1
    assert (unit.image_shape, unit.num_classes) == (SHAPE, CLASSES)


def test_images_in_unit_range_stay_the_same_object(toy):
    assert adopting.in_unit_range(toy) is toy


@pytest.mark.parametrize("value_range", [(0.0, 255.0), (-1.0, 1.0)])
def test_the_network_gets_them_in_its_own_range(tmp_path, toy, value_range):
    """On images in [0, 1] the kept network gives what the network gives on its own."""
    network, dataset = build(scale=0.1), in_range(toy, *value_range)
    found, _ = kept(adopting.prepare("network", network, dataset), tmp_path)
    unit = adopting.in_unit_range(dataset)
    np.testing.assert_allclose(
        networks.predict(found, unit.test.images),
        networks.predict(network, dataset.test.images),
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_network_that_takes_them_as_they_are_has_no_further_layer(tmp_path, toy):
    found, _ = kept(adopting.prepare("network", build(), toy), tmp_path)
    assert [type(layer).__name__ for layer in found.layers[1:]] == [
        "Flatten",
        "Dense",
        "Activation",
    ]


def test_the_original_is_left_as_it_is(toy):
    network = build(activation="softmax")
    before = network.to_json()
    adopting.prepare("network", network, in_range(toy, 0.0, 255.0))
    assert network.to_json() == before
    assert networks.predict(network, toy.test.images).sum() == pytest.approx(len(toy.test))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda images, labels: (images[:0], labels[:0]), ["test images", "0 images"]),
        (lambda images, labels: (images, labels[:-1]), ["7 images and 6 labels"]),
        (lambda images, labels: (images, labels + 1), ["labels in 0..2", "3 for test image"]),
        (lambda images, labels: (images, labels - 1), ["labels in 0..2", "-1 for test image 0"]),
        (lambda images, labels: (images * 2, labels), ["[0, 1]", "to 1.6"]),
        (lambda images, labels: (images - np.inf, labels), ["[0, 1]", "-inf"]),
        (lambda images, labels: (images * np.float32("nan"), labels), ["[0, 1]", "nan"]),
    ],
)
def test_images_that_cannot_be_attacked_are_refused(toy, change, named):
    images, labels = change(toy.test.images, toy.test.labels)
    with pytest.raises(ConfigError, match=r"^data: ") as caught:
        adopting.check_data(dataclasses.replace(toy, test=datasets.Split(images, labels)))
    for part in named:
        assert part in str(caught.value)


def test_the_digest_is_of_test_images_and_labels_alone(toy):
    digest = adopting.digest_of(toy)
    same = datasets.Split(toy.test.images.copy(), toy.test.labels.copy())
    train = datasets.Split(toy.train.images[:0], toy.train.labels[:0])
    assert adopting.digest_of(dataclasses.replace(toy, name="x", train=train, test=same)) == digest
    for split in (
        datasets.Split(toy.test.images[::-1], toy.test.labels),
        datasets.Split(toy.test.images, toy.test.labels[::-1]),
        datasets.Split(toy.test.images[1:], toy.test.labels[1:]),
    ):
        assert adopting.digest_of(dataclasses.replace(toy, test=split)) != digest


def test_the_test_images_of_a_user(toy):
    pairs = (toy.train.images, toy.train.labels), (toy.test.images, toy.test.labels)
    found = adopting.dataset_of(sources.open_data(pairs, class_names=("a", "b", "c")))
    np.testing.assert_array_equal(found.test.images, toy.test.images)
    np.testing.assert_array_equal(found.test.labels, toy.test.labels)
    assert (len(found.train), found.image_shape, found.num_classes) == (0, SHAPE, CLASSES)
    assert found.class_names == ("a", "b", "c")


def test_a_user_without_test_images_is_refused(toy):
    data = sources.open_data((toy.train.images, toy.train.labels), test_share=0)
    with pytest.raises(ConfigError, match=r"data: expected test images, .* \(test_share\)"):
        adopting.dataset_of(data)


# --- the network ----------------------------------------------------------------------------------


def test_a_file_and_the_network_in_it(tmp_path, toy):
    network = build(activation="softmax")
    path = tmp_path / "mine.keras"
    network.save(path)
    of_file, of_network = (adopting.prepare("network", source, toy) for source in (path, network))
    assert (of_file.label, of_network.label) == (str(path), network.name)
    outputs = [
        networks.predict(kept(subject, tmp_path / subject.sha256)[0], toy.test.images)
        for subject in (of_file, of_network)
    ]
    np.testing.assert_array_equal(*outputs)


def test_the_digest_of_a_network_does_not_depend_on_names(toy):
    """Keras counts layers without a name through the process."""
    first, second = build(), build()
    assert first.layers[-1].name != second.layers[-1].name
    digests = {adopting.prepare("network", network, toy).sha256 for network in (first, second)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    "changes", [{"bias": 1.0}, {"activation": "softmax"}, {"scale": 8.5}], ids=str
)
def test_the_digest_of_a_network_is_of_weights_and_architecture(toy, changes):
    digests = {
        adopting.prepare("network", network, toy).sha256 for network in (build(), build(**changes))
    }
    assert len(digests) == 2


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (0.0, 255.0)])
def test_another_network_or_range_or_data_is_another_stage(tmp_path, toy, value_range):
    subject = adopting.prepare("network", build(), toy)
    adopting.adopt(Stages(tmp_path), "attacked", subject, temperature=None, data="abc")
    same = adopting.prepare("network", build(), in_range(toy, *value_range))
    stages = Stages(tmp_path)
    if value_range == (0.0, 1.0):
        adopting.adopt(stages, "attacked", same, temperature=None, data="abc")
        with pytest.raises(RunError, match="made with other settings"):
            adopting.adopt(stages, "attacked", same, temperature=None, data="abd")
    else:
        with pytest.raises(RunError, match="made with other settings"):
            adopting.adopt(stages, "attacked", same, temperature=None, data="abc")


def test_the_temperature_it_was_trained_at_goes_with_it(tmp_path, toy):
    subject = adopting.prepare("network", build(), toy)
    trained = adopting.adopt(
        Stages(tmp_path), "mine", subject, temperature=20.0, defense="distillation", stage="kept"
    )
    assert (trained.name, trained.temperature, trained.defense) == ("mine", 20.0, "distillation")
    assert (tmp_path / "stages" / "kept").is_dir()


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (lambda: build(shape=(2, 2, 1)), ["images of shape (1, 4, 1)", "(2, 2, 1)"]),
        (lambda: build(units=4), ["3 classes", "and 4"]),
        (lambda: build(activation="relu"), ["ends in", "relu"]),
    ],
)
def test_a_network_that_does_not_fit_is_refused(toy, network, named):
    with pytest.raises(ConfigError, match=r"^undistilled: ") as caught:
        adopting.prepare("undistilled", network(), toy)
    for part in named:
        assert part in str(caught.value)


def test_a_network_of_this_process_need_not_be_loaded_again(tmp_path, toy):
    class Mine(keras.layers.Layer):  # not registered
        def call(self, images):
            return images

    images = keras.Input(SHAPE)
    x = keras.layers.Flatten()(Mine()(images))
    subject = adopting.prepare("network", keras.Model(images, keras.layers.Dense(3)(x)), toy)
    trained = adopting.adopt(Stages(tmp_path), "attacked", subject, temperature=None)
    assert adopting.load_outputs(trained.network).output_shape == (None, 3)


def test_what_is_no_network_is_refused(tmp_path, toy):
    path = tmp_path / "mine.keras"
    path.write_text("no network")
    with pytest.raises(ConfigError, match=r"^substitute: ") as caught:
        adopting.prepare("substitute", pathlib.Path(path), toy)
    assert str(path) in str(caught.value)
