"""The clients of docs/serving.md, as they stand there, against the server."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_python_client(server, class_names, run_python):
    (client,) = blocks("python")
    found = run_python(
        "-c", client.replace("localhost:8500", f"localhost:{server.grpc_port}"), cwd=ROOT
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [class_names[7]]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on the PATH")
def test_the_curl_client(server, class_names):
    (command,) = [block for block in blocks("sh") if block.startswith("curl")]
    found = subprocess.run(
        ["sh", "-c", command.replace("localhost:8501", f"localhost:{server.rest_port}")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    (row,) = json.loads(found.stdout)["predictions"]
    assert row["labels"] == class_names[7]
    assert row["probabilities"].index(max(row["probabilities"])) == 7
    # What the page shows has the same keys; the committed model's classes are digits.
    assert '"predictions": [' in PAGE
    assert '"labels": "7",' in PAGE


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on the PATH")
def test_the_status(server):
    (address,) = re.findall(r"`curl (http://localhost:8501\S+)`", PAGE)
    address = address.replace("localhost:8501", f"localhost:{server.rest_port}")
    found = subprocess.run(["curl", address], capture_output=True, text=True, check=True)
    assert '"state": "AVAILABLE"' in found.stdout
