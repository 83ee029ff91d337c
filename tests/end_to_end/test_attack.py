"""A saved network under attack through the command line: every promise of a run, on one run."""

import dataclasses
import re
from pathlib import Path

import pytest

from ddefense import records

pytestmark = pytest.mark.slow

NETWORKS = Path(__file__).resolve().parents[2] / "docs" / "results" / "digits" / "networks"
ATTACKS = ["jsma_f", "fgsm", "pgd_linf", "pgd_linf_temperature", "cw_l2", "transfer_cw_l2"]
STAGES = [
    *("attacked", "measure_attacked", "samples", "jsma_f_on_attacked", "fgsm_on_attacked"),
    *("pgd_linf_on_attacked", "pgd_linf_temperature_on_attacked", "cw_l2_on_attacked"),
    *("substitute", "transfer_cw_l2_from_substitute", "transfer_cw_l2_on_attacked"),
    "controls_on_attacked",
]
COMMAND = (
    f"--network={NETWORKS / 'distilled_t20.keras'}",
    f"--substitute={NETWORKS / 'baseline.keras'}",
    "--temperature=20",
    "--dataset=digits",
    "--preset=smoke",
    f"--attacks={','.join(ATTACKS)}",
    "--cw_search_steps=5",
    "--kappas=0,1",
)


@pytest.fixture(scope="module")
def run(start_attack, tmp_path_factory):
    return start_attack(tmp_path_factory.mktemp("attack"), *COMMAND).finish()


@pytest.fixture(scope="module")
def results(run):
    return records.load(records.AttackRun, run.workdir / "attack.json")


def test_the_log_names_every_stage_in_its_order(run):
    log = run.process.stderr
    assert re.findall(r"^running (\S+)$", log, re.M) == STAGES
    assert log.splitlines()[-1] == "results: run/attack.json"
    assert "Warning" not in log


def test_a_run_leaves_what_the_documentation_promises(run):
    assert sorted(path.name for path in run.folder.iterdir()) == ["run"]
    assert sorted(path.name for path in run.workdir.iterdir()) == [
        "attack.json",
        "config.json",
        "stages",
    ]
    assert sorted(path.name for path in (run.workdir / "stages").iterdir()) == sorted(STAGES)
    assert not list(run.folder.rglob(".tmp-*"))
    assert not list(run.folder.rglob("shard_*"))


def test_results_are_complete(results):
    assert results.network == str(NETWORKS / "distilled_t20.keras")
    assert results.substitute == str(NETWORKS / "baseline.keras")
    assert (results.dataset, results.temperature) == ("digits", 20.0)
    assert results.environment["command"].startswith("bin/attack --workdir=run --network=")
    assert results.environment["op_determinism"] is True
    assert set(results.timings) == {*STAGES, "this_process"}
    assert list(results.attacks) == ATTACKS
    assert [transfer.kappa for transfer in results.transfer] == [0.0, 1.0]
    assert [check.name for check in results.controls] == [
        "zero_gradients",
        "iterative_beats_one_step",
        "unbounded_reaches_all",
        "random_restarts",
    ]
    assert results.warnings == []


def test_who_knows_the_defence_gets_through_and_who_does_not_is_stopped(results):
    """What the whole project is about, on a network of its own."""
    assert results.test_accuracy > 0.9
    assert results.attacks["jsma_f"].success_rate < 0.2
    assert results.attacks["pgd_linf"].success_rate < 1
    assert results.attacks["pgd_linf_temperature"].success_rate == 1
    assert results.attacks["cw_l2"].success_rate == 1
    assert results.transfer[0].crafted == 1


def test_the_table_has_a_row_for_each_attack(run, results):
    rows = [line for line in run.process.stderr.splitlines() if line.startswith("| ")]
    head, _, *rows = (line.strip("| ").split(" | ") for line in rows)
    assert head[:3] == ["attack", "success %", "mean distance"]
    assert [row[0] for row in rows] == ATTACKS
    for name, success, *_ in rows:
        record = results.attacks[name]
        assert success.startswith(f"{100 * record.success_rate:.1f} [")
    assert re.search(r"^Attacks on .*\(digits, T = 20\)", run.process.stderr, re.M)
    assert f"Test accuracy {100 * results.test_accuracy:.2f} %" in run.process.stderr


def test_failed_checks_for_masked_gradients_stand_below_the_table(run, results):
    lines = run.process.stderr.splitlines()
    failed = [check for check in results.controls if not check.passed]
    # Most test images have an all-zero gradient in float32 on this network.
    assert "zero_gradients" in [check.name for check in failed]
    said = [line for line in lines if line.startswith("FAIL ")]
    assert said == [f"FAIL {check.name}: {check.explanation}" for check in failed]
    assert "A FAIL is no strength of the network: " in run.process.stderr


def test_a_second_run_skips_every_stage_and_finds_the_same(run, results, start_attack):
    before = {path: path.stat().st_mtime_ns for path in (run.workdir / "stages").rglob("*")}
    second = start_attack(run.folder, *COMMAND).finish()
    log = second.process.stderr
    assert re.findall(r"^skipped (\S+)$", log, re.M) == STAGES
    assert "running" not in log
    again = records.load(records.AttackRun, run.workdir / "attack.json")
    for found in (again, results):
        assert found.environment["resumed_stages"] == 0
    assert dataclasses.replace(again, environment={}, timings={}) == dataclasses.replace(
        results, environment={}, timings={}
    )
    assert {p: p.stat().st_mtime_ns for p in (run.workdir / "stages").rglob("*")} == before
