"""Properties of the pair search."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ddefense.maths import saliency

SIGNS = st.sampled_from([1, -1])
# Few values, so that many features tie and dominate each other; any values; and values whose
# sums and products neither round to 0 nor overflow.
TIED = st.integers(-2, 2).map(float)
ANY = st.floats(-1000, 1000, width=32)
TAME = st.floats(-1000, 1000, width=16)


@st.composite
def maps(draw, elements=None, dtypes=(np.float32, np.float64)):
    """alpha, beta and domain of a few rows."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(2, 9)))
    dtype = draw(st.sampled_from(dtypes))
    elements = draw(st.sampled_from([TIED, ANY])) if elements is None else elements
    of = npst.arrays(dtype, shape, elements=elements)
    return draw(of), draw(of), draw(npst.arrays(np.bool_, shape, elements=st.booleans()))


def scores(alpha, beta, domain, sign):
    """Score of each admissible pair of one row, in its type."""
    found = {}
    for p, q in itertools.combinations(np.flatnonzero(domain).tolist(), 2):
        a, b = alpha[p] + alpha[q], beta[p] + beta[q]
        if sign * a > 0 and sign * b < 0:
            found[p, q] = -(a * b)
    return found


@given(maps(), SIGNS)
def test_the_chosen_pair_has_the_largest_score(drawn, sign):
    alpha, beta, domain = drawn
    found = saliency.best_pair(alpha, beta, domain, sign)
    for i in range(len(alpha)):
        every = scores(alpha[i], beta[i], domain[i], sign)
        best = max(every.values(), default=0)
        assert found.admissible[i] == (best > 0)
        if best > 0:
            assert every[tuple(found.features[i].tolist())] == best


@given(st.integers(60, 75), st.integers(0, 2**32 - 1), SIGNS)
def test_the_chosen_pair_has_the_largest_score_of_many_candidates(features, seed, sign):
    # On a falling front nearly every feature is a candidate; the noise makes some dominated.
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, np.pi / 2, features)
    radius = 1 + rng.choice([0, 1e-3]) * rng.random(features)
    alpha = (sign * radius * np.cos(angle)).astype(np.float32)
    beta = (-sign * radius * np.sin(angle)).astype(np.float32)
    domain = rng.random(features) < rng.choice([0.9, 1])
    found = saliency.best_pair(alpha[None], beta[None], domain[None], sign)
    every = scores(alpha, beta, domain, sign)
    assert every[tuple(found.features[0].tolist())] == max(every.values())


@given(maps(elements=TAME), SIGNS)
def test_the_short_cut_for_probabilities_has_the_same_score(drawn, sign):
    alpha, _, domain = drawn
    short = saliency.best_pair_of_probabilities(alpha, domain, sign)
    full = saliency.best_pair(alpha, -alpha, domain, sign)
    np.testing.assert_array_equal(short.admissible, full.admissible)
    for i in np.flatnonzero(full.admissible):
        every = scores(alpha[i], -alpha[i], domain[i], sign)
        assert every[tuple(short.features[i])] == every[tuple(full.features[i])]


@given(maps(), SIGNS)
def test_chosen_features_lie_in_the_domain(drawn, sign):
    alpha, beta, domain = drawn
    for found in (
        saliency.best_pair(alpha, beta, domain, sign),
        saliency.best_pair_of_probabilities(alpha, domain, sign),
    ):
        assert found.features.shape == (len(alpha), 2)
        for i in np.flatnonzero(found.admissible):
            first, second = found.features[i]
            assert first < second
            assert domain[i, first]
            assert domain[i, second]


@given(maps(), SIGNS, st.randoms(use_true_random=False))
def test_rows_do_not_depend_on_each_other(drawn, sign, random):
    alpha, beta, domain = drawn
    order = list(range(len(alpha)))
    random.shuffle(order)
    together = saliency.best_pair(alpha, beta, domain, sign)
    mixed = saliency.best_pair(alpha[order], beta[order], domain[order], sign)
    np.testing.assert_array_equal(mixed.admissible, together.admissible[order])
    for i, row in enumerate(order):
        alone = saliency.best_pair(alpha[[row]], beta[[row]], domain[[row]], sign)
        assert alone.admissible[0] == together.admissible[row]
        if together.admissible[row]:
            np.testing.assert_array_equal(mixed.features[i], together.features[row])
            np.testing.assert_array_equal(alone.features[0], together.features[row])


@given(maps())
def test_a_negative_theta_is_the_mirror_image(drawn):
    alpha, beta, domain = drawn
    for down, up in (
        (
            saliency.best_pair(alpha, beta, domain, -1),
            saliency.best_pair(-alpha, -beta, domain, 1),
        ),
        (
            saliency.best_pair_of_probabilities(alpha, domain, -1),
            saliency.best_pair_of_probabilities(-alpha, domain, 1),
        ),
    ):
        np.testing.assert_array_equal(down.admissible, up.admissible)
        np.testing.assert_array_equal(down.features[down.admissible], up.features[up.admissible])
