"""Progress on a terminal is a bar, elsewhere a few plain lines."""

import io
import logging

import pytest
from absl import logging as absl_logging

from ddefense import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def lines(monkeypatch):
    """The lines logged while standard error is no terminal."""
    monkeypatch.setattr("sys.stderr", io.StringIO())
    caught = []

    class Handler(logging.Handler):
        def emit(self, record):
            caught.append(record.getMessage())

    handler, logger = Handler(), absl_logging.get_absl_logger()
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.INFO)
    logger.addHandler(handler)
    yield caught
    logger.removeHandler(handler)
    absl_logging.set_verbosity(before)


def test_a_log_gets_one_line_at_the_end(lines):
    with progress.Progress("baseline", 300, "image") as bar:
        for _ in range(3):
            bar.update(100, loss=0.51234, accuracy=0.9)
    assert len(lines) == 1
    assert lines[0].startswith("baseline: 300/300 in ")
    assert "image/s" in lines[0]
    assert lines[0].endswith("loss 0.5123 accuracy 0.9")


def test_a_log_gets_a_line_whenever_the_interval_is_over(lines, monkeypatch):
    monkeypatch.setattr(progress, "_LOG_INTERVAL_SECONDS", 0.0)
    with progress.Progress("attack", 4, "attack") as bar:
        bar.update(1)
        bar.update(1)
    # The line at the end would say nothing new.
    assert [line.split(" in ")[0] for line in lines] == ["attack: 1/4", "attack: 2/4"]
    assert "left" in lines[0]


def test_a_total_that_nobody_knows_is_left_out(lines):
    with progress.Progress("reading", None, "image") as bar:
        bar.update(100)
    (line,) = lines
    assert line.startswith("reading: 100 in ")
    assert "left" not in line
    assert "image/s" in line


def test_the_rate_leaves_out_what_an_earlier_run_did(lines, monkeypatch):
    clock = iter([100.0, 110.0, 110.0, 110.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.Progress("baseline", 1000, "image", done=900) as bar:
        bar.update(100)
    assert lines[-1].startswith("baseline: 1000/1000 in 00:10, 00:00 left, 10.00image/s")


def test_nothing_is_said_of_nothing_done(lines):
    with progress.Progress("baseline", 300, "image", done=300):
        pass
    assert lines == []


def test_an_error_leaves_no_line_that_looks_like_success(lines):
    def fail():
        with progress.Progress("x", 3, "image") as bar:
            bar.update(1)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert lines == []


def test_a_terminal_shows_a_bar(lines, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress.Progress("baseline", 2, "image") as bar:
        bar.update(1, loss=0.25)
        bar._bar.refresh()
    shown = terminal.getvalue()
    assert "baseline:  50%" in shown
    assert "1/2" in shown
    assert "loss 0.25" in shown
    assert len(lines) == 1  # what stays when the bar is gone
