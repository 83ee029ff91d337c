"""Every claim once where it holds, once where it fails and once where the run cannot tell."""

import dataclasses

import pytest

from ddefense import config
from ddefense.reporting import claims

F = "jsma_f"


@pytest.fixture
def judge(results_of, network):
    """(claim, baseline, {T: fields}, dataset) -> verdict; fields are those of `make_network`."""

    def judge(claim_id, baseline, distilled, dataset="mnist"):
        def build(temperature, fields):
            fields = dict(fields)
            return network(temperature, fields.pop("rates", {}), **fields)

        baseline = {"theta": config.frozen_theta(dataset)} | baseline
        networks = [build(None, baseline), *(build(t, f) for t, f in distilled.items())]
        answers = claims.answers(results_of(networks, dataset=dataset))
        return next(a.answer for a in answers if a.claim.id == claim_id)

    return judge


def rates(**by_attack):
    return {"rates": by_attack}


def steps(*pairs):
    """jsma_f by temperature."""
    return {t: rates(jsma_f=rate) for t, rate in pairs}


CASES = [
    # claim, dataset, baseline, distilled, holds, value, part of the difference
    ("C1", "mnist", {"accuracy": 0.9931}, {}, "yes", 99.31, "-0.20 points"),
    ("C1", "mnist", {"accuracy": 0.9850}, {}, "no", 98.50, "-1.01 points"),
    ("C2", "cifar10", {"accuracy": 0.7945}, {}, "yes", 79.45, "-1.50 points"),
    ("C2", "cifar10", {"accuracy": 0.8445}, {}, "no", 84.45, "+3.50 points"),
    ("C3", "mnist", {"accuracy": 0.99}, {1.0: {"accuracy": 0.993}}, "yes", 0.30, "-1.07 points"),
    ("C3", "cifar10", {"accuracy": 0.80}, {1.0: {"accuracy": 0.76}}, "no", 4.0, "+2.63 points"),
    ("C3", "mnist", {}, {}, "inconclusive", None, "-"),
    ("C4", "mnist", rates(jsma_f=0.96), {}, "yes", 96.0, "+0.11 points"),
    ("C4", "mnist", rates(jsma_f=0.70), {}, "no", 70.0, "-25.89 points"),
    ("C4", "mnist", rates(jsma_z=0.70), {}, "inconclusive", None, "-"),
    ("C5", "cifar10", rates(jsma_f=0.85), {}, "yes", 85.0, "-2.89 points"),
    ("C5", "cifar10", rates(jsma_f=0.99), {}, "no", 99.0, "+11.11 points"),
    ("C6", "mnist", {}, steps((100.0, 0.02)), "yes", 2.0, "+1.55 points"),
    ("C6", "mnist", {}, steps((100.0, 0.10)), "no", 10.0, "+9.55 points"),
    ("C6", "mnist", {}, steps((50.0, 0.01)), "inconclusive", None, "-"),
    ("C6", "mnist", {}, {100.0: rates(jsma_z=0.5)}, "inconclusive", None, "-"),
    ("C7", "cifar10", {}, steps((100.0, 0.12)), "yes", 12.0, "+6.89 points"),
    ("C7", "cifar10", {}, steps((100.0, 0.13)), "no", 13.0, "+7.89 points"),
    ("C8", "mnist", {}, steps((2.0, 0.8), (5.0, 0.5), (20.0, 0.2)), "yes", 0.25, "0.25"),
    ("C8", "mnist", {}, steps((2.0, 0.8), (5.0, 0.5), (20.0, 0.3)), "no", 0.375, "0.38"),
    # A quarter, but rank correlation 0.5: ranks 1 2 3 against 2 3 1 give -0.5.
    ("C8", "mnist", {}, steps((2.0, 0.8), (5.0, 0.9), (20.0, 0.1)), "no", 0.125, "0.12"),
    ("C8", "mnist", {}, steps((2.0, 0.8), (20.0, 0.1)), "inconclusive", None, "-"),
    ("C8", "mnist", {}, steps((2.0, 0.0), (5.0, 0.0), (20.0, 0.0)), "no", None, "-"),
    ("C9", "mnist", rates(jsma_f=0.95), steps((1.0, 0.88)), "yes", -7.0, "-7.00 points"),
    ("C9", "cifar10", rates(jsma_f=0.80), steps((1.0, 0.90)), "no", 10.0, "+10.00 points"),
    ("C9", "mnist", rates(jsma_f=0.95), steps((2.0, 0.88)), "inconclusive", None, "-"),
    ("C10", "mnist", {}, {1.0: {}, 100.0: {"median": -25.5}}, "yes", 22.0, "+2.0 against"),
    ("C10", "mnist", {}, {1.0: {}, 100.0: {"median": -13.5}}, "no", 10.0, "-20.0 decades"),
    ("C10", "mnist", {}, {100.0: {}}, "inconclusive", None, "-"),
    (
        "C11",
        "mnist",
        rates(jsma_f=0.9) | {"capped": 0.015},
        {20.0: rates(jsma_f=0.0) | {"capped": 0.12}, 100.0: rates(jsma_f=0.0) | {"capped": 0.1}},
        "yes",
        700.0,
        "-90.00 points",
    ),
    (
        "C11",
        "mnist",
        rates(jsma_f=0.9) | {"capped": 0.03},
        {20.0: rates(jsma_f=0.0) | {"capped": 0.12}},
        "no",
        300.0,
        "-490.00 points",
    ),
    ("C11", "mnist", rates(jsma_f=0.9), {20.0: {}}, "inconclusive", None, "-"),
    (
        "C12",
        "cifar10",
        rates(jsma_f=0.9) | {"capped": 0.005},
        {20.0: rates(jsma_f=0.0) | {"capped": 0.03}},
        "yes",
        500.0,
        "-56.00 points",
    ),
    (
        "C12",
        "cifar10",
        rates(jsma_f=0.9) | {"capped": 0.02},
        {20.0: rates(jsma_f=0.0) | {"capped": 0.03}},
        "no",
        50.0,
        "-506.00 points",
    ),
    (
        "C13",
        "cifar10",
        {},
        {1.0: {"confidence": 0.71}, 5.0: {"confidence": 0.71}, 20.0: {"confidence": 0.75}},
        "yes",
        4.0,
        "+4.00 points",
    ),
    (
        "C13",
        "cifar10",
        {},
        {1.0: {"confidence": 0.71}, 5.0: {"confidence": 0.70}, 20.0: {"confidence": 0.75}},
        "no",
        4.0,
        "+4.00 points",
    ),
    ("C13", "cifar10", {}, {1.0: {}}, "inconclusive", None, "-"),
    ("C14", "mnist", {"logits": 6.0}, {100.0: {"logits": 480.0}}, "yes", 80.0, "0.96"),
    ("C14", "mnist", {"logits": 6.0}, {100.0: {"logits": 60.0}}, "no", 10.0, "0.12"),
    ("C14", "mnist", {"logits": 6.0}, {20.0: {"logits": 120.0}}, "inconclusive", 20.0, "0.24"),
    (
        "C15",
        "mnist",
        rates(jsma_f_temperature=0.96),
        {100.0: rates(jsma_f_temperature=0.90)},
        "yes",
        -6.0,
        "-6.40 points against theirs",
    ),
    (
        "C15",
        "mnist",
        rates(jsma_f_temperature=0.96),
        {100.0: rates(jsma_f_temperature=0.50)},
        "no",
        -46.0,
        "-46.00 points against undistilled",
    ),
    ("C15", "mnist", rates(jsma_f=0.96), {100.0: rates(jsma_f=0.1)}, "inconclusive", None, "-"),
    (
        "C16",
        "mnist",
        {},
        {1.0: {}, 100.0: rates(jsma_f=0.01, jsma_f_exact=0.90)},
        "yes",
        89.0,
        "+59.00",
    ),
    ("C16", "mnist", {}, {100.0: rates(jsma_f=0.70, jsma_f_exact=0.90)}, "no", 20.0, "-10.00"),
    (
        "C16",
        "mnist",
        {},
        {5.0: rates(jsma_f=0.70, jsma_f_exact=0.90)},
        "inconclusive",
        20.0,
        "+20.00 points",
    ),
    ("C16", "mnist", {}, {100.0: rates(jsma_f=0.70)}, "inconclusive", None, "-"),
]


