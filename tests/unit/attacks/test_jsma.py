"""JSMA against a plain one-sample implementation of the algorithm, and at its edges."""

import dataclasses
import enum
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddefense import attack_catalog, attacks
from ddefense.attacks import JSMA
from ddefense.attacks.forward_derivative import ForwardDerivative

CLASSES = 3
FEATURES = 16
TEMPERATURE = 5.0


class Stop(enum.Enum):
    """Why an attack on a sample ended; done where the target is reached or the budget spent."""

    DONE = (False, False)
    NO_ADMISSIBLE_PAIR = (True, False)
    ZERO_MAP = (True, True)


@dataclasses.dataclass(frozen=True)
class Made:
    """Images, how many features of each were changed, and why each attack ended."""

    images: np.ndarray
    num_features: np.ndarray
    stop: list


def jsma(attacked, name, images, targets, *, batch_size=64, **settings):
    """Attacks images whose labels are other classes than the targets."""
    labels = (targets + 1) % attacked.num_classes
    settings = JSMA(reading=name, temperature=TEMPERATURE, **settings)
    made = attacks.jsma(attacked, images, labels, targets, settings=settings, batch_size=batch_size)
    flags = zip(made.details["no_admissible_pair"], made.details["zero_maps"], strict=True)
    return Made(made.images, 2 * made.details["steps"], [Stop((a, b)) for a, b in flags])


def reference_maps(name, network, double, image, target, jacobian):
    """Alpha and beta of one image, from all rows of its Jacobian."""
    outputs = {
        "jsma_z": lambda z: z,
        "jsma_f_temperature": lambda z: tf.nn.softmax(z / TEMPERATURE),
    }.get(name, tf.nn.softmax)
    # F_t (1 - F_t), by which the exact reading differs, ranks nothing in float64.
    network = double if name == "jsma_f_exact" else network
    rows = jacobian(network, image.reshape(1, 4, 4, 1), outputs)[0]
    alpha = rows[target]
    if name in ("jsma_z", "jsma_f_literal"):
        return alpha, np.delete(rows, target, axis=0).sum(axis=0)
    return alpha, -alpha


def reference_pair(alpha, beta, domain, theta):
    best, chosen = 0, None
    for p, q in itertools.combinations(sorted(domain), 2):
        a, b = alpha[p] + alpha[q], beta[p] + beta[q]
        right_way = (a > 0 and b < 0) if theta > 0 else (a < 0 and b > 0)
        if right_way and -a * b > best:
            best, chosen = -a * b, (p, q)
    return chosen


def reference_jsma(maps, predict, image, target, *, theta, max_features):
    """The algorithm of the JSMA paper, one sample and one pair at a time."""
    x = image.reshape(-1).copy()
    domain = {i for i in range(len(x)) if (x[i] < 1 if theta > 0 else x[i] > 0)}
    changed = []
    while True:
        if predict(x.reshape(1, 4, 4, 1))[0] == target:
            return x, changed, Stop.DONE
        if len(changed) + 2 > max_features:
            return x, changed, Stop.DONE
        alpha, beta = maps(x, target)
        if domain and not any(alpha[i] or beta[i] for i in domain):
            return x, changed, Stop.ZERO_MAP
        pair = reference_pair(alpha, beta, domain, theta)
        if pair is None:
            return x, changed, Stop.NO_ADMISSIBLE_PAIR
        for i in pair:
            x[i] = min(max(x[i] + np.float32(theta), 0), 1)
            domain.remove(i)
            changed.append(i)


@pytest.fixture(scope="module")
def attacked(network):
    return attacks.classifier(network)


@pytest.fixture(scope="module")
def pairs(images):
    """Every image towards every class, its own included."""
    return np.repeat(images, CLASSES, axis=0), np.tile(np.arange(CLASSES), len(images))


@pytest.mark.slow
@pytest.mark.parametrize(("theta", "max_features"), [(1.0, 16), (-1.0, 16), (0.4, 6), (-0.4, 6)])
@pytest.mark.parametrize("name", attack_catalog.JSMA_ATTACKS)
def test_equals_the_plain_algorithm(
    network, build_network, jacobian, predict, attacked, images, pairs, name, theta, max_features
):
    originals, targets = (given[:18] for given in pairs)
    double = build_network(dtype="float64")

    def maps(x, target):
        return reference_maps(name, network, double, x, target, jacobian)

    made = jsma(
        attacked, name, originals, targets, theta=theta, max_features=max_features, batch_size=5
    )
    for i, (image, target) in enumerate(zip(originals, targets, strict=True)):
        x, changed, stop = reference_jsma(
            maps, predict, image, target, theta=theta, max_features=max_features
        )
        np.testing.assert_array_equal(made.images[i].reshape(-1), x)
        assert made.num_features[i] == len(changed)
        assert made.stop[i] == stop
    assert made.num_features.max() >= 4


