import csv
import io

import pytest

from ddefense.reporting import tables
from ddefense.reporting.tables.table import Column, Interval, Table, fixed


def read(table):
    return list(csv.DictReader(io.StringIO(table.csv())))


def by_name(results, name):
    return next(t for t in (make(results) for make in tables.TABLES) if t.name == name)


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


def test_every_table_round_trips_through_csv(results, with_stalled):
    for run in (results, with_stalled):
        for make in tables.TABLES:
            table = make(run)
            rows = read(table)
            assert len(rows) == len(table.rows) > 0
            for column in table.columns:
                assert column.key in rows[0]
            for row, written in zip(table.rows, rows, strict=True):
                for column, value in zip(table.columns, row, strict=True):
                    if isinstance(value, Interval):
                        assert float(written[column.key]) == pytest.approx(value.value)
                        assert float(written[column.key + "_high"]) == pytest.approx(value.high)
                    elif isinstance(value, float):
                        assert float(written[column.key]) == pytest.approx(value, rel=1e-9)
                    elif isinstance(value, str):
                        assert written[column.key] == value
            assert all(line.count(" | ") for line in table.markdown().splitlines()[:3])


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
    assert float(first["mean_distortion_percent"]) == pytest.approx(4.5)
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
