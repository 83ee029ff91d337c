"""Whoever ends a run, and wherever, the same command resumes it to the same bits.

SIGTERM, which schedulers send, is answered by saving; SIGKILL by nothing at all.
"""

import fcntl
import json
import os
import signal
import time

import numpy as np
import pytest

pytestmark = pytest.mark.slow

STEPS_PER_EPOCH = 180  # 1437 images, 8 at a time
TERMINATED = 143


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("interrupted")


@pytest.fixture(scope="module")
def stages(folder):
    return folder / "run" / "stages"


@pytest.fixture(scope="module")
def start(start_run, small_flags, folder):
    return lambda **program: start_run(folder, *small_flags, **program)


def checkpoint_of(stages, name):
    return stages / f".partial-{name}" / "scratch" / "checkpoint.npz"


@pytest.fixture(scope="module")
def first(start, blocked, stages):
    """The first part of a run, stopped in an epoch; and what a second run was told meanwhile."""
    run = start()
    run.wait_for("plan:")
    refused = start(program=blocked).end()
    run.wait_until(checkpoint_of(stages, "baseline").exists)
    assert not is_free(stages.parent)
    time.sleep(0.1)
    run.send(signal.SIGTERM)
    return refused, run.end()


def is_free(directory):
    """Whether no process holds the run directory."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def assert_stopped(ended, folder):
    assert ended.returncode == TERMINATED
    *before, last = ended.stderr.splitlines()
    assert last == "Stopped as asked, and saved; the same command resumes in run."
    assert "Stopped" not in "".join(before)
    assert "Traceback" not in ended.stderr
    assert "Error" not in ended.stderr
    assert is_free(folder / "run")
    assert not (folder / "run" / "results.json").exists()


# One run goes through these, in this order.


def test_a_directory_in_use_is_refused_at_once(first):
    refused, _ = first
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith("workdir: another process is running in run. Wait for it")


def test_stopped_in_an_epoch_a_run_saves_the_steps_taken(first, stages, folder):
    _, ended = first
    assert_stopped(ended, folder)
    path = checkpoint_of(stages, "baseline")
    assert [*path.parent.iterdir()] == [path]
    with np.load(path) as checkpoint:
        assert len(checkpoint["step_loss"]) == STEPS_PER_EPOCH
        assert len(checkpoint["partial_step_loss"]) < STEPS_PER_EPOCH


def test_stopped_in_an_attack_a_run_keeps_finished_shards(first, start, stages, folder):
    run = start()
    scratch = stages / ".partial-jsma_f_exact_on_baseline" / "scratch"
    run.wait_until((scratch / "shard_00000").exists)
    run.send(signal.SIGTERM)
    ended = run.end()
    assert_stopped(ended, folder)
    assert "\nresuming baseline\n" in ended.stderr
    assert "shard_00000" in [path.name for path in scratch.iterdir()]


def test_killed_in_an_epoch_a_run_keeps_what_is_finished_even_if_its_checkpoint_is_not_whole(
    first, start, stages
):
    checkpoint = checkpoint_of(stages, "distilled_t20")
    run = start()
    run.wait_until(checkpoint.exists)
    run.kill()
    finished = sorted(path.name for path in stages.glob("[!.]*"))
    assert "soft_labels_t20" in finished
    assert "distilled_t20" not in finished

    # As a power cut may leave it.
    checkpoint.write_bytes(checkpoint.read_bytes()[:100_000])
    refused = start().end()
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    message = refused.stderr.splitlines()[-1]
    for part in ("run/stages/.partial-distilled_t20/", "Delete that file", "stages are kept"):
        assert part in message
    assert sorted(path.name for path in stages.glob("[!.]*")) == finished
    checkpoint.unlink()


def test_killed_between_shards_a_run_keeps_the_finished_one(first, start, stages):
    run = start()
    shard = stages / ".partial-jsma_f_exact_on_distilled_t20" / "scratch" / "shard_00000"
    run.wait_until(shard.exists)
    run.kill()
    assert shard.exists()


def test_stopped_in_an_export_with_its_helper_a_run_exports_nothing(first, start, folder):
    run = start()
    said = run.wait_for("running export_baseline")
    assert "\nresuming jsma_f_exact_on_distilled_t20\n" in said
    run.wait_until(run.children)
    # As a scheduler does, which signals every process of a job.
    run.send(signal.SIGTERM)
    for child in run.children():
        os.kill(child, signal.SIGTERM)
    assert_stopped(run.end(), folder)
    assert not list((folder / "exported").glob("*/*"))


def test_then_it_ends_as_if_nothing_had_been(first, start, stages, small):
    finished = sorted(path.name for path in stages.glob("[!.]*"))
    run = start().finish()
    for name in finished:
        assert f"\nskipped {name}\n" in "\n" + run.process.stderr
    assert "\nresuming export_baseline\n" in run.process.stderr
    run.assert_same(small)
    assert run.exported() == small.exported()
    environment = json.loads((run.workdir / "results.json").read_text())["environment"]
    # The baseline and its attack; the distilled network twice, and its attack; an export.
    assert environment["resumed_stages"] == 6


@pytest.mark.parametrize("seconds", [0.0, 0.3, 1.0])
def test_asked_to_stop_while_it_starts_a_run_says_no_more_than_that(
    start_run, small_flags, tmp_path, seconds
):
    run = start_run(tmp_path, *small_flags)
    time.sleep(seconds)
    run.send(signal.SIGTERM)
    ended = run.end()
    # Before it listens there is nothing to save, and Python alone knows of the signal first.
    if not ended.stderr:
        assert ended.returncode in (-signal.SIGTERM, TERMINATED)
    else:
        assert_stopped(ended, tmp_path)


@pytest.mark.parametrize("line", ["plan:", "running baseline"])
@pytest.mark.usefixtures("interruptible")
def test_interrupted_twice_a_run_gives_no_traceback(start_run, small_flags, tmp_path, line):
    run = start_run(tmp_path, *small_flags)
    run.wait_for(line)
    run.send(signal.SIGINT)
    run.send(signal.SIGINT)
    ended = run.end()
    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr
