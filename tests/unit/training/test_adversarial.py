"""Training on perturbed images: what the hook is given, and that it can be interrupted."""

import contextlib
import dataclasses
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddefense import attacks, distillation, interruption, networks, training
from ddefense.attacks import PGD
from ddefense.layers import TemperatureSoftmax
from ddefense.progress import Progress

SETTINGS = training.TrainingSettings(
    temperature=1.0, epochs=2, batch_size=4, learning_rate=0.3, momentum=0.5, seed=3
)
LABELS = distillation.hard_labels(np.arange(10) % 3, 3)
EPSILON = 0.2

# An epoch of 119 images has 60 steps; the loop can stop between calls of 25 steps.
LONG = dataclasses.replace(SETTINGS, epochs=2, batch_size=2)
MANY_IMAGES = np.random.default_rng(0).uniform(size=(119, 4, 4, 1)).astype(np.float32)
MANY_LABELS = distillation.hard_labels(np.arange(119) % 3, 3)


def assert_same_bits(one, other):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def differ(one, other):
    return any((a != b).any() for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


def perturbation(network, **changes):
    settings = {"epsilon": EPSILON, "steps": 3, "seed": 5} | changes
    return attacks.pgd_perturbation(networks.logits_of(network), **settings)


def perturbed(network, images, labels, step, **changes):
    """What the perturbation makes of images at an optimizer step, as in training in a graph."""
    function = tf.function(perturbation(network, **changes))
    return function(tf.constant(images), tf.constant(labels), tf.constant(step, tf.int64)).numpy()


class TestHook:
    @pytest.mark.slow
    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_is_given_the_images_the_labels_and_the_steps_taken_before(
        self, make_tiny_network, tiny_images, jit_compile
    ):
        """Against momentum descent on images that were changed by hand."""
        soft = np.random.default_rng(0).dirichlet(np.ones(3), size=10).astype(np.float32)

        def perturb(images, labels, step):
            assert step.dtype == tf.int64
            return images + labels[:, :1, None, None] * tf.cast(step, tf.float32)

        network, reference = make_tiny_network(), make_tiny_network()
        settings = dataclasses.replace(SETTINGS, jit_compile=jit_compile)
        history = training.fit(network, tiny_images, soft, settings, perturb=perturb)

        velocities = [np.zeros(w.shape, np.float32) for w in reference.trainable_variables]
        losses = []
        for epoch in range(2):
            order = np.random.default_rng([3, epoch]).permutation(10)
            for batch in (order[:4], order[4:8], order[8:]):
                moved = tiny_images[batch] + soft[batch, :1, None, None] * np.float32(len(losses))
                with tf.GradientTape() as tape:
                    probabilities = reference(moved, training=True)
                    loss = -tf.reduce_mean(
                        tf.reduce_sum(soft[batch] * tf.math.log(probabilities), axis=1)
                    )
                gradients = tape.gradient(loss, reference.trainable_variables)
                for i, gradient in enumerate(gradients):
                    velocities[i] = 0.5 * velocities[i] - 0.3 * gradient.numpy()
                    reference.trainable_variables[i].assign_add(velocities[i])
                losses.append(float(loss))
        np.testing.assert_allclose(history.step_loss, losses, rtol=1e-4)
        for found, expected in zip(network.get_weights(), reference.get_weights(), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("dropout", [0.0, 0.5])
    def test_that_changes_nothing_gives_the_bits_of_none(
        self, make_tiny_network, tiny_images, dropout
    ):
        plain, hooked = (make_tiny_network(dropout=dropout) for _ in range(2))
        expected = training.fit(plain, tiny_images, LABELS, SETTINGS)
        found = training.fit(
            hooked, tiny_images, LABELS, SETTINGS, perturb=lambda images, labels, step: images
        )
        assert_same_bits(hooked, plain)
        np.testing.assert_array_equal(found.step_loss, expected.step_loss)

    def test_leaves_the_graph_alone_where_there_is_none(self, make_tiny_network, operations_of):
        def operations(*perturb):
            logits = networks.logits_of(make_tiny_network())
            steps = training.make_train_steps(
                logits, keras.optimizers.SGD(0.1), 1.0, 4, False, *perturb
            )
            return operations_of(steps)

        assert operations() == operations(None)
        assert len(operations(lambda images, labels, step: images + 1)) > len(operations())

    def test_is_followed_by_dropout(self, make_tiny_network, tiny_images):
        network = make_tiny_network(dropout=0.5)
        still = dataclasses.replace(SETTINGS, batch_size=10, epochs=4, learning_rate=1e-12)
        history = training.fit(
            network, tiny_images, LABELS, still, perturb=lambda images, labels, step: images
        )
        assert len(set(history.step_loss.tolist())) == 4


class TestPerturbation:
    @pytest.mark.parametrize("bounds", [(0.0, 1.0), (-0.5, 1.25)])
    def test_is_pgd_on_the_logits_from_a_start_of_its_own(
        self, make_tiny_network, tiny_images, bounds
    ):
        network = make_tiny_network(temperature=7.0, dropout=0.5)
        found = perturbed(network, tiny_images, LABELS, 11, bounds=bounds)
        noise = tf.random.stateless_uniform(
            tiny_images.shape, [5, 11], minval=-1.0, maxval=1.0, alg="philox"
        )
        expected = attacks.pgd_linf(
            attacks.classifier(networks.logits_of(network), bounds=bounds),
            tiny_images,
            LABELS.argmax(axis=1),
            settings=PGD(epsilon=EPSILON, steps=3, loss="logits"),
            start=tiny_images + np.float32(EPSILON) * noise.numpy(),
        )
        np.testing.assert_allclose(found, expected.images, atol=1e-6)
        assert np.abs(found - tiny_images).max() == pytest.approx(EPSILON, abs=1e-6)

    def test_depends_on_the_seed_and_the_step_alone(self, make_tiny_network, tiny_images):
        network = make_tiny_network(dropout=0.5)
        first = perturbed(network, tiny_images, LABELS, 4)
        np.testing.assert_array_equal(perturbed(network, tiny_images, LABELS, 4), first)
        assert (perturbed(network, tiny_images, LABELS, 5) != first).any()
        assert (perturbed(network, tiny_images, LABELS, 4, seed=6) != first).any()

    def test_takes_the_arg_max_of_soft_labels(self, make_tiny_network, tiny_images):
        network = make_tiny_network()
        soft = (0.4 * LABELS + 0.2).astype(np.float32)
        np.testing.assert_array_equal(
            perturbed(network, tiny_images, soft, 1), perturbed(network, tiny_images, LABELS, 1)
        )

    @pytest.mark.parametrize(
        ("step", "expected"), [(0, 0.0), (1, 0.02), (5, 0.1), (10, 0.2), (11, 0.2), (10**9, 0.2)]
    )
    def test_rises_with_the_steps(self, make_tiny_network, tiny_images, step, expected):
        images = 0.25 + tiny_images / 2  # no bound is near
        moved = perturbed(make_tiny_network(), images, LABELS, step, ramp_steps=10) - images
        assert np.abs(moved).max() == pytest.approx(expected, abs=1e-6)

    def test_is_at_its_full_size_at_once_without_a_ramp(self, make_tiny_network, tiny_images):
        images = 0.25 + tiny_images / 2
        moved = perturbed(make_tiny_network(), images, LABELS, 0) - images
        assert np.abs(moved).max() == pytest.approx(EPSILON, abs=1e-6)

    def test_sees_the_weights_as_they_are(self, make_tiny_network, tiny_images):
        network = make_tiny_network()
        function = tf.function(perturbation(network))
        given = tf.constant(tiny_images), tf.constant(LABELS), tf.constant(0, tf.int64)
        before = function(*given).numpy()
        network.set_weights([-w for w in network.get_weights()])
        after = function(*given).numpy()
        assert (before != after).any()
        np.testing.assert_array_equal(after, perturbed(network, tiny_images, LABELS, 0))

    def test_takes_what_was_wrapped_already(self, make_tiny_network, tiny_images):
        network = make_tiny_network()
        attacked = attacks.classifier(networks.logits_of(network))
        function = tf.function(attacks.pgd_perturbation(attacked, epsilon=EPSILON, steps=3, seed=5))
        found = function(tf.constant(tiny_images), tf.constant(LABELS), tf.constant(0, tf.int64))
        np.testing.assert_array_equal(found, perturbed(network, tiny_images, LABELS, 0))

    def test_refuses_probabilities(self, make_tiny_network):
        network = make_tiny_network()
        with pytest.raises(ValueError, match=r"expected logits, .* these are probabilities"):
            attacks.pgd_perturbation(network, epsilon=0.3, steps=7, seed=0)
        attacked = attacks.classifier(network, "probabilities")
        with pytest.raises(ValueError, match=r"loss='logits': expected .* logits, received"):
            attacks.pgd_perturbation(attacked, epsilon=0.3, steps=7, seed=0)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"epsilon": 0.0}, "epsilon: expected a finite number > 0"),
            ({"steps": 0}, "steps: expected an integer >= 1"),
            ({"seed": -1}, "seed: expected an integer >= 0"),
            ({"bounds": (1.0, 0.0)}, "bounds: expected .* low < high"),
            ({"ramp_steps": -1}, "ramp_steps: expected an integer >= 0, received -1"),
            ({"ramp_steps": 2.5}, "ramp_steps: expected an integer >= 0, received 2.5"),
        ],
    )
    def test_bad_arguments_are_refused(self, make_tiny_network, changes, message):
        with pytest.raises(ValueError, match=message):
            perturbation(make_tiny_network(), **changes)


