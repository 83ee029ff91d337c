"""Runs side by side: every number is looked up in the committed files, or computed by hand."""

import csv
import dataclasses
import io
import itertools
import json
import os
import pathlib
import shutil

import pytest

from ddefense import records
from ddefense.reporting import claims as claims_lib
from ddefense.reporting import comparability, comparison, comparison_report, page
from ddefense.reporting.tables import comparison as tables

RESULTS = pathlib.Path(__file__).resolve().parents[3] / "docs" / "results"
RUNS = ("digits", "mnist", "cifar10", "cifar10_warm")
# (seed, jsma_f undistilled, at T = 1 and at T = 100, accuracy)
THREE = (
    (0, (0.90, 0.88, 0.00), 0.993, {}),
    (1, (0.92, 0.90, 0.02), 0.995, {}),
    (2, (0.97, 0.86, 0.04), 0.991, {}),
)
LOST = (*THREE[:2], (2, (0.97, 0.86, 0.11), 0.991, {"stalled_initial": True}))


@pytest.fixture(scope="module")
def committed():
    return comparison.load([RESULTS / name for name in RUNS])


@pytest.fixture
def digits():
    return records.load(records.Results, RESULTS / "digits" / "results.json")


def save(directory, results):
    directory.mkdir(parents=True)
    records.dump(results, directory / "results.json")
    return directory


def save_seeds(directory, by_seed):
    for seed, results in by_seed.items():
        save(directory / f"seed_{seed}", results)
    return directory


def with_settings(results, **changes):
    return dataclasses.replace(results, config=dataclasses.replace(results.config, **changes))


def rows_of(compared):
    return {(row.network, row.name, row.attack): row for row in comparison.measures(compared)}


def read(table):
    return list(csv.DictReader(io.StringIO(table.csv())))


def raw(name):
    """The networks of committed results, read without this package."""
    results = json.loads((RESULTS / name / "results.json").read_text())
    return {network["name"]: network for network in results["networks"]}


NAMES = {
    "undistilled": "baseline",
    "adversarially trained": "adversarially_trained",
    **{f"T = {t}": f"distilled_t{t}" for t in (1, 5, 10, 20, 100)},
}


def test_every_number_is_that_of_the_committed_results(committed):
    networks = [raw(name) for name in RUNS]
    seen = 0
    for (label, name, attack), row in rows_of(committed).items():
        for measured, by_name in zip(row.values, networks, strict=True):
            network = by_name.get(NAMES[label])
            expected = None if network is None else expect(network, name, attack)
            if expected is None:
                assert measured is None, (label, name, attack)
                continue
            found = (measured.value, measured.low, measured.high)
            assert found == pytest.approx(expected), (label, name, attack)
            assert measured.learnt
            seen += 1
    # 17 networks, and no measured attack is left out.
    attacks = sum(
        len(n["attacks"]) + len(n.get("norm_attacks", {})) for by in networks for n in by.values()
    )
    assert sum(map(len, networks)) == 17
    rows = rows_of(committed).values()
    assert attacks == sum(v is not None for r in rows if r.name == "success" for v in r.values)
    assert seen > 3 * 17 + attacks


def expect(network, name, attack):
    """By the records of schema 2, in which JSMA had one of its own."""
    jsma = network["attacks"].get(attack)
    norm = network.get("norm_attacks", {}).get(attack)
    if name == "accuracy":
        return 100 * network["test_accuracy"], None, None
    if name == "gradient_amplitude":
        return network["gradients"]["deployed"]["median_log10"], None, None
    if name == "all_zero_jacobians":
        return 100 * network["gradients"]["deployed"]["float32_zero_samples"], None, None
    if name == "robustness":
        found = network["robustness"].get(attack)
        return found and (100 * found["capped"], None, None)
    record = jsma or norm
    if record is None:
        return None
    if name == "success":
        return tuple(100 * x for x in (record["success_rate"], *record["success_interval"]))
    assert name == "distance"
    if jsma is not None:
        interval = jsma.get("features_interval") or (None, None)
        return jsma["mean_features"] and (jsma["mean_features"], *interval)
    case = norm["average"] or norm
    return case["mean_distance"] and (case["mean_distance"], *case["distance_interval"])


