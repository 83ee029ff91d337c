"""The pair search against pairs scored by hand, and against trying every pair."""

import itertools

import numpy as np
import pytest

from ddefense.maths import saliency


def every_pair(alpha, beta, domain, sign):
    """All best pairs of one row, by trying each; scores in the type of the row."""
    best, pairs = alpha.dtype.type(0), []
    for p, q in itertools.combinations(np.flatnonzero(domain).tolist(), 2):
        a, b = alpha[p] + alpha[q], beta[p] + beta[q]
        score = -(a * b)
        if sign * a <= 0 or sign * b >= 0 or score < best or score == 0:
            continue
        if score > best:
            best, pairs = score, []
        pairs.append([p, q])
    return pairs


def assert_best(alpha, beta, domain=None, sign=1):
    domain = np.ones(alpha.shape, bool) if domain is None else domain
    found = saliency.best_pair(alpha, beta, domain, sign)
    assert found.features.shape == (len(alpha), 2)
    assert found.features.dtype == np.int64
    for row in range(len(alpha)):
        expected = every_pair(alpha[row], beta[row], domain[row], sign)
        assert found.admissible[row] == bool(expected)
        if expected:
            assert found.features[row].tolist() in expected
    return found


def row(*values, dtype=np.float32):
    return np.array([values], dtype)


@pytest.mark.parametrize(
    ("alpha", "beta", "sign", "pair"),
    [
        # (0, 1): 4 * 6 = 24 beats (1, 3): 3 * 7 = 21 and (0, 3): 5 * 3 = 15.
        ((3, 1, -1, 2), (-1, -5, 2, -2), 1, [0, 1]),
        ((-3, -1, 1, -2), (1, 5, -2, 2), -1, [0, 1]),
        # One derivative, two directions: up (0, 1): 5 * 3 = 15; down (2, 3): 5 * 6 = 30.
        ((4, 1, -3, -2), (-2, -1, 1, 5), 1, [0, 1]),
        ((4, 1, -3, -2), (-2, -1, 1, 5), -1, [2, 3]),
        # Neither feature qualifies alone: (5, +1) and (-1, -4) sum to (4, -3).
        ((5, -1, -9), (1, -4, 9), 1, [0, 1]),
        # The largest product of all, (-4) * (+4) doubled, is of the wrong signs.
        ((-4, -4, 1, 1), (4, 4, -1, -1), 1, [2, 3]),
    ],
)
def test_scores_pairs_as_by_hand(alpha, beta, sign, pair):
    found = assert_best(row(*alpha), row(*beta), sign=sign)
    assert found.features.tolist() == [pair]
    assert found.admissible.all()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("alpha", "beta"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((1, 2, 3), (0, 0, 0)),  # the others stay as they are
        ((0, 0, 0), (-1, -2, -3)),
        ((1, 2, 3), (1, 2, 3)),  # all outputs move together
        ((1, -1), (-1, 1)),  # sums of exactly 0
    ],
)
def test_finds_no_pair_where_none_qualifies(alpha, beta, sign):
    assert not assert_best(row(*alpha), row(*beta), sign=sign).admissible.any()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("features", [2, 3, 10, 60])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_every_pair_on_random_rows(sign, features, dtype):
    rng = np.random.default_rng(features)
    alpha, beta = rng.normal(size=(2, 8, features)).astype(dtype)
    assert_best(alpha, beta, sign=sign)
    assert_best(alpha, beta, rng.random(alpha.shape) < 0.4, sign)


@pytest.mark.parametrize("sign", [1, -1])
def test_equals_every_pair_where_many_tie(sign):
    rng = np.random.default_rng(0)
    alpha, beta = rng.integers(-2, 3, (2, 30, 25)).astype(np.float32)
    assert_best(alpha, beta, rng.random(alpha.shape) < 0.7, sign)


def test_equals_every_pair_where_all_are_the_same():
    assert_best(np.full((2, 100), 0.5, np.float32), np.full((2, 100), -0.25, np.float32))


def chain(features):
    """Each feature beats the one before in both derivatives: two candidates."""
    rising = np.arange(1, features + 1, dtype=np.float32)
    return rising, -rising


def front(features):
    """No feature beats another in both derivatives: all are candidates."""
    angle = np.linspace(0.05, np.pi / 2 - 0.05, features)
    return np.cos(angle).astype(np.float32), -np.sin(angle).astype(np.float32)


def shuffled(features, of, seed=0):
    alpha, beta = of(features)
    order = np.random.default_rng(seed).permutation(features)
    return alpha[order][None], beta[order][None]


@pytest.mark.parametrize("of", [chain, front])
@pytest.mark.parametrize("features", [63, 64, 65, 66, 150])
def test_equals_every_pair_at_the_extremes_of_dominance(of, features):
    # 64 candidates is the most that a batch searches together.
    assert_best(*shuffled(features, of))
    alpha, beta = of(features)
    assert_best(alpha[None], beta[None])
    assert_best(alpha[None, ::-1], beta[None, ::-1])


def test_wide_rows_do_not_disturb_narrow_ones():
    rng = np.random.default_rng(1)
    makers = [chain, front, chain, front, chain]
    rows = [shuffled(90, of, seed) for seed, of in enumerate(makers)]
    alpha = np.concatenate([a for a, _ in rows])
    beta = np.concatenate([b for _, b in rows])
    domain = rng.random(alpha.shape) < 0.95
    domain[2] = False  # nothing may change
    domain[4] = np.arange(90) == 7  # one feature may
    found = assert_best(alpha, beta, domain)
    assert found.admissible.tolist() == [True, True, False, True, False]


