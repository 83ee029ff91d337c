"""Stopping when asked to: SIGTERM, which batch schedulers send before they kill a job.

The signal only leaves a note, because work may be saved at some places and not at others. Loops
read it there.
"""

import signal
import threading

_asked = threading.Event()


class StoppedError(Exception):
    """The run was asked to stop, and has saved what it had."""


def listen() -> None:
    """Notes SIGTERM instead of dying of it. For programs, in their main thread."""
    signal.signal(signal.SIGTERM, lambda signum, frame: _asked.set())


def asked() -> bool:
    """Whether the run was asked to stop."""
    return _asked.is_set()


def check() -> None:
    """To be called where nothing would be lost by leaving.

    Raises:
        StoppedError: if the run was asked to stop.
    """
    if asked():
        raise StoppedError
