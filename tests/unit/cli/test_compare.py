"""`bin/compare` without TensorFlow: what it prints, what it writes, and what it refuses."""

import dataclasses
import json
import os
import re
import sys
from pathlib import Path

import pytest

from ddefense import records

USAGE, RUN = 2, 1
ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "docs" / "results"
MNIST, DIGITS = str(RESULTS / "mnist"), str(RESULTS / "digits")

COMMAND, MODULE = "bin/compare", "ddefense.cli.compare"
MISSING = ("tensorflow", "keras", "tensorflow_datasets", "sklearn")


def save(directory, results):
    directory.mkdir(parents=True)
    records.dump(results, directory / "results.json")
    return str(directory)


def cells(out, *start):
    """The line of a table that starts with these cells, without them."""
    line = next(line for line in out.splitlines() if line.split()[: len(start)] == list(start))
    return line.split()[len(start) :]


def test_runs_are_shown_side_by_side(cli, folder):
    answer = cli(MNIST, DIGITS)
    assert (answer.returncode, answer.stderr) == (0, "")
    lines = answer.stdout.splitlines()
    assert lines[0].startswith("WARNING: Other data: mnist has mnist")
    assert cells(answer.stdout, "run") == ["mnist", "digits"]
    assert cells(answer.stdout, "epochs") == ["10", "12"]
    assert cells(answer.stdout, "epsilon") == ["0.3", "0.15"]
    assert cells(answer.stdout, "T", "=", "100", "accuracy", "%") == ["98.46", "94.44"]
    naive = cells(answer.stdout, "T", "=", "5", "JSMA-F", "%")
    assert naive == ["24.7", "[19.7,", "29.6]", "66.7", "[48.9,", "83.3]"]
    trained = cells(answer.stdout, "adversarially", "trained", "accuracy", "%")
    assert trained == ["98.80", "-"]
    assert any(line.split()[:1] == ["C6"] and line.endswith("holds *") for line in lines)
    text = " ".join(answer.stdout.split())
    for name in ("mnist", "digits"):
        results = records.load(records.Results, RESULTS / name / "results.json")
        assert f"Verdict on {name}: {results.verdict.sentence}" in text
    assert list(folder.iterdir()) == []


def test_what_is_piped_is_plain(cli):
    out = cli(MNIST, DIGITS).stdout
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 100
    assert not any(line.endswith(" ") for line in out.splitlines())
    # However narrow the terminal is in which the pipe stands.
    assert cli(MNIST, DIGITS, COLUMNS="40").stdout == out


def test_a_terminal_gets_colours_and_its_width(cli):
    out = cli(MNIST, DIGITS, FORCE_COLOR="1", COLUMNS="150").stdout
    assert "\x1b[32mholds" in out
    assert "\x1b[1;33mWARNING" in out
    assert "[19.7, 29.6]" in out  # no mark-up of rich's


def seeds_that_fail(folder, failing):
    """A folder of three seeds; those that fail have networks of little accuracy."""
    results = records.load(records.Results, RESULTS / "digits" / "results.json")
    for seed in range(3):
        share = 0.5 if seed in failing else 0.999
        networks = [dataclasses.replace(n, test_accuracy=share) for n in results.networks]
        config = dataclasses.replace(results.config, seed=seed)
        save(
            folder / f"seed_{seed}", dataclasses.replace(results, config=config, networks=networks)
        )
    return str(folder)


@pytest.mark.parametrize(
    ("failing", "answer", "colour"),
    [
        ((), "holds at 3 of 3 seeds *", 32),
        ((1,), "holds at 2 of 3 seeds *", 33),
        ((0, 1, 2), "holds at 0 of 3 seeds *", 31),
    ],
)
def test_answers_of_several_seeds_have_their_colour(cli, tmp_path, failing, answer, colour):
    folder = seeds_that_fail(tmp_path / "mine", failing)
    out = cli(folder, FORCE_COLOR="1", COLUMNS="150").stdout
    (line,) = (line for line in out.splitlines() if "Test accuracy, undistilled" in line)
    assert f"\x1b[{colour}m{answer}" in line


def test_what_an_output_cannot_show_is_escaped(cli, tmp_path):
    results = records.load(records.Results, RESULTS / "digits" / "results.json")
    answer = cli(save(tmp_path / "\u00e9 run", results), PYTHONIOENCODING="ascii")
    assert answer.returncode == 0


@pytest.mark.parametrize("columns", ["80", "40"])
def test_no_number_is_broken_however_many_runs(cli, tmp_path, columns):
    results = records.load(records.Results, RESULTS / "digits" / "results.json")
    copies = [
        save(
            tmp_path / f"r{seed}",
            dataclasses.replace(results, config=dataclasses.replace(results.config, seed=seed)),
        )
        for seed in range(9)
    ]
    out = cli(*copies, FORCE_COLOR="1", COLUMNS=columns).stdout
    accuracies = [re.findall(r"\b95\.83\b", line) for line in out.splitlines()]
    assert [len(found) for found in accuracies if found] == [9, 9]  # undistilled, and T = 1


def test_who_reads_the_first_lines_alone_gets_no_error(run_python, tmp_path):
    code = """
import os, sys
reading, writing = os.pipe()
os.dup2(writing, 1)
os.close(writing)
os.close(reading)
from ddefense.cli import compare
sys.argv = ["bin/compare", *sys.argv[1:]]
compare.run()
"""
    found = run_python("-c", code, MNIST, DIGITS, cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, "")


