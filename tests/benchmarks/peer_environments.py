"""The peers' own Python environments, made on demand from the pinned requirements."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The PyTorch peers share one environment: PyTorch is large.
FOLDERS = {
    "art": "art",
    "cleverhans": "cleverhans",
    "foolbox": "foolbox",
    "torchattacks": "torch",
    "advertorch": "torch",
    "pytorch": "torch",
}
INSTALL_SECONDS = 3600


class PeerUnavailableError(Exception):
    """A peer that cannot be installed or run here; the message says why."""


def python_of(peer: str, environments: Path) -> Path:
    """Returns the Python of a peer's environment, which is made where it is missing.

    Args:
        peer: one of `FOLDERS`.
        environments: the folder that holds all environments.

    Raises:
        PeerUnavailableError: the peer cannot be installed.
    """
    folder = environments.resolve() / FOLDERS[peer]
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    files = [HERE / f"requirements-{peer}.txt", HERE / f"requirements-{peer}-no-deps.txt"]
    content = b"".join(file.read_bytes() for file in files if file.exists())
    content += platform.python_version().encode()
    stamp = folder / f"{peer}.installed"
    fingerprint = hashlib.sha256(content).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == fingerprint:
        return python
    print(f"Installing {peer} in {folder.name}/ ...", file=sys.stderr, flush=True)
    if not python.exists():
        _call([sys.executable, "-m", "venv", str(folder)])
    install = [str(python), "-m", "pip", "install", "--quiet"]
    _call([*install, "-r", str(files[0])])
    if files[1].exists():
        _call([*install, "--no-deps", "-r", str(files[1])])
    stamp.write_text(fingerprint)
    return python


def python_with_tensorflow(release: str, environments: Path) -> Path:
    """Returns the Python of an environment with that release of TensorFlow and nothing else.

    Raises:
        PeerUnavailableError: it cannot be installed.
    """
    folder = environments.resolve() / f"tensorflow-{release}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "installed"
    if not stamp.exists():
        print(f"Installing TensorFlow {release} in {folder.name}/ ...", file=sys.stderr, flush=True)
        _call([sys.executable, "-m", "venv", str(folder)])
        on_linux = (sys.platform, platform.machine()) == ("linux", "x86_64")
        name = "tensorflow-cpu" if on_linux else "tensorflow"
        _call([str(python), "-m", "pip", "install", "--quiet", f"{name}=={release}"])
        stamp.touch()
    return python


def _call(command: list[str]) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailableError(str(error)) from error
    if done.returncode:
        raise PeerUnavailableError(last_error(done.stderr))


def last_error(stderr: str) -> str:
    """Returns the line of a failed command's error output that says most."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("ERROR") or "Error" in line.split(":")[0]:
            return line
    return lines[-1] if lines else "it failed without a message"
