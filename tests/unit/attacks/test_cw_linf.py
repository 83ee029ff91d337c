"""The L-infinity attack against distances to hyperplanes."""

import dataclasses
import sys

import numpy as np
import pytest

from ddefense.attacks import CarliniWagner, cw_linf

WEIGHTS = np.array([1.0, -2.0, 0.5, 3.0, -1.0, 0.2])
OFFSET = -0.5 * WEIGHTS.sum()
SETTINGS = CarliniWagner(steps=500)


def attack(attacked, rows, settings=SETTINGS):
    images = np.array(rows, np.float32)[:, None, :, None]
    labels = np.zeros(len(images), np.int64)
    return cw_linf(attacked, images, labels, 1 - labels, settings=settings).images[:, 0, :, 0]


@pytest.fixture(scope="module")
def rows():
    drawn = np.random.default_rng(0).uniform(0.4, 0.6, (60, len(WEIGHTS)))
    return drawn[drawn @ WEIGHTS + OFFSET > 0.1]


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_finds_the_distance_to_a_plane(linear, rows, scale):
    made = attack(linear(WEIGHTS, OFFSET, scale), rows)
    shortest = (rows @ WEIGHTS + OFFSET) / np.abs(WEIGHTS).sum()
    distance = np.abs(made - rows).max(axis=1)
    assert (made @ WEIGHTS + OFFSET < 0).all()
    # A success at tau is followed by a try at 0.9 of it.
    assert (distance <= 1.12 * shortest).all()


@pytest.mark.slow
def test_moves_what_the_bounds_leave(linear):
    # The first feature would have to fall below its bound: 0.3 over the other two.
    made = attack(linear([1.0, 1.0, 1.0], -0.7), [[0.0, 0.5, 0.5]])
    assert (made[0, 1:] >= 0.35 - 0.15 * 0.12).all()
    assert made.sum() < 0.7


def test_kappa_is_met(linear, rows):
    made = attack(linear(WEIGHTS, OFFSET), rows, dataclasses.replace(SETTINGS, kappa=0.3))
    assert (made @ WEIGHTS + OFFSET <= -0.3).all()


def test_a_change_too_small_to_show_ends_the_attack(linear, monkeypatch):
    tried = []
    module = sys.modules[cw_linf.__module__]

    def recording(*given):
        chunk = compile_chunk(*given)

        def recorded(task, state):
            tried.append(float(task.radius[0]))
            return chunk(task, state)

        return recorded

    compile_chunk = module.carlini_wagner.compile_chunk
    monkeypatch.setattr(module.carlini_wagner, "compile_chunk", recording)
    made = attack(linear([1.0, 1.0], -1.0), [[0.5005, 0.5005]])
    assert made.sum() < 1
    assert tried == sorted(tried, reverse=True)
    assert tried[0] == 1
    assert min(tried) > 1 / 256
