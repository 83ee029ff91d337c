"""What docs/extending.md tells a newcomer to do, done to a copy of the package."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_PAGE = _ROOT / "docs/extending.md"
_BLOCK = re.compile(r'^```(?P<kind>\w+) title="(?P<path>[^"]+)"\n(?P<text>.*?)^```$', re.M | re.S)
_BLOCKS = [
    (block["kind"], block["path"], block["text"]) for block in _BLOCK.finditer(_PAGE.read_text())
]
_COMMANDS = re.findall(r"^```sh\n(.*?)^```$", _PAGE.read_text(), re.M | re.S)
_SHARED = (
    "pyproject.toml",
    "tests/conftest.py",
    "tests/comparing.py",
    "tests/unit/reporting/conftest.py",
)
_TESTS = sorted({path for _, path, _ in _BLOCKS if path.startswith("tests/")})


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A checkout in which the page was followed."""
    return _followed(tmp_path_factory.mktemp("extended"), _BLOCKS)


def _followed(copy: pathlib.Path, blocks: list[tuple[str, str, str]]) -> pathlib.Path:
    """A checkout in which blocks of the page were followed."""
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_ROOT / "ddefense", copy / "ddefense", ignore=unwanted)
    for name in _SHARED:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_ROOT / name, copy / name)
    for kind, path, text in blocks:
        target = copy / path
        if path.startswith("tests/") and kind == "diff" and not target.exists():
            shutil.copy(_ROOT / path, target)
        if kind == "python":
            assert not target.exists(), f"{path} is there already"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        else:
            target.write_text(_changed(target.read_text(), text, path))
    return copy


def _changed(source: str, changes: str, path: str) -> str:
    """The source after changes as the page shows them, each found in exactly one place."""
    for change in re.split(r"^@@\n", changes, flags=re.M):
        lines = [(line[:1], line[1:]) for line in change.splitlines(keepends=True)]
        assert {sign for sign, _ in lines} <= {" ", "+", "-"}, change
        old = "".join(text for sign, text in lines if sign != "+")
        new = "".join(text for sign, text in lines if sign != "-")
        assert source.count(old) == 1, f"{_PAGE.name} and {path} are out of step:\n{old}"
        source = source.replace(old, new)
    return source


@pytest.mark.parametrize("section", ["dataset", "network", "attack", "measurement", "figure"])
def test_every_section_has_an_example_and_its_test(section: str) -> None:
    text = re.split("^## ", _PAGE.read_text(), flags=re.M)
    (found,) = (
        part for part in text if part.startswith(f"A {section}") or part.startswith(f"An {section}")
    )
    paths = [block["path"] for block in _BLOCK.finditer(found)]
    assert any(path.startswith("ddefense/") for path in paths)
    assert any(path in _TESTS for path in paths)


_ATTACK = ("ddefense/attacks/noise.py", "ddefense/attack_catalog.py")
"""The module of an attack, and its entry in the catalogue."""
_EVERYWHERE = """
import dataclasses

import ddefense
from ddefense import config, datasets, measurements
from ddefense.experiments import planning
from ddefense.reporting import report
from ddefense.reporting.page import content
from tests.comparing import comparisons_of
from tests.unit.reporting import conftest

plan = planning.plan(
    config.preset("smoke", "digits", attacks=("noise",)),
    datasets.load("digits"),
    planning.Rates(train=0.1, forward=1000.0, backward=0.1),
)
assert [s.seconds for s in plan if s.name == "noise_on_baseline"] == [2001.0]

full = conftest.make_full_results()
made = conftest.make_norm_attack(1.0, 0.3, norm="linf", targets="untargeted", samples=100)
networks = [
    dataclasses.replace(network, attacks=network.attacks | {"noise": made})
    for network in full.networks
]
verdict = measurements.verdict(networks, comparisons_of(networks), full.controls, full.dataset)
assert "noise (100.0 % of 100 images against 100.0 %)" in verdict.sentence

results = dataclasses.replace(full, networks=networks, verdict=verdict)
text = report.write(results)
assert "- `noise` (random noise): Uniform noise within epsilon" in text
assert "random noise" in {attack["label"] for attack in content.plots(results)["attacks"]}

try:
    ddefense.attack(None, None, name="another")
except ValueError as error:
    refused = str(error)
assert "'noise'" in refused
"""


@pytest.mark.slow
def test_an_attack_is_one_module_and_one_entry(tmp_path: pathlib.Path) -> None:
    copy = _followed(tmp_path, [block for block in _BLOCKS if block[1] in _ATTACK])
    for arguments, expected in (
        (["-m", "ddefense.cli", "--help"], "noise"),
        (["-m", "ddefense.cli", "--helpfull"], "noise"),
        (["-c", _EVERYWHERE], ""),
    ):
        answer = subprocess.run(
            [sys.executable, "-P", *arguments],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 0, answer.stderr
        assert expected in answer.stdout


@pytest.mark.slow
def test_the_examples_pass_their_tests(extended: pathlib.Path) -> None:
    # The copy must not be hidden by a package that is installed, or on the path of this process.
    environ = os.environ | {"PYTHONPATH": str(extended)}
    answer = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *_TESTS],
        cwd=extended,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.slow
def test_the_commands_do_what_the_page_says(extended: pathlib.Path) -> None:
    for name in ("digits", "mnist", "cifar10", "cifar10_warm"):
        place = f"docs/results/{name}"
        shutil.copytree(
            _ROOT / place, extended / place, ignore=shutil.ignore_patterns("networks", "figures")
        )
    for place, arguments in ((".venv/bin/python", "-P"), ("bin/reproduce", "-P -m ddefense.cli")):
        program = extended / place
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        program.chmod(0o755)
    answer = subprocess.run(
        ["bash", "-eu"],
        input="".join(_COMMANDS),
        cwd=extended,
        env=os.environ | {"PYTHONPATH": str(extended), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout
    assert "top_two_accuracy" in (extended / "docs/results.schema.json").read_text()
    for name in ("digits", "cifar10_warm"):
        report = (extended / "docs/results" / name / "report.md").read_text()
        assert "label among the two largest %" in report
        assert "top_two.png" not in report
    (run,) = (extended / "runs").glob("bars_quick_*")
    network = json.loads((run / "results.json").read_text())["networks"][-1]
    assert network["name"] == "distilled_t20"
    assert network["attacks"]["noise"]["attempts"] == 10
    assert network["top_two_accuracy"] >= network["test_accuracy"] > 0.9
    report = (run / "report.md").read_text()
    assert "What it reaches is luck" in report
    assert "figures/top_two.png" in report
    assert (run / "figures/top_two.png").exists()


def test_the_examples_are_in_the_style_of_the_house(extended: pathlib.Path) -> None:
    edited = sorted({path for _, path, _ in _BLOCKS})
    for command in (["check"], ["format", "--check", "--diff"]):
        answer = subprocess.run(
            [sys.executable, "-P", "-m", "ruff", *command, "--no-cache", *edited],
            cwd=extended,
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
