"""A newcomer's way through README.md by copy and paste, from the first run to a served model.

The way on, with images of one's own, is `test_tutorial.py`.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from ddefense import records

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).parents[2]
_README = (_ROOT / "README.md").read_text()
_BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", _README, re.M | re.S)
# What works on the first run, or on what the repository holds, in the order of the page.
_AFTER_IT = ("bin/evaluate --network=runs/", "bin/compare ", "bin/export ", "bin/query ")


# What makes the first run short, in the same places.
_SHORT = " --preset=smoke --temperatures=20,100 --workdir=runs/digits_quick"


def commands():
    """The first command of the page, and those of 'Use' that need nothing but what it made."""
    lines = [line for kind, block in _BLOCKS if kind == "sh" for line in block.splitlines()]
    first = next(line for line in lines if line.startswith("bin/reproduce")).partition("#")[0]
    return [first.rstrip(), *(line for line in lines if line.startswith(_AFTER_IT))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a clone holds of programs and files, run by this environment."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("docs", "ddefense"):
        (folder / name).symlink_to(_ROOT / name)
    shutil.copytree(_ROOT / "bin", folder / "bin")
    (folder / "bin" / "setup").write_text(f"#!/bin/sh\necho {sys.executable}\n")
    return folder


@pytest.fixture(scope="module")
def environ(folder):
    return os.environ | {"PYTHONPATH": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"}


@pytest.fixture(scope="module")
def output(folder, environ):
    answer = subprocess.run(
        ["bash", "-eu"],
        input="\n".join([commands()[0] + _SHORT, *commands()[1:]]),
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout
    return answer.stdout


def test_the_page_has_the_way():
    found = commands()
    assert found[0] == "bin/reproduce"
    assert [line.split()[0] for line in found[1:]] == [
        *("bin/evaluate", "bin/compare", "bin/export", "bin/query")
    ]


def test_the_first_run_leaves_what_the_page_says(folder, output):
    run = folder / "runs" / "digits_quick"
    results = records.load(records.Results, run / "results.json")
    assert results.verdict is not None
    assert results.verdict.sentence in " ".join(output.split())
    for name in ("report.html", "report.md", "samples.npz", "networks", "figures", "tables"):
        assert (run / name).exists()
    assert "page: runs/digits_quick/report.html" in output


def test_everything_after_it_works(folder, output):
    assert (folder / "exported_models" / "digits_distilled_t20" / "1").is_dir()
    assert re.search(r"^docs/images/seven\.png +7 ", output, re.M)
    assert "Verdict on digits_quick: " in output
    assert list(folder.glob("runs/evaluate_distilled_t100_*/results.json"))


def test_the_model_is_served_by_tensorflow_alone(folder, environ, output):
    (code,) = (block for kind, block in _BLOCKS if kind == "python")
    code += (
        "import sys\n"
        "found = serve(images=tf.zeros([1, 28, 28, 1]))['probabilities'].numpy()\n"
        "assert found.shape == (1, 10) and abs(found.sum() - 1) < 1e-5\n"
        "assert 'ddefense' not in sys.modules\n"
    )
    served = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=folder, env=environ, capture_output=True, text=True
    )
    assert served.returncode == 0, served.stderr
