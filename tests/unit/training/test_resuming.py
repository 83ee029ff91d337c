"""Interrupted training: between epochs, within them, however often, the bits are the same."""

import contextlib
import dataclasses
import signal
import threading

import keras
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ddefense import distillation, interruption, networks, training
from ddefense.progress import Progress
from ddefense.records import RunError

pytestmark = pytest.mark.slow

SETTINGS = training.TrainingSettings(
    temperature=5.0, epochs=2, batch_size=4, learning_rate=0.5, momentum=0.5, seed=3
)
LABELS = distillation.hard_labels(np.arange(10) % 3, 3)

# An epoch of 119 images has 60 steps, the last one of one image. The loop can stop between calls
# of 25 steps: after 50, 100 and 119 images. The rates change before the last epoch.
LONG = dataclasses.replace(
    SETTINGS,
    epochs=3,
    batch_size=2,
    learning_rate=0.3,
    momentum=0.8,
    learning_rate_decay=0.5,
    momentum_decay=0.5,
    decay_epochs=2,
)
CALLS = 9
MANY_IMAGES = np.random.default_rng(0).uniform(size=(119, 4, 4, 1)).astype(np.float32)
MANY_LABELS = np.random.default_rng(1).dirichlet(np.ones(3), size=119).astype(np.float32)


def changed(**changes):
    return dataclasses.replace(SETTINGS, **changes)


