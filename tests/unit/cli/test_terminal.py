"""What is printed for people: coloured and as wide as the terminal there, plain elsewhere."""

import fcntl
import os
import pathlib
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import unicodedata

import pytest

from ddefense import records
from ddefense.reporting import summary

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).parents[3]
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_CODE = """
import pathlib, sys
from ddefense import records
from ddefense.cli import terminal
from ddefense.reporting import summary
results = records.load(records.Results, pathlib.Path("docs/results/digits/results.json"))
terminal.summary(summary.of_run(results), [results])
"""


@pytest.fixture(scope="module")
def results():
    return records.load(records.Results, _ROOT / "docs/results/digits/results.json")


def on_terminal(columns, code=_CODE, **environ):
    """Standard error of a process that has a terminal of so many columns for it."""
    main, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=_ROOT,
        env={**kept, "TERM": "xterm", "LANG": "C.UTF-8", **environ},
        stdin=child,
        stderr=child,
    )
    os.close(child)
    found = b""
    while True:
        try:
            data = os.read(main, 4096)
        except OSError:  # what Linux says at the end of a pseudo-terminal
            break
        if not data:
            break
        found += data
    os.close(main)
    assert process.wait() == 0
    return found.decode().replace("\r\n", "\n")


def piped(code=_CODE):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    return done.stderr


def width(line):
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


@pytest.mark.parametrize("columns", [60, 80, 120, 130, 200])
def test_a_terminal_gets_colours_and_lines_that_fit(columns, results):
    text = on_terminal(columns)
    assert "\x1b[1;31mVerdict: " in text  # an adaptive attacker is not stopped
    plain = _ESCAPE.sub("", text)
    assert max(width(line.rstrip()) for line in plain.splitlines()) <= columns
    for network in results.networks:
        label = "undistilled" if network.defense == "none" else f"T = {network.temperature:g}"
        (row,) = (line for line in plain.splitlines() if line.startswith(f" {label} "))
        assert f"{100 * network.test_accuracy:.2f}" in row
        assert f"{100 * network.attacks['jsma_f'].success_rate:.1f}" in row
        assert f"{100 * network.attacks['cw_l2'].success_rate:.1f}" in row
    # Intervals are what a narrow terminal does without, and nobody is told of them then.
    assert ("[70.0, 90.0]" in plain) is (columns >= 130)
    assert ("with 95 % intervals in brackets" in plain) is (columns >= 130)
    assert {"accuracy", "logits", "domain)"} <= set(plain.split())  # no word is broken


def test_an_attacker_who_is_stopped_at_a_loss_of_accuracy_is_no_good_news():
    code = _CODE.replace("terminal.summary(", "import dataclasses\nterminal.summary(").replace(
        ", [results])",
        ", [dataclasses.replace(results, verdict=dataclasses.replace(results.verdict, "
        "stops_adaptive_attacker=True, accuracy_lost=LOST))])",
    )
    for lost, style in (("0.124", "\x1b[33m"), ("0.05", "\x1b[32m"), ("None", "\x1b[32m")):
        assert f"{style}Verdict: " in on_terminal(120, code.replace("LOST", lost))


def test_brackets_of_a_name_are_kept_where_intervals_are_left_out():
    code = """
from ddefense.cli import terminal
from ddefense.reporting.tables.table import Column, Interval, Table, fixed
columns = [Column("n", "network", text=True), Column("v", "value", fixed(1), kind=Interval)]
content = Table("t", "title", columns, [["net [old]", Interval(1.0, 0.5, 1.5)]])
terminal.summary(content, [])
"""
    text = _ESCAPE.sub("", on_terminal(20, code))
    assert re.search(r"^ net \[old\] +1\.0 *$", text, re.M)


def test_who_wants_no_colour_gets_none():
    assert "\x1b[1;31m" not in on_terminal(120, NO_COLOR="1")


def test_a_log_gets_plain_aligned_text(results):
    text = piped()
    assert "\x1b" not in text
    rows = [line for line in text.splitlines() if re.match(r" (undistilled|T = )", line)]
    assert len(rows) == len(results.networks)
    assert len({row.rindex("[") for row in rows}) == 1
    assert "80.0 [70.0, 90.0]" in rows[0]
    assert results.verdict.sentence in " ".join(text.split())
    assert all(line == line.rstrip() for line in text.splitlines())


def test_tables_of_other_commands_are_markdown_in_a_log():
    code = _CODE.replace("terminal.summary(", "terminal.log(").replace(", [results])", ")")
    code += "logging.flush()"
    code = "from absl import logging\nlogging.set_verbosity(logging.INFO)\n" + code
    assert "| undistilled | 95.83 | 80.0 [70.0, 90.0] |" in piped(code)
    text = _ESCAPE.sub("", on_terminal(200, code))
    assert "|" not in text
    assert re.search(r"^ undistilled +95\.83 +80\.0 \[70\.0, 90\.0\] ", text, re.M)


def test_the_summary_holds_the_numbers_of_the_results(results):
    table = summary.of_run(results)
    keys = [column.key for column in table.columns]
    assert keys[:3] == ["network", "accuracy_percent", "jsma_f"]
    for row, network in zip(table.rows, results.networks, strict=True):
        assert row[1] == 100 * network.test_accuracy
        for key, cell in list(zip(keys, row, strict=True))[2:]:
            record = network.attacks[key]
            assert cell.value == 100 * record.success_rate
            assert (cell.low, cell.high) == tuple(100 * x for x in record.success_interval)


def test_a_whole_command_ends_within_a_narrow_terminal(results, tmp_path):
    for name in ("results.json", "samples.npz"):
        shutil.copy(_ROOT / "docs/results/digits" / name, tmp_path)
    code = f"""
import sys
sys.argv = ["bin/reproduce", "--report_only", "--workdir={tmp_path}"]
from ddefense.cli import main
main.run()
"""
    plain = _ESCAPE.sub("", on_terminal(60, code))
    table, paths = plain[: plain.index("\nresults: ")], plain[plain.index("\nresults: ") + 1 :]
    assert max(width(line.rstrip()) for line in table.splitlines()) <= 60
    assert re.search(r"^ T = 100 +94\.44 +0\.0 +80\.0 ", table, re.M)
    assert results.verdict.sentence in " ".join(table.split())
    assert paths.splitlines() == [
        f"results: {tmp_path}/results.json",
        *(f"model: {e.path}" for e in results.exports if (_ROOT / e.path).exists()),
        f"page: {tmp_path}/report.html",
        f"report: {tmp_path}/report.md",
    ]
