"""C17 to C19: each once where it holds, once where it fails and once where a run cannot tell."""

import dataclasses

import pytest

from ddefense.reporting import claims
from ddefense.reporting.answers import adaptive


@pytest.fixture
def judge(results_of, network, norm_attack, transferred):
    """(claim, {T or None: network fields}, further fields) -> verdict.

    Fields of a network are those of `make_network`, `cw`, a (success rate, distance), and
    `transfer`, tuples of (kappa, share misclassified, share that fools the substitute if given).
    """

    def build(temperature, fields):
        fields = dict(fields)
        cw, transfer = fields.pop("cw", None), fields.pop("transfer", ())
        targets = "all" if fields.pop("every_target", False) else "random"
        return dataclasses.replace(
            network(temperature, {}, **fields),
            attacks={} if cw is None else {"cw_l2": norm_attack(*cw, targets=targets)},
            transfer=[transferred(*pair) for pair in transfer],
        )

    def judge(claim_id, networks, dataset="mnist"):
        run = results_of(
            [build(t, fields) for t, fields in networks.items()],
            dataset=dataset,
            attacks=("cw_l2", "transfer_cw_l2"),
            cw_steps=500,
        )
        return next(a.answer for a in claims.answers(run) if a.claim.id == claim_id)

    return judge


def sweep(*distances):
    """cw_l2 at T = 1, 2, 3 and so on."""
    return {None: {}} | {float(t): {"cw": (1.0, d)} for t, d in enumerate(distances, start=1)}


BASE = {"cw": (1.0, 2.0)}
CASES = [
    # claim, networks, holds, value, part of the difference
    ("C17", {None: BASE, 100.0: {"cw": (1.0, 2.5)}}, "yes", 1.25, "ratio 1.00 of theirs"),
    ("C17", {None: BASE, 100.0: {"cw": (1.0, 1.6)}}, "yes", 0.8, "+0.00 points"),
    ("C17", {None: BASE, 100.0: {"cw": (1.0, 1.5)}}, "no", 0.75, "ratio 0.60 of theirs"),
    ("C17", {None: BASE, 100.0: {"cw": (1.0, 6.0)}}, "no", 3.0, "ratio 2.40 of theirs"),
    ("C17", {None: BASE, 100.0: {"cw": (0.95, 2.0)}}, "no", 1.0, "-5.00 points"),
    ("C17", {None: BASE, 100.0: {"cw": (0.0, 2.0)}}, "no", None, "-100.00 points; no ratio"),
    (
        "C17",
        {None: {"cw": (0.0, 2.0)}, 100.0: {"cw": (0.0, 2.0)}},
        "inconclusive",
        None,
        "no ratio",
    ),
    ("C17", {None: {}, 100.0: {"cw": (0.0, 2.0)}}, "inconclusive", None, "-"),
    ("C17", {None: {}, 100.0: BASE}, "inconclusive", None, "-"),
    ("C17", {None: BASE, 100.0: {}}, "inconclusive", None, "-"),
    ("C17", {None: {"cw": (0.0, 2.0)}, 100.0: BASE}, "inconclusive", None, "-"),
    ("C17", {None: {"cw": (1.0, 0.0)}, 100.0: BASE}, "inconclusive", None, "-"),
    ("C17", {None: BASE}, "inconclusive", None, "-"),
    ("C17", {None: BASE, 10.0: BASE}, "inconclusive", 1.0, "+0.00 points"),
    ("C17", {None: BASE, 100.0: BASE | {"stalled": True}}, "inconclusive", 1.0, "+0.00 points"),
    # 1 2 3 4 against 2 4 1 3: centred products -1.5*-0.5, -0.5*1.5, 0.5*-1.5, 1.5*0.5: 0.
    ("C18", sweep(2.0, 4.0, 1.0, 3.0), "yes", 0.0, "+0.05"),
    ("C18", sweep(1.0, 2.0, 3.0, 4.0), "no", 1.0, "+1.05"),
    ("C18", sweep(4.0, 3.0, 2.0, 1.0), "no", -1.0, "-0.95"),
    ("C18", sweep(1.0, 2.0, 3.0), "inconclusive", None, "-"),
    ("C18", sweep(1.5, 1.5, 1.5, 1.5), "inconclusive", None, "-"),
    ("C18", sweep(2.0, 4.0, 1.0) | {4.0: {"cw": (0.95, 3.0)}}, "inconclusive", None, "-"),
    ("C18", {None: {}, 5.0: {}}, "inconclusive", None, "-"),
    ("C19", {None: {}, 100.0: {"transfer": [(0.0, 0.2), (40.0, 0.9)]}}, "yes", 90.0, "-10.00"),
    ("C19", {None: {}, 100.0: {"transfer": [(40.0, 0.85)]}}, "no", 85.0, "-15.00"),
    ("C19", {None: {}, 100.0: {"transfer": [(30.0, 1.0)]}}, "inconclusive", None, "-"),
    ("C19", {None: {}, 100.0: {}}, "inconclusive", None, "-"),
    ("C19", {None: {"transfer": [(40.0, 1.0)]}}, "inconclusive", None, "-"),
    ("C19", {None: {}, 2.0: {"transfer": [(40.0, 1.0)]}}, "inconclusive", 100.0, "+0.00"),
]


