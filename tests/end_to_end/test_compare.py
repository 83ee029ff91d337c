"""`bin/compare` as its page shows it."""

import re
from pathlib import Path

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
