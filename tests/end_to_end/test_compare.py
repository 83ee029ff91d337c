"""`bin/compare` as its page shows it, and on a run that was just made."""

import csv
import re
from pathlib import Path

import pytest

from ddefense import records

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "comparing.md"
PROGRAM = ("-m", "ddefense.cli.compare")


def test_the_page_shows_what_the_command_prints(run_python):
    command, shown = re.search(
        r"^```sh\n(bin/compare docs[^\n]*)\n```\n+```\n(.*?)^```$", PAGE.read_text(), re.M | re.S
    ).groups()
    assert command == "bin/compare docs/results/mnist docs/results/digits"
    answer = run_python(*PROGRAM, *command.split()[1:], cwd=ROOT)
    assert (answer.returncode, answer.stderr) == (0, "")
    parts = shown.split("...\n")
    assert len(parts) > 1
    place = 0
    for part in parts:
        found = answer.stdout.find(part.strip("\n"), place)
        assert found >= 0, part
        place = found + len(part)


@pytest.mark.slow
def test_a_fresh_run_stands_beside_a_committed_one(smoke, run_python, tmp_path):
    digits = ROOT / "docs" / "results" / "digits"
    answer = run_python(*PROGRAM, smoke.workdir, digits, "--output=compared", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    # Both attacked the digits, the smoke run fewer of them and less hard.
    assert "WARNING: Other budgets" in answer.stdout
    assert "Other data" not in answer.stdout
    results = records.load(records.Results, smoke.workdir / "results.json")
    with (tmp_path / "compared" / "comparison.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == "run"]
    accuracies = {r["network"]: float(r["value"]) for r in rows if r["measure"] == "accuracy"}
    assert accuracies == pytest.approx(
        {
            "undistilled": 100 * results.baseline().test_accuracy,
            "T = 20": 100 * results.distilled()[0].test_accuracy,
        }
    )