@pytest.mark.parametrize(
    ("claim", "dataset", "baseline", "distilled", "holds", "value", "difference"), CASES
)
def test_verdict(judge, claim, dataset, baseline, distilled, holds, value, difference):
    verdict = judge(claim, baseline, distilled, dataset)
    assert verdict.holds == holds
    assert verdict.value == (None if value is None else pytest.approx(value))
    assert difference in verdict.difference
    if holds == "inconclusive":
        assert verdict.note


def test_every_claim_is_tried_both_ways():
    tried = {(case[0], case[4]) for case in CASES}
    # Those on attacks measured by a norm are in `test_adaptive_claims.py`.
    ours = [claim for claim in claims.CLAIMS if not claim.attack]
    assert tried >= {(c.id, holds) for c in ours for holds in ("yes", "no")}


def test_the_notes_say_what_stands_in_for_a_missing_temperature(judge):
    verdict = judge("C8", {}, steps((1.0, 0.9), (5.0, 0.8), (10.0, 0.1), (50.0, 0.0)))
    assert verdict.note.startswith("T = 5 and T = 10 stand in for T = 2 and T = 20")
    lenient = judge("C8", {}, steps((1.0, 0.9), (10.0, 0.1), (50.0, 0.0)))
    assert lenient.holds == "inconclusive"
    exact = judge("C8", {}, steps((1.0, 0.9), (2.0, 0.8), (20.0, 0.1)))
    assert exact.note == ""


