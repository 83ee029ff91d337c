import csv
import dataclasses
import io

import numpy as np
import pytest

from ddefense.reporting import tables
from ddefense.reporting.tables.table import Column, Interval, Table, fixed


def read(table):
    return list(csv.DictReader(io.StringIO(table.csv())))


def by_name(results, name):
    return next(table for table in tables.of_run(results) if table.name == name)


def test_csv_and_markdown_of_every_kind_of_cell():
    table = Table(
        name="kinds",
        title="Kinds",
        columns=(
            Column("text", "text", text=True),
            Column("rate", "rate", fixed(1), kind=Interval),
            Column("flag", "flag"),
            Column("count", "count", fixed(2)),
        ),
        rows=[["a|b\nc", Interval(1 / 3, 0.0, 1.0), True, 3], ["d", None, None, None]],
        notes=("Note.",),
    )
    assert table.csv() == (
        'text,rate,rate_low,rate_high,flag,count\n"a|b\nc",0.3333333333,0,1,true,3\nd,,,,,\n'
    )
    assert table.markdown() == (
        "| text | rate | flag | count |\n| :-- | --: | --: | --: |\n"
        "| a\\|b<br>c | 0.3 [0.0, 1.0] | yes | 3.00 |\n| d | - | - | - |\n\nNote.\n"
    )


def test_every_table_round_trips_through_csv(results, with_stalled, full):
    for run in (results, with_stalled, full):
        for table in tables.of_run(run):
            rows = read(table)
            assert len(rows) == len(table.rows) > 0
            for column in table.columns:
                endings = ("",) if column.kind is None else column.kind.ENDINGS
                assert {column.key + ending for ending in endings} <= rows[0].keys()
            for row, written in zip(table.rows, rows, strict=True):
                for column, value in zip(table.columns, row, strict=True):
                    if isinstance(value, Interval):
                        assert float(written[column.key]) == pytest.approx(value.value)
                        assert float(written[column.key + "_high"]) == pytest.approx(value.high)
                    elif isinstance(value, float):
                        assert float(written[column.key]) == pytest.approx(value, rel=1e-9)
                    elif isinstance(value, str):
                        assert written[column.key] == value
            lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
            assert len(lines) >= len(rows) + 2
            assert all(line.count(" | ") for line in lines)


def test_success_stands_beside_the_paper(results):
    rows = read(by_name(results, "success_rate"))
    assert [row["network"] for row in rows] == [
        "undistilled",
        "T = 1",
        "T = 5",
        "T = 20",
        "T = 100",
    ]
    assert [float(row["paper_percent"]) for row in rows] == [95.89, 91, 24.67, 1.34, 0.45]
    assert float(rows[2]["jsma_f_percent"]) == pytest.approx(50)
    assert float(rows[2]["jsma_f_percent_low"]) == pytest.approx(47)
    assert float(rows[4]["jsma_f_exact_percent"]) == pytest.approx(91)
    assert "paper %" in by_name(results, "success_rate").markdown()


def test_digits_are_labelled_as_compared_with_mnist(results_of, network):
    run = results_of([network(None, {"jsma_f": 0.9}), network(3.0, {})], dataset="digits")
    table = by_name(run, "success_rate")
    assert "paper (MNIST) %" in table.markdown()
    assert read(table)[1] == {
        "network": "T = 3",
        "accuracy_percent": "99",
        "paper_percent": "",  # T = 3 is not in the paper
        "jsma_f_percent": "",
        "jsma_f_percent_low": "",
        "jsma_f_percent_high": "",
    }


def test_attack_details(results):
    rows = read(by_name(results, "attacks"))
    assert len(rows) == 5 * 5
    last = next(r for r in rows if (r["network"], r["attack"]) == ("T = 100", "jsma_f_literal"))
    assert last["successes"] == "0"
    assert last["mean_distortion_percent"] == ""
    assert last["zero_maps"] == last["no_admissible_pair"] == "680"
    first = rows[0]
    assert (first["successes"], first["attempts"], first["steps"]) == ("855", "900", "16000")
    assert float(first["mean_distortion_percent"]) == pytest.approx(100 * 35.3 / 784)
    assert float(first["mean_features"]) == pytest.approx(35.3)


