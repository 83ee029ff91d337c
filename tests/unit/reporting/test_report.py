import dataclasses
import re

import pytest

from ddefense import config
from ddefense.attack_catalog import ATTACKS, JSMA_ATTACKS
from ddefense.reporting import description, passages, report


def test_it_first_says_that_the_defence_is_broken_with_the_runs_own_numbers(results):
    text = report.write(results)
    start = text[: text.index("## What was run")]
    assert "has been broken since 2016" in start
    assert "Carlini and Wagner 2016, 2017" in start
    assert "masks gradients" in start
    assert (
        "at T = 100, at a loss of 0.5 points of accuracy, the attack reaches its target in "
        in start
    )
    assert "0.50 % of the attempts" in start
    assert "it reaches 91.00 %" in start


def test_without_adaptive_attacks_it_still_says_so_without_numbers(results_of, network):
    run = results_of([network(None, {"jsma_f": 0.9}), network(20.0, {"jsma_f": 0.1})])
    assert "has been broken since 2016" in passages.warning(run)
    assert "In this run" not in passages.warning(run)


def test_an_attack_that_fails_too_is_no_support(results_of, network):
    rates = {"jsma_f": 0.0, "jsma_f_exact": 0.0, "jsma_z": 0.1}
    text = passages.warning(results_of([network(None, rates), network(20.0, rates)]))
    assert "on the logits it reaches 10.00 %" in text
    assert "log domain" not in text


def test_the_runs_own_numbers_come_from_a_network_that_learnt(with_stalled):
    assert "In this run, at T = 20," in passages.warning(with_stalled)


def test_the_loss_of_accuracy_comes_before_the_rates(results_of, network):
    rates = {"jsma_f": 0.05, "jsma_f_exact": 0.5}
    run = results_of([network(None, rates), network(20.0, rates, accuracy=0.5)])
    assert (
        "In this run, at T = 20, at a loss of 49.0 points of accuracy, the attack reaches"
        in passages.warning(run)
    )


def test_an_attacker_who_is_stopped_at_a_loss(full):
    verdict = dataclasses.replace(full.verdict, stops_adaptive_attacker=True, accuracy_lost=0.124)
    text = report.write(dataclasses.replace(full, verdict=verdict))
    assert "attacker who knows it? **Yes, at a loss of 12.4 points of accuracy.**" in text


def test_reduced_runs_say_so(results):
    text = report.write(results)
    assert text.startswith("# Defensive distillation on mnist: quick (reduced)\n")
    assert "**Reduced run**" in text
    full = dataclasses.replace(
        results.config,
        temperatures=(1, 2, 5, 10, 20, 30, 40, 50, 100),
        epochs=50,
        samples=100,
        preset="paper",
    )
    text = report.write(dataclasses.replace(results, config=full))
    assert text.startswith("# Defensive distillation on mnist: paper\n")
    assert "educed" not in text


def test_what_was_run(results):
    text = report.write(results)
    for expected in (
        "| seed | 0 |",
        "| warm start | 469 steps at T = 1 on hard labels |",
        "| attacked samples | 10, each towards 9 other classes |",
        "| time of the stages that ran | 3 min 16 s |",
        "| python | 3.11.9 |",
        "| cpu | Some CPU \\| 2 cores |",
        "| devices | CPU:0 |",
        "| distilled_t1 | 2 min 10 s |",
        "`exported_models/distilled_t20/1`",
    ):
        assert expected in text


def test_what_is_out_of_the_ordinary_is_said(results):
    assert "misclassified" not in report.write(results)
    assert "devices per training" not in report.write(results)
    config_of_all = dataclasses.replace(results.config, misclassified=True, devices=4)
    text = report.write(dataclasses.replace(results, config=config_of_all))
    said = "| attacked samples | 10, each towards 9 other classes, misclassified ones among them |"
    assert said in text
    assert "| devices per training | 4 |" in text


def test_free_form_environment_is_shown_as_it_is(results):
    environment = {"devices": [], "nested": {"b": 1, "a": [None, 2]}, "nothing": None, "n": 1.5}
    text = report.write(dataclasses.replace(results, environment=environment, exports=[]))
    assert "| devices | none |" in text
    assert '| nested | {"a": [null, 2], "b": 1} |' in text
    assert "| nothing | null |" in text
    assert "No model was exported." in text


def test_the_readings_are_explained_and_which_was_run_is_unknown():
    text = passages.readings(list(JSMA_ATTACKS))
    assert "its authors ran is unknown" in text
    for attack in JSMA_ATTACKS:
        assert f"- `{attack}` ({ATTACKS[attack].label}): {ATTACKS[attack].text}" in text