def test_the_ceiling_and_the_float32_zeros_are_stated(results):
    notes = {a.claim.id: a.answer.note for a in claims.answers(results)}
    assert "14.29 % allows +852 % at most" in notes["C11"]  # 100 * (0.142857 / 0.015 - 1)
    assert "85.0 % of the images at T = 100" in notes["C10"]
    assert "680 failures met an all-zero forward derivative" in notes["C6"]


def test_a_network_that_did_not_learn_confirms_nothing(with_stalled):
    answers_by_claim = {a.claim.id: a.answer for a in claims.answers(with_stalled)}
    for claim in ("C6", "C10", "C14", "C15", "C16"):
        assert answers_by_claim[claim].holds == "inconclusive"
        assert "did not learn" in answers_by_claim[claim].note
    assert answers_by_claim["C3"].holds == "no"  # shown, not dropped
    assert "without them +0.20 points at T = 5" in answers_by_claim["C3"].note
    assert "left out because they did not learn: T = 100" in answers_by_claim["C11"].note
    assert answers_by_claim["C13"].holds == "yes"


def ids(dataset, results):
    record = dataclasses.replace(results.dataset, name=dataset)
    return claims.answers(dataclasses.replace(results, dataset=record))


def test_claims_about_one_dataset_are_not_answered_on_the_other(results):
    mnist = {a.claim.id for a in ids("mnist", results)}
    cifar10 = {a.claim.id for a in ids("cifar10", results)}
    assert mnist - cifar10 == {"C1", "C4", "C6", "C11"}
    assert cifar10 - mnist == {"C2", "C5", "C7", "C12"}


def test_a_dataset_that_the_paper_did_not_use_answers_for_orientation(results):
    answers = ids("digits", results)
    assert {a.claim.id for a in answers} == {a.claim.id for a in ids("mnist", results)}
    assert all(a.orientation for a in answers)
    assert [a.claim.id for a in ids("mnist", results) if a.orientation] == ["C13"]


def changed(results, **setting):
    settings = dataclasses.replace(results.config, **setting)
    run = dataclasses.replace(results, config=settings)
    return {answer.claim.id: answer for answer in claims.answers(run)}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"max_features": 2}, "at most 2 features instead of 112"),
        ({"theta": 0.5}, "theta = 0.5 instead of the frozen 1"),
        (
            {"max_features": 2, "theta": 0.5},
            "at most 2 features instead of 112, theta = 0.5 instead of the frozen 1",
        ),
    ],
)
def test_another_attack_than_the_papers_is_not_judged(results, setting, expected):
    found = changed(results, **setting)
    for claim in ("C4", "C6", "C8", "C9", "C11", "C15", "C16"):
        assert found[claim].answer.holds == "inconclusive"
        assert found[claim].answer.note.startswith(f"another attack: {expected}")
    assert found["C1"].answer.holds != "inconclusive"


def test_a_warm_start_that_the_baseline_did_not_take_is_said(results):
    found = changed(results, warm_start_steps=60)
    assert "no warm start" in found["C3"].answer.note
    assert "no warm start" not in found["C1"].answer.note


