"""Many projected steps: against a plain implementation, and what restarts and starts may do."""

import functools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ddefense import attacks, interruption
from ddefense.attacks import PGD, sign_attack

SHAPE = (4, 4, 1)


def pgd_linf(*given, **settings):
    return attacks.pgd_linf(*given, **settings).images


def make(**changes):
    return PGD(**({"epsilon": 0.2, "steps": 10, "loss": "logits"} | changes))


@pytest.fixture(scope="module")
def attacked(network):
    return attacks.classifier(network)


@pytest.fixture(scope="module")
def within(network):
    """The network with other bounds."""
    return functools.cache(lambda low, high: attacks.classifier(network, bounds=(low, high)))


@pytest.fixture(scope="module")
def labels(network, images):
    return network(images).numpy().argmax(axis=1)


def reference_pgd(network, images, start, classes, *, sign, epsilon, step_size, steps, bounds):
    """Step by step, outside a graph, one-hot cross-entropy of the logits."""
    x, one_hot = tf.constant(start), tf.one_hot(classes, 3)
    for _ in range(steps):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits(one_hot, network(x)))
        x = x + sign * step_size * tf.sign(tape.gradient(loss, x))
        x = tf.clip_by_value(x, images - epsilon, images + epsilon)
        x = tf.clip_by_value(x, *bounds)
    return x.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 2.0)])
@pytest.mark.parametrize("step_size", [None, 0.03])
def test_equals_the_plain_algorithm(network, within, images, labels, targeted, bounds, step_size):
    targets = (labels + 1) % 3 if targeted else None
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, images.shape)
    start = np.clip(images + noise, *bounds).astype(np.float32)
    made = pgd_linf(
        within(*bounds),
        images,
        labels,
        targets,
        settings=make(step_size=step_size),
        start=start,
    )
    expected = reference_pgd(
        network,
        images,
        start,
        labels if targets is None else targets,
        sign=-1 if targeted else 1,
        epsilon=0.2,
        step_size=0.05 if step_size is None else step_size,  # 2.5 * 0.2 / 10
        steps=10,
        bounds=bounds,
    )
    np.testing.assert_allclose(made, expected, atol=1e-6)
    assert made.dtype == np.float32


def test_on_a_linear_network_by_hand():
    # The loss of class 0 rises along (-1, +1); the gradient of the third feature is zero.
    given = keras.Input((1, 3, 1))
    network = keras.Model(given, keras.layers.Dense(2)(keras.layers.Flatten()(given)))
    network.set_weights([np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), np.zeros(2)])
    images = np.array([0.5, 0.9, 0.5], np.float32).reshape(1, 1, 3, 1)
    settings = make(epsilon=0.3, step_size=0.125, random_start=False)
    attacked = attacks.classifier(network)
    for steps, expected in ((1, (0.375, 1.0, 0.5)), (2, (0.25, 1.0, 0.5)), (3, (0.2, 1.0, 0.5))):
        made = pgd_linf(
            attacked, images, np.array([0]), settings=make(**vars(settings) | {"steps": steps})
        )
        np.testing.assert_allclose(made.ravel(), expected, rtol=1e-6)


def test_one_step_from_the_image_is_the_fast_gradient_sign(attacked, images, labels):
    for loss in ("softmax", "logits"):
        settings = make(steps=1, step_size=0.2, random_start=False, loss=loss)
        np.testing.assert_array_equal(
            pgd_linf(attacked, images, labels, settings=settings),
            attacks.fgsm(attacked, images, labels, settings=settings).images,
        )


@st.composite
def attempts(draw):
    count = draw(st.integers(1, 4))
    low, high = draw(st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.25, 0.5)]))
    pixels = st.floats(low, high, width=32)
    images = draw(npst.arrays(np.float32, (count, *SHAPE), elements=pixels))
    labels = draw(npst.arrays(np.int64, count, elements=st.integers(0, 2)))
    targets = (labels + draw(st.integers(1, 2))) % 3 if draw(st.booleans()) else None
    settings = make(
        epsilon=draw(st.sampled_from([1e-3, 0.1, 0.3, 2.0])),
        steps=draw(st.integers(1, 6)),
        step_size=draw(st.sampled_from([None, 0.01, 5.0])),
        restarts=draw(st.integers(1, 3)),
        loss=draw(st.sampled_from(["softmax", "logits"])),
        seed=draw(st.integers(0, 9)),
    )
    return images, labels, targets, (low, high), settings


@given(attempts())
@examples(max_examples=50, derandomize=True, database=None, deadline=None)
def test_stays_in_the_ball_and_the_bounds(within, attempt):
    images, labels, targets, (low, high), settings = attempt
    made = pgd_linf(within(low, high), images, labels, targets, settings=settings)
    assert made.shape == images.shape
    assert made.dtype == np.float32
    assert made.min() >= low
    assert made.max() <= high
    assert np.abs(made - images).max() <= settings.epsilon + 1e-6


