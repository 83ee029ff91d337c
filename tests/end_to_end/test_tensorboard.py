"""`bin/reproduce --tensorboard`: its logs say what the results say, once, though it was killed."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

from ddefense import records

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).parents[2]
_COMMAND = (
    *(sys.executable, "-P", "-m", "ddefense.cli", "--preset=smoke", "--workdir=run"),
    *("--export_dir=exported", "--attacks=jsma_f,pgd_linf", "--epochs=4", "--samples=1"),
)
_LOGS = pathlib.Path("run", "tensorboard")


def environment(folder):
    return {"PYTHONPATH": str(_ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)}


def reproduce(folder, *flags):
    return subprocess.run(
        [*_COMMAND, *flags],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run that was killed in its first training, and the epochs that its logs had by then."""
    made = tmp_path_factory.mktemp("tensorboard")
    process = subprocess.Popen(
        [*_COMMAND, "--tensorboard"],
        cwd=made,
        env=environment(made),
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    logs = made / _LOGS / "baseline"
    # More than the header: to read them here takes longer than the training.
    while sum(path.stat().st_size for path in logs.glob("events*")) < 150:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    return made, epochs(logs), (logs / "unfinished").exists()


@pytest.fixture(scope="module")
def folder(killed):
    made, _, _ = killed
    done = reproduce(made, "--tensorboard")
    assert done.returncode == 0, done.stderr
    assert "\nresuming baseline\n" in done.stderr
    assert f"\nTensorBoard logs: {_LOGS}\n" in done.stderr
    return made


@pytest.fixture(scope="module")
def results(folder):
    return records.load(records.Results, folder / "run" / "results.json")


def events(folder):
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    found.Reload()
    return found


def epochs(folder):
    """Those that the logs of a training have."""
    return [event.step for event in events(folder).Tensors("epoch_loss")]


def series(folder, tag):
    return {
        event.step: pytest.approx(make_ndarray(event.tensor_proto).item(), rel=1e-6)
        for event in events(folder).Tensors(tag)
    }


def test_epochs_are_there_before_the_training_ends(killed):
    _, seen, unfinished = killed
    assert seen == [*range(len(seen))] != []
    assert unfinished


def test_every_training_has_its_curves(folder, results):
    logs = folder / _LOGS
    trainings = {}
    for network in results.networks:
        trainings[network.name] = network.training
        if network.initial is not None:
            trainings[network.name.replace("distilled", "initial")] = network.initial.training
    assert {path.name for path in logs.iterdir()} == {*trainings, "warm_start", "sweep"}
    warm = epochs(logs / "warm_start")
    assert warm == [*range(len(warm))] != []
    for name, training in trainings.items():
        assert len(list((logs / name).iterdir())) == 1
        assert len(epochs(logs / name)) == len(training.loss) == 4
        assert series(logs / name, "epoch_loss") == dict(enumerate(training.loss))
        assert series(logs / name, "epoch_accuracy") == dict(enumerate(training.accuracy))


def session(folder):
    metadata = events(folder).SummaryMetadata("_hparams_/session_start_info")
    data = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
    return {
        name: value.string_value or value.number_value
        for name, value in data.session_start_info.hparams.items()
    }


def test_the_sweep_has_a_session_for_every_network(folder, results):
    logs = folder / _LOGS / "sweep"
    assert {path.name for path in logs.iterdir() if path.is_dir()} == {
        network.name for network in results.networks
    }
    for network in results.networks:
        settings = session(logs / network.name)
        assert settings["temperature"] == network.temperature
        assert settings["dataset"] == "digits"
        assert settings["epochs"] == 4
        assert settings["warm_start_steps"] == network.training.warm_start_steps
        assert settings["learning_rate"] == results.config.learning_rate
        measured = {
            "test_accuracy": network.test_accuracy,
            "success/jsma_f": network.attacks["jsma_f"].success_rate,
            "success/pgd_linf": network.attacks["pgd_linf"].success_rate,
            "robustness/jsma_f": network.robustness["jsma_f"].capped,
            "mean_abs_logit": network.logits.mean_abs,
        }
        for name, value in measured.items():
            assert series(logs / network.name, name) == {0: value}
    metadata = events(logs).SummaryMetadata("_hparams_/experiment")
    data = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
    assert "temperature" in {info.name for info in data.experiment.hparam_infos}
    assert "success/jsma_f" in {info.name.tag for info in data.experiment.metric_infos}


def test_tensorboard_shows_the_sweep(folder, results):
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir=run/tensorboard", "--port=0"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        found = next(filter(None, (re.search(r"http://\S+", line) for line in server.stderr)))
        asked = urllib.request.Request(
            f"{found[0]}data/plugin/hparams/session_groups",
            data=json.dumps(
                {
                    "allowedStatuses": ["STATUS_SUCCESS", "STATUS_RUNNING", "STATUS_UNKNOWN"],
                    "colParams": [],
                    "startIndex": 0,
                    "sliceSize": 10,
                }
            ).encode(),
            headers={"Content-Type": "application/json"},
        )
        deadline = time.monotonic() + 60
        groups = []
        # It answers before it has read the logs.
        while len(groups) < len(results.networks) and time.monotonic() < deadline:
            time.sleep(0.5)
            with urllib.request.urlopen(asked) as answer:
                groups = json.load(answer).get("sessionGroups", [])
    finally:
        server.terminate()
        server.wait()
        server.stderr.close()
    temperatures = {group["name"]: group["hparams"]["temperature"] for group in groups}
    assert temperatures == {network.name: network.temperature for network in results.networks}


def test_a_run_that_goes_on_doubles_nothing_and_logs_may_come_later(folder, results):
    logs = folder / _LOGS
    before = {path: path.read_bytes() for path in logs.glob("*/events*")}
    shutil.rmtree(logs / "initial_t20")
    assert reproduce(folder, "--tensorboard").returncode == 0
    assert len(list((logs / "initial_t20").iterdir())) == 1
    for path, data in before.items():
        if path.parent.name not in ("initial_t20", "sweep"):
            assert path.read_bytes() == data
    assert len([path for path in (logs / "sweep").iterdir() if path.is_file()]) == 1
    assert not list(logs.glob(".tmp-*"))
    again = records.load(records.Results, folder / "run" / "results.json")
    assert again.networks == results.networks


def test_a_run_without_logs_gives_the_same_networks(folder, results, tmp_path):
    assert reproduce(tmp_path).returncode == 0
    alone = records.load(records.Results, tmp_path / "run" / "results.json")
    assert alone.networks == results.networks
    assert alone.config == results.config
    assert not (tmp_path / _LOGS).exists()


def test_it_is_refused_where_nothing_is_trained(folder):
    refused = reproduce(folder, "--tensorboard", "--report_only")
    assert refused.returncode == 2
    assert refused.stderr.startswith("--tensorboard: expected without --report_only")
    assert "Traceback" not in refused.stderr