def test_a_network_that_a_run_lacks_is_not_measured(committed):
    rows = rows_of(committed)
    assert [v is not None for v in rows["T = 5", "accuracy", ""].values] == [
        True,
        True,
        False,
        False,
    ]
    only = [v is not None for v in rows["adversarially trained", "accuracy", ""].values]
    assert only == [False, True, False, False]
    assert committed.networks() == [
        *("undistilled", "T = 1", "T = 5", "T = 10", "T = 20", "T = 100"),
        "adversarially trained",
    ]
    table = tables.measures(committed)
    row = next(r for r in table.rows if list(r[:2]) == ["T = 10", "accuracy %"])
    assert row[2:] == [None, None, "73.80", None]
    assert "| T = 10 | accuracy % | - | - | 73.80 | - |" in table.markdown()


def test_numbers_are_shown_as_in_the_reports(committed):
    rows = {tuple(row[:2]): row[2:] for row in tables.measures(committed).rows}
    assert rows["undistilled", "JSMA-F %"][:2] == ["80.0 [70.0, 90.0]", "88.4 [86.0, 90.8]"]
    assert rows["T = 100", "C&W L2, mean L2"][1] == "2.54 [2.28, 2.77]"
    assert rows["T = 100", "all-zero float32 Jacobians %"][1] == "98.9"
    assert rows["T = 100", "gradient amplitude, log10"][1] == "-524.08"


def test_a_brief_table_is_part_of_the_whole(committed):
    whole = [list(row) for row in tables.measures(committed).rows]
    brief = [list(row) for row in tables.measures(committed, brief=True).rows]
    assert len(brief) < len(whole) / 2
    assert all(row in whole for row in brief)
    assert {row[1] for row in brief} == {
        *("accuracy %", "JSMA-F %", "JSMA-F, exact (log domain) %", "JSMA-F, logits / T %"),
        *("PGD, logits / T %", "C&W L2 %", "C&W L2, mean L2", "all-zero float32 Jacobians %"),
    }


def test_a_brief_table_shows_what_there_is(tmp_path, digits):
    networks = [
        dataclasses.replace(n, attacks={"fgsm": n.attacks["fgsm"]}) for n in digits.networks
    ]
    compared = comparison.load(
        [save(tmp_path / "a", dataclasses.replace(digits, networks=networks))]
    )
    labels = {row[1] for row in tables.measures(compared, brief=True).rows}
    assert labels == {"accuracy %", "FGSM %", "all-zero float32 Jacobians %"}


def test_data_has_one_row_per_number(committed):
    rows = read(tables.measures_as_data(committed))
    found = next(
        r
        for r in rows
        if (r["run"], r["network"], r["measure"], r["attack"])
        == ("mnist", "T = 5", "success", "jsma_f")
    )
    assert found["unit"] == "percent"
    record = raw("mnist")["distilled_t5"]["attacks"]["jsma_f"]
    assert float(found["value"]) == pytest.approx(100 * record["success_rate"])
    assert float(found["low"]) == pytest.approx(100 * record["success_interval"][0])
    assert (found["interval"], found["seeds"], found["learnt"]) == (
        "95 % over samples",
        "1",
        "true",
    )
    numbers = [v for row in comparison.measures(committed) for v in row.values if v is not None]
    assert len(rows) == len(numbers)


def test_seeds_of_a_folder_are_joined_to_mean_and_range(tmp_path, seeds):
    folder = save_seeds(tmp_path / "mine", seeds(*THREE))
    (folder / "seed_7").mkdir()
    compared = comparison.load([folder])
    rows = rows_of(compared)
    # (99.3 + 99.5 + 99.1) / 3; (90 + 92 + 97) / 3; (0 + 2 + 4) / 3
    for key, expected in {
        ("undistilled", "accuracy", ""): (99.3, 99.1, 99.5),
        ("undistilled", "success", "jsma_f"): (93.0, 90.0, 97.0),
        ("T = 100", "success", "jsma_f"): (2.0, 0.0, 4.0),
    }.items():
        measured = rows[key].values[0]
        assert (measured.value, measured.low, measured.high) == pytest.approx(expected)
        assert measured.seeds == 3
    assert comparability.about(compared)["seeds"] == ("0, 1, 2",)
    assert comparability.warnings(compared) == ["Not finished, and not counted: seed 7 of mine."]
    data = read(tables.measures_as_data(compared))
    assert {row["interval"] for row in data if row["low"]} == {"smallest and largest"}


