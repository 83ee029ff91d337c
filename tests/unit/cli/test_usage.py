"""The help of every command: what most people need, everything on request, in groups."""

import re

import pytest

_MODULES = {
    "reproduce": "ddefense.cli",
    "evaluate": "ddefense.cli.evaluate",
    "distill": "ddefense.cli.distill",
    "export": "ddefense.cli.export",
    "compare": "ddefense.cli.compare",
    "query": "ddefense.cli.query",
}


@pytest.fixture(scope="module")
def shown(run_python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("help")
    found = {}
    for command, module in _MODULES.items():
        for flag in ("-h", "--help", "--helpfull"):
            answer = run_python("-m", module, flag, cwd=folder)
            assert (answer.returncode, answer.stderr) == (0, "")
            found[command, flag] = answer.stdout
    return found


def flags_in(text):
    return set(re.findall(r"(?m)^  --(?:\[no\])?(\w+)$", text))


@pytest.mark.parametrize("command", _MODULES)
def test_help_is_short_and_helpfull_has_everything(shown, command):
    short, full = shown[command, "--help"], shown[command, "--helpfull"]
    assert shown[command, "-h"] == short
    assert f"Usage: bin/{command} " in short
    assert 1 <= len(flags_in(short)) <= 16
    assert flags_in(short) <= flags_in(full)
    if flags_in(short) < flags_in(full):
        assert f"--helpfull lists all {len(flags_in(full))} flags." in short
    assert "/ddefense/" not in full
    assert max(map(len, full.splitlines())) <= 100


@pytest.mark.parametrize("command", ["reproduce", "evaluate", "distill"])
def test_help_has_two_examples_and_groups(shown, command):
    short = shown[command, "--help"]
    examples = short.split("Examples:\n")[1].split("\n\n")[0].splitlines()
    assert len(examples) == 2
    assert all(example.startswith(f"  bin/{command}") for example in examples)
    assert {"Run:", "Machine:"} <= set(short.splitlines())
    assert "Training:" in shown["distill", "--helpfull"].splitlines()