def test_training_shows_initial_and_distilled_and_who_stalled(with_stalled):
    rows = read(by_name(with_stalled, "training"))
    assert rows[0]["initial_accuracy_percent"] == rows[0]["accuracy_change_points"] == ""
    assert float(rows[2]["initial_accuracy_percent"]) == pytest.approx(99.0)
    assert float(rows[2]["accuracy_change_points"]) == pytest.approx(0.2)
    assert float(rows[2]["agreement_percent"]) == pytest.approx(98.5)
    assert float(rows[2]["soft_label_entropy_nats"]) == pytest.approx(0.04)
    assert [row["stalled"] for row in rows] == ["false"] * 4 + ["true"]


def test_gradients_deployed_and_against_one_over_t(results):
    rows = read(by_name(results, "gradients"))
    assert [float(row["median_log10"]) for row in rows] == [-3.5, -3.5, -9, -22, -45]
    assert rows[-1]["float32_median_log10"] == ""
    assert float(rows[-1]["float32_zero_samples_percent"]) == pytest.approx(85)
    assert float(rows[-1]["expected_by_1_over_t_log10"]) == pytest.approx(-5.5)  # -3.5 - log10 100
    assert float(rows[-1]["excess_log10"]) == pytest.approx(0)


def test_without_t_1_the_one_over_t_claim_starts_from_the_undistilled_network(results_of, network):
    table = by_name(results_of([network(None, {}), network(10.0, {})]), "gradients")
    assert float(read(table)[1]["expected_by_1_over_t_log10"]) == pytest.approx(-4.5)
    assert "undistilled network (the run has no T = 1)" in table.notes[0]


def test_robustness_gain_and_its_ceiling(results):
    rows = read(by_name(results, "robustness"))
    row = next(r for r in rows if (r["network"], r["attack"]) == ("T = 20", "jsma_f"))
    assert float(row["capped_percent"]) == pytest.approx(12)
    assert float(row["gain_percent"]) == pytest.approx(700)
    assert float(row["largest_gain_percent"]) == pytest.approx(852.38, abs=0.01)
    assert float(row["unreached_percent"]) == pytest.approx(95)


def test_confidence_shows_the_papers_values_as_unverified_on_cifar10_only(results_of, network):
    networks = [network(None, {}), network(20.0, {}, confidence=0.75)]
    cifar10 = by_name(results_of(networks, dataset="cifar10"), "confidence")
    assert read(cifar10)[1]["paper_unverified_percent"] == "78.05"
    assert read(cifar10)[1]["confidence_percent"] == "75"
    assert "unverified" in cifar10.markdown()
    mnist = by_name(results_of(networks), "confidence")
    assert read(mnist)[1]["paper_unverified_percent"] == ""


def test_architecture_has_a_total(results):
    rows = read(by_name(results, "architecture"))
    assert rows[0]["output_shape"] == "26 x 26 x 32"
    assert (rows[-1]["layer"], rows[-1]["parameters"]) == ("total", "2330")


def test_training_parameters_include_the_warm_start(results):
    rows = {row["parameter"]: row for row in read(by_name(results, "training_parameters"))}
    assert rows["warm start (steps at T = 1 on hard labels)"]["ours"] == "469"
    assert rows["momentum"]["paper"] == "0.5 (unverified)"
    assert rows["epochs"] == {"parameter": "epochs", "paper": "50 (S1)", "ours": "2"}


def test_a_warm_start_that_was_not_taken_is_shown(results_of, network):
    run = results_of([network(None, {}), network(20.0, {})], warm_start_steps=0)
    rows = {row["parameter"]: row for row in read(by_name(run, "training_parameters"))}
    ours = rows["warm start (steps at T = 1 on hard labels)"]["ours"]
    assert ours == "none (taken: 469)"


