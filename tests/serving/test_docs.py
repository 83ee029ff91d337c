"""The clients and commands of docs/serving.md, as they stand there, and what they print."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(
    r"^```(\w*)\n(.*?)^```$", (ROOT / "docs" / "serving.md").read_text(), re.DOTALL | re.MULTILINE
)
"""Language and text of what the page sets off."""

MODULES = {"bin/query": "ddefense.cli.query", "bin/export": "ddefense.cli.export"}
LOCAL = "bin/query --saved_model="
TABLE = "bin/query --model=digits_distilled_t100 --dataset=digits"
VERIFY = "bin/export --verify="

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on the PATH")


def block(language, start):
    """The block of a language that starts so."""
    (found,) = [text for kind, text in BLOCKS if kind == language and text.startswith(start)]
    return found


def command(start):
    """The one command that starts so, and what the page says it prints: the next plain block."""
    found = [
        (line, next((text for kind, text in BLOCKS[i + 1 :] if not kind), None))
        for i, (language, block) in enumerate(BLOCKS)
        if language == "sh"
        for line in block.splitlines()
        if line.startswith(start)
    ]
    ((line, output),) = found
    return shlex.split(line, comments=True), output


@pytest.fixture
def run_command(run_python):
    """Runs a command of the page from the checkout's root."""

    def run(arguments, *more, cwd=ROOT):
        program, *rest = arguments
        return run_python("-m", MODULES[program], *rest, *more, cwd=cwd)

    return run


def test_the_committed_model_answers_as_the_page_shows(run_command):
    arguments, output = command(LOCAL)
    found = run_command(arguments)
    assert found.returncode == 0, found.stderr
    assert found.stdout == output


def test_the_committed_model_is_verified_as_the_page_shows(run_command):
    arguments, output = command(VERIFY)
    found = run_command(arguments)
    assert found.returncode == 0, found.stderr
    assert (found.stdout + found.stderr).splitlines()[-1:] == output.splitlines()


def test_a_dataset_is_answered_as_the_page_shows(server, run_command):
    arguments, output = command(TABLE)
    found = run_command(arguments, f"--server=localhost:{server.grpc_port}")
    assert found.returncode == 0, found.stderr
    assert found.stdout == output


def test_a_file_that_is_no_image_is_refused_as_the_page_shows(server, run_command, tmp_path):
    shown = block("", "notes.txt: localhost:8500 refused: ")
    size = int(re.search(r"received (\d+) bytes", shown).group(1))
    (tmp_path / "notes.txt").write_bytes(b"n" * size)
    image = (ROOT / "docs" / "images" / "seven.png").read_bytes()
    (tmp_path / "seven.png").write_bytes(image)
    address = f"localhost:{server.grpc_port}"
    arguments = ["bin/query", "--model=digits_distilled_t100", "--images=seven.png,notes.txt"]
    found = run_command(arguments, f"--server={address}", cwd=tmp_path)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.endswith(shown.replace("localhost:8500", address))


def test_the_python_client(server, class_names, run_python):
    client = block("python", "import grpc")
    found = run_python(
        "-c", client.replace("localhost:8500", f"localhost:{server.grpc_port}"), cwd=ROOT
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [class_names[7]]


@needs_curl
def test_the_curl_client_gets_what_the_page_shows(server, class_names):
    client = block("sh", "curl")
    found = subprocess.run(
        ["sh", "-c", client.replace("localhost:8501", f"localhost:{server.rest_port}")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    (row,) = json.loads(found.stdout)["predictions"]
    # The page leaves probabilities out of the middle; its model's classes are called by digits.
    shown = block("", '{\n    "predictions"')
    before = len(re.findall(r"\d\.\d", shown.partition("...")[0]))
    (expected,) = json.loads(re.sub(r"\.\.\.\n", "", shown))["predictions"]
    after = len(expected["probabilities"]) - before
    assert 0 < before < 7 <= 10 - after
    assert set(row) == set(expected)
    assert (row["labels"], expected["labels"]) == (class_names[7], "7")
    probabilities = row["probabilities"]
    assert len(probabilities) == 10
    assert probabilities[:before] + probabilities[-after:] == pytest.approx(
        expected["probabilities"], rel=0, abs=1e-6
    )


@needs_curl
def test_the_status(server):
    page = (ROOT / "docs" / "serving.md").read_text()
    (address,) = re.findall(r"`curl (http://localhost:8501\S+)`", page)
    address = address.replace("localhost:8501", f"localhost:{server.rest_port}")
    found = subprocess.run(["curl", address], capture_output=True, text=True, check=True)
    assert '"state": "AVAILABLE"' in found.stdout
