"""What attacks did, put together of its parts, is what they did."""

import dataclasses
import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ddefense.records import AttackOutcome


@given(
    pairs=st.integers(1, 12),
    cuts=st.sets(st.integers(1, 11)),
    seed=st.integers(0, 2**32 - 1),
)
def test_an_outcome_joined_of_any_parts_is_the_whole(pairs, cuts, seed):
    generator = np.random.default_rng(seed)
    originals = generator.random((pairs, 2, 3, 1), np.float32)
    changed = generator.random(originals.shape) < generator.random()
    adversarial = np.where(changed, np.float32(2), originals)
    sample, target, start, end = generator.integers(0, 5, (4, pairs))
    success = generator.random(pairs) < 0.5
    probabilities = generator.random((pairs, 3), np.float32)

    def outcome(rows):
        return AttackOutcome.from_images(
            originals[rows],
            adversarial[rows],
            sample[rows],
            target[rows],
            start=start[rows],
            end=end[rows],
            success=success[rows],
            probabilities=probabilities[rows],
        )

    whole = outcome(slice(None))
    edges = [0, *sorted(cut for cut in cuts if cut < pairs), pairs]
    parts = [outcome(slice(*both)) for both in itertools.pairwise(edges)]
    first = whole.of_first(3)
    assert first.sample.tolist() == [row for row in sample if row < 3]
    changes = [whole.values[a:b].tolist() for a, b in itertools.pairwise(whole.offsets)]
    kept = [first.values[a:b].tolist() for a, b in itertools.pairwise(first.offsets)]
    assert kept == [own for own, row in zip(changes, sample, strict=True) if row < 3]
    joined = AttackOutcome.join(parts)
    for field in dataclasses.fields(AttackOutcome):
        one, other = getattr(whole, field.name), getattr(joined, field.name)
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype, field.name