def test_claims_name_their_sources(results):
    table = by_name(results, "claims")
    rows = {row["claim"]: row for row in read(table)}
    assert rows["C6"]["paper"] == "0.45 %"
    assert rows["C6"]["holds"] == "yes"
    assert rows["C13"]["holds"] == "no (orientation)"
    assert "unverified" in rows["C13"]["paper"]
    assert "M: from memory, unverified" in table.notes[0]


def test_training_parameters_of_cifar10(cifar10):
    run = cifar10(precision="mixed_bfloat16", jit_compile=True, threads=2, decay_epochs=5)
    table = by_name(run, "training_parameters")
    rows = {row["parameter"]: (row["paper"], row["ours"]) for row in read(table)}
    assert rows["learning rate decay"] == (
        "x 0.95 every 10 epochs (S1)",
        "x 0.95 every 5 epochs",
    )
    assert rows["momentum decay"] == ("x 0.5 every 10 epochs (S1)", "x 0.5 every 5 epochs")
    assert (
        rows["precision"][1] == "hidden layers trained in mixed_bfloat16, everything else float32"
    )
    assert rows["compiled with XLA"][1] == "training steps"
    assert rows["CPU threads per operation"][1] == "2"
    assert rows["theta (change of a feature per step)"][1] == "0.25"
    assert "remembered to give x 0.5 (unverified)" in table.notes[0]


def test_training_parameters_without_decay(results):
    rows = {row["parameter"]: row["ours"] for row in read(by_name(results, "training_parameters"))}
    assert rows["learning rate decay"] == rows["momentum decay"] == "none"
    assert rows["precision"] == "float32"
    assert (rows["compiled with XLA"], rows["CPU threads per operation"]) == ("no", "one per core")


def test_both_thetas_stand_side_by_side(cifar10):
    rows = read(by_name(cifar10(), "success_rate"))
    assert "JSMA-F, theta = 1 %" in by_name(cifar10(), "success_rate").markdown()
    assert [float(r["jsma_f_percent"]) for r in rows] == pytest.approx([86, 90, 45, 6])
    assert [float(r["jsma_f_theta_1_percent"]) for r in rows] == pytest.approx([95, 97, 55, 8])
    assert [float(r["paper_percent"]) for r in rows] == [87.89, 92.78, 47.56, 5.11]
    details = read(by_name(cifar10(), "attacks"))
    assert [(r["attack"], r["theta"]) for r in details[:3]] == [
        ("jsma_f", "0.25"),
        ("jsma_f_theta_1", "1"),
        ("jsma_f_exact", "0.25"),
    ]


@pytest.mark.parametrize(
    "name", ["success_rate", "attacks", "training", "gradients", "robustness", "confidence"]
)
def test_every_table_says_which_network_did_not_learn(cifar10, name):
    rows = read(by_name(cifar10(stalled_initial=True), name))
    names = list(dict.fromkeys(row["network"] for row in rows))
    assert names == ["undistilled", "T = 1", "T = 10", "T = 100 (did not learn)"]


def names(results):
    return [table.name for table in tables.of_run(results)]


NEW = {"verdict", "costs", "carlini_wagner", "transfer", "norm_attacks", "controls"}


def test_what_a_run_did_not_measure_has_no_table(results, full):
    assert not NEW & set(names(results))
    assert set(names(full)) - set(names(results)) == NEW
    assert names(full)[:3] == ["verdict", "costs", "claims"]