@pytest.mark.parametrize("sign", [1, -1])
def test_equals_every_pair_of_a_colour_image(sign):
    # Independent derivatives leave many candidates; a share of zeros ties at the bottom.
    rng = np.random.default_rng(3)
    alpha, beta = rng.standard_cauchy((2, 2, 3072)).astype(np.float32)
    zero = rng.random(alpha.shape) < 0.1
    alpha[zero] = beta[zero] = 0
    domain = rng.random(alpha.shape) < 0.95
    found = saliency.best_pair(alpha, beta, domain, sign)
    assert found.admissible.all()
    for i, pair in enumerate(found.features.tolist()):
        assert domain[i, pair].all()
        assert best_score(alpha[i, pair], beta[i, pair], sign) == best_score(
            alpha[i, domain[i]], beta[i, domain[i]], sign
        )


def best_score(alpha, beta, sign):
    """Largest score of one row, from the matrix of all pairs."""
    a, c = sign * (alpha[:, None] + alpha), -sign * (beta[:, None] + beta)
    score = np.maximum(a, 0) * np.maximum(c, 0)
    np.fill_diagonal(score, 0)
    return score.max()


@pytest.mark.parametrize("good", [0, 1, 2, 3])
def test_equals_every_pair_where_few_features_are_good_both_ways(good):
    # All others raise the target and the rest, or lower both: alone none of them qualifies.
    rng = np.random.default_rng(good)
    alpha, beta = rng.uniform(0.5, 2, (2, 6, 40)).astype(np.float32)
    lowers = rng.random(alpha.shape) < 0.5
    alpha[lowers] *= -1
    beta[lowers] *= -1
    beta[:, :good] = -np.abs(beta[:, :good])
    alpha[:, :good] = np.abs(alpha[:, :good])
    assert_best(alpha, beta)


def test_a_masked_feature_is_never_chosen_however_good():
    alpha, beta = row(100, 1, 100, 2), row(-100, -1, -100, -2)
    domain = np.array([[False, True, False, True]])
    for found in (
        assert_best(alpha, beta, domain),
        saliency.best_pair_of_probabilities(alpha, domain, 1),
    ):
        assert found.features.tolist() == [[1, 3]]
        assert found.admissible.all()


@pytest.mark.parametrize("allowed", [(), (2,)])
@pytest.mark.parametrize("features", [1, 2, 3, 100])
def test_fewer_than_two_features_give_no_pair(allowed, features):
    alpha, domain = np.ones((2, features), np.float32), np.zeros((2, features), bool)
    domain[:, [i for i in allowed if i < features]] = True
    assert not saliency.best_pair(alpha, -alpha, domain, 1).admissible.any()
    assert not saliency.best_pair_of_probabilities(alpha, domain, 1).admissible.any()


def test_a_single_feature_in_all_gives_no_pair():
    alpha = np.ones((3, 1), np.float32)
    domain = np.ones((3, 1), bool)
    assert not saliency.best_pair(alpha, -alpha, domain, 1).admissible.any()
    assert not saliency.best_pair_of_probabilities(alpha, domain, 1).admissible.any()


def test_a_product_that_underflows_is_no_pair():
    alpha = row(1e-25, 2e-25)
    assert not assert_best(alpha, -alpha).admissible.any()
    assert assert_best(alpha.astype(np.float64), -alpha.astype(np.float64)).admissible.all()


def test_underflow_does_not_hide_a_pair_that_does_not_underflow():
    alpha, beta = row(1e-25, 1e-25, 1e-18, 1e-18), row(-1e-25, -1e-25, -1e-18, -1e-18)
    assert assert_best(alpha, beta).features.tolist() == [[2, 3]]


def test_probabilities_need_no_product():
    alpha = row(1e-37, 3e-37, 2e-37)
    domain = np.ones((1, 3), bool)
    found = saliency.best_pair_of_probabilities(alpha, domain, 1)
    assert found.features.tolist() == [[1, 2]]
    assert found.admissible.all()
    assert not saliency.best_pair(alpha, -alpha, domain, 1).admissible.any()


@pytest.mark.parametrize(
    ("alpha", "sign", "pair", "admissible"),
    [
        ((3, -5, 2, 1), 1, [0, 2], True),
        ((3, -5, 2, 1), -1, [1, 3], True),  # -5 + 1 < 0
        ((3, -1, -4), 1, [0, 1], True),  # 3 - 1 > 0
        ((1, -1, -4), 1, [0, 1], False),  # 1 - 1 is not > 0
        ((0, 0, 0), 1, None, False),
        ((-1, -2, -3), 1, None, False),
    ],
)
def test_probabilities_take_the_two_largest(alpha, sign, pair, admissible):
    found = saliency.best_pair_of_probabilities(row(*alpha), np.ones((1, len(alpha)), bool), sign)
    assert found.admissible.tolist() == [admissible]
    if pair:
        assert found.features.tolist() == [pair]


def test_leaves_its_arguments_alone():
    alpha, beta = np.random.default_rng(0).normal(size=(2, 3, 5))
    domain = np.ones((3, 5), bool)
    copies = alpha.copy(), beta.copy(), domain.copy()
    saliency.best_pair(alpha, beta, domain, 1)
    saliency.best_pair_of_probabilities(alpha, domain, 1)
    for given, copy in zip((alpha, beta, domain), copies, strict=True):
        np.testing.assert_array_equal(given, copy)