def test_brackets_in_names_are_text(cli, tmp_path):
    results = records.load(records.Results, RESULTS / "digits" / "results.json")
    run = save(tmp_path / "[red]run", results)
    assert "[red]run" in cli(run).stdout
    assert "[red]run" in cli(run, FORCE_COLOR="1", COLUMNS="100").stdout


@pytest.mark.slow
def test_files_are_written_on_request(cli, folder):
    for arguments in (
        ("--output=a/b", MNIST, DIGITS),
        (MNIST, DIGITS, "--output", "c"),
        (MNIST, "--output=d", DIGITS),
    ):
        answer = cli(*arguments)
        assert answer.returncode == 0
        assert answer.stdout.startswith("WARNING: Other data")
        assert answer.stderr.startswith("written: ")
    pages = [(folder / name / "comparison.md").read_text() for name in ("a/b", "c", "d")]
    assert len(set(pages)) == 1
    assert len(list((folder / "c").iterdir())) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "expected one run or more, such as runs/digits_quick; received none."),
        (("missing",), "received 'missing', which does not exist."),
        ((str(RESULTS),), "which has no results."),
        (("",), "expected the path of a run; received ''."),
        ((DIGITS, DIGITS), "expected each run once"),
        ((DIGITS, f"{DIGITS}/results.json"), "expected each run once"),
        ((DIGITS, "--output="), "--output: expected the path of a directory; received ''."),
        ((DIGITS, "--preset=smoke"), "Unknown command line flag 'preset'"),
    ],
)
def test_wrong_use_is_explained(cli, folder, arguments, expected):
    before = sorted(folder.iterdir())
    answer = cli(*arguments)
    message, usage = answer.stderr.splitlines()
    assert (answer.returncode, answer.stdout) == (USAGE, "")
    assert expected in message
    assert usage == "Usage: bin/compare RUN... [flags]; --help lists them."
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("text", ["", "{", '{"schema_version": 2}'])
def test_damaged_results_are_an_error_of_one_line(cli, tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    answer = cli(DIGITS, str(tmp_path))
    assert (answer.returncode, answer.stdout) == (RUN, "")
    assert len(answer.stderr.splitlines()) == 1
    assert f"Expected {tmp_path / 'results.json'} to be a Results record" in answer.stderr


def test_another_schema_is_an_error_of_one_line(cli, tmp_path):
    results = json.loads((RESULTS / "digits" / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(results | {"schema_version": 1}))
    answer = cli(str(tmp_path))
    assert (answer.returncode, answer.stdout) == (RUN, "")
    assert len(answer.stderr.splitlines()) == 1
    assert "of schema 3, but schema_version" in answer.stderr


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_shown(cli, tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("n" * 300)):
        answer = cli(DIGITS, f"--output={output}")
        assert (answer.returncode, answer.stdout) == (USAGE, "")
        assert answer.stderr.startswith("--output: expected a directory that can be written")
        assert len(answer.stderr.splitlines()) == 2  # what is wrong, and the usage


def test_seeds_of_a_folder_are_one_column(cli, tmp_path):
    results = records.load(records.Results, RESULTS / "digits" / "results.json")
    for seed, change in ((0, 0.0), (1, 0.01), (2, -0.04)):
        networks = [
            dataclasses.replace(n, test_accuracy=n.test_accuracy + change) for n in results.networks
        ]
        config = dataclasses.replace(results.config, seed=seed)
        save(
            tmp_path / "mine" / f"seed_{seed}",
            dataclasses.replace(results, config=config, networks=networks),
        )
    answer = cli(str(tmp_path / "mine"), MNIST)
    assert answer.returncode == 0
    # 94.44 %, one point more, and four less: one less in the mean.
    found = cells(answer.stdout, "T", "=", "100", "accuracy", "%")
    assert found == ["93.44", "[90.44,", "95.44]", "98.46"]


def test_help_says_what_a_run_is(cli):
    answer = cli("--help")
    assert "--output" in answer.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_the_script_runs_this_module():
    script = ROOT / "bin" / "compare"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith('exec "$python" -P -m ddefense.cli.compare "$@"')


@pytest.mark.slow
@pytest.mark.parametrize("colour", [{}, {"FORCE_COLOR": "1", "COLUMNS": "200"}], ids=["", "colour"])
def test_no_name_steers_the_terminal_or_forges_a_line(cli, tmp_path, colour):
    evil = "\x1b[2J\x9b2J\r\nforged\u202e\u2028forged"
    results = records.load(records.Results, RESULTS / "digits" / "results.json")
    results = dataclasses.replace(
        results,
        verdict=dataclasses.replace(results.verdict, sentence=evil),
    )
    answer = cli(save(tmp_path / evil, results), MNIST, **colour)
    assert (answer.returncode, answer.stderr) == (0, "")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", answer.stdout)
    assert "forged" in plain
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e]", plain)
    assert not re.search(r"^\W*forged", plain, re.M)
    missing = cli(str(tmp_path / evil / evil))
    assert missing.returncode == USAGE
    assert len(missing.stderr.splitlines()) == 2
    assert "\x1b" not in missing.stderr