def train(network, checkpoint=None, **changes):
    perturb = perturbation(network, **({"ramp_steps": 80} | changes))
    return training.fit(
        network, MANY_IMAGES, MANY_LABELS, LONG, checkpoint=checkpoint, perturb=perturb
    )


@contextlib.contextmanager
def asked_after(calls):
    """Asks for a stop after so many calls of the compiled steps."""
    note, sizes, update = threading.Event(), [], Progress.update

    def counting(self, amount, **metrics):
        update(self, amount, **metrics)
        sizes.append(amount)
        if len(sizes) == calls:
            note.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "update", counting)
        patch.setattr(interruption, "_asked", note)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("stops", [(1,), (3, 1)])
def test_a_resumed_run_gives_the_bits_of_an_uninterrupted_one(
    make_tiny_network, tmp_path, dropout, stops
):
    whole = make_tiny_network(dropout=dropout)
    expected = train(whole)
    checkpoint = tmp_path / "checkpoint.npz"
    for i, calls in enumerate(stops):
        # Another process would start from whatever the builder gives.
        with asked_after(calls), pytest.raises(interruption.StoppedError):
            train(make_tiny_network(dropout=dropout, seed=i), checkpoint)
    last = make_tiny_network(dropout=dropout, seed=9)
    found = train(last, checkpoint)
    assert_same_bits(last, whole)
    np.testing.assert_array_equal(found.step_loss, expected.step_loss)