@pytest.mark.slow
@pytest.mark.parametrize("theta", [1.0, -1.0, 0.3, -0.3])
@pytest.mark.parametrize("max_features", [2, 6, 16, 40])
@pytest.mark.parametrize("name", ["jsma_f", "jsma_z"])
def test_keeps_its_promises(attacked, predict, pairs, name, max_features, theta):
    originals, targets = pairs
    made = jsma(attacked, name, originals, targets, theta=theta, max_features=max_features)
    before, after = originals.reshape(-1, FEATURES), made.images.reshape(-1, FEATURES)
    assert made.images.dtype == np.float32
    assert made.images.shape == originals.shape
    assert after.min() >= 0
    assert after.max() <= 1
    np.testing.assert_array_equal((before != after).sum(axis=1), made.num_features)
    assert (made.num_features <= max_features).all()
    assert (made.num_features % 2 == 0).all()
    # A changed feature moved once, by theta or to the bound.
    moved = np.clip(before + np.float32(theta), 0, 1)
    np.testing.assert_array_equal(after, np.where(before != after, moved, before))
    reached = predict(made.images) == targets
    spent = made.num_features == max_features
    stuck = np.array([stop is not Stop.DONE for stop in made.stop])
    np.testing.assert_array_equal(stuck, ~reached & ~spent)


@pytest.mark.parametrize("name", attack_catalog.JSMA_ATTACKS)
def test_a_sample_already_given_the_target_stays(attacked, predict, images, name):
    made = jsma(attacked, name, images, predict(images))
    np.testing.assert_array_equal(made.images, images)
    assert not made.num_features.any()
    assert set(made.stop) == {Stop.DONE}


def test_leaves_its_arguments_alone(attacked, pairs):
    originals, targets = (given.copy() for given in pairs)
    originals.flags.writeable = targets.flags.writeable = False
    made = jsma(attacked, "jsma_z", originals, targets)
    assert made.num_features.any()
    np.testing.assert_array_equal(originals, pairs[0])


@pytest.mark.parametrize("name", attack_catalog.JSMA_ATTACKS)
def test_batching_does_not_matter(attacked, pairs, name):
    alone = jsma(attacked, name, *pairs, batch_size=1)
    for batch_size in (2, 7, 1000):
        together = jsma(attacked, name, *pairs, batch_size=batch_size)
        np.testing.assert_array_equal(together.images, alone.images)
        np.testing.assert_array_equal(together.num_features, alone.num_features)
        assert together.stop == alone.stop


def test_the_order_of_samples_does_not_matter(attacked, pairs):
    originals, targets = pairs
    order = np.random.default_rng(0).permutation(len(originals))
    straight = jsma(attacked, "jsma_z", originals, targets, batch_size=4)
    mixed = jsma(attacked, "jsma_z", originals[order], targets[order], batch_size=4)
    np.testing.assert_array_equal(mixed.images, straight.images[order])
    np.testing.assert_array_equal(mixed.num_features, straight.num_features[order])
    assert mixed.stop == [straight.stop[row] for row in order]


@pytest.fixture
def sizes(monkeypatch):
    """Of the batches of which the forward derivative is taken."""
    found, call = [], ForwardDerivative.__call__

    def recording(self, images, targets):
        found.append(len(images))
        return call(self, images, targets)

    monkeypatch.setattr(ForwardDerivative, "__call__", recording)
    return found


def test_finished_samples_make_room_at_once(attacked, pairs, sizes):
    made = jsma(attacked, "jsma_z", *pairs, max_features=6, batch_size=4)
    assert len(set(made.num_features.tolist())) > 1
    # One evaluation per step and one that ends each sample; no place idle while any waits.
    assert sum(sizes) == int(made.num_features.sum()) // 2 + len(made.images)
    assert sizes[0] == 4
    assert sizes == sorted(sizes, reverse=True)
    assert sum(size < 4 for size in sizes) <= 6 // 2 + 1


