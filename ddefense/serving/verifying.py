"""Whether an exported version is as it was written, and a server would serve it."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np

from ddefense import interruption
from ddefense.records import RunError
from ddefense.serving import checksums, runtime
from ddefense.serving.versions import GRAPH, versions

_READER = pathlib.Path(runtime.__file__)
_ERROR = re.compile(r"^(?:__main__\.)?(\w+Error: .*)$", re.MULTILINE)


class DamagedVersionError(RunError):
    """A version that must not be served."""


@dataclasses.dataclass(frozen=True)
class Verified:
    """A version that is as it was written.

    Attributes:
        path: its directory.
        files: files compared with their SHA-256.
        requests: warm-up requests that it answered.
    """

    path: pathlib.Path
    files: int
    requests: int


def versions_of(directory: pathlib.Path) -> list[pathlib.Path]:
    """What is to be checked where a user names a directory.

    Args:
        directory: of a version, or of a model.

    Returns:
        The one version, or all of the model's, oldest first.

    Raises:
        RunError: if it is neither.
    """
    if found := versions(directory):
        return found
    if (directory / GRAPH).exists() or (directory / checksums.MANIFEST).exists():
        return [directory]
    raise RunError(
        f"Expected the directory of an exported model, with versions such as {directory / '1'}, or "
        f"of one version, with a file {GRAPH}; {directory} has neither."
    )


def verify(version: pathlib.Path) -> Verified:
    """Checks a version: its files' SHA-256, that it loads, that it answers its warm-up requests.

    It is loaded by TensorFlow's C++ runtime in a process of its own, as TF Serving does it.

    Args:
        version: its directory, as `export_for_serving` wrote it.

    Returns:
        What was checked.

    Raises:
        ChecksumError: if a file is missing, changed or not one of its own.
        DamagedVersionError: if it does not load, or refuses a warm-up request.
        StoppedError: if the run was asked to stop.
    """
    interruption.check()
    files = checksums.check(version)
    with tempfile.TemporaryDirectory() as scratch:
        source, answers = pathlib.Path(scratch, "inputs.npz"), pathlib.Path(scratch, "answers.npz")
        np.savez(source)
        # -P keeps the reader's own folder, which is this package's, off the module path.
        command = [sys.executable, "-P", str(_READER), str(version), str(source), str(answers)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        interruption.check()  # who stops a job may signal its children too
        # The error's line, below the calls that led to it and above where in the graph it was.
        errors = _ERROR.findall(process.stderr) or [f"exit code {process.returncode}"]
        raise DamagedVersionError(
            f"Expected {version} to load and to answer its warm-up requests, as a server asks of "
            f"it; its runtime says: {errors[-1]} Do not serve it; export it again."
        )
    warm_up = version / runtime.WARM_UP
    requests = sum(1 for _ in runtime.read_records(warm_up)) if os.path.exists(warm_up) else 0
    return Verified(version, files, requests)
