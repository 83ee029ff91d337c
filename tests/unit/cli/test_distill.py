"""`bin/distill` refuses what it cannot do in one line, before TensorFlow is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

USAGE = 2
ROOT = Path(__file__).resolve().parents[3]

# Runs the program in a fork for every line of arguments: starting Python takes far longer.
SERVER = """
import json, os, sys
for name in ("tensorflow", "keras", "tensorflow_datasets", "sklearn"):
    sys.modules[name] = None  # what needs it ends in a traceback
from ddefense.cli import distill
for line in sys.stdin:
    child = os.fork()
    if not child:
        for handle, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), handle)
        sys.argv = ["bin/distill", *json.loads(line)]
        distill.run()
        os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([status, open("out").read(), open("err").read()]), flush=True)
"""


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Runs the command; its exit status, output and messages."""
    folder = tmp_path_factory.mktemp("distill")
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SERVER],
        cwd=folder,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:

        def run(*arguments):
            server.stdin.write(json.dumps(arguments) + "\n")
            server.stdin.flush()
            answer = server.stdout.readline()
            assert answer, server.stderr.read()
            return json.loads(answer)

        yield run
        server.stdin.close()


GOOD = ("--data=digits", "--network=small", "--temperature=20")
REFUSED = [
    (("--network=small", "--temperature=20"), "--data: expected an image folder, an .npz file"),
    (("--data=digits", "--temperature=20"), "--network: expected a .keras file, or one of ['sm"),
    (("--data=digits", "--network=small"), "--temperature: expected T of both trainings"),
    ((*GOOD, "--network=none.keras"), "--network: expected a .keras file, or one of"),
    ((*GOOD, "--student=large"), "--student: expected a .keras file, or one of"),
    ((*GOOD, "--temperature=0"), "--temperature: expected a finite number > 0; received 0.0."),
    ((*GOOD, "--alpha=2"), "--alpha: expected a number in [0, 1]; received 2.0."),
    ((*GOOD, "--test_share=1"), "--test_share: expected a number in (0, 1); received 1.0."),
    ((*GOOD, "--image_shape=64"), "--image_shape: expected height, width and perhaps channels"),
    ((*GOOD, "--image_shape=64x0"), "--image_shape: expected height, width and perhaps channels"),
    ((*GOOD, "--value_range=1,0"), "--value_range: expected two finite numbers"),
    ((*GOOD, "--class_names=a"), "--class_names: expected at least two names"),
    ((*GOOD, "--early_stopping=2"), "--early_stopping: expected a --validation_share > 0"),
    ((*GOOD, "--method=extended"), "--temperature: expected 1 with method extended"),
    ((*GOOD, "--optimizer=lion"), "flag --optimizer=lion: value should be one of"),
    ((*GOOD, "--epochs=many"), "flag --epochs=many"),
    ((*GOOD, "--tempertaure=2"), "Unknown command line flag 'tempertaure'"),
    ((*GOOD, "more"), "expected flags only, received 'more'."),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_a_bad_flag_is_a_usage_message(ask, arguments, message):
    status, out, err = ask(*arguments)
    assert (status, out) == (USAGE, "")
    assert message in err
    assert "Usage: bin/distill [flags]" in err
    assert "Traceback" not in err


def test_a_directory_of_another_job_is_refused_before_tensorflow_is_imported(ask, tmp_path):
    (tmp_path / "notes.txt").write_text("not a run")
    status, out, err = ask(*GOOD, f"--workdir={tmp_path}")
    assert (status, out) == (1, "")
    assert err.startswith("--workdir: expected a new directory or one of an earlier run, received")
    assert len(err.splitlines()) == 1


def test_help_lists_every_kind_of_flag(ask):
    _, out, err = ask("--help")
    for flag in ("data", "network", "student", "temperature", "alpha", "epochs", "seed", "workdir"):
        assert f"--{flag}:" in out + err or f"--[no]{flag}:" in out + err