def test_a_folder_of_one_seed_keeps_the_interval_over_samples(tmp_path, seeds):
    folder = save_seeds(tmp_path / "mine", seeds(THREE[0]))
    measured = rows_of(comparison.load([folder]))["undistilled", "success", "jsma_f"].values[0]
    assert (measured.value, measured.low, measured.high) == pytest.approx((90, 87, 93))


def test_a_network_that_did_not_learn_is_named_and_left_out_of_means(tmp_path, seeds):
    found = seeds(*LOST)
    folder = save_seeds(tmp_path / "mine", found)
    alone = save(tmp_path / "alone", with_settings(found[2], epochs=3))
    compared = comparison.load([folder, alone])
    row = rows_of(compared)["T = 100", "success", "jsma_f"]
    joined, single = row.values
    assert (joined.value, joined.low, joined.high, joined.seeds) == pytest.approx((1, 0, 2, 2))
    assert single.value == pytest.approx(11)
    assert tables.shown(row, single) == "11.0 [8.0, 14.0] (did not learn)"
    warning = next(w for w in comparability.warnings(compared) if w.startswith("Did not learn"))
    assert "T = 100 in mine, seed 2; T = 100 in alone." in warning


def test_claims_are_those_of_each_run(committed):
    rows = {row.claim.id: row.answers for row in comparison.claims(committed)}
    assert list(rows) == [claim.id for claim in claims_lib.CLAIMS if claim.id in rows]
    for place, name in enumerate(RUNS):
        results = records.load(records.Results, RESULTS / name / "results.json")
        expected = {answer.claim.id: answer for answer in claims_lib.answers(results)}
        assert {key for key, answers in rows.items() if answers[place] is not None} == set(expected)
        for key, answer in expected.items():
            ours = rows[key][place]
            assert ours.holds == answer.answer.holds
            assert ours.ours == answer.answer.ours
            assert ours.orientation is answer.orientation
    shown = {row[0]: row[3:] for row in tables.claims(committed).rows}
    assert shown["C4"] == [
        "does not hold (orientation): 80.00 % (72/90)",
        "does not hold: 88.44 % (796/900)",
        None,
        None,
    ]
    assert shown["C8"][2].startswith("inconclusive")
    brief = {row[0]: row[3:] for row in tables.claims(committed, brief=True).rows}
    assert brief["C4"] == ["does not hold *", "does not hold", None, None]


def test_claims_over_seeds_count_those_at_which_they_hold(tmp_path, seeds):
    compared = comparison.load([save_seeds(tmp_path / "mine", seeds(*LOST))])
    answers = {row.claim.id: row.answers[0] for row in comparison.claims(compared)}
    # 0, 2 and, not learnt, 11 % at T = 100, of which at most 3 % may succeed.
    c6 = answers["C6"]
    assert (c6.yes, c6.no, c6.unknown, c6.holds) == (2, 0, 1, "yes")
    assert (c6.value.value, c6.value.low, c6.value.high) == pytest.approx((1, 0, 2))
    shown = {row[0]: row[3] for row in tables.claims(compared).rows}
    assert shown["C6"] == (
        "holds at 2 of 3 seeds, 1 cannot tell: success rate, % 1.00 [0.00, 2.00]"
    )
    # Undistilled 90, 92, 97 % succeed, and 90 to 100 % have to.
    assert shown["C4"].startswith("holds at 3 of 3 seeds: ")
    c1 = next(row for row in read(tables.claims_as_data(compared)) if row["claim"] == "C1")
    assert (c1["seeds_yes"], c1["seeds_no"], c1["answer"]) == ("2", "1", "differs")