@pytest.mark.parametrize("targeted", [False, True])
def test_more_of_them_err_than_after_one_step(network, attacked, images, labels, targeted):
    targets = (labels + 1) % 3 if targeted else None

    def share(made):
        predicted = network(made).numpy().argmax(axis=1)
        return (predicted != labels if targets is None else predicted == targets).mean()

    settings = make(steps=20)
    one = share(attacks.fgsm(attacked, images, labels, targets, settings=settings).images)
    many = share(pgd_linf(attacked, images, labels, targets, settings=settings))
    assert many >= one
    assert many > 0.5


def test_a_saturated_softmax_leaves_images_at_their_start(saturated, images, labels):
    attacked = attacks.classifier(saturated)
    still = make(loss="softmax", random_start=False)
    np.testing.assert_array_equal(pgd_linf(attacked, images, labels, settings=still), images)
    start = np.clip(images + np.float32(0.01), 0, 1)
    assert (saturated(start).numpy().argmax(axis=1) == labels).all()
    found = pgd_linf(attacked, images, labels, settings=make(loss="softmax"), start=start)
    np.testing.assert_array_equal(found, start)
    healed = make(temperature=1000.0, random_start=False)
    made = pgd_linf(attacked, images, labels, settings=healed)
    assert (made != images).reshape(len(images), -1).any(axis=1).all()
    assert (saturated(made).numpy().argmax(axis=1) != labels).mean() > 0.5


class TestStart:
    def test_outside_the_ball_is_clipped_first(self, attacked, images, labels):
        far = (images + np.float32(0.5)).astype(np.float32)
        near = np.clip(far, images - np.float32(0.2), images + np.float32(0.2)).clip(0, 1)
        np.testing.assert_array_equal(
            pgd_linf(attacked, images, labels, settings=make(), start=far),
            pgd_linf(attacked, images, labels, settings=make(), start=near),
        )

    def test_random_starts_fill_the_ball_and_differ(self, images):
        """Of a network without a gradient nothing but the start is seen."""
        attacked = attacks.classifier(
            lambda x: tf.tile([[0.0, 2.0, 1.0]], [tf.shape(x)[0], 1]), image_shape=SHAPE
        )
        many = np.full((500, *SHAPE), 0.5, np.float32)
        labels = np.ones(500, np.int64)
        moved = pgd_linf(attacked, many, labels, settings=make()) - many
        assert np.abs(moved).max() <= 0.2 + 1e-6
        # 8,000 uniform numbers: mean 0 +- 0.0013, deviation 0.2 / sqrt(3) +- 1 %.
        assert abs(moved.mean()) < 0.006
        assert moved.std() == pytest.approx(0.2 / np.sqrt(3), rel=0.03)
        assert len(np.unique(moved)) > 7000
        other = pgd_linf(attacked, many, labels, settings=make(seed=1)) - many
        assert abs(np.corrcoef(moved.ravel(), other.ravel())[0, 1]) < 0.05
        clipped = pgd_linf(attacked, images, labels[:12], settings=make())
        assert clipped.min() == 0
        assert clipped.max() == 1
        still = make(random_start=False)
        np.testing.assert_array_equal(
            pgd_linf(attacked, images, labels[:12], settings=still), images
        )

    def test_of_another_shape_or_type_is_refused(self, attacked, images, labels):
        for start, message in (
            (images[:3], "of the shape of images, (12, 4, 4, 1), received float32 of shape (3, "),
            (images.astype(np.float64), "received float64 of shape (12, 4, 4, 1)."),
        ):
            with pytest.raises(ValueError, match=re.escape(message)):
                pgd_linf(attacked, images, labels, settings=make(), start=start)