def test_the_verdict_has_networks_as_rows_and_every_attack_as_columns(full):
    table = by_name(full, "verdict")
    rows = read(table)
    assert [row["network"] for row in rows] == [
        "undistilled",
        "T = 1",
        "T = 5",
        "T = 20",
        "T = 100",
        "adversarially trained",
    ]
    assert list(rows[0])[:2] == ["network", "accuracy_percent"]
    measured = {a for n in full.networks for a in n.attacks}
    assert len(measured) == 11
    assert all(f"{attack}_attempts" in rows[0] for attack in measured)
    last = rows[4]
    ends = ("percent", "percent_low", "percent_high", "distance", "distance_low", "distance_high")
    found = [float(last[f"cw_l2_{end}"]) for end in ends]
    assert found == pytest.approx([100, 95, 100, 1.8, 1.62, 1.98])
    assert (last["cw_l2_attempts"], last["jsma_f_attempts"]) == ("180", "900")
    assert float(last["jsma_f_distance_low"]) == 33.1
    # Not run on the adversarially trained network.
    assert rows[5]["transfer_cw_l2_percent"] == rows[5]["transfer_cw_l2_attempts"] == ""


def test_the_verdict_is_two_tables_of_the_same_rows_in_markdown(full):
    text = by_name(full, "verdict").markdown()
    masked, adaptive = text.split("Attacks that know the defence, or need no softmax:")
    assert masked.startswith("Attacks that see the softmax at T = 1:\n\n| network | accuracy % |")
    heads = [part.strip().splitlines() for part in (masked, adaptive)]
    columns = [next(line for line in part if line.startswith("| network")) for part in heads]
    assert "| JSMA-F, %<br>at mean L0 |" in columns[0]
    assert "PGD, %<br>at mean Linf |" in columns[0]
    assert "C&W L2" not in columns[0]
    assert "| C&W L2, %<br>at mean L2 |" in columns[1]
    assert "| transfer of C&W L2, kappa = 40, %<br>at mean L2 |" in columns[1]
    assert masked.count("| adversarially trained | 97.00 |") == 1
    assert adaptive.count("| adversarially trained | 97.00 |") == 1
    assert "100.0 [95.0, 100.0]<br>at 1.80 [1.62, 1.98]<br>n = 180" in adaptive
    assert "any wrong class for: FGSM; PGD; PGD, logits / T; transfer" in adaptive


def test_a_verdict_from_targeted_attacks_alone_compares_them_all(full):
    jsma = [dataclasses.replace(n, attacks=n.readings, transfer=[]) for n in full.networks[:2]]
    table = by_name(dataclasses.replace(full, networks=jsma), "verdict")
    assert "any wrong class" not in table.markdown()
    bare = [jsma[0], dataclasses.replace(jsma[1], attacks={})]
    text = by_name(dataclasses.replace(full, networks=bare), "verdict").markdown()
    assert "| T = 1 | 99.10 | - | - |" in text
    assert "A row of `-` was not attacked." in text


def test_costs_count_every_training_that_a_network_needs(full):
    rows = read(by_name(full, "costs"))
    # 60 s undistilled; 30 + 60 + 1 + 59 s distilled after a warm start; 60 + 540 s adversarially.
    seconds = [float(row["training_seconds"]) for row in rows]
    assert seconds == pytest.approx([60, 150, 150, 150, 150, 600])
    assert [float(row["times_undistilled"]) for row in rows[-2:]] == pytest.approx([2.5, 10])
    assert [row["accuracy_percent"] for row in rows[:2]] == ["99", "99.1"]
    assert rows[0]["accuracy_change_points"] == ""
    assert float(rows[-1]["accuracy_change_points"]) == pytest.approx(-2)
    assert rows[4]["stages"] == "warm_start, initial_t100, soft_labels_t100, distilled_t100"
    text = by_name(full, "costs").markdown()
    assert "| adversarially trained | 97.00 | -2.00 | 10 min 0 s | 10.00 |" in text