def test_claims_that_hold_at_a_loss_are_told_apart(tmp_path, results_of, network):
    networks = [network(None, {"jsma_f": 0.9}, accuracy=0.8)]
    networks.append(network(100.0, {"jsma_f": 0.01}, accuracy=0.676))
    compared = comparison.load([save(tmp_path / "costly", results_of(networks))])
    (answer,) = next(row for row in comparison.claims(compared) if row.claim.id == "C6").answers
    assert (answer.yes, answer.at_a_loss, answer.no, answer.holds) == (0, 1, 0, "at a loss")
    assert tables.answer_in_words(answer) == "holds, at a loss of 12.4 points of accuracy"
    row = next(r for r in read(tables.claims_as_data(compared)) if r["claim"] == "C6")
    assert (row["answer"], row["seeds_yes"]) == ("holds at a loss of accuracy", "0")
    assert row["seeds_at_a_loss"] == "1"


@pytest.mark.parametrize(
    ("yes", "at_a_loss", "no", "holds", "words"),
    [
        (1, 2, 0, "differs", "holds at 1 of 3 seeds, 2 at a loss of accuracy"),
        (0, 3, 0, "at a loss", "holds at 0 of 3 seeds, 3 at a loss of accuracy"),
        (0, 2, 1, "differs", "holds at 0 of 3 seeds, 2 at a loss of accuracy"),
    ],
)
def test_seeds_at_a_loss_do_not_count_as_holding(yes, at_a_loss, no, holds, words):
    answer = comparison.RunAnswer(
        yes=yes,
        at_a_loss=at_a_loss,
        no=no,
        unknown=0,
        orientation=False,
        words="",
        ours="-",
        value=None,
        note="",
    )
    assert (answer.holds, tables.answer_in_words(answer)) == (holds, words)


def test_an_evaluation_has_networks_and_a_verdict_but_no_claims():
    compared = comparison.load([RESULTS / "tutorial", RESULTS / "digits"])
    assert comparability.about(compared)["epochs"] == ("-", "12")
    assert all(row.answers[0] is None for row in comparison.claims(compared))
    assert "distilled (T = 20)" in compared.networks()
    assert list(comparison.verdicts(compared)) == ["tutorial", "digits"]
    alone = comparison.load([RESULTS / "tutorial"])
    assert tables.claims(alone) is None
    assert "claims" not in comparison_report.write(alone)


def test_the_order_of_runs_permutes_columns_alone(committed):
    makers = (tables.about, tables.measures, tables.claims)
    orders = list(itertools.permutations(range(3)))
    names = ("digits", "mnist", "cifar10_warm")
    reference = comparison.load([RESULTS / name for name in names])
    settings = comparability.settings(reference)
    for order in orders:
        permuted = comparison.load([RESULTS / names[place] for place in order])
        assert permuted.runs == tuple(reference.runs[place] for place in order)
        for make in makers:
            ours, theirs = make(permuted), make(reference)
            fixed = len(theirs.columns) - 3
            places = [*range(fixed), *(fixed + place for place in order)]
            assert [c.key for c in ours.columns] == [theirs.columns[i].key for i in places]
            assert [list(r) for r in ours.rows] == [[row[i] for i in places] for row in theirs.rows]
        found = comparability.settings(permuted)
        assert found.shared == settings.shared
        assert found.differing == {
            name: tuple(values[place] for place in order)
            for name, values in settings.differing.items()
        }


def test_settings_that_differ_stand_apart(tmp_path, digits):
    other = with_settings(digits, momentum=0.9, attacks=("jsma_f", "cw_l2"), threads=2)
    compared = comparison.load([RESULTS / "digits", save(tmp_path / "other", other)])
    found = comparability.settings(compared)
    assert found.differing == {
        "momentum": ("0.5", "0.9"),
        "attacks that not all ran": (
            "jsma_f_literal, jsma_f_exact, jsma_f_temperature, jsma_z, fgsm, fgsm_temperature, "
            "pgd_linf, pgd_linf_temperature, transfer_cw_l2, labels_only",
            "-",
        ),
        "threads": ("0", "2"),
    }
    assert found.shared["learning_rate"] == "0.1"
    assert found.shared["temperatures"] == "1, 5, 20, 100"
    # Settings of attacks and trainings that no run had say nothing.
    assert not {"adversarial_epochs", "cw_l0"} & {*found.shared, *found.differing}


