"""The L2 attack against distances to hyperplanes and a plain one-sample implementation."""

import dataclasses

import numpy as np
import pytest

from ddefense.attacks import CarliniWagnerL2, carlini_wagner, cw_l2

FEATURES = 6
SETTINGS = CarliniWagnerL2(steps=300)


def attack(attacked, rows, settings=SETTINGS, targeted=True, **arguments):
    images = np.array(rows, np.float32)[:, None, :, None]
    labels = np.zeros(len(images), np.int64)
    targets = 1 - labels if targeted else None
    made = cw_l2(attacked, images, labels, targets, settings=settings, **arguments).images
    return made[:, 0, :, 0]


@pytest.fixture(scope="module")
def weights():
    return np.array([1.0, -2.0, 0.5, 3.0, -1.0, 0.2])


@pytest.fixture(scope="module")
def rows():
    """On the first class's side of the plane through the middle, and near enough to it."""
    drawn = np.random.default_rng(0).uniform(0.4, 0.6, (40, FEATURES))
    return drawn[(drawn - 0.5) @ [1.0, -2.0, 0.5, 3.0, -1.0, 0.2] > 0.1]


@pytest.mark.slow
@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("scale", [0.1, 1.0, 1000.0])
def test_finds_the_distance_to_a_plane(linear, weights, rows, scale, targeted):
    offset = -0.5 * weights.sum()
    made = attack(linear(weights, offset, scale), rows, targeted=targeted)
    lead = rows @ weights + offset
    nearest = rows - (lead / (weights @ weights))[:, None] * weights
    distance = np.linalg.norm(made - rows, axis=1)
    shortest = lead / np.linalg.norm(weights)
    assert (made @ weights + offset < 0).all()
    assert (distance <= 1.02 * shortest).all()
    np.testing.assert_allclose(made, nearest, atol=0.01)


def test_moves_what_the_bounds_leave(linear):
    # The first feature would have to fall below its bound, so the second one goes all the way.
    made = attack(linear([1.0, 1.0], -0.2), [[0.0, 0.5]])
    np.testing.assert_allclose(made, [[0.0, 0.2]], atol=0.01)


def test_measures_in_units_of_the_bounds(linear, weights, rows):
    narrow = attack(linear(weights, -0.5 * weights.sum()), rows)
    images = np.array(10 * rows - 5, np.float32)[:, None, :, None]
    labels = np.zeros(len(rows), np.int64)
    wide = cw_l2(
        linear(weights / 10, 0.0, bounds=(-5.0, 5.0)),
        images,
        labels,
        1 - labels,
        settings=SETTINGS,
    ).images
    np.testing.assert_allclose(wide[:, 0, :, 0], 10 * narrow - 5, atol=0.05)


def test_kappa_is_met_and_costs_its_distance(linear, weights, rows):
    offset = -0.5 * weights.sum()
    for kappa in (0.2, 0.5):
        settings = dataclasses.replace(SETTINGS, kappa=kappa)
        made = attack(linear(weights, offset), rows, settings)
        lead = rows @ weights + offset
        distance = np.linalg.norm(made - rows, axis=1)
        assert (made @ weights + offset <= -kappa).all()
        assert (distance <= 1.03 * (lead + kappa) / np.linalg.norm(weights)).all()


def test_keeps_the_best_of_all_runs(linear, weights, rows):
    attacked = linear(weights, -0.5 * weights.sum())
    distances = [
        np.linalg.norm(
            attack(
                attacked,
                rows,
                dataclasses.replace(SETTINGS, initial_c=100.0, search_steps=tries, steps=100),
            )
            - rows,
            axis=1,
        )
        for tries in (1, 3, 6)
    ]
    # More runs come after the same first ones.
    assert (distances[0] > 0).all()
    assert (distances[1] <= distances[0]).all()
    assert (distances[2] <= distances[1]).all()
    assert distances[2].mean() < distances[0].mean()


def plain_cw_l2(weights, offset, x, settings):
    """The algorithm on two classes, one sample at a time in float64."""
    x = x.astype(np.float64)
    best, distance = x, np.inf
    c, fails, succeeds = settings.initial_c, 0.0, np.inf
    for _ in range(settings.search_steps):
        w = np.arctanh(carlini_wagner._INSIDE * (2 * x - 1))
        mean = square = np.zeros_like(x)
        reached, least, least_step = False, np.inf, 0
        for step in range(1, settings.steps + 1):
            tried = (np.tanh(w) + 1) / 2
            lead = tried @ weights + offset
            change = tried - x
            if -lead > settings.kappa + 1e-5 * abs(lead):
                reached = True
                if change @ change < distance:
                    best, distance = tried, change @ change
            objective = change @ change + c * max(lead + settings.kappa, 0)
            if objective <= carlini_wagner._PROGRESS * least:
                least, least_step = objective, step
            slope = 2 * change + (c * weights if lead + settings.kappa > 0 else 0)
            slope = slope * (1 - np.tanh(w) ** 2) / 2
            mean = 0.9 * mean + 0.1 * slope
            square = 0.999 * square + 0.001 * slope**2
            root = np.sqrt(square / (1 - 0.999**step))
            w = w - settings.learning_rate * mean / (1 - 0.9**step) / (root + 1e-8)
            if step - least_step >= settings.steps / 10:
                break
        if reached:
            succeeds = c
        else:
            fails = c
        c = 10 * c if np.isinf(succeeds) else (fails + succeeds) / 2
    return best


@pytest.mark.parametrize("kappa", [0.0, 0.3])
def test_equals_the_plain_algorithm(linear, weights, rows, kappa):
    settings = CarliniWagnerL2(steps=60, search_steps=6, learning_rate=0.03, kappa=kappa)
    offset = -0.5 * weights.sum()
    made = attack(linear(weights, offset), rows, settings, batch_size=7)
    plain = np.array([plain_cw_l2(weights, offset, x, settings) for x in np.float32(rows)])
    assert (plain != rows).any(axis=1).all()
    np.testing.assert_allclose(made, plain, atol=1e-4)


def test_c_stays_finite_where_none_succeeds(linear):
    settings = dataclasses.replace(SETTINGS, steps=1, search_steps=60)
    made = attack(linear([1.0, 1.0], 100.0), [[0.5, 0.5]], settings)
    np.testing.assert_array_equal(made, [[0.5, 0.5]])
