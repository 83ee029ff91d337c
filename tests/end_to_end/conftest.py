"""Runs that several tests look at, made once. They go through the command line, as users do."""

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    process: subprocess.CompletedProcess

    @property
    def workdir(self):
        return self.folder / "run"

    @property
    def exports(self):
        return self.folder / "exported"

    def networks(self):
        """The text of the part of results.json that the seed determines."""
        text = (self.workdir / "results.json").read_text()
        start, end = text.index('\n "networks": ['), text.index('\n "exports": ')
        assert json.loads("{" + text[start:end].rstrip(",") + "}")["networks"]
        return text[start:end]

    def snapshot(self):
        """Every file that a user is meant to look at."""
        return {
            path.relative_to(self.workdir): path.read_bytes()
            for pattern in ("figures/*", "tables/*", "report.md", "samples.npz", "networks/*")
            for path in self.workdir.glob(pattern)
        }


@pytest.fixture(scope="session")
def command():
    """The arguments of a Python that make a run in its current folder."""

    def make(*arguments):
        fixed = ("-m", "ddefense.cli", "--workdir=run", "--export_dir=exported")
        return (*fixed, *arguments)

    return make


@pytest.fixture(scope="session")
def make_run(run_python, command):
    def make(folder, *arguments):
        process = run_python(*command(*arguments), cwd=folder)
        assert process.returncode == 0, process.stderr
        return Run(folder, process)

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


# The least that still trains, distils, attacks in two shards and exports.
SMALL = (
    "--preset=smoke",
    "--epochs=2",
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