def test_batches_come_in_few_shapes(attacked, pairs, sizes):
    # 35 is no size of its own, but it is a full batch.
    jsma(attacked, "jsma_z", *pairs, batch_size=35)
    assert 35 in sizes
    assert set(sizes) <= {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 35}


def test_a_saturated_network_stops_the_float32_reading_at_once(saturated, images):
    targets = (saturated(images).numpy().argmax(axis=1) + 1) % CLASSES
    attacked = attacks.classifier(saturated)
    made = jsma(attacked, "jsma_f", images, targets)
    assert set(made.stop) == {Stop.ZERO_MAP}
    assert not made.num_features.any()
    np.testing.assert_array_equal(made.images, images)

    exact = jsma(attacked, "jsma_f_exact", images, targets)
    assert Stop.ZERO_MAP not in exact.stop
    assert (saturated(exact.images).numpy().argmax(axis=1) == targets).any()


def linear(weights, bias=None):
    """A network whose logits are weights @ features + bias, on images of one row."""
    weights = np.asarray(weights, np.float32)
    images = keras.Input((1, weights.shape[1], 1))
    network = keras.Model(images, keras.layers.Dense(len(weights))(keras.layers.Flatten()(images)))
    network.set_weights([weights.T, np.zeros(len(weights)) if bias is None else np.array(bias)])
    return network


def attack_linear(
    weights, image, target, *, bias=None, name="jsma_z", bounds=(0.0, 1.0), **settings
):
    attacked = attacks.classifier(linear(weights, bias), bounds=bounds)
    images = np.array(image, np.float32).reshape(1, 1, -1, 1)
    made = jsma(attacked, name, images, np.array([target]), **settings)
    return made.images.reshape(-1).tolist(), int(made.num_features[0]), made.stop[0]


@pytest.mark.parametrize(
    ("weights", "theta"),
    [
        ([[1, 1, 1, 1], [-1, -1, -1, -1]], 1.0),  # every feature lowers the target
        ([[9, 9, 9, 9], [1, 1, 1, 1]], 1.0),  # every feature raises the other class too
        ([[-1, -1, -1, -1], [1, 1, 1, 1]], -1.0),
    ],
)
def test_stops_where_no_pair_qualifies(weights, theta):
    image = [0.5, 0.25, 0.75, 0.5]
    assert attack_linear(weights, image, 1, bias=[50, 0], theta=theta) == (
        image,
        0,
        Stop.NO_ADMISSIBLE_PAIR,
    )


def test_a_logit_that_does_not_move_stops_with_a_zero_map():
    image = [0.5, 0.5]
    assert attack_linear(np.zeros((2, 2)), image, 1, bias=[2, 0]) == (image, 0, Stop.ZERO_MAP)


def test_one_feature_left_over_is_not_changed():
    weights = [[-1, -2, -3], [1, 2, 3]]
    assert attack_linear(weights, [0, 0, 0], 1, bias=[100, 0]) == (
        [0, 1, 1],
        2,
        Stop.NO_ADMISSIBLE_PAIR,
    )


@pytest.mark.parametrize("name", ["jsma_f_exact", "jsma_z"])
def test_an_image_at_the_bound_has_nothing_to_change(name):
    # Its forward derivative is not zero, so this is no zero map.
    image = [1, 1, 1]
    assert attack_linear([[-1, -2, -3], [1, 2, 3]], image, 1, bias=[100, 0], name=name) == (
        image,
        0,
        Stop.NO_ADMISSIBLE_PAIR,
    )


def test_changes_the_pairs_that_count_in_their_order():
    # Scores (a_p + a_q)(c_p + c_q): (1, 2) gives 5 * 5 = 25, then (0, 3) gives 2 * 2.
    weights = [[-1, -2, -3, -1], [1, 2, 3, 1]]
    settings = {"bias": [8, 0], "name": "jsma_z"}
    # After (1, 2): -5 + 8 = 3 against 5.
    assert attack_linear(weights, [0] * 4, 1, **settings) == (
        [0, 1, 1, 0],
        2,
        Stop.DONE,
    )
    settings["bias"] = [12, 0]
    # 7 against 5, so (0, 3) follows: 5 against 7.
    assert attack_linear(weights, [0] * 4, 1, **settings) == ([1] * 4, 4, Stop.DONE)
    assert attack_linear(weights, [0] * 4, 1, max_features=2, **settings) == (
        [0, 1, 1, 0],
        2,
        Stop.DONE,
    )


