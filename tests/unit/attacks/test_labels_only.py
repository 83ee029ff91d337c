"""The labels-only attack: near the distances known, on classes alone, within its queries."""

import inspect
import runpy
import sys

import numpy as np
import pytest
import tensorflow as tf

from ddefense import attacks, interruption
from ddefense.attack_catalog import ATTACKS
from ddefense.attacks.labels_only import LabelsOnly

SHAPE = (4, 4, 1)
# Distance to the nearest boundary of `linear` from each of its images.
DISTANCES = np.array([0.25, 0.4, 0.1])

needs_library = pytest.mark.skipif(
    not ATTACKS["labels_only"].installed, reason="adversarial-robustness-toolbox is not installed"
)


def labels_only(attacked, images, labels, *, first_row=0, **settings):
    made = attacks.labels_only(
        attacked, images, labels, settings=LabelsOnly(**settings), first_row=first_row
    )
    return made.images


def direction(shape):
    """A vector of length 1, without zeros."""
    ramp = np.linspace(-1.0, 1.5, int(np.prod(shape)))
    return (ramp / np.linalg.norm(ramp)).astype(np.float32)


def attack_linear(shape=SHAPE, bias=0.0, bounds=(0.0, 1.0)):
    """Two classes, split by the hyperplane direction . (x - middle of the bounds) = bias."""
    normal, middle = tf.constant(direction(shape)), sum(bounds) / 2

    def function(images):
        side = tf.linalg.matvec(tf.reshape(images - middle, [-1, len(normal)]), normal) - bias
        return tf.stack([-side, side], axis=1)

    return attacks.classifier(function, image_shape=shape, bounds=bounds)


def at(distances, shape=SHAPE, middle=0.5):
    """Images at signed distances from the hyperplane of `attack_linear` with bias 0."""
    images = middle + np.multiply.outer(distances, direction(shape))
    return images.astype(np.float32).reshape(-1, *shape)


def recorded(network, shape=SHAPE):
    """The network, and the batches it is shown from now on."""
    batches = []

    def record(images):
        batches.append(images)
        return images

    def function(images):
        seen = tf.numpy_function(record, [images], tf.float32, stateful=True)
        return network(tf.ensure_shape(seen, [None, *shape]))

    attacked = attacks.classifier(function, image_shape=shape)
    batches.clear()
    return attacked, batches


def norms(made, originals):
    difference = (made - originals).astype(np.float64)
    return np.sqrt((difference**2).sum(axis=(1, 2, 3)))


@pytest.fixture(scope="module")
def labels(network, images):
    return network(images).numpy().argmax(axis=1)