@pytest.mark.parametrize(("claim", "networks", "holds", "value", "difference"), CASES)
def test_verdict(judge, claim, networks, holds, value, difference):
    verdict = judge(claim, networks)
    assert verdict.holds == holds
    assert verdict.value == (None if value is None else pytest.approx(value))
    assert difference in verdict.difference
    if holds == "inconclusive":
        assert verdict.note


def test_every_claim_is_tried_both_ways():
    tried = {(case[0], case[2]) for case in CASES}
    ours = [claim for claim in claims.CLAIMS if claim.attack]
    assert [claim.id for claim in ours] == ["C17", "C18", "C19"]
    assert tried >= {(c.id, holds) for c in ours for holds in ("yes", "no", "inconclusive")}


def test_success_and_distance_are_over_the_targets_that_both_networks_had(judge):
    every = {"cw": (1.0, 2.0), "every_target": True}
    verdict = judge("C17", {None: BASE, 100.0: every})
    assert verdict.ours.startswith("100.00 % of 20 attempts at T = 100; mean L2 2.00 against 2.00")
    assert "over one random target of each of 20 images" in verdict.note
    assert "at most 500 steps at each of 9 constants" in verdict.note
    assert "where both networks are reached" in verdict.note


def test_an_attack_that_reaches_nothing_is_measured(judge):
    verdict = judge("C17", {None: BASE, 100.0: {"cw": (0.0, 2.0)}})
    assert verdict.holds == "no"
    assert verdict.ours == "0.00 % of 20 attempts at T = 100; no mean L2 to compare"
    assert verdict.note.startswith("20 images; at most 500 steps at each of 9 constants")


def test_an_attack_that_is_too_weak_without_a_defence_refutes_nothing(judge):
    weak = judge("C17", {None: {"cw": (0.5, 2.0)}, 100.0: {"cw": (0.5, 2.0)}})
    assert weak.holds == "inconclusive"
    assert weak.note.startswith("the attack reaches 50.00 % undistilled: too few steps to tell")
    strong = judge("C17", {None: {"cw": (0.5, 2.0)}, 100.0: BASE})
    assert strong.holds == "yes"


def test_samples_that_do_not_fool_the_substitute_say_nothing_about_transfer(judge):
    networks = {None: {}, 100.0: {"transfer": [(40.0, 0.1, 0.2)]}}
    verdict = judge("C19", networks)
    assert (verdict.holds, verdict.value) == ("inconclusive", pytest.approx(10))
    assert verdict.note.startswith("only 20.00 % fool the substitute itself: too few to tell")
    assert judge("C19", {None: {}, 100.0: {"transfer": [(40.0, 0.95, 0.2)]}}).holds == "yes"


def test_the_ratio_is_held_against_that_of_the_dataset(judge):
    verdict = judge("C17", {None: BASE, 100.0: {"cw": (1.0, 4.0)}}, "cifar10")
    assert "ratio 0.94 of theirs (best case, x 2.12)" in verdict.difference  # 0.36 / 0.17


