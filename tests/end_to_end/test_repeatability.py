"""The seed determines the results, however often a run is killed. Through the command line."""

import json
import random
import re
import signal
import time

import pytest

from ddefense import records
from ddefense.experiments import planning

pytestmark = pytest.mark.slow

KILLS = 4


def assert_ran_as_planned(run, dataset):
    config = records.load(records.Results, run.workdir / "results.json").config
    rates = planning.Rates(train=1.0, forward=1.0, backward=1.0)
    planned = [stage.name for stage in planning.plan(config, dataset, rates)]
    assert re.findall(r"^running (\S+)$", run.process.stderr, re.M) == planned
    assert sorted(path.name for path in (run.workdir / "stages").iterdir()) == sorted(planned)


def test_the_literal_protocol_runs_as_planned(small, digits):
    assert_ran_as_planned(small, digits)


def moments(run, seed):
    """Random moments of an undisturbed run: in which stage, and how long after its start."""
    timings = json.loads((run.workdir / "results.json").read_text())["timings"]
    del timings["this_process"]
    generator = random.Random(seed)
    for left in sorted(generator.uniform(0, sum(timings.values())) for _ in range(KILLS)):
        for name, seconds in timings.items():
            if left < seconds:
                yield name, left
                break
            left -= seconds


# With this seed: while a network is exported, two are trained and one is measured.
@pytest.mark.parametrize("seed", [3])
def test_a_run_killed_at_random_times_ends_as_if_it_had_not_been(
    small, start_run, small_flags, tmp_path, seed
):
    killed = []
    for stage, seconds in moments(small, seed):
        run = start_run(tmp_path, *small_flags)
        run.wait_for(tuple(f"{word} {stage}\n" for word in ("running", "resuming", "skipped")))
        time.sleep(seconds)
        run.send(signal.SIGKILL)
        killed.append(run.end().returncode == -signal.SIGKILL)
    assert any(killed)  # though a run may be faster than the undisturbed one and end before
    resumed = start_run(tmp_path, *small_flags).finish()
    resumed.assert_same(small)
    assert not list(resumed.workdir.rglob(".tmp-*"))
    assert not list(resumed.workdir.rglob(".partial-*"))
    for path in resumed.exported():
        assert (tmp_path / path / "saved_model.pb").exists()


# The least that runs every kind of attack and trains every kind of network.
LEAST = (
    *("--preset=smoke", "--epochs=1", "--warm_start_steps=0", "--temperatures=1,5"),
    *("--defense=adversarial_training", "--adversarial_epochs=1", "--adversarial_steps=1"),
    *("--samples=1", "--gradient_samples=1", "--max_features=4", "--pgd_steps=3"),
    *("--cw_steps=20", "--cw_search_steps=2", "--kappas=0,5", "--labels_only_queries=50"),
    "--attacks=jsma_z,jsma_f,fgsm,pgd_linf,cw_l2,cw_l0,cw_linf,transfer_cw_l2,labels_only",
    "--threads=1",
)


def test_one_thread_is_one_thread_and_gives_the_same_bits_twice(
    start_run, digits, tmp_path_factory
):
    folders = [tmp_path_factory.mktemp("one_thread") for _ in range(2)]
    started = [start_run(folder, *LEAST) for folder in folders]
    first, second = (run.finish() for run in started)
    first.assert_same(second)
    for run in (first, second):
        results = records.load(records.Results, run.workdir / "results.json")
        assert results.config.threads == 1
        assert results.environment["intra_op_threads"] == 1
    assert_ran_as_planned(first, digits)  # T = 1 without a warm start
    names = [network.name for network in results.networks]
    assert names == ["baseline", "distilled_t1", "distilled_t5", "adversarially_trained"]
    assert results.yardstick().defense == "adversarial_training"
    assert [export.network for export in results.exports] == names
    assert {control.network for control in results.controls} == set(names)


def test_a_folder_that_takes_no_exports_is_refused_before_anything_is_made(
    start_run, blocked, small_flags, tmp_path
):
    (tmp_path / "exported").write_text("a file where a folder should be")
    found = start_run(tmp_path, *small_flags, program=blocked).end()
    assert found.returncode == 2
    line, _ = found.stderr.splitlines()
    assert line.startswith("--export_dir: ")
    assert not (tmp_path / "run").exists()
