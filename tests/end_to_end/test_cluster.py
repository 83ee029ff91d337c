"""A run on a real Ray cluster of two nodes, whatever is lost, is the run on one machine."""

import dataclasses
import importlib.util
import ipaddress
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

pytestmark = pytest.mark.slow

SCENARIOS = Path(__file__).with_name("cluster.py")
# 21 stages, the attacks in three parts each.
FLAGS = (
    "--preset=smoke",
    "--workdir=run",
    "--export_dir=exported",
    "--attacks=jsma_f,pgd_linf,cw_l2,transfer_cw_l2",
    "--samples=6",
    "--cw_samples=6",
    "--shard_samples=2",
)
STOPPED, USAGE = 143, 2
UNSHARE = ["unshare", "-rnm"]


@pytest.fixture(scope="module", autouse=True)
def _namespaces():
    if importlib.util.find_spec("ray") is None:
        pytest.skip("the extra ray is not installed")
    try:
        found = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no namespaces here: {error}")
    if found.returncode:
        pytest.skip(f"no namespaces here: {found.stderr.strip()}")


@pytest.fixture
def play(start_python, tmp_path):
    """Plays a scenario; what happened, and the results of the run, if any."""

    def play(name, *flags, **variables):
        execute = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
        process = start_python(
            *("-c", execute, *UNSHARE, sys.executable, "-P", SCENARIOS),
            *(name, tmp_path, *(flags or FLAGS)),
            cwd=tmp_path,
            **variables,
        )
        out, err = process.communicate(timeout=800)
        assert process.returncode == 0, err
        return json.loads(out.splitlines()[-1])

    return play


@pytest.fixture(scope="module")
def local(start_run, tmp_path_factory):
    """The same run in one process."""
    return start_run(tmp_path_factory.mktemp("local"), *FLAGS, "--threads=1", flags=()).finish()


def load(folder):
    from ddefense import records

    return records.load(records.Results, folder / "run" / "results.json")


def assert_same(folder, expected):
    """Everything that was measured, and every weight, is the same, bit for bit."""
    from ddefense import records

    found, alone = load(folder), load(expected.folder)
    other = ("environment", "timings", "exports")
    for field in dataclasses.fields(records.Results):
        if field.name not in other:
            assert getattr(found, field.name) == getattr(alone, field.name), field.name
    with (
        np.load(folder / "run" / "samples.npz") as ours,
        np.load(expected.workdir / "samples.npz") as theirs,
    ):
        assert sorted(ours) == sorted(theirs)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])
    return found


def test_a_worker_a_node_and_the_driver_are_lost_and_the_results_are_those_of_one_machine(
    play, tmp_path, local
):
    happened = play("losses", *FLAGS, "--tensorboard")
    assert happened["status"] == 0, happened["log"]
    assert happened["killed"]  # the name of a stage or part
    assert_same(tmp_path, local)
    # The second driver took over what was finished; what was lost may have been parts alone.
    assert happened["log"].count("skipped ") >= happened["before"] >= 6
    assert "skipped baseline\n" in happened["log"]
    stages = tmp_path / "run" / "stages"
    assert not list(stages.glob(".*"))
    assert not list(tmp_path.glob(".probe-*"))
    assert_logged(tmp_path / "run")


