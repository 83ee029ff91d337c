"""XLA and half precision: the same training, nearly."""

import dataclasses
import re

import numpy as np
import pytest

from ddefense import distillation, networks, training
from ddefense.training import loop

pytestmark = pytest.mark.slow

SETTINGS = training.TrainingSettings(
    temperature=5.0, epochs=3, batch_size=4, learning_rate=0.3, momentum=0.5, seed=3
)
COMPILED = dataclasses.replace(SETTINGS, jit_compile=True)
LABELS = distillation.hard_labels(np.arange(10) % 3, 3)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_go_through_xla_only_if_told_to(
    make_tiny_network, tiny_images, monkeypatch, jit_compile
):
    made = []

    def make_train_steps(*arguments):
        made.append(training.make_train_steps(*arguments))
        return made[-1]

    monkeypatch.setattr(loop, "make_train_steps", make_train_steps)
    settings = dataclasses.replace(SETTINGS, jit_compile=jit_compile, epochs=1)
    training.fit(make_tiny_network(), tiny_images, LABELS, settings)
    definition = str(made[0].graph.as_graph_def())
    compiled = re.search(r'key: "_XlaMustCompile"\s*value \{\s*b: true', definition)
    assert bool(compiled) is jit_compile


def test_xla_gives_nearly_the_same_training(make_tiny_network, tiny_images):
    plain, compiled = make_tiny_network(), make_tiny_network()
    expected = training.fit(plain, tiny_images, LABELS, SETTINGS)
    found = training.fit(compiled, tiny_images, LABELS, COMPILED)
    np.testing.assert_allclose(found.step_loss, expected.step_loss, rtol=1e-4)
    np.testing.assert_allclose(found.epoch_accuracy, expected.epoch_accuracy)
    for one, other in zip(compiled.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_xla_drops_units_anew_in_every_step_and_repeats_itself(make_tiny_network, tiny_images):
    # With one batch of everything and a tiny rate, only dropout can move the loss.
    still = dataclasses.replace(COMPILED, batch_size=10, epochs=4, learning_rate=1e-12)
    histories = [
        training.fit(make_tiny_network(dropout=0.5), tiny_images, LABELS, still) for _ in range(2)
    ]
    assert len(set(histories[0].step_loss.tolist())) == 4
    np.testing.assert_array_equal(histories[0].step_loss, histories[1].step_loss)


PAPERS_NETWORK = """
import numpy as np
from ddefense import distillation, networks, training
images = np.random.default_rng(0).random((70, 28, 28, 1), np.float32)
labels = distillation.hard_labels(np.arange(70) % 10, 10)
for jit_compile in (False, True, True):
    network = networks.build("mnist", temperature=5.0, seed=0, dropout=0.0)
    settings = training.TrainingSettings(
        temperature=5.0, epochs=1, batch_size=35, learning_rate=0.1, momentum=0.5, seed=3,
        jit_compile=jit_compile,
    )
    print(*training.fit(network, images, labels, settings).step_loss)
"""


@pytest.mark.slow
def test_xla_trains_the_papers_network(run_python, tmp_path):
    # In a process without TensorFlow's determinism, under which XLA refuses to pool.
    found = run_python("-c", PAPERS_NETWORK, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    plain, one, other = (np.array(line.split(), float) for line in found.stdout.splitlines()[-3:])
    np.testing.assert_allclose(one, plain, rtol=1e-4)
    np.testing.assert_array_equal(one, other)


def test_half_precision_learns_as_float32_does(digits):
    images = digits.train.images[:480]
    labels = distillation.hard_labels(digits.train.labels[:480], 10)
    # So slow that rounding is not blown up: two float32 runs on two machines agree as well.
    settings = dataclasses.replace(
        SETTINGS, temperature=1.0, epochs=4, batch_size=8, learning_rate=0.01
    )
    histories, weights = {}, {}
    for precision in ("float32", "mixed_bfloat16"):
        network = networks.build("mnist", temperature=1.0, seed=0, dropout=0.0, precision=precision)
        histories[precision] = training.fit(network, images, labels, settings)
        weights[precision] = network.get_weights()
        assert {w.dtype for w in weights[precision]} == {np.dtype(np.float32)}
    full, half = histories["float32"], histories["mixed_bfloat16"]
    assert half.epoch_loss[-1] < 0.4 * half.epoch_loss[0]
    assert half.step_loss[0] == pytest.approx(full.step_loss[0], rel=1e-3)
    np.testing.assert_allclose(half.epoch_loss, full.epoch_loss, rtol=0.1)
    np.testing.assert_allclose(half.epoch_accuracy, full.epoch_accuracy, atol=0.05)
    # Or nothing was computed in it; one loss may be the same by chance.
    assert (half.step_loss != full.step_loss).mean() > 0.9


def test_half_precision_keeps_updates_too_small_for_it(make_tiny_network, tiny_images):
    """Weights are float32: a step of 2**-12 of a weight would vanish in bfloat16."""
    network = make_tiny_network(dtype="mixed_bfloat16")
    before = network.get_weights()
    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=10, learning_rate=1e-4)
    training.fit(network, tiny_images, LABELS, settings)
    moved = network.get_weights()[0] - before[0]
    used = moved != 0
    assert used.any()
    assert (np.abs(moved[used]) < 2**-9 * np.abs(before[0][used])).any()
