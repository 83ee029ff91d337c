"""Optimizers, layers with a state of their own and half precision."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddefense import distillation, interruption, networks, training
from ddefense.layers import TemperatureSoftmax
from ddefense.records import RunError
from ddefense.training import TrainingOptions

pytestmark = pytest.mark.slow

SETTINGS = training.TrainingSettings(
    temperature=1.0, epochs=2, batch_size=4, learning_rate=0.5, momentum=0.5, seed=3
)
LABELS = distillation.hard_labels(np.arange(10) % 3, 3)
MANY_IMAGES = np.random.default_rng(0).uniform(size=(119, 4, 4, 1)).astype(np.float32)
MANY_LABELS = distillation.hard_labels(np.arange(119) % 3, 3)
LONG = dataclasses.replace(SETTINGS, batch_size=2, learning_rate=0.1)


def with_optimizer(optimizer):
    return TrainingOptions(optimizer=optimizer)


def stop_and_resume(make, asked_after, checkpoint, options=None):
    """A run of two epochs that is stopped in its second call and resumed."""

    def train(network, path=None):
        return training.fit(
            network, MANY_IMAGES, MANY_LABELS, LONG, checkpoint=path, options=options
        )

    whole = make(0)
    expected = train(whole)
    with asked_after(2), pytest.raises(interruption.StoppedError):
        train(make(0), checkpoint)
    resumed = make(9)
    with asked_after(None) as sizes:
        found = train(resumed, checkpoint)
    assert sizes == [19, 50, 50, 19]
    np.testing.assert_array_equal(found.step_loss, expected.step_loss)
    return resumed, whole


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.Adam(0.01),
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, clipnorm=0.1),
        lambda: keras.optimizers.AdamW(
            keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.5), weight_decay=0.1
        ),
        lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5),
    ],
)
def test_steps_are_those_of_keras(make_tiny_network, tiny_images, make):
    """Against `model.fit`, batches in our order. Copies are used: twice the same."""
    given = make()
    hard = distillation.hard_labels(np.arange(10) % 3, 3)
    settings = dataclasses.replace(SETTINGS, epochs=1)
    order = np.random.default_rng([3, 0]).permutation(10)
    for _ in range(2):
        network, reference = make_tiny_network(), make_tiny_network()
        training.fit(network, tiny_images, LABELS, settings, options=with_optimizer(given))
        reference.compile(make(), "categorical_crossentropy")
        reference.fit(tiny_images[order], hard[order], batch_size=4, shuffle=False, verbose=0)
        for one, other in zip(network.get_weights(), reference.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    assert int(given.iterations) == 0


def test_the_settings_rates_are_not_used_with_one(make_tiny_network, tiny_images, assert_same_bits):
    one, other = make_tiny_network(), make_tiny_network()
    options = with_optimizer(keras.optimizers.SGD(0.5, momentum=0.5))
    slow = dataclasses.replace(SETTINGS, learning_rate=1e-9, momentum=0.0)
    history = training.fit(one, tiny_images, LABELS, slow, options=options)
    training.fit(other, tiny_images, LABELS, SETTINGS)
    assert_same_bits(one, other)
    np.testing.assert_array_equal(history.learning_rate, [0.5, 0.5])


def test_a_schedule_takes_effect_step_by_step(make_tiny_network, tiny_images):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([3, 4], [0.5, 0.25, 0.125])
    options = with_optimizer(keras.optimizers.SGD(schedule))
    settings = dataclasses.replace(SETTINGS, epochs=3)
    history = training.fit(make_tiny_network(), tiny_images, LABELS, settings, options=options)
    # After 3, 6 and 9 steps.
    np.testing.assert_array_equal(history.learning_rate, [0.5, 0.125, 0.125])


@pytest.mark.parametrize("name", ["learning_rate_decay", "momentum_decay"])
def test_a_decay_beside_one_is_refused(make_tiny_network, tiny_images, name):
    settings = dataclasses.replace(SETTINGS, **{name: 0.5})
    options = with_optimizer(keras.optimizers.Adam())
    with pytest.raises(ValueError, match=f"{name}: expected 1 .* received 0.5.*Schedule"):
        training.fit(make_tiny_network(), tiny_images, LABELS, settings, options=options)


def test_one_that_cannot_be_copied_is_refused(make_tiny_network, tiny_images):
    class Mine(keras.optimizers.SGD):
        def __init__(self, first, second):
            super().__init__(first * second)

    options = with_optimizer(Mine(0.1, 0.1))
    with pytest.raises(ValueError, match=r"optimizer: expected .* received Mine: .*register"):
        training.fit(make_tiny_network(), tiny_images, LABELS, SETTINGS, options=options)


def test_a_loss_that_is_not_finite_names_its_rate(make_tiny_network, tiny_images):
    options = with_optimizer(keras.optimizers.SGD(1e30))
    settings = dataclasses.replace(SETTINGS, epochs=20)
    with pytest.raises(RunError, match=r"Lower the learning rate \(1e\+30\)\.$"):
        training.fit(make_tiny_network(), tiny_images, LABELS, settings, options=options)


def test_its_state_survives_an_interruption(
    make_tiny_network, asked_after, assert_same_bits, tmp_path
):
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 100)
    options = with_optimizer(keras.optimizers.Adam(schedule))
    assert_same_bits(
        *stop_and_resume(
            lambda seed: make_tiny_network(dropout=0.5, seed=seed),
            asked_after,
            tmp_path / "checkpoint.npz",
            options,
        )
    )


def normalized(seed=0, precision=None):
    def glorot(offset):
        return keras.initializers.GlorotUniform(seed=10 * seed + offset)

    images = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(3, 3, kernel_initializer=glorot(1), dtype=precision)(images)
    x = keras.layers.BatchNormalization(momentum=0.8, dtype=precision)(x)
    x = keras.layers.Flatten()(x)
    logits = keras.layers.Dense(3, kernel_initializer=glorot(2), name="logits")(x)
    return keras.Model(images, TemperatureSoftmax(1.0)(logits))


class TestBatchNormalization:
    def test_trains_as_in_keras(self, tiny_images):
        """Weights and moving statistics, against eager steps."""
        network, reference = normalized(), normalized()
        training.fit(network, tiny_images, LABELS, SETTINGS)
        optimizer = keras.optimizers.SGD(0.5, momentum=0.5)
        for epoch in range(2):
            order = np.random.default_rng([3, epoch]).permutation(10)
            for batch in (order[:4], order[4:8], order[8:]):
                with tf.GradientTape() as tape:
                    probabilities = reference(tiny_images[batch], training=True)
                    loss = -tf.reduce_mean(
                        tf.reduce_sum(LABELS[batch] * tf.math.log(probabilities), axis=1)
                    )
                weights = reference.trainable_variables
                optimizer.apply(tape.gradient(loss, weights), weights)
        for one, other in zip(network.get_weights(), reference.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
        moving = zip(network.non_trainable_weights, normalized().non_trainable_weights, strict=True)
        moved = [np.abs(one.numpy() - before.numpy()).max() for one, before in moving]
        assert len(moved) == 2
        assert min(moved) > 1e-2

    def test_its_statistics_survive_an_interruption(self, asked_after, assert_same_bits, tmp_path):
        assert_same_bits(*stop_and_resume(normalized, asked_after, tmp_path / "checkpoint.npz"))

    def test_is_evaluated_with_them(self, tiny_images):
        """Validation neither uses nor moves the statistics of its own batch."""
        from ddefense.datasets import Split

        rows = LABELS[:3]
        validation = (Split(tiny_images[:3], np.arange(3)), lambda window: rows)
        watched, alone = normalized(), normalized()
        history = training.fit(
            watched,
            tiny_images,
            LABELS,
            SETTINGS,
            options=TrainingOptions(validation=validation),
        )
        training.fit(alone, tiny_images, LABELS, SETTINGS)
        for one, other in zip(watched.get_weights(), alone.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        predicted = networks.predict(watched, tiny_images[:3])
        expected = -np.log(predicted[np.arange(3), np.arange(3)]).mean()
        assert history.val_loss[-1] == pytest.approx(expected, rel=1e-5)


class TestFloat16:
    def test_its_loss_is_scaled(self, make_tiny_network, tiny_images):
        """At this T no gradient of the logits is above the smallest float16 number."""
        settings = dataclasses.replace(
            SETTINGS, temperature=1e7, learning_rate=1e6, momentum=0.0, batch_size=10
        )
        moved = {}
        for dtype in ("float32", "mixed_float16"):
            network = make_tiny_network(1e7, dtype=dtype)
            before = network.get_weights()
            training.fit(network, tiny_images, LABELS, settings)
            moved[dtype] = [a - b for a, b in zip(network.get_weights(), before, strict=True)]
            assert {w.dtype for w in network.get_weights()} == {np.dtype(np.float32)}
        for full, half in zip(moved["float32"], moved["mixed_float16"], strict=True):
            assert np.abs(full).max() > 1e-3
            np.testing.assert_allclose(half, full, atol=0.02 * np.abs(full).max())

    @pytest.mark.parametrize("optimizer", [None, keras.optimizers.Adam(0.01)])
    def test_it_learns_nearly_what_float32_does(self, make_tiny_network, tiny_images, optimizer):
        full, half = (
            training.fit(
                make_tiny_network(dtype=dtype),
                tiny_images,
                LABELS,
                SETTINGS,
                options=with_optimizer(optimizer),
            )
            for dtype in ("float32", "mixed_float16")
        )
        np.testing.assert_allclose(half.step_loss, full.step_loss, rtol=0.02)
        assert (half.step_loss != full.step_loss).any()
        np.testing.assert_allclose(half.learning_rate, full.learning_rate)

    def test_the_scale_survives_an_interruption(
        self, make_tiny_network, asked_after, assert_same_bits, tmp_path
    ):
        checkpoint = tmp_path / "checkpoint.npz"
        assert_same_bits(
            *stop_and_resume(
                lambda seed: make_tiny_network(seed=seed, dtype="mixed_float16"),
                asked_after,
                checkpoint,
            )
        )

    def test_a_momentum_that_falls_is_that_of_the_steps(self, make_tiny_network, tiny_images):
        settings = dataclasses.replace(SETTINGS, momentum=0.9, momentum_decay=0.1, decay_epochs=1)
        full, half = (
            training.fit(make_tiny_network(dtype=dtype), tiny_images, LABELS, settings)
            for dtype in ("float32", "mixed_float16")
        )
        np.testing.assert_allclose(half.step_loss, full.step_loss, rtol=0.02)


# --- settings that no configuration holds ---------------------------------------------------------
def decaying(decay, *, exclude=(), scaled=False):
    made = keras.optimizers.AdamW(0.01, weight_decay=decay)
    if exclude:
        made.exclude_from_weight_decay(var_names=list(exclude))
    return keras.optimizers.LossScaleOptimizer(made) if scaled else made


@pytest.mark.parametrize("scaled", [False, True])
def test_what_is_excluded_from_weight_decay_stays_so(
    make_tiny_network, tiny_images, assert_same_bits, scaled
):
    def trained(optimizer):
        network = make_tiny_network()
        training.fit(network, tiny_images, LABELS, SETTINGS, options=with_optimizer(optimizer))
        return network

    without = trained(decaying(0.0, scaled=scaled))
    assert_same_bits(trained(decaying(0.5, exclude=["kernel", "bias"], scaled=scaled)), without)
    kernels = trained(decaying(0.5, exclude=["bias"], scaled=scaled))
    decayed = trained(decaying(0.5, scaled=scaled))
    distances = [
        max(
            np.abs(one - other).max()
            for one, other in zip(kernels.get_weights(), other.get_weights(), strict=True)
        )
        for other in (without, decayed)
    ]
    assert min(distances) > 1e-4


def test_variables_that_a_copy_does_not_have_are_refused(make_tiny_network):
    optimizer = decaying(0.5)
    optimizer.exclude_from_weight_decay(var_list=make_tiny_network().trainable_variables[:1])
    with pytest.raises(ValueError, match=r"optimizer: .*names.*received a list of variables"):
        training.copy_of(optimizer)


def test_a_setting_that_the_configuration_loses_is_named():
    class Forgetful(keras.optimizers.SGD):
        def __init__(self, *arguments, strength=1.0, **settings):
            super().__init__(*arguments, **settings)
            self.strength = strength

    with pytest.raises(ValueError, match=r"received Forgetful with strength=2.0"):
        training.copy_of(Forgetful(0.1, strength=2.0))
    assert training.copy_of(Forgetful(0.1)).strength == 1.0


def test_several_learning_rates_are_refused():
    inner = keras.optimizers.OptimizerMap(keras.optimizers.SGD())
    with pytest.raises(ValueError, match="received MultiOptimizer"):
        training.copy_of(keras.optimizers.MultiOptimizer(inner))


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in dir(keras.optimizers)
        if isinstance(getattr(keras.optimizers, name), type)
        and issubclass(getattr(keras.optimizers, name), keras.optimizers.Optimizer)
        and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
    ],
)
def test_a_setting_changed_later_is_that_of_the_copy(name):
    given = getattr(keras.optimizers, name)()
    numbers = [
        key
        for key, value in vars(given).items()
        if type(value) in (int, float) and not key.startswith("_")
    ]
    for key in numbers:
        setattr(given, key, getattr(given, key) / 2)
    copy = training.copy_of(given)
    assert {key: getattr(copy, key) for key in numbers} == {
        key: getattr(given, key) for key in numbers
    }