def assert_same_bits(one, other):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_same_history(one, other):
    for field in dataclasses.fields(training.History):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal that kills."""


@contextlib.contextmanager
def after_calls(calls, act):
    """Acts once the loop has made so many calls of its compiled steps; yields their sizes."""
    sizes = []
    update = Progress.update

    def counting(self, amount, **metrics):
        update(self, amount, **metrics)
        sizes.append(amount)
        if len(sizes) == calls:
            act()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "update", counting)
        yield sizes


@contextlib.contextmanager
def asked_after(calls):
    """Asks for a stop, as SIGTERM does; the note is forgotten afterwards."""
    note = threading.Event()
    if calls == 0:
        note.set()
    with pytest.MonkeyPatch.context() as patch, after_calls(calls, note.set) as sizes:
        patch.setattr(interruption, "_asked", note)
        yield sizes


def kill():
    raise Killed


def killed_after(calls):
    return after_calls(calls, kill)


def train(network, checkpoint=None, settings=LONG):
    return training.fit(network, MANY_IMAGES, MANY_LABELS, settings, checkpoint=checkpoint)


def stop(network, checkpoint, calls, settings=LONG):
    """Stops a run after so many more calls, which must not be its last; returns their sizes."""
    with asked_after(calls) as sizes, pytest.raises(interruption.StoppedError):
        train(network, checkpoint, settings)
    return sizes


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_resumed_run_gives_the_bits_of_an_uninterrupted_one(
    make_tiny_network, tiny_images, tmp_path, dropout, stopped_after
):
    whole = make_tiny_network(dropout=dropout)
    expected = training.fit(whole, tiny_images, LABELS, changed(epochs=4))

    checkpoint = tmp_path / "checkpoint.npz"
    first = make_tiny_network(dropout=dropout)
    training.fit(first, tiny_images, LABELS, changed(epochs=stopped_after), checkpoint=checkpoint)
    # Another process would start from whatever the builder gives.
    second = make_tiny_network(dropout=dropout, seed=9)
    found = training.fit(second, tiny_images, LABELS, changed(epochs=4), checkpoint=checkpoint)
    assert_same_bits(second, whole)
    assert_same_history(found, expected)


def test_a_finished_checkpoint_is_not_trained_on(make_tiny_network, tiny_images, tmp_path):
    checkpoint = tmp_path / "checkpoint.npz"
    network = make_tiny_network()
    expected = training.fit(network, tiny_images, LABELS, SETTINGS, checkpoint=checkpoint)
    again = make_tiny_network(seed=9)
    found = training.fit(again, tiny_images, LABELS, SETTINGS, checkpoint=checkpoint)
    assert_same_bits(again, network)
    assert_same_history(found, expected)


def test_max_steps_survives_an_interruption(make_tiny_network, tiny_images, tmp_path):
    settings, checkpoint = changed(epochs=4, max_steps=7), tmp_path / "checkpoint.npz"
    whole = make_tiny_network()
    expected = training.fit(whole, tiny_images, LABELS, settings)
    training.fit(make_tiny_network(), tiny_images, LABELS, changed(epochs=1), checkpoint=checkpoint)
    resumed = make_tiny_network(seed=9)
    found = training.fit(resumed, tiny_images, LABELS, settings, checkpoint=checkpoint)
    assert_same_bits(resumed, whole)
    assert_same_history(found, expected)


@pytest.fixture(scope="module")
def whole(make_tiny_network):
    """Networks of runs that were never interrupted and their histories, by dropout rate."""
    made = {}

    def make(dropout):
        if dropout not in made:
            network = make_tiny_network(dropout=dropout)
            made[dropout] = network, train(network)
        return made[dropout]

    return make


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(
    "stops",
    [
        (1,),  # within the first epoch
        (3,),  # between two epochs
        (5,),  # within the second one
        (1, 1, 1, 1, 1),
        (2, 3, 3),
        (4, 0, 0, 2),  # asked again at once
    ],
)
def test_a_run_stopped_within_epochs_gives_the_bits_of_an_uninterrupted_one(
    make_tiny_network, whole, tmp_path, dropout, stops
):
    network, history = whole(dropout)
    checkpoint = tmp_path / "checkpoint.npz"
    taken = []
    for i, calls in enumerate(stops):
        # Another process would start from whatever the builder gives.
        taken += stop(make_tiny_network(dropout=dropout, seed=i), checkpoint, calls)
        assert checkpoint.exists()
    last = make_tiny_network(dropout=dropout, seed=9)
    with after_calls(0, kill) as sizes:
        found = train(last, checkpoint)
    assert_same_bits(last, network)
    assert_same_history(found, history)
    # Nothing was lost and nothing done twice.
    assert taken + sizes == [50, 50, 19] * 3


def test_the_interruptions_matter(make_tiny_network, whole):
    """What these tests compare depends on the order, the masks and the rates of every epoch."""
    network, history = whole(0.5)
    for changes in (
        {"seed": 4},
        {"epochs": 2},
        {"learning_rate_decay": 1.0},
        {"momentum_decay": 1.0},
    ):
        other = make_tiny_network(dropout=0.5)
        found = train(other, settings=dataclasses.replace(LONG, **changes))
        assert any(
            (a != b).any() for a, b in zip(other.get_weights(), network.get_weights(), strict=True)
        )
        assert not np.array_equal(found.step_loss, history.step_loss)


def test_a_run_asked_to_stop_before_it_starts_takes_no_step(make_tiny_network, whole, tmp_path):
    checkpoint = tmp_path / "checkpoint.npz"
    first = make_tiny_network(dropout=0.5)
    assert stop(first, checkpoint, 0) == []
    assert_same_bits(first, make_tiny_network(dropout=0.5))
    # Its weights are kept all the same.
    second = make_tiny_network(dropout=0.5, seed=9)
    found = train(second, checkpoint)
    assert_same_bits(second, whole(0.5)[0])
    assert_same_history(found, whole(0.5)[1])


def test_a_run_asked_to_stop_in_its_last_call_is_finished(make_tiny_network, whole, tmp_path):
    network = make_tiny_network()
    with asked_after(CALLS) as sizes:
        found = train(network, tmp_path / "checkpoint.npz")
        assert interruption.asked()  # for whoever comes next
    assert len(sizes) == CALLS
    assert_same_bits(network, whole(0.0)[0])
    assert_same_history(found, whole(0.0)[1])


def test_a_run_without_a_checkpoint_stops_as_well(make_tiny_network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert stop(make_tiny_network(), None, 2) == [50, 50]
    assert not list(tmp_path.iterdir())


def test_a_killed_run_goes_on_where_it_was_stopped_before(make_tiny_network, whole, tmp_path):
    checkpoint = tmp_path / "checkpoint.npz"
    stop(make_tiny_network(dropout=0.5), checkpoint, 4)
    kept = checkpoint.read_bytes()
    with killed_after(1), pytest.raises(Killed):
        train(make_tiny_network(dropout=0.5, seed=7), checkpoint)
    assert checkpoint.read_bytes() == kept
    last = make_tiny_network(dropout=0.5, seed=9)
    with after_calls(0, kill) as sizes:
        found = train(last, checkpoint)
    assert sizes == [50, 19, 50, 50, 19]
    assert_same_bits(last, whole(0.5)[0])
    assert_same_history(found, whole(0.5)[1])


def test_max_steps_survives_a_stop_within_an_epoch(make_tiny_network, tmp_path):
    checkpoint, settings = tmp_path / "checkpoint.npz", dataclasses.replace(LONG, max_steps=100)
    expected_network = make_tiny_network(dropout=0.5)
    expected = train(expected_network, settings=settings)
    assert len(expected.step_loss) == 100
    stop(make_tiny_network(dropout=0.5), checkpoint, 4, settings)
    resumed = make_tiny_network(dropout=0.5, seed=9)
    found = train(resumed, checkpoint, settings)
    assert_same_bits(resumed, expected_network)
    assert_same_history(found, expected)


def test_a_run_through_xla_can_be_stopped_as_well(make_tiny_network, tmp_path):
    settings = dataclasses.replace(LONG, epochs=1, jit_compile=True)
    expected_network = make_tiny_network(dropout=0.5)
    expected = train(expected_network, settings=settings)
    checkpoint = tmp_path / "checkpoint.npz"
    stop(make_tiny_network(dropout=0.5), checkpoint, 2, settings)
    resumed = make_tiny_network(dropout=0.5, seed=9)
    found = train(resumed, checkpoint, settings)
    assert_same_bits(resumed, expected_network)
    assert_same_history(found, expected)


def test_a_run_in_half_precision_can_be_stopped_as_well(tmp_path):
    settings = dataclasses.replace(LONG, max_steps=27)
    images = np.random.default_rng(0).uniform(size=(60, 28, 28, 1)).astype(np.float32)
    labels = distillation.hard_labels(np.arange(60) % 10, 10)

    def make(seed):
        return networks.build("mnist", temperature=5.0, seed=seed, precision="mixed_bfloat16")

    def fit(network, checkpoint=None):
        return training.fit(network, images, labels, settings, checkpoint=checkpoint)

    expected_network = make(0)
    expected = fit(expected_network)
    checkpoint = tmp_path / "checkpoint.npz"
    with asked_after(1), pytest.raises(interruption.StoppedError):
        fit(make(0), checkpoint)
    resumed = make(9)
    found = fit(resumed, checkpoint)
    assert len(found.step_loss) == 27
    assert_same_bits(resumed, expected_network)
    assert_same_history(found, expected)


@pytest.fixture
def listening(monkeypatch):
    """Listens to SIGTERM, as programs do, for the time of one test."""
    monkeypatch.setattr(interruption, "_asked", threading.Event())
    before = signal.getsignal(signal.SIGTERM)
    interruption.listen()
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("listening")
def test_a_real_sigterm_stops_a_run(make_tiny_network, tmp_path):
    checkpoint = tmp_path / "checkpoint.npz"
    with (
        after_calls(4, lambda: signal.raise_signal(signal.SIGTERM)) as sizes,
        pytest.raises(interruption.StoppedError),
    ):
        train(make_tiny_network(), checkpoint)
    assert sizes == [50, 50, 19, 50]
    assert checkpoint.exists()


@given(
    st.lists(
        st.tuples(st.sampled_from([asked_after, killed_after]), st.integers(1, CALLS)), max_size=3
    ),
    st.sampled_from([0.0, 0.3]),
)
@example([(asked_after, 4), (killed_after, 1), (asked_after, 2)], 0.3)
@examples(max_examples=8, deadline=None, derandomize=True, database=None)
def test_any_interruptions_give_the_bits_of_none(
    make_tiny_network, whole, tmp_path_factory, interruptions, dropout
):
    network, history = whole(dropout)
    checkpoint = tmp_path_factory.mktemp("any") / "checkpoint.npz"

    def begin():
        # What the builder gives matters only where nothing was kept.
        return make_tiny_network(dropout=dropout, seed=9 if checkpoint.exists() else 0)

    for interrupted_after, calls in interruptions:
        # A run that is finished before that many calls is not interrupted.
        with (
            interrupted_after(calls),
            contextlib.suppress(interruption.StoppedError, Killed),
        ):
            train(begin(), checkpoint)
    last = begin()
    found = train(last, checkpoint)
    assert_same_bits(last, network)
    assert_same_history(found, history)


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def damage_empty(path):
    path.write_bytes(b"")


def damage_text(path):
    path.write_text("not a checkpoint")


def damage_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [damage_truncate, damage_empty, damage_text, damage_bit])
def test_a_damaged_checkpoint_is_named(make_tiny_network, tiny_images, tmp_path, damage):
    checkpoint = tmp_path / "checkpoint.npz"
    training.fit(make_tiny_network(), tiny_images, LABELS, SETTINGS, checkpoint=checkpoint)
    damage(checkpoint)
    with pytest.raises(RunError, match="Delete that file") as caught:
        training.fit(make_tiny_network(), tiny_images, LABELS, SETTINGS, checkpoint=checkpoint)
    assert str(checkpoint) in str(caught.value)


def test_a_checkpoint_cut_short_within_an_epoch_is_named_with_the_remedy(
    make_tiny_network, tmp_path
):
    checkpoint = tmp_path / "checkpoint.npz"
    stop(make_tiny_network(dropout=0.5), checkpoint, 4)
    content = checkpoint.read_bytes()
    lengths = [0, 1, *(len(content) * i // 4 for i in (1, 2, 3)), len(content) - 1]
    for length in lengths:
        checkpoint.write_bytes(content[:length])
        with pytest.raises(RunError) as caught:
            train(make_tiny_network(dropout=0.5), checkpoint)
        message = str(caught.value)
        assert f"at {checkpoint}, but it cannot be used" in message
        assert "Delete that file to train this network from its start" in message
        assert checkpoint.exists()  # nothing is deleted for anybody
    # The remedy works, and the whole file would have.
    checkpoint.write_bytes(content)
    resumed = train(make_tiny_network(dropout=0.5), checkpoint)
    checkpoint.unlink()
    restarted = train(make_tiny_network(dropout=0.5), checkpoint)
    assert_same_history(resumed, restarted)


def test_the_checkpoint_of_another_network_is_refused(
    make_tiny_network, make_row_network, tiny_images, tmp_path
):
    checkpoint = tmp_path / "checkpoint.npz"
    network, images = make_row_network(10)
    training.fit(network, images, LABELS, SETTINGS, checkpoint=checkpoint)
    with pytest.raises(RunError, match="cannot be used"):
        training.fit(make_tiny_network(), tiny_images, LABELS, SETTINGS, checkpoint=checkpoint)


def test_who_watches_is_told_of_the_history_so_far(make_tiny_network, tmp_path):
    told = []
    options = training.TrainingOptions(on_history=told.append)

    def train(network, checkpoint=None):
        return training.fit(
            network, MANY_IMAGES, MANY_LABELS, LONG, checkpoint=checkpoint, options=options
        )

    whole = train(make_tiny_network())
    assert [len(history.epoch_loss) for history in told] == [0, 1, 2, 3]
    assert_same_history(told[-1], whole)

    told.clear()
    with killed_after(4), pytest.raises(Killed):  # in the second epoch
        train(make_tiny_network(), tmp_path / "checkpoint.npz")
    assert [len(history.epoch_loss) for history in told] == [0, 1]
    told.clear()
    resumed = train(make_tiny_network(seed=9), tmp_path / "checkpoint.npz")
    assert [len(history.epoch_loss) for history in told] == [1, 2, 3]
    assert_same_history(told[-1], resumed)
    assert_same_history(resumed, whole)


def test_weights_in_bfloat16_are_resumed(tiny_images, tmp_path):
    """NumPy's files know no such numbers."""

    def build():
        layers = [
            keras.layers.Flatten(),
            keras.layers.Dense(4, kernel_initializer=keras.initializers.GlorotUniform(0)),
            keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(1)),
        ]
        for layer in layers:
            layer.dtype_policy = "bfloat16"
        return networks.deployed(keras.Sequential([keras.Input((4, 4, 1)), *layers]))

    whole, resumed, path = build(), build(), tmp_path / "checkpoint.npz"
    expected = training.fit(whole, tiny_images, LABELS, SETTINGS)
    training.fit(resumed, tiny_images, LABELS, changed(epochs=1), checkpoint=path)
    resumed = build()
    found = training.fit(resumed, tiny_images, LABELS, SETTINGS, checkpoint=path)
    assert "bfloat16" in {weight.dtype for weight in whole.weights}
    assert_same_bits(resumed, whole)
    assert_same_history(found, expected)
