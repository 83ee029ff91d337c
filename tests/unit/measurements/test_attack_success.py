"""Attacks are judged by what they made, not by what they say; then counted, by hand."""

import numpy as np
import pytest

from ddefense import attacks, measurements
from ddefense.attacks import AdversarialSamples, Stop
from ddefense.maths import statistics
from ddefense.records import AttackOutcome

# Class 0, because the first pixel is the brightest.
ORIGINAL = [0.6, 0.4, 0.2, 0.0]


def judge_one(network, made, target, *, says=Stop.REACHED, num_features=0, max_features=2):
    originals = np.array(ORIGINAL, np.float32).reshape(1, 1, 4, 1)
    samples = AdversarialSamples(
        images=np.array(made, np.float32).reshape(1, 1, 4, 1),
        num_features=np.array([num_features]),
        stop=np.array([says], np.int8),
    )
    return measurements.judge(
        network,
        originals,
        samples,
        np.array([0]),
        np.array([target]),
        max_features=max_features,
        bounds=(0.0, 1.0),
    )


@pytest.mark.parametrize(
    ("made", "target", "changed", "success"),
    [
        ([0.6, 1.0, 0.2, 0.0], 1, 1, True),
        ([0.0, 1.0, 0.2, 0.0], 1, 2, True),  # exactly the budget
        (ORIGINAL, 0, 0, False),  # starts in the target, and stays there
        ([0.7, 0.4, 0.2, 0.0], 0, 1, False),  # starts in the target, and is changed all the same
        (ORIGINAL, 1, 0, False),  # claims a success that is none
        ([0.6, 1.0, 0.2, 0.0], 2, 1, False),  # another class than the target
        ([0.0, 1.0, 0.2, 0.5], 1, 3, False),  # over the budget
        ([0.6, 1.5, 0.2, 0.0], 1, 1, False),  # above the box
        ([-0.5, 0.4, 0.2, 0.0], 1, 1, False),  # below it
        ([0.6, 1.0, 0.2, np.nan], 1, 2, False),
        ([0.6, 1 + 2e-7, 0.2, 0.0], 1, 1, True),  # the box up to rounding
    ],
)
def test_success_needs_target_budget_and_box(by_brightest, made, target, changed, success):
    outcome = judge_one(by_brightest, made, target)
    assert outcome.success.tolist() == [success]
    assert outcome.num_features.tolist() == [changed]


@pytest.mark.parametrize(("target", "started"), [(0, True), (1, False)])
def test_where_an_attempt_starts_and_ends_is_kept(by_brightest, target, started):
    outcome = judge_one(by_brightest, [0.6, 1.0, 0.2, 0.0], target)
    assert (outcome.start.tolist(), outcome.end.tolist()) == ([0], [1])
    assert outcome.started.tolist() == [started]


def test_the_probabilities_of_what_was_made_are_kept(by_brightest):
    made = np.array([0.6, 1.0, 0.2, 0.0], np.float32)
    outcome = judge_one(by_brightest, made, 1)
    logits = np.asarray(by_brightest(made.reshape(1, 1, 4, 1)), np.float64)
    powers = np.exp(logits)
    np.testing.assert_allclose(outcome.probabilities, powers / powers.sum(), rtol=1e-6)
    assert outcome.probabilities.dtype == np.float32
    np.testing.assert_allclose(
        measurements.probabilities_of(np.array([[0.0, np.log(3), -1e4]], np.float32)),
        [[0.25, 0.75, 0.0]],
        rtol=1e-6,
    )


@pytest.mark.parametrize("says", list(Stop))
@pytest.mark.parametrize("num_features", [0, 2, 100])
def test_what_the_attack_says_does_not_matter(by_brightest, says, num_features):
    said = {"says": says, "num_features": num_features}
    assert judge_one(by_brightest, [0.6, 1.0, 0.2, 0.0], 1, **said).success.all()
    assert not judge_one(by_brightest, [0.6, 0.5, 0.2, 0.0], 1, **said).success.any()


def test_the_outcome_says_what_was_changed(by_brightest):
    outcome = judge_one(by_brightest, [0.0, 1.0, 0.2, 0.0], 1)
    assert outcome.features.tolist() == [0, 1]
    assert outcome.values.tolist() == [0, 1]
    assert outcome.offsets.tolist() == [0, 2]
    assert outcome.sample.tolist() == [0]
    assert outcome.target.tolist() == [1]


def test_a_real_attack_is_honest(build_network):
    network = build_network()
    rng = np.random.default_rng(0)
    images = rng.random((6, 3, 3, 1)).astype(np.float32)
    labels = network(images).numpy().argmax(axis=1)
    sample, target = attacks.every_wrong_class(labels, 3)
    derivative = attacks.forward_derivative(network, "jsma_z")
    made = attacks.jsma(derivative, images[sample], target, max_features=8)
    outcome = measurements.judge(
        network, images[sample], made, sample, target, max_features=8, bounds=(0.0, 1.0)
    )
    np.testing.assert_array_equal(outcome.success, made.stop == Stop.REACHED)
    np.testing.assert_array_equal(outcome.num_features, made.num_features)
    assert outcome.success.any()
    assert not outcome.success.all()


