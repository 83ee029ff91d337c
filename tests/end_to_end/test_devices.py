"""More devices than the machine has are refused before anything is planned, trained or written."""

import subprocess

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def refused(start_python, tmp_path_factory):
    """Commands that ask for two devices where TensorFlow has one; both at once, with folders."""
    folder = tmp_path_factory.mktemp("devices")
    rows = {"images": np.zeros((20, 28, 28, 1), np.float32), "labels": np.arange(20) % 2}
    np.savez(folder / "data.npz", **rows)
    commands = {
        "reproduce": ("-m", "ddefense.cli", "--preset=smoke", "--export_dir=exported"),
        "distill": (
            *("-m", "ddefense.cli.distill", "--network=small", "--data=data.npz"),
            *("--temperature=20", "--test_share=0.5"),
        ),
    }
    started = {
        name: start_python(
            *(*command, "--devices=2", f"--workdir=run_{name}"),
            cwd=folder,
            CUDA_VISIBLE_DEVICES="",
        )
        for name, command in commands.items()
    }
    ended = {}
    for name, process in started.items():
        out, err = process.communicate(timeout=300)
        ended[name] = subprocess.CompletedProcess([], process.returncode, out, err)
    return ended, folder


@pytest.mark.parametrize("command", ["reproduce", "distill"])
def test_two_devices_are_refused_where_there_is_one(refused, command):
    found, folder = refused[0][command], refused[1]
    assert (found.returncode, found.stdout) == (2, "")
    message, usage = found.stderr.splitlines()
    assert message.startswith("--devices: expected at most 1, the logical CPUs of TensorFlow here")
    assert "received 2. Ask for fewer" in message
    assert usage == f"Usage: bin/{command} [flags]; --help lists them."
    assert [path.name for path in folder.iterdir()] == ["data.npz"]
