"""Attacks are judged by what they made, not by what they say; then counted, by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddefense import attacks
from ddefense.maths import statistics
from ddefense.measurements import (
    Outcome,
    judge,
    probabilities_of,
    robustness,
    success_record,
    transfer_record,
)
from ddefense.records import CaseRecord

# Class 0, because the first pixel is the brightest.
ORIGINAL = [0.6, 0.4, 0.2, 0.0]
# The same examples in every run, as long as they need.
SAME = settings(deadline=None, derandomize=True, database=None, max_examples=40)


def row_of(*images):
    return np.array(images, np.float32).reshape(len(images), 1, 4, 1)


def judge_one(network, made, target=None, *, label=0, norm="l2", **settings):
    return judge(
        network,
        row_of(ORIGINAL),
        row_of(made),
        labels=np.array([label]),
        targets=None if target is None else np.array([target]),
        bounds=(0.0, 1.0),
        norm=norm,
        **settings,
    )


@pytest.mark.parametrize(
    ("made", "target", "success"),
    [
        ([0.6, 0.7, 0.2, 0.0], 1, True),
        ([0.6, 0.7, 0.2, 0.0], 2, False),  # another class than the target
        ([0.6, 0.7, 0.2, 0.0], None, True),  # any wrong class will do
        (ORIGINAL, 1, False),
        (ORIGINAL, None, False),
        (ORIGINAL, 0, False),  # starts in the target
        ([0.7, 0.4, 0.2, 0.0], 0, False),  # and is moved within it
        ([0.6, 1.5, 0.2, 0.0], None, False),  # above the box
        ([-0.5, 0.4, 0.2, 0.0], None, False),  # below it
        ([0.6, 0.7, 0.2, np.nan], None, False),
        ([0.6, 1 + 2e-7, 0.2, 0.0], None, True),  # the box up to rounding
    ],
)
def test_success_needs_the_class_and_the_box(by_brightest, made, target, success):
    assert judge_one(by_brightest, made, target).success.tolist() == [success]


def test_an_image_that_is_refused_is_no_success(by_brightest):
    refused = [0.6, 0.7, 0.2, 0.0]  # class 1
    for target, outlier_class, success in ((None, 1, False), (None, 2, True), (1, 2, True)):
        found = judge_one(by_brightest, refused, target, outlier_class=outlier_class)
        assert found.success.tolist() == [success]


@pytest.mark.parametrize("made", [ORIGINAL, [0.7, 0.4, 0.2, 0.0], [0.6, 0.7, 0.2, 0.0]])
def test_where_the_network_erred_already_an_untargeted_attack_does_nothing(by_brightest, made):
    found = judge_one(by_brightest, made, label=2)
    assert found.started.tolist() == found.reached.tolist() == [True]
    assert found.success.tolist() == [False]
    assert found.start.tolist() == [0]


def test_an_image_that_is_refused_unchanged_does_not_start_where_the_attack_aims_at(by_brightest):
    found = judge_one(by_brightest, [0.6, 0.7, 0.2, 0.0], label=2, outlier_class=0)
    assert found.started.tolist() == [False]
    assert found.success.tolist() == [True]


@pytest.mark.parametrize(
    ("norm", "budget", "success"),
    [
        *[("linf", budget, True) for budget in (None, 0.41, 0.4, 0.4 - 5e-7)],
        ("linf", 0.39, False),
        *[("l2", 0.51, True), ("l2", 0.49, False)],
        *[("l0", 2, True), ("l0", 1, False)],
    ],
)
def test_a_budget_bounds_the_distance(by_brightest, norm, budget, success):
    found = judge_one(by_brightest, [0.3, 0.8, 0.2, 0.0], 1, norm=norm, budget=budget)
    assert found.success.tolist() == [success]


def test_the_probabilities_of_what_was_made_are_kept(by_brightest):
    made = [0.6, 1.0, 0.2, 0.0]
    found = judge_one(by_brightest, made, 1)
    powers = np.exp(np.asarray(by_brightest(row_of(made)), np.float64))
    np.testing.assert_allclose(found.probabilities, powers / powers.sum(), rtol=1e-6)
    assert found.probabilities.dtype == np.float32
    given = judge_one(by_brightest, made, 1, gives_probabilities=True)
    np.testing.assert_array_equal(given.probabilities, by_brightest(row_of(made)))
    assert not judge_one(by_brightest, [0.6, 1.0, 0.2, np.nan], 1).probabilities.any()
    np.testing.assert_allclose(
        probabilities_of(np.array([[0.0, np.log(3), -1e4]], np.float32)),
        [[0.25, 0.75, 0.0]],
        rtol=1e-6,
    )


def test_a_real_attack_is_honest(build_network):
    network = build_network()
    rng = np.random.default_rng(0)
    images = rng.random((6, 3, 3, 1)).astype(np.float32)
    labels = network(images).numpy().argmax(axis=1)
    sample, target = attacks.every_wrong_class(labels, 3)
    made = attacks.jsma(
        attacks.classifier(network),
        images[sample],
        labels[sample],
        target,
        settings=attacks.JSMA(reading="jsma_z", max_features=8),
    )
    found = judge(
        network,
        images[sample],
        made.images,
        labels=labels[sample],
        targets=target,
        bounds=(0.0, 1.0),
        norm="l0",
        budget=8,
    )
    np.testing.assert_array_equal(found.distance, 2 * made.details["steps"])
    stuck = made.details["no_admissible_pair"] | (found.distance == 8)
    assert (found.success | stuck).all()
    assert found.success.any()
    assert not found.success.all()


@pytest.mark.parametrize(
    ("norm", "expected"), [("l0", 2), ("l2", np.sqrt(0.3**2 + 0.4**2)), ("linf", 0.4)]
)
def test_distances_by_hand(by_brightest, norm, expected):
    found = judge_one(by_brightest, [0.3, 0.8, 0.2, 0.0], 1, norm=norm)
    assert found.distance.dtype == np.float64
    assert found.distance == pytest.approx([expected], rel=1e-6)


def test_a_change_below_float32_resolution_of_its_square_counts(by_brightest):
    # 1e-25 squared is 0 in float32, which would make the perturbation free.
    assert judge_one(by_brightest, [0.6, 0.4, 0.2, 1e-25]).distance == pytest.approx([1e-25])
    assert judge_one(by_brightest, [0.6, 0.4, 0.2, 1e-25], norm="l0").distance.tolist() == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "l1"}, r"norm: expected one of \['l0', 'l2', 'linf'\], received 'l1'"),
        ({"made": row_of(ORIGINAL, ORIGINAL)}, r"received \(2, 1, 4, 1\)"),
        ({"originals": row_of(), "made": row_of()}, "one or more images"),
        ({"labels": np.array([0, 1])}, r"labels: expected shape \(1,\), received \(2,\)"),
        ({"targets": np.array([[1]])}, r"targets: expected shape \(1,\), received \(1, 1\)"),
    ],
)
def test_bad_input_is_named(by_brightest, changes, message):
    fitting = {
        "originals": row_of(ORIGINAL),
        "made": row_of(ORIGINAL),
        "labels": np.array([0]),
        "targets": np.array([1]),
        "norm": "l2",
    }
    with pytest.raises(ValueError, match=message):
        judge(by_brightest, bounds=(0.0, 1.0), **(fitting | changes))


def outcome_of(reached, distance, started=None, end=None):
    reached = np.array(reached, bool)
    return Outcome(
        start=np.zeros(len(reached), int),
        predicted=reached.astype(int) if end is None else np.array(end),
        started=np.zeros(len(reached), bool) if started is None else np.array(started, bool),
        reached=reached,
        distance=np.array(distance, float),
        probabilities=np.zeros((len(reached), 3), np.float32),
    )


def record_of(
    success, distance, sample, *, targets="all", chosen=None, norm="l2", seed=5, started=None
):
    return success_record(
        outcome_of(success, distance, started),
        np.array(sample),
        norm=norm,
        settings={"steps": 7},
        targets=targets,
        random_target_rows=None if chosen is None else np.array(chosen, bool),
        seed=seed,
    )


def case(rate, distance, interval):
    return CaseRecord(success_rate=rate, mean_distance=distance, distance_interval=interval)


def test_all_targets_by_hand():
    # Sample 0: 1 and 3 succeed. Sample 1: 2 succeeds, 9 fails. Sample 2: none.
    found = record_of(
        [True, True, True, False, False, False],
        [1, 3, 2, 9, 4, 5],
        [0, 0, 1, 1, 2, 2],
        chosen=[False, True, False, True, True, False],
    )
    assert (found.norm, found.targets, found.settings) == ("l2", "all", {"steps": 7})
    assert (found.samples, found.attempts, found.successes) == (3, 6, 3)
    assert found.success_rate == 0.5
    assert found.success_interval == statistics.ratio_interval(
        np.array([2.0, 1.0, 0.0]), np.array([2, 2, 2]), 5
    )
    assert found.started == 0
    assert found.mean_distance == 2
    assert found.median_distance == 2
    assert found.distance_interval == statistics.ratio_interval(
        np.array([4.0, 2.0, 0.0]), np.array([2, 1, 0]), 5
    )
    between = statistics.ratio_interval(np.array([1.0, 2.0, 0.0]), np.array([1, 1, 0]), 5)
    assert between == (1, 2)
    assert found.best == case(2 / 3, 1.5, between)
    assert found.average == case(1 / 3, 3, (3, 3))
    # Sample 1 is not reached in the worst case, and its 2 does not count there.
    assert found.worst == case(1 / 3, 3, (3, 3))


def test_one_random_target_is_the_average_case():
    # The third starts in its target, and counts nowhere.
    started = [False, False, True, False]
    found = record_of(
        [True, False, True, True], [1, 2, 0, 8], [0, 1, 2, 3], targets="random", started=started
    )
    assert (found.samples, found.attempts, found.successes, found.started) == (4, 3, 2, 1)
    assert found.success_rate == 2 / 3
    assert found.success_rate_over_all == 3 / 4
    assert found.mean_distance == 4.5
    assert found.median_distance == 4.5
    assert found.average.success_rate == 2 / 3
    assert found.average.mean_distance == 4.5
    assert found.best is None
    assert found.worst is None


def test_the_cases_leave_out_what_starts_in_its_target():
    # Of sample 0 the easiest and chosen target; sample 1 has nothing left.
    found = record_of(
        [True, True, True, True],
        [0, 3, 0, 0],
        [0, 0, 1, 1],
        chosen=[True, False, True, False],
        started=[True, False, True, True],
    )
    assert (found.attempts, found.started, found.successes) == (1, 3, 1)
    assert found.best == found.worst == case(1, 3, (3, 3))
    assert found.average == case(None, None, None)


def test_an_untargeted_attack_has_no_cases():
    found = record_of([True, False], [1, 0], [0, 1], targets="untargeted", chosen=[False, False])
    assert (found.best, found.average, found.worst) == (None, None, None)
    # The failure at distance 0 did not move; it is no success from the start.
    assert (found.success_rate, found.started) == (0.5, 0)
    assert found.distance_interval == (1, 1)


def test_without_a_success_there_is_no_distance():
    found = record_of([False] * 4, [1, np.nan, 3, 4], [0, 0, 1, 1], chosen=[1, 0, 0, 1])
    assert (found.successes, found.success_rate, found.success_interval) == (0, 0, (0, 0))
    assert found.mean_distance is found.distance_interval is found.median_distance is None
    assert found.best == found.average == found.worst == case(0, None, None)


def test_a_distance_that_is_no_number_does_not_spoil_the_successes():
    found = record_of([True, False], [2, np.nan], [0, 0], chosen=[0, 1])
    assert found.mean_distance == 2
    assert found.distance_interval == (2, 2)
    assert found.best == case(1, 2, (2, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample": [0, 0, 1]}, r"sample: expected shape \(4,\), received \(3,\)"),
        ({"targets": "random"}, "one row per sample for random targets, received 2"),
        ({"targets": "untargeted"}, "one row per sample for untargeted targets, received 2"),
        ({"chosen": None}, r"random_target_rows: expected shape \(4,\), received \(0,\)"),
        ({"chosen": [1, 1, 0, 1]}, "one row of each sample, received 1 to 2"),
        ({"chosen": [1, 0, 0, 0]}, "one row of each sample, received 0 to 1"),
    ],
)
def test_rows_that_do_not_fit_are_named(changes, message):
    fitting = {"sample": [0, 0, 1, 1], "chosen": [1, 0, 1, 0]}
    with pytest.raises(ValueError, match=message):
        record_of([True] * 4, [1, 2, 3, 4], **(fitting | changes))


@st.composite
def attempts(draw):
    """(success, distance, sample, chosen): some targets of some samples, samples in order."""
    samples, targets = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    pairs = samples * targets
    success = draw(st.lists(st.booleans(), min_size=pairs, max_size=pairs))
    distance = draw(st.lists(st.floats(0, 100), min_size=pairs, max_size=pairs))
    first = draw(st.lists(st.integers(0, targets - 1), min_size=samples, max_size=samples))
    chosen = np.arange(targets) == np.array(first)[:, None]
    return (
        np.array(success),
        np.array(distance),
        np.repeat(np.arange(samples), targets),
        chosen.reshape(-1),
    )


@SAME
@given(attempts())
def test_the_easiest_target_is_reached_most_often(rows):
    success, distance, sample, chosen = rows
    found = record_of(success, distance, sample, chosen=chosen)
    assert found.best.success_rate >= found.average.success_rate >= found.worst.success_rate
    low, high = found.success_interval
    assert low - 1e-9 <= found.success_rate <= high + 1e-9


@SAME
@given(attempts())
def test_the_easiest_target_is_nearest_where_all_are_reached(rows):
    _, distance, sample, chosen = rows
    found = record_of(np.ones(len(sample)), distance, sample, chosen=chosen)
    near, middle, far = (case.mean_distance for case in (found.best, found.average, found.worst))
    assert near <= middle + 1e-9
    assert middle <= far + 1e-9
    low, high = found.distance_interval
    assert distance.min() - 1e-9 <= low <= found.mean_distance + 1e-9
    assert found.mean_distance - 1e-9 <= high <= distance.max() + 1e-9
    assert found.best.success_rate == found.worst.success_rate == 1


@SAME
@given(attempts(), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_the_numbers_of_samples_do_not_matter(rows, random):
    success, distance, sample, chosen = rows
    order = random.sample(range(len(sample)), len(sample))
    first = record_of(success, distance, sample, chosen=chosen)
    # Numbers that rise alike, so that the bootstrap draws the same samples.
    second = record_of(
        success[order], distance[order], 10 * sample[order] + 3, chosen=chosen[order]
    )
    for name in ("successes", "started", "median_distance", "success_interval"):
        assert getattr(first, name) == getattr(second, name)
    assert first.mean_distance == pytest.approx(second.mean_distance)
    assert first.distance_interval == pytest.approx(second.distance_interval)
    for case in ("best", "average", "worst"):
        one, other = getattr(first, case), getattr(second, case)
        assert one.success_rate == other.success_rate
        assert one.mean_distance == pytest.approx(other.mean_distance)


def test_transfer_by_hand():
    # The network gets the last image wrong unchanged.
    found = transfer_record(
        substitute_predicted=np.array([1, 1, 1, 0, 1]),
        outcome=outcome_of(
            [True, True, False, False, True],
            [1.0, 2.0, 6.0, 0.0, 3.0],
            [False, False, False, False, True],
            end=[1, 2, 0, 0, 1],
        ),
        targets=np.array([1, 1, 1, 1, 1]),
        kappa=20.0,
        seed=5,
    )
    assert (found.kappa, found.samples, found.started) == (20, 5, 1)
    assert found.crafted == 0.8
    assert found.misclassified == 0.5
    assert found.misclassified_interval == statistics.ratio_interval(
        np.array([1.0, 1.0, 0.0, 0.0, 0.0]), np.array([1, 1, 1, 1, 0]), 5
    )
    assert found.reached == 0.25
    # The original that stands for the sample that could not be made has no distance to count.
    assert found.mean_distance == 3


def test_transfer_of_nothing_has_no_distance():
    found = transfer_record(
        np.zeros(3, int), outcome_of([0] * 3, [0] * 3), np.ones(3, int), 40.0, 0
    )
    assert (found.crafted, found.misclassified, found.reached) == (0, 0, 0)
    assert found.mean_distance is None


def test_transfer_to_a_network_that_errs_everywhere_says_nothing():
    outcome = outcome_of([1] * 3, [1] * 3, [1] * 3)
    found = transfer_record(np.ones(3, int), outcome, np.ones(3, int), 40.0, 0)
    assert (found.started, found.crafted) == (3, 1)
    assert found.misclassified is found.misclassified_interval is found.reached is None


def test_transfer_names_what_does_not_fit():
    with pytest.raises(ValueError, match=r"targets: expected shape \(3,\), received \(2,\)"):
        transfer_record(np.zeros(3, int), outcome_of([0] * 3, [0] * 3), np.zeros(2, int), 0.0, 0)


SUCCESS = [True, True, False, False, False, True]
SAMPLE = [0, 0, 1, 1, 2, 2]


def test_details_are_summed_over_all_attempts():
    found = success_record(
        outcome_of(SUCCESS, [0, 4, 8, 2, 0, 8], [True, False, False, False, False, False]),
        np.array(SAMPLE),
        norm="l0",
        settings={"theta": -1.0, "max_features": 8},
        targets="all",
        random_target_rows=np.array([True, False] * 3),
        seed=5,
        details={"steps": np.full(6, 2), "zero_maps": np.array([False, False] + [True] * 4)},
    )
    assert found.max_features == 8
    # The pair that starts in its target is in no number but those that say so.
    assert (found.samples, found.attempts, found.started, found.successes) == (3, 5, 1, 2)
    assert found.success_rate == 2 / 5
    assert found.success_rate_over_all == 3 / 6
    assert found.mean_distance == pytest.approx((4 + 8) / 2)
    assert found.distance_interval == statistics.ratio_interval(
        np.array([4.0, 0.0, 8.0]), np.array([1, 0, 1]), 5
    )
    assert found.details == {"steps": 12, "zero_maps": 4}


def test_where_every_pair_starts_in_its_target_there_is_no_robustness():
    assert robustness_of([True, True], [0, 0], [0, 1], [True, True]) is None


def robustness_of(success, changed, sample, started=None, max_features=8, num_features=100):
    return robustness(
        outcome_of(success, changed, started),
        np.array(sample),
        max_features=max_features,
        num_features=num_features,
    )


def test_robustness_by_hand():
    found = robustness_of(SUCCESS, [6, 4, 8, 2, 0, 0], SAMPLE)
    assert found.cap == pytest.approx(0.08)
    assert found.capped == pytest.approx((0.04 + 0.08 + 0) / 3)
    assert found.uncapped == pytest.approx((0.04 + 0) / 2)
    assert found.unreached == pytest.approx(1 / 3)


def test_robustness_leaves_out_what_starts_in_its_target():
    # Sample 0 keeps its other target, sample 1 has none left.
    found = robustness_of([True, True, True], [0, 6, 0], [0, 0, 1], [True, False, True])
    assert (found.capped, found.uncapped) == (pytest.approx(0.06), pytest.approx(0.06))
    assert found.unreached == 0


def test_robustness_under_an_attack_that_always_fails_is_the_cap():
    found = robustness_of(
        [False] * 4, [0, 2, 0, 8], [0, 0, 1, 1], max_features=112, num_features=784
    )
    assert found.capped == found.cap == pytest.approx(1 / 7)
    assert found.uncapped is None
    assert found.unreached == 1