def test_the_target_counts_when_the_last_pair_reaches_it():
    weights = [[-1, -2, -3, -1], [1, 2, 3, 1]]
    assert attack_linear(weights, [0] * 4, 1, bias=[12, 0], max_features=4)[1:] == (
        4,
        Stop.DONE,
    )


def test_bounds_other_than_0_and_1():
    weights = [[-1, -2, -3, -9], [1, 2, 3, 9]]
    # Feature 3 is at its bound; 1 and 2 are clipped to it.
    image, changed, _ = attack_linear(
        weights, [-2, -0.5, 0, 0.25], 1, bias=[100, 0], bounds=(-2, 0.25), max_features=2
    )
    assert image == [-2, 0.25, 0.25, 0.25]
    assert changed == 2
    image, changed, _ = attack_linear(
        weights, [-2, -0.5, 0, 0.25], 0, bias=[-100, 0], bounds=(-2, 0.25), theta=-1, max_features=2
    )
    assert image == [-2, -0.5, -1, -0.75]
    assert changed == 2


def with_value(value):
    images = np.full((2, 4, 4, 1), 0.5, np.float32)
    images[1, 2, 3, 0] = value
    return images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": with_value(0.5)[:, :3]}, r"images: .*\[N >= 1, 4, 4, 1\].*\(2, 3, 4, 1\)"),
        ({"images": with_value(0.5)[0]}, r"images: .*\[N >= 1, 4, 4, 1\].*\(4, 4, 1\)"),
        (
            {"images": with_value(0.5)[:0], "targets": np.array([], np.int64)},
            r"images: .*\[N >= 1, 4, 4, 1\].*\(0, 4, 4, 1\)",
        ),
        ({"images": with_value(0.5).astype(np.float64)}, "images: .*float32.*float64"),
        ({"images": np.ones((2, 4, 4, 1), np.uint8)}, "images: .*float32.*uint8"),
        ({"images": with_value(1.5)}, r"images: .*bounds \[0, 1\].*\[0.5, 1.5\]"),
        ({"images": with_value(-0.1)}, r"images: .*bounds \[0, 1\].*\[-0.1, 0.5\]"),
        ({"images": with_value(np.nan)}, r"images: .*bounds \[0, 1\].*nan"),
        ({"images": with_value(np.inf)}, r"images: .*bounds \[0, 1\].*inf"),
        ({"targets": np.array([0])}, r"targets: .*2 classes in 0..2.*\[0\]"),
        ({"targets": np.array([[0], [1]])}, "targets: .*2 classes in 0..2"),
        ({"targets": np.array([0, 3])}, r"targets: .*2 classes in 0..2.*\[0, 3\]"),
        ({"targets": np.array([0, -1])}, r"targets: .*2 classes in 0..2.*-1"),
        ({"targets": np.array([0.0, 1.0])}, r"targets: .*2 classes in 0..2.*\[0., 1.\]"),
        ({"targets": None}, "targets: .*None"),
        ({"targets": np.array([2, 1])}, "targets: .*other than the label"),
        ({"temperature": 0.0}, "temperature: .*received 0.0"),
        ({"reading": "fgsm"}, "attack: .*received 'fgsm'"),
        ({"theta": 0.0}, "theta: .*other than 0.*received 0.0"),
        ({"theta": float("nan")}, "theta: .*received nan"),
        ({"theta": float("inf")}, "theta: .*received inf"),
        ({"max_features": 3}, "max_features: .*even.*received 3"),
        ({"max_features": 0}, "max_features: .*>= 2.*received 0"),
        ({"max_features": -2}, "max_features: .*>= 2.*received -2"),
        ({"batch_size": 0}, "batch_size: .*>= 1.*received 0"),
    ],
)
def test_a_bad_argument_is_named(attacked, changes, message):
    given = {"images": with_value(0.5), "targets": np.array([0, 1]), "batch_size": 2} | changes
    arguments = {name: given.pop(name) for name in ("images", "targets", "batch_size")}
    labels = np.full(len(arguments["images"]), 2)
    with pytest.raises(ValueError, match=message):
        attacks.jsma(attacked, labels=labels, **arguments, settings=JSMA(**given))