@needs_library
class TestAttack:
    @pytest.mark.parametrize(
        ("shape", "bounds"), [(SHAPE, (0.0, 1.0)), ((5, 3, 2), (-3.0, -1.0)), ((1, 2, 1), (0, 1))]
    )
    def test_comes_near_the_distance_to_a_hyperplane(self, shape, bounds):
        originals = at([-0.25, 0.4, -0.1], shape, sum(bounds) / 2)
        attacked = attack_linear(shape, bounds=bounds)
        made = labels_only(attacked, originals, np.array([0, 1, 0]), queries=2000)
        assert attacked(made).numpy().argmax(axis=1).tolist() == [1, 0, 1]
        distances = norms(made, originals)
        assert np.all(distances > DISTANCES - 1e-6)
        np.testing.assert_allclose(distances, DISTANCES, rtol=0.02)

    @pytest.mark.slow
    def test_more_queries_come_closer(self, network, images, labels):
        attacked = attacks.classifier(network)
        distances = [
            norms(labels_only(attacked, images, labels, queries=queries), images).mean()
            for queries in (30, 300, 3000)
        ]
        assert distances[0] > 1.2 * distances[1] > 1.2 * distances[2]

    def test_stays_within_bounds_and_is_adversarial(self, network, images, labels):
        made = labels_only(attacks.classifier(network), images, labels, queries=400)
        assert (made.dtype, made.shape) == (np.float32, images.shape)
        assert made.min() >= 0
        assert made.max() <= 1
        assert np.all(network(made).numpy().argmax(axis=1) != labels)

    def test_starts_where_independent_pixels_all_have_the_label(self):
        # The mean of 144 of them is above 0.65 once in 10^9 draws.
        def function(images):
            excess = tf.reduce_mean(images, axis=[1, 2, 3]) - 0.65
            return tf.stack([-excess, excess], axis=1)

        originals = np.full((1, 12, 12, 1), 0.25, np.float32)
        attacked = attacks.classifier(function, image_shape=(12, 12, 1))
        made = labels_only(attacked, originals, np.array([0]), queries=2000)
        # The nearest point of the hyperplane: 0.4 more in every pixel.
        np.testing.assert_allclose(norms(made, originals), [0.4 * 12], rtol=0.1)

    def test_looks_past_an_outlier_class(self):
        """Images up to 0.3 beyond the hyperplane are refused; the other class begins there."""
        normal = tf.constant(direction(SHAPE))

        def function(images):
            side = tf.linalg.matvec(tf.reshape(images - 0.5, [-1, len(normal)]), normal)
            return tf.stack([-side, 3 * side - 0.6, side], axis=1)

        attacked = attacks.classifier(function, image_shape=SHAPE)
        originals, label = at([-0.1]), np.array([0])
        near = labels_only(attacked, originals, label, queries=2000)
        np.testing.assert_allclose(norms(near, originals), [0.1], rtol=0.05)
        assert attacked(near).numpy().argmax(axis=1) == [2]
        attacked = attacks.classifier(function, image_shape=SHAPE, outlier_class=2)
        past = labels_only(attacked, originals, label, queries=2000)
        assert attacked(past).numpy().argmax(axis=1) == [1]
        np.testing.assert_allclose(norms(past, originals), [0.4], rtol=0.05)

    def test_an_original_on_the_boundary_is_hardly_changed(self):
        originals = at([0.0])
        attacked = attack_linear()
        made = labels_only(attacked, originals, np.array([0]), queries=500)
        assert attacked(made).numpy().argmax(axis=1) == [1]
        assert norms(made, originals) < 1e-5

    def test_a_sample_the_network_errs_on_stays(self, network, images, labels):
        wrong = labels.copy()
        wrong[[0, 5]] = (labels[[0, 5]] + 1) % 3
        made = labels_only(attacks.classifier(network), images, wrong, queries=200)
        changed = (made != images).any(axis=(1, 2, 3))
        assert changed.tolist() == (wrong == labels).tolist()

    def test_the_original_stays_where_nothing_is_adversarial(self, images):
        attacked, batches = recorded(lambda x: tf.tile([[0.0, 2.0]], [tf.shape(x)[0], 1]))
        made = labels_only(attacked, images[:2], np.array([1, 1]))
        np.testing.assert_array_equal(made, images[:2])
        assert sum(map(len, batches)) == 2 * 101  # The original and 100 attempts to start.

    def test_leaves_its_arguments_alone(self, network, images, labels):
        originals, classes = images.copy(), labels.astype(np.uint8)
        made = labels_only(attacks.classifier(network), originals, classes, queries=200)
        assert (made != originals).any()
        np.testing.assert_array_equal(originals, images)


@needs_library
class TestSight:
    """What the attack sees of the network."""

    def test_scaled_logits_change_nothing(self, network, images, labels):
        # A power of two rounds nothing.
        scaled = attacks.classifier(lambda x: network(x) * 2.0**14, image_shape=SHAPE)
        plain = labels_only(attacks.classifier(network), images, labels, queries=300)
        np.testing.assert_array_equal(labels_only(scaled, images, labels, queries=300), plain)

    def test_a_network_that_tells_nothing_but_the_class_is_no_harder(self, network, images, labels):
        bare = attacks.classifier(
            lambda x: tf.one_hot(tf.argmax(network(x), axis=1), 3),
            "probabilities",
            image_shape=SHAPE,
        )
        plain = labels_only(attacks.classifier(network), images, labels, queries=300)
        np.testing.assert_array_equal(labels_only(bare, images, labels, queries=300), plain)

    @pytest.mark.parametrize("queries", [1, 2, 5, 64, 65, 500])
    def test_queries_are_a_limit_and_the_closest_image_shown_comes_back(
        self, network, images, labels, queries
    ):
        attacked, batches = recorded(network)
        for i in range(3):
            batches.clear()
            made = labels_only(attacked, images[i : i + 1], labels[i : i + 1], queries=queries)
            # A batch is padded with images that are in it already.
            shown = np.unique(np.concatenate(batches), axis=0)
            # The library looks at the original and at the start again.
            assert queries - 2 <= len(shown) <= queries
            wrong = shown[network(shown).numpy().argmax(axis=1) != labels[i]]
            expected = min(norms(wrong, images[i]), default=0.0)
            np.testing.assert_allclose(norms(made, images[i : i + 1]), [expected], rtol=1e-6)

    def test_batches_come_in_few_shapes(self, network, images, labels):
        attacked, batches = recorded(network)
        labels_only(attacked, images[:1], labels[:1], queries=5000)
        assert len({len(batch) for batch in batches}) <= 16


