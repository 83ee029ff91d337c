"""JSMA against a plain one-sample implementation of the algorithm, and at its edges."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddefense import attack_catalog, attacks
from ddefense.attacks import Stop

CLASSES = 3
FEATURES = 16
TEMPERATURE = 5.0


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
            return x, changed, Stop.REACHED
        if len(changed) + 2 > max_features:
            return x, changed, Stop.BUDGET
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
def derivatives(network):
    return {
        name: attacks.forward_derivative(network, name, temperature=TEMPERATURE)
        for name in attack_catalog.JSMA_ATTACKS
    }


@pytest.fixture(scope="module")
def pairs(images):
    """Every image towards every class, its own included."""
    return np.repeat(images, CLASSES, axis=0), np.tile(np.arange(CLASSES), len(images))


@pytest.mark.slow
@pytest.mark.parametrize(("theta", "max_features"), [(1.0, 16), (-1.0, 16), (0.4, 6), (-0.4, 6)])
@pytest.mark.parametrize("name", attack_catalog.JSMA_ATTACKS)
def test_equals_the_plain_algorithm(
    network, build_network, jacobian, predict, derivatives, images, pairs, name, theta, max_features
):
    originals, targets = (given[:18] for given in pairs)
    double = build_network(dtype="float64")

    def maps(x, target):
        return reference_maps(name, network, double, x, target, jacobian)

    made = attacks.jsma(
        derivatives[name], originals, targets, theta=theta, max_features=max_features, batch_size=5
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
def test_keeps_its_promises(derivatives, predict, pairs, name, max_features, theta):
    originals, targets = pairs
    made = attacks.jsma(
        derivatives[name], originals, targets, theta=theta, max_features=max_features
    )
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
    assert set(made.stop.tolist()) <= set(Stop)
    reached = made.stop == Stop.REACHED
    np.testing.assert_array_equal(predict(made.images) == targets, reached)
    assert (made.num_features[made.stop == Stop.BUDGET] == max_features).all()


@pytest.mark.parametrize("name", attack_catalog.JSMA_ATTACKS)
def test_a_sample_already_given_the_target_stays(derivatives, predict, images, name):
    made = attacks.jsma(derivatives[name], images, predict(images))
    np.testing.assert_array_equal(made.images, images)
    assert not made.num_features.any()
    assert (made.stop == Stop.REACHED).all()


def test_leaves_its_arguments_alone(derivatives, pairs):
    originals, targets = (given.copy() for given in pairs)
    originals.flags.writeable = targets.flags.writeable = False
    made = attacks.jsma(derivatives["jsma_z"], originals, targets)
    assert made.num_features.any()
    np.testing.assert_array_equal(originals, pairs[0])


@pytest.mark.parametrize("name", attack_catalog.JSMA_ATTACKS)
def test_batching_does_not_matter(derivatives, pairs, name):
    alone = attacks.jsma(derivatives[name], *pairs, batch_size=1)
    for batch_size in (2, 7, 1000):
        together = attacks.jsma(derivatives[name], *pairs, batch_size=batch_size)
        np.testing.assert_array_equal(together.images, alone.images)
        np.testing.assert_array_equal(together.num_features, alone.num_features)
        np.testing.assert_array_equal(together.stop, alone.stop)


def test_the_order_of_samples_does_not_matter(derivatives, pairs):
    originals, targets = pairs
    order = np.random.default_rng(0).permutation(len(originals))
    straight = attacks.jsma(derivatives["jsma_z"], originals, targets, batch_size=4)
    mixed = attacks.jsma(derivatives["jsma_z"], originals[order], targets[order], batch_size=4)
    np.testing.assert_array_equal(mixed.images, straight.images[order])
    np.testing.assert_array_equal(mixed.num_features, straight.num_features[order])
    np.testing.assert_array_equal(mixed.stop, straight.stop[order])


def test_finished_samples_make_room_at_once(derivatives, pairs):
    sizes = []
    derivative = derivatives["jsma_z"]

    def recording(images, targets):
        sizes.append(len(images))
        return derivative.function(images, targets)

    made = attacks.jsma(
        dataclasses.replace(derivative, function=recording), *pairs, max_features=6, batch_size=4
    )
    assert len(set(made.num_features.tolist())) > 1
    # One evaluation per step and one that ends each sample; no place idle while any waits.
    assert sum(sizes) == int(made.num_features.sum()) // 2 + len(made.images)
    assert sizes[0] == 4
    assert sizes == sorted(sizes, reverse=True)
    assert sum(size < 4 for size in sizes) <= 6 // 2 + 1


def test_batches_come_in_few_shapes(derivatives, pairs):
    sizes = []
    derivative = derivatives["jsma_z"]

    def recording(images, targets):
        sizes.append(len(images))
        return derivative.function(images, targets)

    # 35 is no size of its own, but it is a full batch.
    attacks.jsma(dataclasses.replace(derivative, function=recording), *pairs, batch_size=35)
    assert 35 in sizes
    assert set(sizes) <= {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 35}


def test_a_saturated_network_stops_the_float32_reading_at_once(saturated, images):
    targets = (saturated(images).numpy().argmax(axis=1) + 1) % CLASSES
    made = attacks.jsma(attacks.forward_derivative(saturated, "jsma_f"), images, targets)
    assert (made.stop == Stop.ZERO_MAP).all()
    assert not made.num_features.any()
    np.testing.assert_array_equal(made.images, images)

    exact = attacks.jsma(attacks.forward_derivative(saturated, "jsma_f_exact"), images, targets)
    assert not (exact.stop == Stop.ZERO_MAP).any()
    assert (exact.stop == Stop.REACHED).any()


def linear(weights, bias=None):
    """A network whose logits are weights @ features + bias, on images of one row."""
    weights = np.asarray(weights, np.float32)
    images = keras.Input((1, weights.shape[1], 1))
    network = keras.Model(images, keras.layers.Dense(len(weights))(keras.layers.Flatten()(images)))
    network.set_weights([weights.T, np.zeros(len(weights)) if bias is None else np.array(bias)])
    return network


def attack_linear(weights, image, target, *, bias=None, name="jsma_z", **settings):
    derivative = attacks.forward_derivative(linear(weights, bias), name)
    images = np.array(image, np.float32).reshape(1, 1, -1, 1)
    made = attacks.jsma(derivative, images, np.array([target]), **settings)
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
    assert attack_linear(weights, [0] * 4, 1, **settings) == ([0, 1, 1, 0], 2, Stop.REACHED)
    settings["bias"] = [12, 0]
    # 7 against 5, so (0, 3) follows: 5 against 7.
    assert attack_linear(weights, [0] * 4, 1, **settings) == ([1] * 4, 4, Stop.REACHED)
    assert attack_linear(weights, [0] * 4, 1, max_features=2, **settings) == (
        [0, 1, 1, 0],
        2,
        Stop.BUDGET,
    )


def test_the_target_counts_when_the_last_pair_reaches_it():
    weights = [[-1, -2, -3, -1], [1, 2, 3, 1]]
    assert attack_linear(weights, [0] * 4, 1, bias=[12, 0], max_features=4)[1:] == (
        4,
        Stop.REACHED,
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
        ({"bounds": (0.0, 0.4)}, r"images: .*bounds \[0, 0.4\].*\[0.5, 0.5\]"),
        ({"targets": np.array([0])}, r"targets: .*2 classes in 0..2.*\[0\]"),
        ({"targets": np.array([[0], [1]])}, "targets: .*2 classes in 0..2"),
        ({"targets": np.array([0, 3])}, r"targets: .*2 classes in 0..2.*\[0, 3\]"),
        ({"targets": np.array([0, -1])}, r"targets: .*2 classes in 0..2.*-1"),
        ({"targets": np.array([0.0, 1.0])}, r"targets: .*2 classes in 0..2.*\[0., 1.\]"),
        ({"theta": 0.0}, "theta: .*not 0.*received 0.0"),
        ({"theta": float("nan")}, "theta: .*received nan"),
        ({"theta": float("inf")}, "theta: .*received inf"),
        ({"max_features": 3}, "max_features: .*even.*received 3"),
        ({"max_features": 0}, "max_features: .*>= 2.*received 0"),
        ({"max_features": -2}, "max_features: .*>= 2.*received -2"),
        ({"batch_size": 0}, "batch_size: .*at least 1.*received 0"),
    ],
)
def test_a_bad_argument_is_named(derivatives, changes, message):
    arguments = {"images": with_value(0.5), "targets": np.array([0, 1])} | changes
    with pytest.raises(ValueError, match=message):
        attacks.jsma(derivatives["jsma_z"], **arguments)