@pytest.mark.slow
def test_the_starts_matter(make_tiny_network):
    """What the test above compares depends on the seed, the ramp and the size."""
    whole = make_tiny_network()
    train(whole)
    for changes in ({"seed": 6}, {"ramp_steps": 40}, {"epsilon": 0.1}):
        other = make_tiny_network()
        train(other, **changes)
        assert differ(other, whole)


@pytest.mark.slow
def test_makes_a_network_resist():
    """One feature says the class in nine cases of ten but by a wide margin, the other one always
    but by less than epsilon: plain training relies on the second, training on PGD on the first.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    images = np.full((400, 1, 2, 1), 0.5, np.float32)
    noisy = np.where(rng.uniform(size=400) < 0.9, labels, 1 - labels)
    images[:, 0, 0, 0] += 0.4 * (2 * noisy - 1)
    images[:, 0, 1, 0] += 0.1 * (2 * labels - 1)
    given = distillation.hard_labels(labels, 2)
    settings = dataclasses.replace(SETTINGS, epochs=30, batch_size=20, learning_rate=1.0)
    accuracy = {}
    for defended in (False, True):
        network = two_features()
        perturb = perturbation(network, ramp_steps=100) if defended else None
        training.fit(network, images, given, settings, perturb=perturb)
        logits = networks.logits_of(network)
        attacked = attacks.classifier(logits)
        made = attacks.pgd_linf(
            attacked, images, labels, settings=PGD(epsilon=EPSILON, loss="logits", steps=10)
        )
        for kind, x in (("clean", images), ("attacked", made.images)):
            predicted = networks.predict(logits, x).argmax(axis=1)
            accuracy[defended, kind] = (predicted == labels).mean()
    assert accuracy[False, "clean"] > 0.97
    assert accuracy[False, "attacked"] < 0.5
    assert accuracy[True, "clean"] > 0.85
    assert accuracy[True, "attacked"] > 0.85


def two_features():
    images = keras.Input((1, 2, 1))
    x = keras.layers.Flatten()(images)
    logits = keras.layers.Dense(2, kernel_initializer="zeros", name="logits")(x)
    return keras.Model(images, TemperatureSoftmax(1.0)(logits))
