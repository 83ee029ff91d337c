"""The seed determines the results: undisturbed, killed and resumed. Through the command line."""

import json
import signal
import time

import keras
import numpy as np
import pytest

from ddefense.layers import TemperatureSoftmax  # noqa: F401  (what the networks end in)

pytestmark = pytest.mark.slow


def kill_when(process, appeared):
    """Kills a run, as the kernel does when memory is short, once `appeared()`."""
    deadline = time.monotonic() + 300
    while not appeared():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_two_runs_of_one_seed_agree_to_the_last_bit(small, make_run, small_flags, tmp_path):
    other = make_run(tmp_path, *small_flags)
    assert other.networks() == small.networks()
    for name in ("baseline", "distilled_t20"):
        weights = [
            keras.models.load_model(run.workdir / "networks" / f"{name}.keras").get_weights()
            for run in (small, other)
        ]
        for one, another in zip(*weights, strict=True):
            np.testing.assert_array_equal(one, another)
    samples = [(run.workdir / "samples.npz").read_bytes() for run in (small, other)]
    assert samples[0] == samples[1]


def test_a_killed_run_resumes_to_the_same_results(
    small, make_run, start_python, command, small_flags, tmp_path
):
    arguments, stages = command(*small_flags), tmp_path / "run" / "stages"
    # In the second epoch of the distilled network, whose first one left a checkpoint.
    process = start_python(*arguments, cwd=tmp_path)
    kill_when(process, (stages / ".partial-distilled_t20" / "scratch" / "checkpoint.npz").exists)
    finished = sorted(path.name for path in stages.iterdir() if path.name[0] != ".")
    assert "soft_labels_t20" in finished
    assert "distilled_t20" not in finished
    assert not (tmp_path / "run" / "results.json").exists()
    # Once more, between the shards of an attack.
    process = start_python(*arguments, cwd=tmp_path)
    partial = stages / ".partial-jsma_f_exact_on_distilled_t20"
    kill_when(process, (partial / "scratch" / "shard_00000.npz").exists)
    resumed = make_run(tmp_path, *small_flags)
    for name in finished:
        assert f"\nskipped {name}\n" in "\n" + resumed.process.stderr
    assert "\nresuming jsma_f_exact_on_distilled_t20\n" in resumed.process.stderr
    assert resumed.networks() == small.networks()
    environment = json.loads((tmp_path / "run" / "results.json").read_text())["environment"]
    assert environment["resumed_stages"] == 2


def test_a_folder_that_takes_no_exports_is_refused_before_anything_is_made(
    run_python, command, small_flags, tmp_path
):
    (tmp_path / "exported").write_text("a file where a folder should be")
    arguments = command(*small_flags)
    found = run_python(*arguments, cwd=tmp_path)
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    assert "exported" in found.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
