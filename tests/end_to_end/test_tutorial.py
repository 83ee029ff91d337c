"""docs/tutorial.md: its commands do, in its order, what it says they do."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys

import pytest

from ddefense import records
from ddefense.distill_config import DistillConfig

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).parents[2]
_PAGE = (_ROOT / "docs/tutorial.md").read_text()
_COMMANDS = re.findall(r"^```sh\n(.*?)^```$", _PAGE, re.M | re.S)


def _letters(folder: pathlib.Path, seed: int) -> dict[str, bytes]:
    script = _ROOT / "docs/tutorial/make_letters.py"
    subprocess.run(
        [sys.executable, "-P", script, folder, "--per_letter=3", f"--seed={seed}"], check=True
    )
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


def test_the_same_seed_draws_the_same_letters(tmp_path: pathlib.Path) -> None:
    first, again, other = (
        _letters(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert set(first) == {f"{letter}/{n:03d}.png" for letter in "ABCDEFGH" for n in range(3)}
    assert first == again
    assert len({*first.values(), *other.values()}) == 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A checkout whose commands run in the environment of this test, whatever .venv holds."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "docs").symlink_to(_ROOT / "docs")
    (folder / "bin").mkdir()
    programs = {"setup": "echo {0}"} | {
        name: f'exec {{0}} -P -m ddefense.cli.{name} "$@"'
        for name in ("distill", "evaluate", "export", "query")
    }
    for name, program in programs.items():
        path = folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{program.format(sys.executable)}\n")
        path.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def output(folder: pathlib.Path) -> str:
    """What the commands say, one after the other in one shell."""
    answer = subprocess.run(
        ["bash", "-eu"],
        input="".join(_COMMANDS),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(_ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout
    return answer.stdout


@pytest.mark.slow
def test_it_learns_and_says_what_the_page_says(folder: pathlib.Path, output: str) -> None:
    for line in (
        "letters: 759 training and 201 test images of shape (32, 32, 1), 8 classes: A, B, C, D, E, "
        "F, G, H",
        "exported: exported_models/letters/1",
    ):
        assert line in _PAGE
        assert line in output
    record = records.load(
        records.DistillationRecord, folder / "runs/tutorial/distilled/distillation.json"
    )
    assert record.distilled.test_accuracy is not None
    assert record.distilled.test_accuracy > 0.9


@pytest.mark.slow
def test_the_committed_records_are_of_this_run(folder: pathlib.Path, output: str) -> None:
    committed = _ROOT / "docs/results/tutorial"
    of_distilling, shown_of_distilling = (
        records.load(records.DistillationRecord, place / "distillation.json")
        for place in (folder / "runs/tutorial/distilled", committed)
    )
    # What a record does not name was not there to be chosen when it was made.
    defaults = {field.name: field.default for field in dataclasses.fields(DistillConfig)}
    later = of_distilling.settings.keys() - shown_of_distilling.settings.keys()
    assert of_distilling.settings == {
        **shown_of_distilling.settings,
        **{name: defaults[name] for name in later},
    }
    assert of_distilling.dataset == shown_of_distilling.dataset
    measured, shown = (
        records.load(records.Results, place / "results.json")
        for place in (folder / "runs/tutorial/measured", committed)
    )
    assert measured.config == shown.config
    # Another machine sums in another order.
    for network, as_shown in zip(measured.networks, shown.networks, strict=True):
        assert network.test_accuracy == pytest.approx(as_shown.test_accuracy, abs=0.03)
        assert set(network.attacks) == set(as_shown.attacks)


@pytest.mark.slow
def test_the_defence_looks_good_and_is_not(folder: pathlib.Path, output: str) -> None:
    results = records.load(records.Results, folder / "runs/tutorial/measured/results.json")
    plain, distilled = results.networks
    assert plain.attacks["jsma_f"].success_rate > 0.9
    assert distilled.attacks["jsma_f"].success_rate < 0.5
    assert distilled.attacks["jsma_f_exact"].success_rate > 0.7
    assert distilled.attacks["cw_l2"].success_rate == 1.0
    assert results.verdict is not None
    assert results.verdict.masks_gradients is True
    assert results.verdict.stops_adaptive_attacker is False
    assert "FAIL zero_gradients of distilled (T = 20)" in output
    assert (folder / "runs/tutorial/measured/report.md").exists()


@pytest.mark.slow
def test_the_served_model_answers(folder: pathlib.Path, output: str) -> None:
    for letter in ("G/000", "B/007"):
        assert re.search(rf"^runs/tutorial/letters/{letter}\.png +{letter[0]} ", output, re.M)
    card = (folder / "exported_models/letters/1/assets.extra/MODEL_CARD.md").read_text()
    assert "jsma_f_exact" in card
