"""Reports over several seeds, followed by hand from the numbers of `THREE`."""

import csv
import dataclasses
import io
import re
import shutil

import numpy as np
import pytest

from ddefense import records, reporting
from ddefense.reporting import passages, runs, seeds_report, summary, tables
from ddefense.reporting.figures import style, success_rate
from tests.comparing import comparisons_of

# (seed, jsma_f undistilled, at T = 1 and at T = 100, accuracy): undistilled 90, 92, 97 has mean 93
# and deviation sqrt((9 + 1 + 16) / 2) = sqrt(13); accuracies 99.3, 99.5, 99.1 deviate by 0.2.
THREE = (
    (0, (0.90, 0.88, 0.00), 0.993, {}),
    (1, (0.92, 0.90, 0.02), 0.995, {}),
    (2, (0.97, 0.86, 0.04), 0.991, {}),
)
LOST = (*THREE[:2], (2, (0.97, 0.86, 0.11), 0.991, {"stalled_initial": True}))


@pytest.fixture
def three(seeds):
    return runs.Runs(seeds(*THREE))


@pytest.fixture
def lost(seeds):
    """T = 100 did not learn at seed 2."""
    return runs.Runs(seeds(*LOST))


def save(directory, by_seed):
    for seed, results in by_seed.items():
        (directory / f"seed_{seed}").mkdir(parents=True)
        records.dump(results, directory / f"seed_{seed}" / "results.json")
    return directory


def read(table):
    return list(csv.DictReader(io.StringIO(table.csv())))


def by_name(found, name):
    return next(table for table in tables.of_seeds(found) if table.name == name)


def numbers(row, key):
    """Mean, deviation, smallest, largest and count of a column; None where it is empty."""
    ends = ("mean", "deviation", "low", "high", "seeds")
    return [float(row[f"{key}_{end}"]) if row[f"{key}_{end}"] else None for end in ends]


