"""Stopping when asked to: SIGTERM, which batch schedulers send before they kill a job, and Ctrl-C.

SIGTERM only leaves a note, because work may be saved at some places and not at others. Loops read
it there. Ctrl-C interrupts at once, and what was finished is kept.
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

_asked = threading.Event()

Returned = TypeVar("Returned")


class StoppedError(Exception):
    """The run was asked to stop, and has saved what it had."""


def listen() -> None:
    """Notes SIGTERM instead of dying of it. For programs, in their main thread.

    Ctrl-C raises KeyboardInterrupt, and a second one ends the program wherever it is.
    """
    _handle(signal.SIGTERM, lambda signum, frame: _asked.set())
    _handle(signal.SIGINT, _interrupt)


def leave_at_once(*signals: signal.Signals) -> None:
    """Ends the program, without a word, when a signal comes: where there is nothing to save.

    The status is that which a shell reports: 130 after SIGINT, 143 after SIGTERM. For programs, in
    their main thread.

    Args:
        *signals: those meant.
    """
    for number in signals:
        _handle(number, _leave)


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


def within(seconds: float | None, call: Callable[[], Returned]) -> Returned:
    """Calls a function in another thread, so that no blocking call in it delays a signal.

    Args:
        seconds: to wait for it; None for as long as it takes. The thread is left behind then.
        call: the function.

    Returns:
        What the function returns. What it raises is raised here.

    Raises:
        TimeoutError: if it has not returned in time.
    """
    from concurrent.futures import Future  # not while a program starts

    answer: Future[Returned] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer.result(seconds)


def _handle(number: signal.Signals, handler: Callable[[int, FrameType | None], Any]) -> None:
    # A shell ignores Ctrl-C for what it runs in the background.
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    leave_at_once(signal.SIGINT)
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
