"""Runs that several tests look at, made once. They go through the command line, as users do."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    process: subprocess.CompletedProcess
    name: str = "run"

    @property
    def workdir(self):
        return self.folder / self.name

    def of_seed(self, seed):
        """One of the runs of a run with several seeds."""
        return dataclasses.replace(self, name=f"{self.name}/seed_{seed}")

    @property
    def exports(self):
        return self.folder / "exported"

    def networks(self):
        """The text of the parts of results.json that the seed determines."""
        text = (self.workdir / "results.json").read_text()
        starts = [text.index(f'\n "{name}": ') for name in ("networks", "exports", "controls")]
        networks, rest = text[starts[0] : starts[1]], text[starts[2] :]
        assert json.loads("{" + networks.rstrip(",") + "}")["networks"]
        assert set(json.loads("{" + rest)) == {"controls", "verdict", "schema_version"}
        return networks + rest

    def exported(self):
        """Paths of the exports as the results name them."""
        results = json.loads((self.workdir / "results.json").read_text())
        return [export["path"] for export in results["exports"]]

    def assert_same(self, other):
        """Asserts that two runs ended with the same bits, however they came there."""
        import keras

        from ddefense.layers import TemperatureSoftmax  # noqa: F401  (what the networks end in)

        assert self.networks() == other.networks()
        samples = [(run.workdir / "samples.npz").read_bytes() for run in (self, other)]
        assert samples[0] == samples[1]
        names = [sorted(p.name for p in run.workdir.glob("networks/*")) for run in (self, other)]
        assert names[0] == names[1] != []
        for name in names[0]:
            one, another = (
                keras.models.load_model(run.workdir / "networks" / name, compile=False).weights
                for run in (self, other)
            )
            assert len(one) == len(another)
            for ours, theirs in zip(one, another, strict=True):
                assert ours.numpy().tobytes() == theirs.numpy().tobytes(), (name, ours.path)

    def snapshot(self):
        """Every file that a user is meant to look at."""
        return {
            path.relative_to(self.workdir): path.read_bytes()
            for pattern in ("figures/*", "tables/*", "report.md", "samples.npz", "networks/*")
            for path in self.workdir.glob(pattern)
        }


# What a run is without TensorFlow: refused before that is imported, or it ends in a traceback.
BLOCKED = """
import sys
for name in ("tensorflow", "keras", "tensorflow_datasets", "sklearn"):
    sys.modules[name] = None  # importing it now fails
from ddefense.cli import main
main.run()
"""
FLAGS = ("--workdir=run", "--export_dir=exported")
EXECUTE = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"


class Started:
    """A run under way."""

    def __init__(self, folder, process):
        self._folder, self._process = folder, process

    def wait_for(self, start):
        """Reads what the run says up to a line with this start, or one of these; what it said."""
        said = []
        for line in self._process.stderr:
            said.append(line)
            if line.startswith(start):
                return "".join(said)
        raise AssertionError(f"no line starts with {start!r} in:\n{''.join(said)}")

    def wait_until(self, appeared):
        """Waits for something to appear while the run goes on."""
        deadline = time.monotonic() + 600
        while not appeared():
            assert self._process.poll() is None, self._process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def children(self):
        """Ids of the processes that the run has started."""
        pid = self._process.pid
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    def send(self, signal_number):
        self._process.send_signal(signal_number)

    def kill(self):
        """Ends the run as the kernel does when memory is short."""
        self.send(signal.SIGKILL)
        assert self.end().returncode == -signal.SIGKILL

    def end(self):
        """Waits for the run to end; its exit status, and what it said since it was last read."""
        with self._process as process:
            # Not `communicate`, which drops what is buffered. A run has no output to block on.
            log, out = process.stderr.read(), process.stdout.read()
        return subprocess.CompletedProcess(process.args, process.returncode, out, log)

    def finish(self):
        """Waits for the run to end well."""
        ended = self.end()
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == ""
        assert "Traceback" not in ended.stderr
        return Run(self._folder, ended)


@pytest.fixture(scope="session")
def start_run(start_python):
    """Starts a run in a folder, and in what a command before it makes of the world."""
    started = []

    def start(folder, *arguments, program=("-m", "ddefense.cli"), flags=FLAGS, within=None):
        command = [*program, *flags, *arguments]
        if within is not None:
            command = ["-c", EXECUTE, *within(folder), sys.executable, "-P", *command]
        cwd = folder if within is None else "/"
        started.append(start_python(*command, cwd=cwd))
        return Started(folder, started[-1])

    yield start
    for process in started:  # those that a failed test left behind
        with process:
            process.kill()


@pytest.fixture(scope="session")
def start_distill(start_run):
    """Starts `bin/distill` as `start_run` does `bin/reproduce`."""

    def start(folder, *arguments):
        program = ("-m", "ddefense.cli.distill")
        return start_run(folder, *arguments, program=program, flags=("--workdir=run",))

    return start


@pytest.fixture(scope="session")
def blocked():
    """The program where TensorFlow cannot be imported."""
    return ("-c", BLOCKED)


@pytest.fixture(scope="session")
def make_run(start_run):
    def make(folder, *arguments):
        return start_run(folder, *arguments).finish()

    return make


@pytest.fixture(scope="session")
def smoke(make_run, tmp_path_factory):
    """The smoke preset on the embedded digits."""
    return make_run(tmp_path_factory.mktemp("smoke"), "--preset=smoke")


@pytest.fixture(scope="session")
def again(smoke, make_run):
    """The same command, once more, after `smoke`; with what was there before."""
    before = smoke.snapshot(), smoke.networks()
    return make_run(smoke.folder, "--preset=smoke"), before


# The least that still trains in epochs of some calls each, distils, attacks in two shards and
# exports.
SMALL = (
    "--preset=smoke",
    "--epochs=2",
    "--batch_size=8",
    "--warm_start_steps=0",
    "--samples=2",
    "--shard_samples=1",
    "--gradient_samples=5",
    "--attacks=jsma_f_exact",
)


@pytest.fixture(scope="session")
def small_flags():
    return SMALL


@pytest.fixture(scope="session")
def small(make_run, tmp_path_factory):
    """An undisturbed small run."""
    return make_run(tmp_path_factory.mktemp("small"), *SMALL)