def test_stalled_networks_are_named(results, with_stalled):
    assert passages.learnt(results) == "Every network learnt."
    text = report.write(with_stalled)
    cause = "its training loss stayed near that of guessing"
    lost = f"T = 100 (test accuracy 10.00 %; {cause})"
    assert f"**did not learn**: initial network, {lost}; distilled network, {lost}" in text
    assert "At high T training starts slowly" in text


def test_a_training_at_t_1_is_not_explained_by_a_high_temperature(results, network):
    lost = dataclasses.replace(network(1.0, {}), test_accuracy=0.1)
    text = passages.learnt(dataclasses.replace(results, networks=[results.networks[0], lost]))
    assert "**did not learn**" in text
    assert "At high T" not in text


def test_networks_that_learnt_late_are_named_apart(results):
    baseline = results.networks[0]
    late = dataclasses.replace(
        baseline, training=dataclasses.replace(baseline.training, stalled=True)
    )
    text = passages.learnt(dataclasses.replace(results, networks=[late]))
    assert "learnt late" in text
    assert "undistilled (test accuracy 99.00 %)" in text
    assert "did not learn" not in text


def test_digits_are_for_orientation_only(results_of, network):
    run = results_of([network(None, {}), network(20.0, {})], dataset="digits")
    text = report.write(run)
    assert "The paper did not use digits" in text
    assert "(orientation)" in text


def test_every_claim_has_a_row(results):
    text = report.write(results)
    rows = re.findall(r"^\| (C\d+) \|", text, re.MULTILINE)
    assert rows == ["C1", "C3", "C4", "C6", "C8", "C9", "C10", "C11", "C13", "C14", "C15", "C16"]


def test_the_literal_protocol_departs_from_nothing(cifar10, results_of, network):
    settings = config.preset("paper", "cifar10")
    assert description.departures(settings) == ""
    assert description.departures(config.preset("paper", "mnist")) == ""
    text = report.write(cifar10(epochs=50))
    assert "temperatures 1, 10, 100 instead of 1, 2, 5, 10, 20, 30, 40, 50, 100." in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "(preset `paper_warm`): warm start steps 391 instead of 0."),
        (
            {"learning_rate_decay": 0.5, "theta": 1.0},
            "(preset `paper_warm`): warm start steps 391 instead of 0; learning rate decay 0.5 "
            "instead of 0.95; theta 1 instead of 0.25.",
        ),
        ({"samples": 10}, "(preset `paper_warm`): warm start steps 391 instead of 0; samples 10"),
        # How it is carried out is no part of the protocol.
        (
            {"threads": 1, "jit_compile": True, "seed": 7, "attacks": ("jsma_z",)},
            "(preset `paper_warm`): warm start steps 391 instead of 0.",
        ),
    ],
)
def test_a_run_that_leaves_the_literal_protocol_says_where(changes, expected):
    text = description.departures(config.preset("paper_warm", "cifar10", **changes))
    assert text.startswith("**Not the literal protocol**")
    assert expected in text
    assert "float32" not in text


def test_a_run_that_attacks_with_less_effort_says_where():
    start = "**Attacks beyond the paper's differ from preset `paper`**: "
    quick = description.departures(config.preset("quick", "digits"))
    assert quick[quick.index(start) + len(start) :] == (
        "pgd restarts 3 instead of 5; cw samples 5 instead of 20; cw all targets at none instead "
        "of 20, 100; cw steps 200 instead of 1000; cw search steps 5 instead of 9; cw initial c "
        "0.01 instead of 0.001; kappas 0, 10, 20 instead of 0, 10, 20, 30, 40; costly samples 3 "
        "instead of 10; labels only queries 1000 instead of 10000; "
        "not run: cw_l0, cw_linf."
    )
    # What concerns no attack of the run is no departure.
    few = config.preset("paper", "mnist", attacks=("jsma_f", "pgd_linf"), cw_steps=7, pgd_steps=3)
    text = description.departures(few)
    assert text.startswith(f"{start}pgd steps 3 instead of 40; not run: fgsm, fgsm_temperature, ")
    assert "cw steps" not in text
    assert description.departures(config.preset("paper", "mnist")) == ""


def test_a_run_that_was_not_trained_in_float32_says_so_where_it_is_described(cifar10):
    text = report.write(cifar10(precision="mixed_bfloat16"))
    start = text.index("## What was run")
    described = text[start : text.index("| setting | value |")]
    assert "**Not trained in float32**: the hidden layers computed in mixed_bfloat16" in described
    assert (
        "| precision | hidden layers trained in mixed_bfloat16, everything else float32 |" in text
    )


