"""Two networks are compared on the attempts that start where they aim at on neither."""

import numpy as np
import pytest

from ddefense.measurements.counting import compared, comparisons
from ddefense.records import Attempts
from ddefense.records.samples import UNTARGETED


def attempts_of(sample, target, *, started=(), success=(), distance=None, chosen=None):
    rows = len(sample)

    def flags(places):
        return np.isin(np.arange(rows), places)

    return Attempts(
        sample=np.array(sample, np.int32),
        target=np.array(target, np.int32),
        start=np.zeros(rows, np.int32),
        end=np.zeros(rows, np.int32),
        started=flags(started),
        success=flags(success),
        distance=np.arange(1.0, rows + 1) if distance is None else np.array(distance, float),
        chosen=np.ones(rows, bool) if chosen is None else flags(chosen),
    )


def test_by_hand():
    # Attempt 0 starts there on the first network, 3 on the other one.
    ours = attempts_of([0, 0, 1, 1], [1, 2, 1, 2], started=[0], success=[1, 3])
    theirs = attempts_of([0, 0, 1, 1], [1, 2, 1, 2], started=[3], success=[0, 1, 2])
    found = compared("attack", "ours", ours, "theirs", theirs)
    assert (found.samples, found.attempts, found.targets) == (2, 2, "targeted")
    assert (found.success_rate, found.reference_success_rate) == (0.5, 1)
    # Only attempt 1 succeeds on both.
    assert (found.mean_distance, found.reference_mean_distance) == (2, 2)
    assert found.robustness is found.reference_robustness is None


def test_every_target_is_compared_with_one_random_target_where_both_have_it():
    every = attempts_of([0, 0, 1, 1], [1, 2, 1, 2], success=[0, 1, 2, 3], chosen=[1, 2])
    one = attempts_of([0, 1], [2, 1], success=[0, 1], distance=[7, 9])
    for first, second in ((every, one), (one, every)):
        found = compared("attack", "a", first, "b", second)
        assert (found.samples, found.attempts) == (2, 2)
        distances = {found.mean_distance, found.reference_mean_distance}
        assert distances == {2.5, 8.0}


def test_distances_are_of_the_random_targets():
    every = attempts_of([0, 0], [1, 2], success=[0, 1], chosen=[1])
    found = compared("attack", "a", every, "b", every)
    assert (found.attempts, found.mean_distance) == (2, 2)


def test_untargeted_attempts_are_told_by_their_image():
    ours = attempts_of([0, 1, 2], [UNTARGETED] * 3, started=[1], success=[0])
    theirs = attempts_of([1, 2], [UNTARGETED] * 2, success=[0, 1])
    found = compared("attack", "ours", ours, "theirs", theirs)
    assert (found.targets, found.samples, found.attempts) == ("untargeted", 1, 1)
    assert (found.success_rate, found.reference_success_rate) == (0, 1)
    assert found.mean_distance is None


def test_targeted_and_untargeted_attempts_do_not_compare():
    ours = attempts_of([0, 1], [UNTARGETED] * 2)
    assert compared("attack", "a", ours, "b", attempts_of([0, 1], [1, 1])) is None


def test_where_every_attempt_starts_there_nothing_compares():
    ours = attempts_of([0, 1], [1, 1], started=[0])
    assert compared("attack", "a", ours, "b", attempts_of([0, 1], [1, 1], started=[1])) is None


def test_robustness_is_over_the_same_attempts():
    # Without the attempt that starts in its target, sample 0 needs 4 of 10 features, not 0.
    ours = attempts_of([0, 0, 1], [1, 2, 1], started=[0], success=[1], distance=[0, 4, 10])
    theirs = attempts_of([0, 0, 1], [1, 2, 1], success=[0, 1, 2], distance=[1, 3, 2])
    found = compared("attack", "a", ours, "b", theirs, cap=0.5, num_features=10)
    assert found.robustness == pytest.approx((0.4 + 0.5) / 2)
    assert found.reference_robustness == pytest.approx((0.3 + 0.2) / 2)


def test_networks_are_compared_with_the_undistilled_one_and_with_lower_temperatures():
    class Network:
        def __init__(self, name, defense, temperature):
            self.name, self.defense, self.temperature = name, defense, temperature

    networks = [
        Network("baseline", "none", 1.0),
        Network("t5", "distillation", 5.0),
        Network("t20", "distillation", 20.0),
        Network("adversarially_trained", "adversarial_training", 1.0),
    ]
    same = attempts_of([0], [1], success=[0])
    made = {(n.name, attack): same for n in networks for attack in ("jsma_f", "cw_l2")}
    del made["t5", "cw_l2"]
    found = comparisons(networks, {}, made, max_features=2, num_features=4)
    assert {(c.network, c.reference, c.attack) for c in found} == {
        ("t5", "baseline", "jsma_f"),
        ("t20", "baseline", "jsma_f"),
        ("t20", "baseline", "cw_l2"),
        ("adversarially_trained", "baseline", "jsma_f"),
        ("adversarially_trained", "baseline", "cw_l2"),
        ("t20", "t5", "jsma_f"),
    }