def test_runs_that_are_alike_need_no_warning(tmp_path, digits):
    other = with_settings(digits, seed=1)
    compared = comparison.load([RESULTS / "digits", save(tmp_path / "other", other)])
    assert comparability.warnings(compared) == []
    assert comparability.settings(compared).differing == {}
    (note,) = tables.settings(compared).notes
    for text in (comparison_report.write(compared), page.write_comparison(compared)):
        assert "None." in text
        assert note in text


def test_other_data_are_named():
    compared = comparison.load([RESULTS / "mnist", RESULTS / "digits"])
    first = comparability.warnings(compared)[0]
    assert first.startswith(
        "Other data: mnist has mnist (10,000 test images of 28 x 28 x 1); digits"
    )
    assert not any("Other attacked images" in w for w in comparability.warnings(compared))


def test_other_images_of_the_same_dataset_are_named(tmp_path, digits):
    other = dataclasses.replace(digits, sample_indices=[0, 1, 2, 50, 51])
    compared = comparison.load([RESULTS / "digits", save(tmp_path / "other", other)])
    assert comparability.warnings(compared) == [
        "Other attacked images: 10 in digits, 5 in other; 3 of them are the same in every run. "
        "Part of any difference is that of the images."
    ]


def test_a_users_data_are_told_apart_by_their_digest(tmp_path, digits):
    def on(digest):
        return dataclasses.replace(digits, environment={"data_sha256": digest})

    one, two = save(tmp_path / "one", on("a" * 64)), save(tmp_path / "two", on("b" * 64))
    assert "sha256 aaaaaaaaaaaa" in comparability.warnings(comparison.load([one, two]))[0]
    # Nobody knows of results without one.
    assert comparability.warnings(comparison.load([one, RESULTS / "digits"])) == []


def test_other_budgets_are_named(tmp_path, digits):
    other = save(tmp_path / "other", with_settings(digits, cw_steps=300, pgd_restarts=1))
    compared = comparison.load([RESULTS / "digits", other])
    assert comparability.warnings(compared) == [
        "Other budgets: cw_steps differs. Success and distance of these attacks cannot be "
        "compared: C&W L2; transfer of C&W L2."
    ]
    theta = save(tmp_path / "theta", with_settings(digits, theta=0.5, attacks=("jsma_f",)))
    assert comparability.warnings(comparison.load([RESULTS / "digits", theta])) == [
        "Other budgets: theta differs. Success and distance of these attacks cannot be compared: "
        "JSMA-F."
    ]


def test_a_budget_of_an_attack_that_one_run_lacks_is_nothing_to_warn_of(tmp_path, digits):
    other = with_settings(digits, cw_steps=300, attacks=("jsma_f",))
    compared = comparison.load([RESULTS / "digits", save(tmp_path / "other", other)])
    assert comparability.warnings(compared) == []


def test_labels_are_the_shortest_ends_that_differ(tmp_path, digits):
    paths = [
        save(tmp_path / name, with_settings(digits, seed=seed))
        for seed, name in enumerate(("a/x", "b/x", "b/y"))
    ]
    assert [r.label for r in comparison.load(paths).runs] == ["a/x", "b/x", "b/y"]
    assert [r.label for r in comparison.load(paths[1:]).runs] == ["x", "y"]
    files = [paths[0] / "results.json", paths[1]]
    assert [r.label for r in comparison.load(files).runs] == ["a/x", "b/x"]
    moved = tmp_path / "old.json"
    shutil.copy(paths[0] / "results.json", moved)
    assert [r.label for r in comparison.load([moved]).runs] == ["old.json"]


def test_a_run_is_given_once(tmp_path, seeds):
    folder = save_seeds(tmp_path / "mine", seeds(*THREE))
    link = tmp_path / "link"
    link.symlink_to(folder / "seed_1")
    copy = tmp_path / "copy"
    shutil.copytree(folder / "seed_2", copy)
    for other in (folder, folder / "seed_0" / "results.json", link, copy):
        with pytest.raises(comparison.NoRunError, match="each run once"):
            comparison.load([folder, other])


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(comparison.NoRunError, match="received none"):
        comparison.load([])
    with pytest.raises(comparison.NoRunError, match="does not exist"):
        comparison.load([tmp_path / "missing"])
    (tmp_path / "seed_0").mkdir()
    with pytest.raises(comparison.NoRunError, match=r"seed_<seed>.*has no results"):
        comparison.load([tmp_path])