@needs_library
class TestSeed:
    def test_decides_the_result(self, network, images, labels):
        attacked = attacks.classifier(network)
        first, second, other = (
            labels_only(attacked, images, labels, queries=300, seed=seed) for seed in (3, 3, 4)
        )
        np.testing.assert_array_equal(first, second)
        assert np.all((first != other).any(axis=(1, 2, 3)))

    def test_a_sample_does_not_depend_on_the_others(self, network, images, labels):
        attacked = attacks.classifier(network)
        together = labels_only(attacked, images, labels, queries=300)
        np.testing.assert_array_equal(
            labels_only(attacked, images[:3], labels[:3], queries=300), together[:3]
        )
        np.testing.assert_array_equal(
            labels_only(attacked, images[2:5], labels[2:5], queries=300, first_row=2), together[2:5]
        )
        others, their_labels = images[::-1].copy(), labels[::-1].copy()
        others[3], their_labels[3] = images[3], labels[3]
        among_others = labels_only(attacked, others, their_labels, queries=300)
        np.testing.assert_array_equal(among_others[3], together[3])

    def test_rows_are_searched_differently(self, network, images, labels):
        same = labels_only(attacks.classifier(network), images[[0, 0]], labels[[0, 0]], queries=300)
        assert (same[0] != same[1]).any()

    def test_numpys_global_generator_is_neither_used_nor_moved(self, network, images, labels):
        attacked, made = attacks.classifier(network), []
        for seed in (1, 2):
            np.random.seed(seed)  # noqa: NPY002
            before = np.random.get_state()  # noqa: NPY002
            made.append(labels_only(attacked, images[:2], labels[:2], queries=300))
            after = np.random.get_state()  # noqa: NPY002
            np.testing.assert_array_equal(before[1], after[1])
            assert before[2:] == after[2:]
        np.testing.assert_array_equal(*made)


@needs_library
def test_stops_when_asked_to(network, images, labels, monkeypatch):
    asked = []
    monkeypatch.setattr(interruption, "asked", lambda: asked.append(None) or len(asked) > 40)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    with pytest.raises(interruption.StoppedError):
        labels_only(attacks.classifier(network), images, labels, queries=5000)
    assert len(asked) == 41
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


class TestLibrary:
    def test_is_named_with_its_extra_where_it_is_missing(
        self, network, images, labels, monkeypatch
    ):
        monkeypatch.setattr(sys, "path", [])
        assert not ATTACKS["labels_only"].installed
        with pytest.raises(ModuleNotFoundError) as raised:
            labels_only(attacks.classifier(network), images, labels)
        assert "labels_only: expected its library" in str(raised.value)
        assert "pip install 'ddefense[labels-only]'" in str(raised.value)

    def test_is_another_one_than_that_of_the_same_module_name(self, tmp_path, monkeypatch):
        (tmp_path / "art").mkdir()
        (tmp_path / "art" / "__init__.py").touch()
        info = tmp_path / "art-6.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: art\nVersion: 6.5\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        assert not ATTACKS["labels_only"].installed

    def test_is_imported_only_for_the_attack(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "art", None)
        runpy.run_path(inspect.getfile(attacks.labels_only))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": 0}, "queries: expected an integer >= 1; received 0"),
        ({"seed": -1}, "seed: expected an integer >= 0; received -1"),
        ({"targets": np.zeros(12, np.int64)}, "targets: expected None"),
        ({"labels": np.zeros(3, np.int64)}, "labels: expected 12 classes in 0..2"),
        ({"labels": np.full(12, 3)}, "labels: expected 12 classes in 0..2"),
        ({"images": np.zeros((12, 4, 4, 1))}, "images: expected float32, received float64"),
        ({"images": np.zeros((12, 16), np.float32)}, "images: expected shape"),
    ],
)
def test_a_bad_argument_is_named(network, images, labels, changes, message):
    given = {"images": images, "labels": labels, "targets": None, **changes}
    arguments = {name: given.pop(name) for name in ("images", "labels", "targets")}
    with pytest.raises(ValueError, match=message):
        attacks.labels_only(attacks.classifier(network), **arguments, settings=LabelsOnly(**given))
