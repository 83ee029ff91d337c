"""SIGTERM leaves a note, which is read where nothing would be lost."""

import signal
import threading

import pytest

from ddefense import interruption
from ddefense.records import RunError

# Says what it knows before and after the signal; ends by itself if none ever comes.
PROGRAM = """
import time
from ddefense import interruption

{listen}
print(interruption.asked(), flush=True)
for _ in range(600):
    if interruption.asked():
        break
    time.sleep(0.1)
print(interruption.asked())
try:
    interruption.check()
except interruption.StoppedError:
    print("stopped")
"""

# A command that has work to do, and a library that takes its time when the command ends.
COMMAND = """
import atexit, pathlib, time
from ddefense.cli import program

def work(asked, workdir):
    atexit.register(time.sleep, 600)
    print("working", flush=True)
    time.sleep(600)

program.run("bin/work", lambda: None, lambda: (None, pathlib.Path("run")), work, shown=())
"""


@pytest.fixture
def start(start_python, tmp_path):
    """Starts the program and waits for its first line, after which it may be signalled."""
    started = []

    def begin(listen):
        process = start_python("-c", PROGRAM.format(listen=listen), cwd=tmp_path)
        started.append(process)
        assert process.stdout.readline() == "False\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def note(monkeypatch):
    """A note of this test's own: whatever it says is forgotten afterwards."""
    event = threading.Event()
    monkeypatch.setattr(interruption, "_asked", event)
    return event


def test_a_program_that_listens_notes_sigterm_and_goes_on(start):
    process = start("interruption.listen()")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == ("True\nstopped\n", "", 0)


def test_a_second_sigterm_does_no_more_than_the_first(start):
    process = start("interruption.listen()")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ("True\nstopped\n", 0)


def test_a_program_that_does_not_listen_dies_of_it(start):
    process = start("")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ("", -signal.SIGTERM)


def test_check_raises_only_if_asked(note):
    assert not interruption.asked()
    interruption.check()
    note.set()
    assert interruption.asked()
    with pytest.raises(interruption.StoppedError):
        interruption.check()
    assert interruption.asked()  # still: an outer loop must leave as well


def test_stopping_is_no_failure_of_the_run():
    # What handles a failed run, or a file that cannot be read, must not take it for one.
    assert not issubclass(interruption.StoppedError, (RunError, OSError, ValueError))


@pytest.mark.usefixtures("interruptible")
def test_a_second_ctrl_c_ends_a_command_that_is_ending(start_python, tmp_path):
    process = start_python("-c", COMMAND, cwd=tmp_path)
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "Interrupted; the same command resumes in run.\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130


@pytest.mark.usefixtures("interruptible")
def test_two_quick_ctrl_c_give_no_traceback(start_python, tmp_path):
    process = start_python("-c", COMMAND, cwd=tmp_path)
    assert process.stdout.readline() == "working\n"
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said in ("", "Interrupted; the same command resumes in run.\n")


def test_what_a_shell_lets_ignore_ctrl_c_goes_on(start_python, tmp_path):
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    process = start_python(
        "-c", ignoring + PROGRAM.format(listen="interruption.listen()"), cwd=tmp_path
    )
    assert process.stdout.readline() == "False\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ("True\nstopped\n", 0)


def test_within_is_in_time_or_not():
    assert interruption.within(60, lambda: 5) == 5
    assert interruption.within(None, lambda: 5) == 5
    with pytest.raises(TimeoutError):
        interruption.within(0.01, threading.Event().wait)
    with pytest.raises(ZeroDivisionError):
        interruption.within(60, lambda: 1 // 0)
