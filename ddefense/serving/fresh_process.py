"""Asking an exported version in a process of its own, where TensorFlow's C++ runtime alone runs."""

import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from ddefense import interruption
from ddefense.serving import runtime

_READER = pathlib.Path(runtime.__file__)
_ERROR = re.compile(r"^(?:__main__\.)?(\w+Error: .*)$", re.MULTILINE)

Arrays = dict[str, Any]
"""NumPy arrays by name."""


class FailedError(Exception):
    """A version that does not load, or refuses a request; the message is the runtime's."""


def ask(version: pathlib.Path, inputs: Arrays) -> Arrays:
    """Loads a version as TF Serving does, replays its warm-up requests, and asks it more.

    Args:
        version: its directory.
        inputs: arrays by `<signature>/<input>/<n>`; files as an array of bytes.

    Returns:
        The answers by `<signature>/<output>/<n>`.

    Raises:
        FailedError: if it does not load, or refuses a request.
        StoppedError: if the run was asked to stop.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source, answers = pathlib.Path(scratch, "inputs.npz"), pathlib.Path(scratch, "answers.npz")
        np.savez(source, **inputs)
        # -P keeps the reader's own folder, which is this package's, off the module path.
        command = [sys.executable, "-P", str(_READER), str(version), str(source), str(answers)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            interruption.check()  # who stops a job may signal its children too
            # The error's line, below the calls that led to it and above where in the graph it was.
            errors = _ERROR.findall(process.stderr) or [f"exit code {process.returncode}"]
            raise FailedError(errors[-1])
        with np.load(answers) as arrays:
            return dict(arrays)