def test_damaged_results_and_seeds_that_do_not_belong_together(tmp_path, seeds):
    found = seeds(*THREE)
    folder = save_seeds(tmp_path / "mine", found)
    mixed = save_seeds(tmp_path / "mixed", found | {1: with_settings(found[1], epochs=7)})
    with pytest.raises(records.RunError, match="epochs"):
        comparison.load([mixed])
    (folder / "seed_1" / "results.json").write_text('{"schema_version": 2}')
    with pytest.raises(records.RunError, match=r"seed_1.results\.json to be .* of schema 3"):
        comparison.load([folder])


def test_files_are_written_whole_and_twice_the_same(tmp_path, committed):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "comparison.md").write_text("of an earlier comparison")
    written = comparison_report.save(committed, tmp_path / "out")
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert (
        set(first)
        == {path.name for path in written}
        == {
            *("comparison.html", "comparison.md", "comparison.csv", "comparison_claims.csv"),
            *("comparison_runs.csv", "comparison_settings.csv"),
        }
    )
    comparison_report.save(committed, tmp_path / "out")
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    text = first["comparison.md"].decode()
    assert text.startswith("# Comparison: digits, mnist, cifar10, cifar10_warm\n\n**Other data: ")
    for name in RUNS[:2]:
        results = records.load(records.Results, RESULTS / name / "results.json")
        assert f"**{name}**: {results.verdict.sentence}" in text
    runs = list(csv.DictReader(io.StringIO(first["comparison_runs.csv"].decode())))
    assert {row["name"]: row["mnist"] for row in runs}["preset"] == "paper (reduced)"


def test_a_run_may_be_where_one_is(tmp_path, digits, monkeypatch):
    monkeypatch.chdir(save(tmp_path / "here", digits))
    (found,) = comparison.load([pathlib.Path()]).runs
    assert (found.label, found.results) == ("here", [digits])


def test_a_path_that_is_no_utf8_has_a_label(tmp_path, digits):
    path = save(tmp_path / "bad", digits)
    moved = path.rename(pathlib.Path(os.fsdecode(bytes(tmp_path) + b"/bad\xff")))
    compared = comparison.load([moved])
    assert compared.runs[0].label == "bad\\xff"
    comparison_report.save(compared, tmp_path / "out")


def test_theta_says_nothing_of_the_reading_that_fixes_it(tmp_path, digits):
    def with_theta(name, theta):
        attacks = ("jsma_f", "jsma_f_theta_1")
        return save(tmp_path / name, with_settings(digits, theta=theta, attacks=attacks))

    compared = comparison.load([with_theta("one", 1.0), with_theta("two", 0.5)])
    assert comparability.warnings(compared) == [
        "Other budgets: theta differs. Success and distance of these attacks cannot be compared: "
        "JSMA-F."
    ]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"value_range": (0.0, 255.0)}, ("values in [0, 1]", "values in [0, 255]")),
        ({"class_names": list("abcdefghij")}, ("classes 0, 1,", "classes a, b,")),
    ],
)
def test_what_differs_in_the_data_is_said(tmp_path, digits, changes, named):
    other = dataclasses.replace(digits, dataset=dataclasses.replace(digits.dataset, **changes))
    paths = [RESULTS / "digits", save(tmp_path / "other", other)]
    (warning,) = comparability.warnings(comparison.load(paths))
    assert warning.startswith("Other data: ")
    assert all(text in warning for text in named)


def test_an_environment_that_says_nothing_shows_nothing(tmp_path, digits):
    silent = dict.fromkeys(("ddefense", "commit", "cpu", "cores", "gpus", "started"))
    silent["cpu"] = ""
    path = save(tmp_path / "run", dataclasses.replace(digits, environment=silent))
    rows = comparability.about(comparison.load([path]))
    assert (rows["version"], rows["device"], rows["date"]) == (("-",), ("-",), ("-",))