def test_the_frozen_theta_of_the_dataset_is_judged(cifar10):
    assert config.frozen_theta("cifar10") == 0.25
    judged = {answer.claim.id: answer.answer for answer in claims.answers(cifar10())}
    assert all(judged[claim].holds == "yes" for claim in ("C5", "C7", "C12"))
    answers_by_claim = {
        name: answer.answer for name, answer in changed(cifar10(), theta=1.0).items()
    }
    for claim in ("C5", "C7", "C9", "C12", "C16"):
        assert answers_by_claim[claim].holds == "inconclusive"
        assert "theta = 1 instead of the frozen 0.25" in answers_by_claim[claim].note
    assert answers_by_claim["C2"].holds == "yes"
    assert answers_by_claim["C10"].holds == "yes"


def test_a_reduced_run_on_cifar10(cifar10):
    answers_by_claim = {answer.claim.id: answer.answer for answer in claims.answers(cifar10())}
    found = {name: (v.holds, v.value) for name, v in answers_by_claim.items()}
    assert found == {
        "C2": ("yes", pytest.approx(80.0)),
        "C3": ("yes", pytest.approx(1.0)),  # 79.0 - 80.0
        "C5": ("yes", pytest.approx(86.0)),
        "C7": ("yes", pytest.approx(6.0)),
        "C8": ("inconclusive", None),
        "C9": ("yes", pytest.approx(4.0)),  # 90 - 86
        "C10": ("yes", pytest.approx(36.5)),  # 40 - 3.5
        "C12": ("yes", pytest.approx(540.0)),  # 0.032 / 0.005
        "C13": ("yes", pytest.approx(6.0)),  # 78 - 72
        "C14": ("yes", pytest.approx(400 / 6)),
        "C15": ("inconclusive", None),
        "C16": ("yes", pytest.approx(79.0)),  # 85 - 6
    }
    assert answers_by_claim["C5"].note == (
        "theta = 0.25; 95.00 % with theta = 1; theta was chosen by this rate at seed 0, so this is "
        "no independent check"
    )
    assert answers_by_claim["C7"].note == (
        "theta = 0.25; 8.00 % with theta = 1; 640 failures met an all-zero forward derivative"
    )
    assert answers_by_claim["C12"].note.startswith("theta = 0.25; the cap of")
    assert "missing: a T from 2 to 5" in answers_by_claim["C8"].note
    assert "10 to 20," not in answers_by_claim["C8"].note


def test_a_stalled_initial_network_is_no_success_of_the_defence(cifar10):
    answers_by_claim = {
        answer.claim.id: answer.answer for answer in claims.answers(cifar10(stalled_initial=True))
    }
    for claim in ("C7", "C10", "C14", "C16"):
        assert answers_by_claim[claim].holds == "inconclusive"
        assert answers_by_claim[claim].note.startswith(
            "did not learn, so nothing can be said: T = 100"
        )
    # It fails where it is counted, although its own accuracy is within the bound.
    assert answers_by_claim["C3"].holds == "no"
    assert "did not learn: T = 100" in answers_by_claim["C3"].note
    left_out = "left out because they did not learn: T = 100"
    assert answers_by_claim["C8"].note.endswith(
        f"missing: a T from 2 to 5, enough temperatures (2 of 3); {left_out}"
    )
    assert left_out in answers_by_claim["C12"].note
    assert answers_by_claim["C12"].value == pytest.approx(220.0)  # 0.016 / 0.005, at T = 10
    assert left_out in answers_by_claim["C13"].note
    assert (
        answers_by_claim["C2"].holds,
        answers_by_claim["C5"].holds,
        answers_by_claim["C9"].holds,
    ) == ("yes",) * 3


def test_only_networks_that_did_not_learn_confirm_nothing(results_of, network):
    lost = [network(t, {"jsma_f": 0.1}, stalled=True, theta=0.25) for t in (None, 1.0, 100.0)]
    answers_by_claim = {a.claim.id: a.answer for a in claims.answers(results_of(lost, "cifar10"))}
    assert not [name for name, verdict in answers_by_claim.items() if verdict.holds == "yes"]
    assert answers_by_claim["C2"].holds == "no"
    # Claims about accuracy are answered all the same.
    assert (answers_by_claim["C3"].holds, answers_by_claim["C3"].value) == ("no", 0.0)
    assert answers_by_claim["C3"].note.startswith("did not learn: undistilled, T = 1, T = 100")