def test_costs_without_a_warm_start_share_the_undistilled_training_at_t_1(full):
    literal = [
        dataclasses.replace(n, training=dataclasses.replace(n.training, warm_start_steps=0))
        for n in full.networks
    ]
    run = dataclasses.replace(full, networks=literal)
    rows = read(by_name(run, "costs"))
    assert rows[1]["stages"] == "baseline, soft_labels_t1, distilled_t1"
    assert rows[2]["stages"] == "initial_t5, soft_labels_t5, distilled_t5"
    assert float(rows[2]["training_seconds"]) == pytest.approx(120)


def test_costs_that_were_not_recorded_are_left_out(full):
    timings = {name: s for name, s in full.timings.items() if name != "adversarially_trained"}
    rows = read(by_name(dataclasses.replace(full, timings=timings), "costs"))
    assert rows[-1]["training_seconds"] == rows[-1]["times_undistilled"] == ""
    assert float(rows[1]["training_seconds"]) == pytest.approx(150)
    rows = read(by_name(dataclasses.replace(full, timings={}), "costs"))
    assert {row["training_seconds"] for row in rows} == {""}


def test_without_an_adversarially_trained_network_nothing_is_compared_in_cost(full):
    run = dataclasses.replace(full, networks=full.networks[:-1])
    assert "costs" not in names(run)
    assert "verdict" in names(run)


def test_controls_name_the_network_and_whether_it_passed(full):
    rows = read(by_name(full, "controls"))
    assert [(row["network"], row["passed"]) for row in rows] == [
        ("undistilled", "true"),
        ("T = 100", "false"),
    ]
    assert float(rows[1]["value_percent"]) == pytest.approx(85)
    assert float(rows[1]["limit_percent"]) == pytest.approx(1)
    text = by_name(full, "controls").markdown()
    assert "| zero_gradients | undistilled | 0.0 | 1.0 | 1000 | pass |" in text
    assert "| zero_gradients | T = 100 | 85.0 | 1.0 | 1000 | FAIL |" in text
    other = dataclasses.replace(full.controls[0], network="elsewhere")
    text = by_name(dataclasses.replace(full, controls=[other]), "controls").markdown()
    assert "| zero_gradients | elsewhere |" in text
    scaled = dataclasses.replace(full.controls[1], name="scaled_logits")
    text = by_name(dataclasses.replace(full, controls=[scaled]), "controls").markdown()
    assert "| scaled_logits | undistilled, logits times 100 |" in text


def test_norm_attacks_show_settings_counts_and_medians(full):
    rows = {(r["network"], r["attack"]): r for r in read(by_name(full, "norm_attacks"))}
    assert len(rows) == 5 * 6 + 4
    row = rows["T = 100", "cw_l2"]
    assert (row["targets"], row["successes"], row["attempts"], row["samples"]) == (
        "all",
        "180",
        "180",
        "20",
    )
    assert float(row["median_distance"]) == pytest.approx(0.95 * 1.8)
    assert row["settings"] == "kappa = 0, steps = 1000"
    assert rows["T = 5", "fgsm"]["settings"] == "epsilon = 0.3"


def test_carlini_wagner_beside_the_published_cases(full):
    rows = {r["network"]: r for r in read(by_name(full, "carlini_wagner"))}
    assert len(rows) == 6
    first, last = rows["undistilled"], rows["T = 100"]
    assert [float(first[f"{c}_distance"]) for c in ("best", "average", "worst")] == pytest.approx(
        [1.28, 1.6, 2.4]
    )
    published = [first[f"published_{case}"] for case in ("best", "average", "worst")]
    assert published == ["1.36 (N)", "1.76 (unverified)", "2.6 (unverified)"]
    assert last["published_best"] == "1.7 (N)"
    assert (last["samples"], last["attempts"]) == ("20", "180")
    # One random target: no best case, and nothing published at T = 5.
    assert (rows["T = 5"]["best_percent"], rows["T = 5"]["average_percent"]) == ("", "100")
    assert rows["T = 5"]["published_best"] == rows["adversarially trained"]["published_best"] == ""
    text = by_name(full, "carlini_wagner").markdown()
    assert "| 100.0 at 1.28 | 100.0 at 1.60 | 100.0 at 2.40 | 1.36 (N) |" in text
    assert "| published, best |" in text
    assert "colour channel" not in text


