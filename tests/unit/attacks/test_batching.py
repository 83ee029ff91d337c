"""Which rows share a batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddefense.attacks.batching import Slots, padded_size


@pytest.mark.parametrize(
    ("count", "expected"),
    {1: 1, 7: 7, 8: 8, 9: 10, 10: 10, 11: 12, 15: 16, 17: 20, 33: 40, 100: 112, 1025: 1280}.items(),
)
def test_padded_sizes_by_hand(count, expected):
    assert padded_size(count) == expected


def test_padded_sizes_are_few_and_not_much_larger():
    sizes = {}
    for count in range(1, 4097):
        size = padded_size(count)
        sizes.setdefault(size, []).append(count)
        assert count <= size < 1.25 * count
        significant = bin(size)[2:].rstrip("0")
        assert len(significant) <= 3
    assert len(sizes) < 50


def test_by_hand():
    slots = Slots(5, 3)
    assert slots.active.tolist() == [0, 1, 2]
    assert slots.padded().tolist() == [0, 1, 2]
    # Row 1 leaves; row 3 comes in, last.
    assert slots.keep(np.array([True, False, True])).tolist() == [3]
    assert slots.active.tolist() == [0, 2, 3]
    assert slots.keep(np.array([False, True, False])).tolist() == [4]
    assert slots.active.tolist() == [2, 4]
    assert slots.keep(np.array([True, True])).tolist() == []
    assert slots.active.tolist() == [2, 4]
    assert slots.keep(np.array([False, False])).tolist() == []
    assert slots.active.tolist() == []


def test_padding_repeats_active_rows_and_never_exceeds_the_batch():
    slots = Slots(9, 16)
    assert slots.padded().tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 0]
    assert Slots(9, 9).padded().tolist() == list(range(9))
    slots = Slots(20, 9)
    slots.keep(np.zeros(9, bool))
    assert slots.padded().tolist() == list(range(9, 18))


@given(
    lives=st.lists(st.integers(1, 6), max_size=40),
    batch_size=st.integers(1, 12),
)
@settings(derandomize=True, database=None, deadline=None)
def test_every_row_is_worked_on_in_order_until_it_is_done(lives, batch_size):
    """Row i needs lives[i] turns; nobody waits while there is room."""
    slots = Slots(len(lives), batch_size)
    turns = np.zeros(len(lives), int)
    entered = slots.active.tolist()
    while len(slots.active):
        waiting = len(lives) - len(entered)
        active = slots.active.copy()
        assert len(active) == min(batch_size, len(active) + waiting)
        assert len(set(active.tolist())) == len(active)
        padded = slots.padded()
        assert padded[: len(active)].tolist() == active.tolist()
        assert set(padded.tolist()) == set(active.tolist())
        assert len(padded) <= batch_size
        turns[active] += 1
        stays = turns[active] < np.array(lives)[active]
        new = slots.keep(stays)
        # Who stays keeps the order, and who comes in is behind.
        assert slots.active.tolist() == [*active[stays].tolist(), *new.tolist()]
        entered += new.tolist()
    assert turns.tolist() == lives
    assert entered == list(range(len(lives)))