def test_a_low_success_rate_at_a_price_in_accuracy_says_so(results_of, network):
    networks = [network(None, {"jsma_f": 0.86}), network(100.0, {"jsma_f": 0.05}, accuracy=0.5)]
    answers_by_claim = {
        a.claim.id: a.answer for a in claims.answers(results_of(networks, "cifar10"))
    }
    assert answers_by_claim["C7"].note.startswith("at a loss of 49.0 points of accuracy; ")


# What makes each claim hold that is about distilled networks, undistilled and by T.
HOLDING = {
    "C6": ({100.0: rates(jsma_f=0.02)}, "mnist"),
    "C7": ({100.0: rates(jsma_f=0.12)}, "cifar10"),
    "C8": (steps((2.0, 0.8), (5.0, 0.5), (20.0, 0.2)), "mnist"),
    "C9": (steps((1.0, 0.88)), "mnist"),
    "C10": ({1.0: {}, 100.0: {"median": -25.5}}, "mnist"),
    "C11": ({20.0: rates(jsma_f=0.0) | {"capped": 0.12}}, "mnist"),
    "C12": ({20.0: rates(jsma_f=0.0) | {"capped": 0.12}}, "cifar10"),
    "C13": ({1.0: {"confidence": 0.71}, 5.0: {"confidence": 0.72}}, "cifar10"),
    "C14": ({100.0: {"logits": 480.0}}, "mnist"),
    "C15": ({100.0: rates(jsma_f_temperature=0.93)}, "mnist"),
    "C16": ({100.0: rates(jsma_f=0.0, jsma_f_exact=0.9)}, "mnist"),
}
PROTECTION = ("C6", "C7", "C8", "C11", "C12", "C16")


def undistilled(rate, dataset):
    found = rates(jsma_f=rate, jsma_f_temperature=rate)
    return found | {"accuracy": 0.8, "capped": 0.015 if dataset == "mnist" else 0.02}


@pytest.mark.parametrize("claim", HOLDING)
@pytest.mark.parametrize(
    ("accuracy", "protects", "note"),
    [
        (0.676, "at a loss", "at a loss of 12.4 points of accuracy"),
        (0.751, "yes", "at a loss of 4.9 points of accuracy"),
        (0.787, "yes", ""),  # 1.3 points, which the paper allows
    ],
)
def test_protection_is_told_with_what_it_costs(judge, claim, accuracy, protects, note):
    distilled, dataset = HOLDING[claim]
    distilled = {t: fields | {"accuracy": accuracy} for t, fields in distilled.items()}
    verdict = judge(claim, undistilled(0.95, dataset), distilled, dataset)
    assert verdict.holds == (protects if claim in PROTECTION else "yes")
    assert verdict.note.startswith(note)
    assert ("points of accuracy" in verdict.note) is bool(note)


def test_what_protects_at_a_loss_is_said_in_words(judge):
    verdict = judge("C6", {"accuracy": 0.8}, {100.0: rates(jsma_f=0.02) | {"accuracy": 0.676}})
    assert claims.answer_in_words(verdict) == "holds, at a loss of 12.4 points of accuracy"
    fails = judge("C6", {"accuracy": 0.8}, {100.0: rates(jsma_f=0.5) | {"accuracy": 0.676}})
    assert claims.answer_in_words(fails) == "does not hold"


def test_a_loss_at_any_of_the_temperatures_counts(judge):
    networks = steps((2.0, 0.8), (5.0, 0.5), (20.0, 0.2))
    networks[20.0]["accuracy"] = 0.9
    assert judge("C8", rates(jsma_f=0.9), networks).holds == "at a loss"


def test_every_claim_says_whether_it_reads_a_low_rate_as_protection():
    assert tuple(claim.id for claim in claims.CLAIMS if claim.protection) == PROTECTION
    compared = {claim.id for claim in claims.CLAIMS if claim.compares}
    assert compared == {*PROTECTION, "C9", "C15"}


@pytest.mark.parametrize("claim", HOLDING)
@pytest.mark.parametrize(("rate", "tells"), [(0.09, False), (0.49, False), (0.9, True)])
def test_an_attack_that_hardly_works_undistilled_shows_nothing(judge, claim, rate, tells):
    distilled, dataset = HOLDING[claim]
    verdict = judge(claim, undistilled(rate, dataset), distilled, dataset)
    compared = next(c for c in claims.CLAIMS if c.id == claim).compares
    assert (verdict.holds == "inconclusive") is (bool(compared) and not tells)
    if compared and not tells:
        assert verdict.note.startswith(f"jsma_f reaches only {100 * rate:.2f} % undistilled")