def contents(directory):
    return {p.relative_to(directory): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_seeds_are_read_in_the_order_of_numbers(tmp_path, seeds):
    found = [(seed, *THREE[0][1:]) for seed in (10, 2, 0)]
    save(tmp_path, seeds(*found))
    (tmp_path / "seed_3").mkdir()
    (tmp_path / "seed_4").mkdir()
    (tmp_path / "seed_4" / "samples.npz").touch()
    (tmp_path / "seed_old").mkdir()
    (tmp_path / "seed_5").touch()
    read_back = runs.load(tmp_path)
    assert list(read_back.by_seed) == [0, 2, 10]
    assert read_back.unfinished == (3, 4)


def test_no_seed_at_all_is_an_error(tmp_path):
    with pytest.raises(records.RunError, match=r"at least one seed .*seed_<seed>/results\.json"):
        reporting.render_seeds(tmp_path)
    (tmp_path / "seed_0").mkdir()
    with pytest.raises(records.RunError, match="at least one seed"):
        reporting.render_seeds(tmp_path)
    assert not (tmp_path / "report.md").exists()


def test_runs_that_differ_in_more_than_the_seed_are_refused(tmp_path, seeds):
    other = (2, *THREE[2][1:3], {"epochs": 3, "precision": "mixed_bfloat16"})
    save(tmp_path, seeds(*THREE[:2], other))
    with pytest.raises(records.RunError) as caught:
        reporting.render_seeds(tmp_path)
    assert "epochs (2 in seed_0, 3 in seed_2)" in str(caught.value)
    assert "precision ('float32' in seed_0, 'mixed_bfloat16' in seed_2)" in str(caught.value)
    assert "seed (" not in str(caught.value)
    assert not (tmp_path / "report.md").exists()


def test_one_run_copied_to_two_directories_is_no_two_seeds(tmp_path, seeds):
    save(tmp_path, seeds(THREE[0]))
    shutil.copytree(tmp_path / "seed_0", tmp_path / "seed_1")
    with pytest.raises(records.RunError, match=r"seed_1.*to be of seed 1.*says seed 0"):
        reporting.render_seeds(tmp_path)


def test_damaged_results_are_named(tmp_path, seeds):
    save(tmp_path, seeds(*THREE))
    (tmp_path / "seed_1" / "results.json").write_text("{")
    with pytest.raises(records.RunError, match=r"seed_1.results\.json"):
        reporting.render_seeds(tmp_path)


def test_success_rate(three):
    rows = read(by_name(three, "success_rate"))
    assert [row["network"] for row in rows] == ["undistilled", "T = 1", "T = 100"]
    assert [row["paper_percent"] for row in rows] == ["95.89", "91", "0.45"]
    assert [row["learnt_seeds"] for row in rows] == ["3", "3", "3"]
    assert numbers(rows[0], "jsma_f_percent") == pytest.approx([93, 13**0.5, 90, 97, 3])
    assert numbers(rows[1], "jsma_f_percent") == pytest.approx([88, 2, 86, 90, 3])
    assert numbers(rows[2], "jsma_f_percent") == pytest.approx([2, 2, 0, 4, 3])
    assert numbers(rows[2], "jsma_f_exact_percent") == pytest.approx([90, 0, 90, 90, 3])
    assert numbers(rows[0], "jsma_f_exact_percent") == [None] * 5  # it was not run there
    text = by_name(three, "success_rate").markdown()
    assert "| undistilled | 3 | 95.89 | 93.00 +- 3.61 [90.00, 97.00] | - |" in text


def test_networks(three):
    rows = read(by_name(three, "networks"))
    assert numbers(rows[0], "initial_accuracy_percent") == [None] * 5
    assert numbers(rows[1], "initial_accuracy_percent") == pytest.approx([99.1, 0.2, 98.9, 99.3, 3])
    assert numbers(rows[0], "accuracy_percent") == pytest.approx([99.3, 0.2, 99.1, 99.5, 3])
    assert numbers(rows[2], "accuracy_percent") == pytest.approx([98.3, 0.2, 98.1, 98.5, 3])
    assert numbers(rows[2], "confidence_percent") == pytest.approx([98, 0, 98, 98, 3])
    assert numbers(rows[2], "logit_mean_abs") == pytest.approx([410, 10, 400, 420, 3])
    assert numbers(rows[2], "median_log10") == pytest.approx([-41, 1, -42, -40, 3])


def test_robustness(three):
    table = by_name(three, "robustness")
    rows = {(row["network"], row["attack"]): row for row in read(table)}
    last = rows["T = 100", "jsma_f"]
    assert numbers(last, "capped_percent") == pytest.approx([12.1, 0.1, 12, 12.2, 3])
    # 12, 12.1 and 12.2 over 1.5.
    assert numbers(last, "gain_percent") == pytest.approx([2120 / 3, 20 / 3, 700, 2140 / 3, 3])
    # Nothing was reached at seed 0, where the rate is 0.
    assert numbers(last, "uncapped_percent") == pytest.approx([1.5, 0, 1.5, 1.5, 2])
    assert numbers(last, "unreached_percent") == pytest.approx([95, 0, 95, 95, 3])
    assert ("undistilled", "jsma_f_exact") not in rows


def test_one_seed_has_no_deviation(seeds):
    one = runs.Runs(seeds(THREE[1]))
    assert numbers(read(by_name(one, "success_rate"))[0], "jsma_f_percent") == [92, None, 92, 92, 1]
    assert "| 92.00 +- - [92.00, 92.00] |" in by_name(one, "success_rate").markdown()


def test_a_network_that_did_not_learn_is_in_no_mean_and_yet_shown(lost):
    last = read(by_name(lost, "success_rate"))[2]
    assert last["learnt_seeds"] == "2"
    # 0 and 2 only, without the 11 of seed 2.
    assert numbers(last, "jsma_f_percent") == pytest.approx([1, 2**0.5, 0, 2, 2])
    assert numbers(read(by_name(lost, "networks"))[2], "logit_mean_abs")[0] == pytest.approx(405)
    rows = {(r["network"], r["attack"]): r for r in read(by_name(lost, "robustness"))}
    gain = numbers(rows["T = 100", "jsma_f"], "gain_percent")
    assert gain[0] == pytest.approx(2110 / 3)  # of 700 and 2120 / 3
    rows = read(by_name(lost, "by_seed"))
    assert len(rows) == 9
    assert rows[-1]["network"] == "T = 100 (did not learn)"
    assert (rows[-1]["seed"], rows[-1]["initial_accuracy_percent"]) == ("2", "10")
    assert float(rows[-1]["jsma_f_percent"]) == pytest.approx(11)


def test_a_network_that_learnt_at_no_seed_has_no_numbers(seeds):
    none = runs.Runs(seeds(*((s, r, a, {"stalled_initial": True}) for s, r, a, _ in THREE)))
    last = read(by_name(none, "success_rate"))[2]
    assert (last["learnt_seeds"], last["paper_percent"]) == ("0", "0.45")
    assert numbers(last, "jsma_f_percent") == [None] * 5
    claims = {row["claim"]: row for row in read(by_name(none, "claims"))}
    assert claims["C6"]["holds"] == "inconclusive"
    assert claims["C6"]["inconclusive_at"] == "0, 1, 2"
    assert passages.warning_of_seeds(none).endswith("vanish.")  # T = 1 has no adaptive attack here


def test_claims_count_seeds(three):
    rows = {row["claim"]: row for row in read(by_name(three, "claims"))}
    accuracy = rows["C1"]  # 99.3, 99.5, 99.1 against at least 99.2
    assert (accuracy["holds"], accuracy["fails_at"], accuracy["inconclusive_at"]) == (
        "2 of 3 seeds",
        "2",
        "",
    )
    assert numbers(accuracy, "value") == pytest.approx([99.3, 0.2, 99.1, 99.5, 3])
    assert accuracy["quantity"] == "accuracy, %"
    success = rows["C6"]  # 0, 2, 4 against at most 3
    assert (success["holds"], success["fails_at"]) == ("2 of 3 seeds", "2")
    assert numbers(success, "value") == pytest.approx([2, 2, 0, 4, 3])
    assert success["note"] == "theta = 1; 0 failures met an all-zero forward derivative"
    assert rows["C9"]["holds"] == "2 of 3 seeds"  # -2, -2, -11 within 8
    assert numbers(rows["C9"], "value") == pytest.approx([-5, 27**0.5, -11, -2, 3])
    assert rows["C8"]["holds"] == "inconclusive"
    assert rows["C8"]["inconclusive_at"] == "0, 1, 2"
    assert "missing: a T from 2 to 5" in rows["C8"]["note"]
    assert rows["C13"]["holds"].endswith("(orientation)")


def test_claims_tell_seeds_that_could_not_be_judged(lost):
    rows = {row["claim"]: row for row in read(by_name(lost, "claims"))}
    last = rows["C6"]
    assert (last["holds"], last["fails_at"], last["inconclusive_at"]) == ("2 of 3 seeds", "", "2")
    assert numbers(last, "value") == pytest.approx([1, 2**0.5, 0, 2, 2])  # 11 % is not counted
    assert last["note"].startswith("theta = 1; 0 failures met an all-zero forward derivative; ")
    assert "seed 2: did not learn, so nothing can be said: T = 100" in last["note"]
    assert rows["C1"]["note"] == ""
    assert "seed 2: left out because they did not learn: T = 100" in rows["C11"]["note"]
    assert (rows["C3"]["holds"], rows["C3"]["fails_at"]) == ("2 of 3 seeds", "2")


def test_claims_that_hold_at_a_loss_are_counted_apart(seeds):
    by_seed = seeds(*THREE[:2])
    costly = [
        dataclasses.replace(n, test_accuracy=0.871) if n.temperature == 100 else n
        for n in by_seed[1].networks
    ]
    found = runs.Runs(by_seed | {1: dataclasses.replace(by_seed[1], networks=costly)})
    row = {row["claim"]: row for row in read(by_name(found, "claims"))}["C6"]
    assert (row["holds"], row["at_a_loss_at"], row["fails_at"]) == (
        "1 of 2 seeds, 1 at a loss of accuracy",
        "1",
        "",
    )
    assert "seed 1: at a loss of 12.4 points of accuracy" in row["note"]


def test_the_table_at_the_end_says_at_how_many_seeds_a_network_did_not_learn(lost):
    labels = [row[0] for row in summary.of_seeds(lost).rows]
    assert labels == ["undistilled", "T = 1", "T = 100 (did not learn at 1 of 3 seeds)"]


def test_the_figure_shows_mean_and_range_beside_the_paper(three):
    figure = success_rate.draw_seeds(three)
    axes = figure.axes[0]
    drawn = {line.get_label(): line for line in axes.lines}
    assert list(drawn["JSMA-F"].get_xdata()) == [1, 100]
    assert list(drawn["JSMA-F"].get_ydata()) == pytest.approx([88, 2])
    assert list(drawn["paper"].get_ydata())[:2] == [91, 82.23]
    band = axes.collections[0].get_paths()[0].vertices
    at_one, at_hundred = (band[np.isclose(band[:, 0], t), 1] for t in (1, 100))
    assert (at_one.min(), at_one.max()) == pytest.approx((86, 90))
    assert (at_hundred.min(), at_hundred.max()) == pytest.approx((0, 4))
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    levels = [line.get_ydata()[0] for line in dashed if len(line.get_ydata())]
    assert pytest.approx(93) in levels
    assert pytest.approx(95.89) in levels
    assert axes.get_title(loc="left") == "Targeted attacks on MNIST, mean and range of 3 seeds"


def test_the_figure_shows_the_range_at_a_single_temperature(seeds):
    only = {
        seed: dataclasses.replace(results, networks=results.networks[::2])
        for seed, results in seeds(*THREE).items()
    }
    axes = success_rate.draw_seeds(runs.Runs(only)).axes[0]
    (segment,) = axes.collections[0].get_segments()
    assert segment.tolist() == [[100, pytest.approx(0)], [100, pytest.approx(4)]]


def test_the_figure_marks_each_seed_that_did_not_learn(lost):
    axes = success_rate.draw_seeds(lost).axes[0]
    drawn = {line.get_label(): line for line in axes.lines}
    assert list(drawn["JSMA-F"].get_ydata()) == pytest.approx([88, 1])
    crosses = [line for line in axes.lines if line.get_marker() == "x" and len(line.get_xdata())]
    shown = {(line.get_xdata()[0], round(line.get_ydata()[0], 6)) for line in crosses}
    assert shown == {(100, 11), (100, 90)}  # jsma_f and jsma_f_exact at seed 2
    assert style.save(success_rate.draw_seeds(lost), "svg").startswith(b"<?xml")


def test_the_report_first_says_that_the_defence_is_broken(three, lost, tmp_path):
    start = seeds_report.write(three, tmp_path).split("## What was run")[0]
    assert start.startswith("# Defensive distillation on mnist: quick (reduced), seeds 0, 1, 2\n")
    assert "**Reduced run**" in start
    assert "**Do not rely on this defence.**" in start
    assert (
        "At T = 100, at a loss of 1.0 points of accuracy, in the mean over 3 seeds, the " in start
    )
    assert "attack reaches its target in 2.00 %" in start
    assert "where nothing underflows, it reaches 90.00 %." in start
    assert "in the mean over 2 of 3 seeds that learnt" in passages.warning_of_seeds(lost)


def test_the_report_describes_the_runs(three, tmp_path):
    text = seeds_report.write(three, tmp_path)
    assert "**Not the literal protocol** (preset `quick`): temperatures 1, 100 instead of" in text
    assert "| seeds | 0, 1, 2 |" in text
    assert "| time of the stages that ran | 9 min 46 s |" in text  # 3 * (65 + 130.5) s
    assert "| epochs | 2 |" in text
    assert "Every network learnt, at every seed." in text


def test_the_report_names_networks_that_did_not_learn_by_seed(lost, seeds, tmp_path):
    text = seeds_report.write(lost, tmp_path)
    assert "- seed 2: initial network, T = 100 (test accuracy 10.00 %; " in text
    assert "No mean counts them." in text
    assert "| 2 | not written yet | T = 100 |" in text
    assert "| 1 | not written yet | - |" in text


def test_networks_that_learnt_late_are_named_apart(three):
    late = dataclasses.replace(
        three.by_seed[1].networks[0],
        training=dataclasses.replace(three.by_seed[1].networks[0].training, stalled=True),
    )
    changed = dataclasses.replace(three.by_seed[1], networks=[late, *three.by_seed[1].networks[1:]])
    text = passages.learnt_of_seeds(runs.Runs(three.by_seed | {1: changed}))
    assert "learnt late" in text
    assert "- seed 1: undistilled (test accuracy 99.50 %)" in text
    assert "did not learn" not in text


def test_it_writes_everything_and_the_same_bytes_again(tmp_path, seeds):
    save(tmp_path, seeds(*THREE[:2]))
    (tmp_path / "seed_2").mkdir()
    for seed in (0, 1):
        (tmp_path / f"seed_{seed}" / "report.md").write_text("A report.")
    before = set(contents(tmp_path))
    written = reporting.render_seeds(tmp_path)
    first = contents(tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in written}
    expected = {"report.html", "report.md", "figures/success_rate.png", "figures/success_rate.svg"}
    expected |= {
        f"tables/{name}.{suffix}"
        for name in ("claims", "success_rate", "networks", "robustness", "by_seed")
        for suffix in ("csv", "md")
    }
    assert names == expected
    assert {str(path) for path in set(first) - before} == expected
    assert written[-1] == tmp_path / "report.md"
    assert reporting.render_seeds(tmp_path) == written
    assert contents(tmp_path) == first
    text = first[(tmp_path / "report.md").relative_to(tmp_path)].decode()
    links = set(re.findall(r"\]\(([^)]+)\)", text))
    assert links == (expected - {"report.html", "report.md"}) | {
        "seed_0/report.md",
        "seed_1/report.md",
    }
    assert "**Not finished, and not counted**: seed 2." in text


@pytest.fixture
def full_seeds(full):
    """Two seeds with every attack: at seed 1, cw_l2 reaches T = 100 in 90 % only."""
    networks = list(full.networks)
    cw = dataclasses.replace(networks[4].attacks["cw_l2"], success_rate=0.9)
    networks[4] = dataclasses.replace(networks[4], attacks=networks[4].attacks | {"cw_l2": cw})
    other = dataclasses.replace(
        full,
        networks=networks,
        comparisons=comparisons_of(networks),
        config=dataclasses.replace(full.config, seed=1),
    )
    verdict = dataclasses.replace(
        full.verdict, masks_gradients=None, sentence="Seed 1 says something else."
    )
    return runs.Runs({0: full, 1: dataclasses.replace(other, verdict=verdict)})


def test_the_verdict_over_seeds(full_seeds):
    rows = {row["network"]: row for row in read(by_name(full_seeds, "verdict"))}
    assert list(rows) == [
        "undistilled",
        "T = 1",
        "T = 5",
        "T = 20",
        "T = 100",
        "adversarially trained",
    ]
    last = rows["T = 100"]
    # 100 and 90: mean 95, deviation sqrt(2 * 25) = 7.07.
    assert numbers(last, "cw_l2_percent") == pytest.approx([95, 50**0.5, 90, 100, 2])
    assert numbers(last, "accuracy_percent") == pytest.approx([98.5, 0, 98.5, 98.5, 2])
    assert numbers(last, "jsma_f_percent")[0] == pytest.approx(0.5)
    assert numbers(rows["adversarially trained"], "transfer_cw_l2_percent") == [None] * 5
    text = by_name(full_seeds, "verdict").markdown()
    assert "Attacks that know the defence, or need no softmax:" in text
    assert "any wrong class for: FGSM" in text


def test_seeds_without_a_verdict_have_none(three, tmp_path):
    assert "verdict" not in {table.name for table in tables.of_seeds(three)}
    assert "## Verdict" not in seeds_report.write(three, tmp_path)


def test_the_report_over_seeds_begins_with_each_verdict(full_seeds, tmp_path):
    text = seeds_report.write(full_seeds, tmp_path)
    start = text[: text.index("## What was run")]
    assert start.index("## Verdict") < start.index("**Do not rely on this defence.**")
    assert (
        "- seed 0: At T = 100 the gradients are masked. An adaptive attacker is not stopped. Masks "
        "gradients: yes; stops an attacker who knows it: no.\n"
        "- seed 1: Seed 1 says something else. Masks gradients: this run cannot tell; stops"
    ) in start
    assert "(tables/verdict.csv)" in start
    assert "At T = 100, at a loss of 0.5 points of accuracy, in the mean over 2 seeds" in start
    assert "## The other attacks" in text
    assert "no list of attacks is complete" in text
    assert "hardened" not in text.lower()


def test_a_seed_without_a_verdict_is_left_out_of_the_list(full_seeds):
    by_seed = full_seeds.by_seed | {1: dataclasses.replace(full_seeds.by_seed[1], verdict=None)}
    assert passages.verdict_of_seeds(runs.Runs(by_seed)).count("- seed") == 1


def test_an_adversarially_trained_network_is_last_and_on_no_curve(full_seeds):
    assert list(full_seeds.networks())[-1] == "adversarially_trained"
    assert full_seeds.temperatures() == [1, 5, 20, 100]
    drawn = {line.get_label(): line for line in success_rate.draw_seeds(full_seeds).axes[0].lines}
    assert list(drawn["JSMA-F"].get_xdata()) == [1, 5, 20, 100]
    rows = {row["network"]: row for row in read(by_name(full_seeds, "success_rate"))}
    assert rows["adversarially trained"]["paper_percent"] == ""
    assert numbers(rows["adversarially trained"], "jsma_f_percent")[0] == pytest.approx(30)
    assert rows["T = 1"]["paper_percent"] == "91"


def test_claims_over_seeds_include_those_on_the_other_attacks(full_seeds):
    rows = {row["claim"]: row for row in read(by_name(full_seeds, "claims"))}
    assert rows["C17"]["holds"] == "1 of 2 seeds"
    assert rows["C17"]["fails_at"] == "1"
    assert rows["C19"]["holds"] == "2 of 2 seeds"