def outcome_of(success, changed, sample, started=None):
    """An outcome in which pair i changed `changed[i]` features; the target of each is class 0."""
    offsets = np.concatenate([[0], np.cumsum(changed)])
    started = np.zeros(len(success), bool) if started is None else np.array(started, bool)
    return AttackOutcome(
        sample=np.array(sample, np.int32),
        target=np.zeros(len(success), np.int32),
        start=np.where(started, 0, 1).astype(np.int32),
        end=np.where(success, 0, 1).astype(np.int32),
        success=np.array(success, bool) & ~started,
        offsets=offsets.astype(np.int64),
        features=np.concatenate([np.arange(n) for n in changed]).astype(np.int32),
        values=np.ones(offsets[-1], np.float32),
    )


def test_success_record_by_hand():
    changed = [0, 4, 8, 2, 0, 8]
    success = [True, True, False, False, False, True]
    sample = [0, 0, 1, 1, 2, 2]
    stop = [
        Stop.REACHED,
        Stop.REACHED,
        Stop.BUDGET,
        Stop.NO_ADMISSIBLE_PAIR,
        Stop.ZERO_MAP,
        Stop.REACHED,
    ]
    started = [True, False, False, False, False, False]
    found = measurements.success_record(
        outcome_of(success, changed, sample, started),
        stop=np.array(stop, np.int8),
        steps=11,
        theta=-1.0,
        max_features=8,
        num_features=100,
        seed=5,
    )
    assert (found.theta, found.max_features) == (-1, 8)
    # The pair that starts in its target is in no number but those that say so.
    assert (found.samples, found.attempts, found.started, found.successes) == (3, 5, 1, 2)
    assert found.success_rate == 2 / 5
    assert found.success_rate_over_all == 3 / 6
    assert found.success_interval == statistics.ratio_interval(
        np.array([1.0, 0.0, 1.0]), np.array([1, 2, 2]), 5
    )
    assert found.mean_features == pytest.approx((4 + 8) / 2)
    assert found.features_interval == statistics.ratio_interval(
        np.array([4.0, 0.0, 8.0]), np.array([1, 0, 1]), 5
    )
    assert found.mean_distortion == pytest.approx(0.06)
    assert (found.no_admissible_pair, found.zero_maps) == (2, 1)
    assert found.steps == 11


def test_success_record_without_a_success():
    found = measurements.success_record(
        outcome_of([False, False], [0, 2], [0, 0]),
        stop=np.array([Stop.ZERO_MAP, Stop.BUDGET], np.int8),
        steps=1,
        theta=1.0,
        max_features=2,
        num_features=100,
        seed=0,
    )
    assert (found.successes, found.success_rate, found.started) == (0, 0, 0)
    assert found.success_interval == (0, 0)
    assert found.mean_distortion is None
    assert found.mean_features is found.features_interval is None


def test_where_every_pair_starts_in_its_target_there_is_no_rate():
    outcome = outcome_of([True, True], [0, 0], [0, 1], [True, True])
    found = measurements.success_record(
        outcome,
        stop=np.array([Stop.REACHED] * 2, np.int8),
        steps=0,
        theta=1.0,
        max_features=2,
        num_features=100,
        seed=0,
    )
    assert (found.samples, found.attempts, found.started, found.successes) == (2, 0, 2, 0)
    assert found.success_rate is found.success_interval is None
    assert found.success_rate_over_all == 1
    assert measurements.robustness(outcome, max_features=2, num_features=100) is None


def test_a_failure_without_any_change_does_not_start_in_its_target():
    found = measurements.success_record(
        outcome_of([False, True], [0, 2], [0, 1]),
        stop=np.array([Stop.ZERO_MAP, Stop.REACHED], np.int8),
        steps=1,
        theta=1.0,
        max_features=2,
        num_features=10,
        seed=0,
    )
    assert (found.attempts, found.started) == (2, 0)
    assert found.mean_distortion == pytest.approx(0.2)


def test_robustness_by_hand():
    outcome = outcome_of(
        [True, True, False, False, False, True], [6, 4, 8, 2, 0, 0], [0, 0, 1, 1, 2, 2]
    )
    found = measurements.robustness(outcome, max_features=8, num_features=100)
    assert found.cap == pytest.approx(0.08)
    assert found.capped == pytest.approx((0.04 + 0.08 + 0) / 3)
    assert found.uncapped == pytest.approx((0.04 + 0) / 2)
    assert found.unreached == pytest.approx(1 / 3)


def test_robustness_leaves_out_what_starts_in_its_target():
    # Sample 0 keeps its other target, sample 1 has none left.
    outcome = outcome_of([True, True, True], [0, 6, 0], [0, 0, 1], [True, False, True])
    found = measurements.robustness(outcome, max_features=8, num_features=100)
    assert (found.capped, found.uncapped) == (pytest.approx(0.06), pytest.approx(0.06))
    assert found.unreached == 0


def test_robustness_under_an_attack_that_always_fails_is_the_cap():
    outcome = outcome_of([False] * 4, [0, 2, 0, 8], [0, 0, 1, 1])
    found = measurements.robustness(outcome, max_features=112, num_features=784)
    assert found.capped == found.cap == pytest.approx(1 / 7)
    assert found.uncapped is None
    assert found.unreached == 1