def test_what_was_run_on_cifar10(cifar10):
    text = report.write(cifar10(threads=4, jit_compile=True))
    for expected in (
        "| dataset | cifar10, 32 x 32 x 3, 50000 training and 10000 test images |",
        "| test values after standardisation | [-2.21, 2.63] (paper: [-2.22, 2.62], S1) |",
        "| learning rate | 0.01, decay: x 0.95 every 10 epochs |",
        "| momentum | 0.9, decay: x 0.5 every 10 epochs |",
        "| precision | float32 |",
        "| compiled with XLA | training steps |",
        "| CPU threads per operation | 4 |",
        "| budget | 112 features, theta = 0.25 (jsma_f_theta_1: 1) |",
        "- `jsma_f_theta_1` (JSMA-F, theta = 1): As jsma_f, with theta = 1 where",
    ):
        assert expected in text


def test_without_a_standardisation_its_range_is_missing_where_the_paper_has_one(results, cifar10):
    bare = cifar10()
    bare = dataclasses.replace(
        bare, dataset=dataclasses.replace(bare.dataset, standardized_range=None)
    )
    row = "test values after standardisation"
    assert description.rows(bare)[row] == "none (paper: [-2.22, 2.62], S1)"
    assert row not in description.rows(results)


@pytest.mark.parametrize(
    ("epochs", "factor", "expected"),
    [
        (50, 1.0, "none"),
        (50, 0.95, "x 0.95 every 10 epochs"),
        (11, 0.95, "x 0.95 every 10 epochs"),
        (10, 0.95, "x 0.95 every 10 epochs (never in 10 epochs)"),
    ],
)
def test_a_decay_that_no_epoch_reaches_says_so(epochs, factor, expected):
    settings = config.Config(epochs=epochs, decay_epochs=10)
    assert description.decay(settings, factor) == expected


def test_it_begins_with_the_verdict_and_its_table(full):
    text = report.write(full)
    start = text[: text.index("## What was run")]
    order = [
        "**Reduced run**",
        "## Verdict",
        "At T = 100 the gradients are masked. An adaptive attacker is not stopped.\n",
        "Does the defence mask gradients? **Yes.** Does it stop an attacker who knows it? **No.**",
        "(tables/verdict.csv)",
        "(figures/adaptive.png)",
        "**What it costs**",
        "**Do not rely on this defence.**",
    ]
    assert [start.count(part) for part in order] == [1] * len(order)
    assert sorted(order, key=start.index) == order


def test_a_verdict_that_could_not_be_given_says_so(full):
    verdict = dataclasses.replace(
        full.verdict, masks_gradients=None, stops_adaptive_attacker=None, sentence="Unknown."
    )
    text = passages.verdict(dataclasses.replace(full, verdict=verdict))
    assert text.startswith("Unknown.\n")
    assert text.count("**This run cannot tell.**") == 2
    stopped = dataclasses.replace(verdict, stops_adaptive_attacker=True)
    text = passages.verdict(dataclasses.replace(full, verdict=stopped))
    assert text.endswith("Does it stop an attacker who knows it? **Yes.**")


def test_without_a_verdict_the_report_says_nothing_of_it(results):
    text = report.write(results)
    for absent in (
        "## Verdict",
        "## The other attacks",
        "Checks for masked gradients",
        "adaptive.",
    ):
        assert absent not in text
    assert "attempts per network and attack by norm" not in text
    assert passages.lower_bounds(results) == passages.LOWER_BOUNDS
    assert passages.verdict(results) == ""


def test_attacks_that_were_not_measured_are_named(full):
    assert passages.lower_bounds(full) == (
        "Success rates are lower bounds of what an attacker can do: no list of attacks is complete."
    )
    fewer = [
        dataclasses.replace(
            n,
            attacks=n.readings
            | {a: r for a, r in n.norm_attacks.items() if a in ("fgsm", "cw_l2")},
        )
        for n in full.networks
    ]
    text = passages.lower_bounds(dataclasses.replace(full, networks=fewer))
    assert text.endswith(
        "Not measured by this run: PGD on the logits / T, transfer between networks, an attack "
        "that sees labels alone."
    )


def test_the_other_attacks_are_explained(full):
    text = report.write(full)
    section = text[text.index("## The other attacks") : text.index("## Networks that did not")]
    named = re.findall(r"^- `(\w+)`", section, re.MULTILINE)
    assert named == [a for a in ATTACKS if a in full.networks[0].norm_attacks]
    assert "| attempts per network and attack by norm | 10, 20, 100, 180 |" in text


def test_claims_about_these_attacks_have_rows(full):
    rows = re.findall(r"^\| (C\d+) \|", report.write(full), re.MULTILINE)
    assert rows[-4:] == ["C16", "C17", "C18", "C19"]


def test_an_adversarially_trained_network_is_named_among_those_that_did_not_learn(full, yardstick):
    run = dataclasses.replace(full, networks=[*full.networks[:-1], yardstick(stalled=True)])
    assert "**did not learn**: adversarially trained (test accuracy 10.00 %; " in passages.learnt(
        run
    )
    assert "In this run, at T = 100," in passages.warning(run)