def test_the_correlation_says_over_how_many_temperatures(judge):
    few = judge("C18", sweep(2.0, 4.0, 1.0, 3.0))
    assert few.ours == "rho = +0.00 over 4 temperatures"
    assert "theirs is over 9 temperatures" in few.note
    assert "mean L2 1.00 to 4.00" in few.note
    nine = judge("C18", sweep(*(float(i % 2 + 1) for i in range(9))))
    assert nine.ours.endswith("over 9 temperatures")
    assert "theirs is" not in nine.note


def test_a_network_that_did_not_learn_is_in_no_correlation(judge):
    networks = sweep(2.0, 4.0, 1.0, 3.0) | {100.0: {"cw": (1.0, 50.0), "stalled": True}}
    verdict = judge("C18", networks)
    assert (verdict.holds, verdict.value) == ("yes", pytest.approx(0.0))
    assert "left out because they did not learn: T = 100" in verdict.note


def test_temperatures_that_are_rarely_reached_are_in_no_correlation(judge):
    networks = sweep(2.0, 4.0, 1.0, 3.0) | {
        5.0: {"cw": (0.95, 50.0)},
        6.0: {"cw": (0.0, 1.0)},
    }
    verdict = judge("C18", networks)
    assert (verdict.holds, verdict.value) == ("yes", pytest.approx(0.0))
    assert verdict.ours == "rho = +0.00 over 4 temperatures"
    assert "over 4 temperatures, 20 images at each, one random target each" in verdict.note
    left_out = (
        "left out because cw_l2 reaches less than 99 % there: T = 5 (95.00 %), T = 6 (0.00 %)"
    )
    assert verdict.note.endswith(left_out)
    too_few = judge("C18", {t: n for t, n in networks.items() if t != 1.0})
    assert (too_few.holds, too_few.value) == ("inconclusive", None)
    assert too_few.note == f"needs cw_l2 at 4 temperatures or more, has 3; {left_out}"


def test_the_success_that_counts_for_the_correlation_is_of_the_random_targets(judge):
    every = judge("C18", sweep(2.0, 4.0, 1.0) | {4.0: {"cw": (0.99, 3.0), "every_target": True}})
    assert (every.holds, every.value) == ("yes", pytest.approx(0.0))
    assert "left out" not in every.note


def test_the_distances_that_are_drawn_are_those_that_are_correlated(
    network, norm_attack, results_of
):
    rates = {1.0: 1.0, 2.0: 0.985, 3.0: 0.99}
    networks = [
        dataclasses.replace(network(t, {}), attacks={"cw_l2": norm_attack(rate, 2.0 + t)})
        for t, rate in rates.items()
    ]
    run = results_of([network(None, {}), *networks], attacks=("cw_l2",))
    assert adaptive.distances(run) == {1.0: 3.0, 3.0: 5.0}


def test_transfer_takes_the_smallest_kappa_that_is_enough(judge):
    replayed = [(0.0, 0.1), (45.0, 0.9), (60.0, 1.0)]
    networks = {None: {"transfer": [(45.0, 1.0)]}, 100.0: {"transfer": replayed}}
    verdict = judge("C19", networks)
    assert verdict.ours == "90.00 % misclassified at T = 100, kappa = 45"
    assert verdict.note == (
        "of 20 images, [80.0, 95.0]; 45.00 % reach the target; 95.00 % fool the substitute; "
        "100.00 % misclassified undistilled"
    )


def test_a_run_that_was_not_asked_for_the_attacks_does_not_show_the_claims(results, full):
    assert not {"C17", "C18", "C19"} & {a.claim.id for a in claims.answers(results)}
    shown = {answer.claim.id: answer.answer.holds for answer in claims.answers(full)}
    assert (shown["C17"], shown["C18"], shown["C19"]) == ("yes", "yes", "yes")
    one = dataclasses.replace(full, config=dataclasses.replace(full.config, attacks=("cw_l2",)))
    ids = {answer.claim.id for answer in claims.answers(one)}
    assert {"C17", "C18"} <= ids
    assert "C19" not in ids