def test_the_same_seed_gives_the_same_bits_and_another_one_others(attacked, images, labels):
    first, second, other = (
        pgd_linf(attacked, images, labels, settings=make(seed=seed)) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


@pytest.mark.parametrize("restart", [0, 2])
def test_a_random_start_is_that_of_the_row_in_the_whole_list(images, restart):
    whole = attacks.random_start(images, make(epsilon=0.1), restart)
    assert (np.abs(whole - images) <= 0.1 + 1e-6).all()
    part = attacks.random_start(images[2:5], make(epsilon=0.1), restart, first_row=2)
    np.testing.assert_array_equal(part, whole[2:5])
    assert (part != attacks.random_start(images[2:5], make(epsilon=0.1), restart)).any()


def test_a_part_of_a_list_is_attacked_as_within_it(attacked, images, labels):
    settings = make(epsilon=0.05, restarts=3)
    together = pgd_linf(attacked, images, labels, settings=settings)
    part = pgd_linf(attacked, images[5:], labels[5:], settings=settings, first_row=5)
    np.testing.assert_allclose(part, together[5:], atol=1e-6)


@pytest.mark.parametrize("restarts", [1, 3])
def test_batching_does_not_matter_and_images_do_not_depend_on_those_behind(
    attacked, images, labels, restarts
):
    settings = make(epsilon=0.05, restarts=restarts)
    together = pgd_linf(attacked, images, labels, settings=settings)
    for batch_size in (1, 5, 12):
        parts = pgd_linf(attacked, images, labels, settings=settings, batch_size=batch_size)
        np.testing.assert_allclose(parts, together, atol=1e-6)
    few = pgd_linf(attacked, images[:5], labels[:5], settings=settings)
    np.testing.assert_allclose(few, together[:5], atol=1e-6)


class TestRestarts:
    @pytest.fixture
    def bumpy(self):
        """Errs in a narrow valley around 0.3 of the first feature; the slope leads away from it.

        Only a start within the valley's reach finds it, so restarts succeed one by one.
        """

        def function(images):
            x = images[:, 0, 0, 0]
            wrong = tf.where(tf.abs(x - 0.3) < 0.02, 1.0, -1.0) + 0 * x
            # Away from the valley the loss rises to the right, where nothing errs.
            return tf.stack([-0.1 * x, wrong + 0.0 * x, tf.fill(tf.shape(x), -5.0)], axis=1)

        return attacks.classifier(function, image_shape=SHAPE)

    def run(self, bumpy, restarts, targets=None):
        images = np.full((40, *SHAPE), 0.5, np.float32)
        settings = make(epsilon=0.3, steps=1, step_size=1e-3, restarts=restarts)
        labels = np.zeros(40, np.int64)
        made = pgd_linf(bumpy, images, labels, targets, settings=settings)
        return made, bumpy(made).numpy().argmax(axis=1)

    @pytest.mark.parametrize("targets", [None, np.ones(40, np.int64)])
    def test_keep_first_successes_and_touch_failures_only(self, bumpy, targets):
        earlier, given = self.run(bumpy, 1, targets)
        successes = [(given == 1).sum()]
        for restarts in (2, 3, 10, 40):
            made, predicted = self.run(bumpy, restarts, targets)
            kept = given == 1
            np.testing.assert_array_equal(made[kept], earlier[kept])
            # Who never succeeds keeps the first restart's image.
            never = predicted != 1
            np.testing.assert_array_equal(made[never], earlier[never])
            earlier, given = made, predicted
            successes.append((predicted == 1).sum())
        assert successes == sorted(successes)
        assert successes[0] < 10
        assert successes[-1] > 20

    def test_attack_only_those_that_failed(self, bumpy, monkeypatch):
        rows, judged = [], []
        run, predict = sign_attack.run, sign_attack.predict

        def counting_run(attacked, images, *arguments, **steps):
            rows.append(len(images))
            return run(attacked, images, *arguments, **steps)

        def counting_predict(*arguments):
            judged.append(predict(*arguments))
            return judged[-1]

        monkeypatch.setattr(sign_attack, "run", counting_run)
        monkeypatch.setattr(sign_attack, "predict", counting_predict)
        self.run(bumpy, 1)
        assert (rows, judged) == ([40], [])
        rows.clear()
        self.run(bumpy, 5)
        left = 40
        for attempted, predicted in zip(rows, judged, strict=True):
            assert attempted == left
            left -= int((predicted != 0).sum())
        assert 0 < left < 40

    def test_end_when_none_is_left(self, attacked, images, labels, monkeypatch):
        wrong = (labels + 1) % 3  # given as labels: every image errs already
        calls = []
        run = sign_attack.run
        monkeypatch.setattr(
            sign_attack, "run", lambda *given, **steps: calls.append(None) or run(*given, **steps)
        )
        settings = make(epsilon=1e-4, restarts=5)
        pgd_linf(attacked, images, wrong, settings=settings)
        assert len(calls) == 1

    def test_use_the_given_start_first(self, bumpy):
        images = np.full((2, *SHAPE), 0.5, np.float32)
        start = images.copy()
        start[0, 0, 0, 0] = 0.3
        settings = make(epsilon=0.3, steps=1, step_size=1e-3, restarts=3)
        made = pgd_linf(bumpy, images, np.zeros(2, np.int64), settings=settings, start=start)
        np.testing.assert_allclose(made[0], start[0], atol=2e-3)


def test_leaves_its_arguments_alone(attacked, images, labels):
    originals, given, start = images.copy(), labels.copy(), images.copy()
    for array in (originals, given, start):
        array.flags.writeable = False
    made = pgd_linf(attacked, originals, given, settings=make(restarts=2), start=start)
    assert (made != originals).any()
    np.testing.assert_array_equal(originals, images)


def test_stops_between_batches_when_asked_to(attacked, images, labels, monkeypatch):
    monkeypatch.setattr(interruption, "asked", lambda: True)
    with pytest.raises(interruption.StoppedError):
        pgd_linf(attacked, images, labels, settings=make())