def assert_logged(workdir):
    """Every training is in the logs for TensorBoard, once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    trainings = {path.parent.name: path for path in workdir.glob("stages/*/training.json")}
    assert {"baseline", "warm_start", "substitute", "distilled_t20"} <= set(trainings)
    logs = {path.name for path in (workdir / "tensorboard").iterdir()}
    assert logs == {*trainings, "sweep"}
    for name, path in trainings.items():
        events = EventAccumulator(str(workdir / "tensorboard" / name), {"tensors": 0})
        events.Reload()
        found = events.Tensors("epoch_loss")
        loss = json.loads(path.read_text())["loss"]
        assert [event.step for event in found] == [*range(len(loss))]
        values = [make_ndarray(event.tensor_proto).item() for event in found]
        assert values == pytest.approx(loss, rel=1e-6)


def test_asked_to_stop_it_says_so_and_resumes(play, tmp_path):
    happened = play("stopped", *FLAGS)
    assert happened["status"] == STOPPED, happened["log"]
    assert happened["log"].splitlines()[-1] == (
        "Stopped as asked, and saved; the same command resumes in run."
    )
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        ("without_gpu", "--num_gpus: expected at most 0, the GPUs that Ray sees on one node"),
        ("too_many_threads", "--threads: expected at most 1, the CPUs that Ray sees on one node"),
        ("not_shared", "--workdir: expected a folder that all nodes share; node "),
        ("other_versions", " has others: numpy 0.1 there, "),
    ],
)
def test_a_cluster_that_cannot_do_the_work_is_refused_before_it_starts(
    play, tmp_path, scenario, said
):
    happened = play(scenario, *FLAGS)
    assert happened["status"] == USAGE, happened["log"]
    assert "Traceback" not in happened["log"]
    message, usage = happened["log"].splitlines()[-2:]
    assert said in message
    assert message.startswith("--")
    assert usage.startswith("Usage: bin/reproduce ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stored", [False, True], ids=["folder", "storage"])
def test_what_was_made_from_another_stage_is_made_again(play, tmp_path, stored):
    storage = (tmp_path / "storage").as_uri() if stored else ""
    first, second, third = play("replaced", storage)
    everything = ["count", "distil", "label", "p0", "p1", "page", "train"]
    for turn in (first, second, third):
        assert turn["status"] == 0, turn["log"]
    assert first["made"] == everything
    assert second["made"] == ["count", "distil", "label", "p0", "p1"]
    assert third["made"] == []
    expected = "p0(distil(label(another)))+p1(distil(label(another)))"
    assert second["log"].splitlines()[-1] == third["log"].splitlines()[-1] == expected
    for name, source in (("label", "train"), ("distil", "label"), ("attack", "distil")):
        assert f"making {name} again: {source} is not what it was made from" in second["log"]
    assert "making page again" not in second["log"]


def test_nodes_that_share_nothing_but_a_storage_will_do(play, tmp_path, local):
    url = (tmp_path / "shared").as_uri()
    happened = play("storage_alone", *FLAGS, f"--storage={url}")
    assert happened["status"] == 0, happened["log"]
    assert happened["worked"] == [True, True]
    assert happened["left"] == []
    assert_same(tmp_path, local)
    # Parts are there only until their stage is finished.
    names = sorted(os.listdir(tmp_path / "shared"))
    assert "distilled_t20" in names
    assert not [name for name in names if name.startswith(".")]


# Asks the cluster for its nodes.
STRANGER = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    assert GcsClient(address=sys.argv[1]).get_all_node_info()
except AuthenticationError:
    print("refused")
"""


def test_the_cluster_of_one_run_is_closed_to_others_and_ends_with_it(
    start_python, run_python, tmp_path
):
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a guess"}
    driver = start_python(
        *("-m", "ddefense.cli", "--executor=ray", *FLAGS),
        cwd=tmp_path,
        RAY_raylet_start_wait_time_s="120",
    )
    try:
        processes = []
        while not any(process.name().startswith("ray::ddefense") for process in processes):
            assert driver.poll() is None
            time.sleep(0.5)
            processes = psutil.Process(driver.pid).children(recursive=True)
        listening = {
            connection.laddr: process
            for process in (psutil.Process(driver.pid), *processes)
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert len(listening) >= 3
        for place in listening:
            assert ipaddress.ip_address(place.ip.removeprefix("::ffff:")).is_loopback
        (head,) = (place.port for place, of in listening.items() if of.name() == "gcs_server")
        for variables in (token, {"RAY_AUTH_MODE": "disabled"}):
            found = run_python("-c", STRANGER, f"127.0.0.1:{head}", cwd=tmp_path, **variables)
            assert found.stdout == "refused\n", found.stderr
        token["RAY_AUTH_TOKEN"] = processes[0].environ()["RAY_AUTH_TOKEN"]
        found = run_python("-c", STRANGER, f"127.0.0.1:{head}", cwd=tmp_path, **token)
        assert found.returncode == 0, found.stderr
        assert not found.stdout
    finally:
        with driver:
            driver.kill()
    _, left = psutil.wait_procs(processes, timeout=120)
    assert not left
