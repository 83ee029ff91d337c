r"""Which pair of features JSMA changes next: saliency maps over pairs, searched exactly.

For a step that moves features by theta, with $s = \mathrm{sign}(\theta)$, alpha the derivative of
the target's output and beta that of the sum of all others, write $a = s\,\alpha$ and
$c = -s\,\beta$. The pair (p, q) is admissible if $a_p + a_q > 0$ and $c_p + c_q > 0$; the best one
has the largest $-\alpha_{pq} \beta_{pq} = (a_p + a_q)(c_p + c_q)$ (Papernot et al. 2016, "The
Limitations of Deep Learning in Adversarial Settings", algorithm 3). Both signs of theta are one
case here.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

# Above this many candidates a row is searched alone, so that a batch needs little memory.
_BATCHED_CANDIDATES = 64


class Pairs(NamedTuple):
    """The chosen pair of each row.

    Attributes:
        features: indices of the two features, the smaller first, int64, shape [N, 2]; arbitrary
            where not admissible.
        admissible: whether any pair qualifies, shape [N].
    """

    features: npt.NDArray[np.int64]
    admissible: npt.NDArray[np.bool_]


class _Candidates(NamedTuple):
    """Features of each row and what they do, each of shape [N, candidates]."""

    features: npt.NDArray[np.int64]
    a: Floats
    c: Floats

    def columns(self, chosen: npt.NDArray[np.int64]) -> "_Candidates":
        """The chosen columns of each row, in that order."""
        return _Candidates(
            np.take_along_axis(self.features, chosen, axis=1),
            np.take_along_axis(self.a, chosen, axis=1),
            np.take_along_axis(self.c, chosen, axis=1),
        )


def best_pair_of_probabilities(alpha: Floats, domain: npt.NDArray[np.bool_], sign: int) -> Pairs:
    r"""The best pair where the outputs sum to a constant, such as probabilities.

    Then $\beta = -\alpha$ and the score is $(a_p + a_q)^2$, so the best pair is the two largest
    entries of a: O(features), and no product that could underflow.

    Args:
        alpha: derivative of the target's output, shape [N, features].
        domain: features that may be changed, same shape.
        sign: of theta, 1 or -1.

    Returns:
        The pairs; admissible if $a_p + a_q > 0$.
    """
    a = np.where(domain, alpha if sign > 0 else -alpha, -np.inf)
    rows = np.arange(len(a))
    first = a.argmax(axis=1)
    largest = a[rows, first]
    a[rows, first] = -np.inf
    second = a.argmax(axis=1)
    features = np.sort(np.stack([first, second], axis=1), axis=1)
    return Pairs(features, largest + a[rows, second] > 0)


def best_pair(alpha: Floats, beta: Floats, domain: npt.NDArray[np.bool_], sign: int) -> Pairs:
    """The best pair, exactly, without the features x features matrix.

    A pair that maximises the score lies among the features that fewer than two others match or
    beat in both a and c: if two do, one of them is not yet in the pair and can replace it at no
    loss. Most features fall to the same two others, which takes no sorting to see. Of the rest,
    sorted by falling a, those are left whose c exceeds the second largest seen so far; typically
    a dozen of thousands.

    Args:
        alpha: derivative of the target's output, shape [N, features].
        beta: derivative of the sum of all other outputs, same shape and type.
        domain: features that may be changed, same shape.
        sign: of theta, 1 or -1.

    Returns:
        The pairs; admissible if one qualifies and its score, in the type of `alpha`, is not 0.
    """
    a = np.where(domain, alpha if sign > 0 else -alpha, -np.inf)
    c = np.where(domain, -beta if sign > 0 else beta, -np.inf)
    every = _Candidates(np.broadcast_to(np.arange(a.shape[1]), a.shape), a, c)
    left, _ = _only(every, _unbeaten_by_two_good_ones(a, c))
    left = left.columns(np.argsort(-left.a, axis=1))
    (features, a, c), counts = _only(left, _undominated(left.c))

    chosen = np.zeros((len(a), 2), np.int64)
    admissible = np.zeros(len(a), np.bool_)
    small = np.flatnonzero(counts <= _BATCHED_CANDIDATES)
    groups = [small] if len(small) else []
    groups += [np.array([row]) for row in np.flatnonzero(counts > _BATCHED_CANDIDATES)]
    for rows in groups:
        width = counts[rows].max()
        chosen[rows], admissible[rows] = _search(a[rows, :width], c[rows, :width])
    return Pairs(np.sort(np.take_along_axis(features, chosen, axis=1), axis=1), admissible)


def _unbeaten_by_two_good_ones(a: Floats, c: Floats) -> npt.NDArray[np.bool_]:
    """Features that the two with the largest a c > 0 do not both match or beat, and those two.

    Any two would do; these leave few others.
    """
    score = np.maximum(a, 0) * np.maximum(c, 0)
    rows = np.arange(len(a))
    first = score.argmax(axis=1)
    score[rows, first] = -1
    both = rows[:, None], np.stack([first, score.argmax(axis=1)], axis=1)
    keep = (a > a[both].min(axis=1, keepdims=True)) | (c > c[both].min(axis=1, keepdims=True))
    keep[both] = True
    return keep


def _undominated(c: Floats) -> npt.NDArray[np.bool_]:
    """Features that fewer than two of those before them match or beat in c."""
    largest = np.maximum.accumulate(c, axis=1)
    # The second largest so far is the largest of those that were not the largest when they came.
    second = np.full_like(c, -np.inf)
    beaten = np.minimum(c[:, 1:], largest[:, :-1])
    second[:, 2:] = np.maximum.accumulate(beaten, axis=1)[:, :-1]
    return c > second


def _only(
    candidates: _Candidates, keep: npt.NDArray[np.bool_]
) -> tuple[_Candidates, npt.NDArray[np.int64]]:
    """What each row keeps, moved to the left, and how many that are, shape [N].

    To the right of it a and c are -inf, so that nothing there is ever chosen.
    """
    counts = keep.sum(axis=1)
    filled = np.arange(max(2, counts.max(initial=0))) < counts[:, None]
    columns = np.zeros(filled.shape, np.int64)
    columns[filled] = np.flatnonzero(keep) % keep.shape[1]
    kept = candidates.columns(columns)
    kept.a[~filled] = kept.c[~filled] = -np.inf
    return kept, counts


def _search(a: Floats, c: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """All pairs of the candidates of a few rows: positions [N, 2] and whether one qualifies."""
    p, q = np.triu_indices(a.shape[1], k=1)
    if not len(p):
        return np.zeros((len(a), 2), np.int64), np.zeros(len(a), np.bool_)
    gain, loss = a[:, p] + a[:, q], c[:, p] + c[:, q]
    # What does not qualify must not win by the product of two negatives, nor by inf * inf.
    score = np.maximum(gain, 0) * np.maximum(loss, 0)
    best = score.argmax(axis=1)
    return np.stack([p[best], q[best]], axis=1), score[np.arange(len(a)), best] > 0