def test_carlini_wagner_on_other_data(results_of, network, norm_attack):
    found = {
        "cw_l0": norm_attack(0.0, 0.0, norm="l0", targets="all", samples=3),
        "cw_linf": norm_attack(1.0, 0.0095, norm="linf", samples=3),
    }
    networks = [dataclasses.replace(network(None, {}), attacks=found)]
    cifar10 = by_name(results_of(networks, "cifar10", (32, 32, 3)), "carlini_wagner")
    rows = read(cifar10)
    assert [row["attack"] for row in rows] == ["C&W L0", "C&W Linf"]
    assert [row["published_best"] for row in rows] == ["5.9 (N)", "0.0092 (N)"]
    assert (rows[0]["best_percent"], rows[0]["best_distance"]) == ("0", "")
    assert "| C&W L0 | undistilled | 3 | 27 | 0.0 | 0.0 | 0.0 |" in cifar10.markdown()
    assert "100.0 at 0.00950" in cifar10.markdown()
    assert "a colour channel each" in cifar10.markdown()
    digits = by_name(results_of(networks, "digits"), "carlini_wagner").markdown()
    assert "| published (MNIST), best |" in digits


def test_transfer_by_network_and_kappa(full):
    rows = read(by_name(full, "transfer"))
    assert [(r["network"], r["kappa"]) for r in rows[:3]] == [
        ("undistilled", "0"),
        ("undistilled", "40"),
        ("T = 1", "0"),
    ]
    assert len(rows) == 10
    last = rows[-1]
    numbers = {key: float(value) for key, value in last.items() if key != "network"}
    assert numbers == pytest.approx(
        {
            "kappa": 40,
            "samples": 20,
            "started": 0,
            "crafted_percent": 95,
            "misclassified": 95,
            "misclassified_low": 85,
            "misclassified_high": 100,
            "reached_percent": 47.5,
            "mean_distance": 2.5,
        }
    )


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("success_rate", "paper_percent"),
        ("training", "initial_accuracy_percent"),
        ("gradients", "expected_by_1_over_t_log10"),
        ("gradients", "excess_log10"),
        ("confidence", "paper_unverified_percent"),
    ],
)
def test_an_adversarially_trained_network_is_not_taken_for_one_distilled_at_t_1(
    cifar10, yardstick, name, column
):
    run = cifar10()
    run = dataclasses.replace(run, networks=[*run.networks, yardstick()])
    last = read(by_name(run, name))[-1]
    assert last["network"] == "adversarially trained"
    assert last[column] == ""


def test_its_training_is_described_and_its_gain_is_over_the_undistilled_network(full):
    rows = {row["parameter"]: row for row in read(by_name(full, "training_parameters"))}
    assert rows["adversarial training: epochs"]["ours"] == "2"
    assert rows["adversarial training: PGD steps"]["ours"] == "7"
    assert rows["adversarial training: epsilon (L-infinity)"]["ours"] == "0.3"
    assert "or adversarially trained) accuracy %" in by_name(full, "training").markdown()
    gains = read(by_name(full, "robustness"))
    row = next(r for r in gains if r["network"] == "adversarially trained")
    assert float(row["gain_percent"]) == pytest.approx(500)  # 9 over 1.5


def test_one_that_did_not_learn_says_so(full, yardstick):
    run = dataclasses.replace(full, networks=[*full.networks[:-1], yardstick(stalled=True)])
    for name in ("verdict", "costs", "training", "success_rate", "gradients"):
        assert read(by_name(run, name))[-1]["network"] == "adversarially trained (did not learn)"


def test_the_logarithm_of_0_is_minus_infinity():
    assert fixed(2)(float(np.finfo(np.float32).min)) == "-inf"
    assert fixed(2)(-45.0) == "-45.00"
