"""The flagfiles of the paper's two jobs say what they are meant to."""

import json
from pathlib import Path

import pytest

from ddefense import config as config_lib

JOBS = Path(__file__).resolve().parents[3] / "bin" / "jobs"

PROGRAM = """
import dataclasses, json, sys
from absl import flags
from ddefense.cli import flags as cli_flags

cli_flags.define_for_reproduce()
assert flags.FLAGS(sys.argv)[1:] == []
config = cli_flags.config()
found = [str(cli_flags.workdir(config)), cli_flags.seeds(), flags.FLAGS.report_only]
print(json.dumps([dataclasses.asdict(config), found]))
"""


@pytest.fixture
def parse(run_python, tmp_path):
    """The configuration that flags make, and further flags."""

    def parse(*arguments):
        found = run_python("-c", PROGRAM, *arguments, cwd=tmp_path)
        assert found.returncode == 0, found.stderr
        fields, others = json.loads(found.stdout)
        return config_lib.Config(**fields), others

    return parse


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_the_paper_job_is_the_literal_protocol(parse, dataset):
    config, others = parse(f"--flagfile={JOBS / f'paper_{dataset}.flags'}")
    assert config == config_lib.preset("paper", dataset)
    assert not config.reduced
    assert others == [f"runs/{dataset}_paper", None, False]


def test_later_flags_win(parse):
    flagfile = f"--flagfile={JOBS / 'paper_cifar10.flags'}"
    config, others = parse(flagfile, "--epochs=10", "--workdir=elsewhere", "--seeds=0,1")
    assert config == config_lib.preset("paper", "cifar10", epochs=10)
    assert others == ["elsewhere", [0, 1], False]


def test_every_job_is_tested():
    assert sorted(path.name for path in JOBS.iterdir()) == [
        "paper_cifar10.flags",
        "paper_mnist.flags",
    ]
