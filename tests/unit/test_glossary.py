"""What the glossary says exists in the code does, and no term stands there twice."""

import dataclasses
import importlib
import pathlib
import re

import pytest

_PAGE = (pathlib.Path(__file__).parents[2] / "docs/glossary.md").read_text()
_ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in _PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| term |", "| :--"))
]
_NAMES = sorted({name for row in _ROWS for name in re.findall(r"`([^`]+)`", row[2])})


def _found(name: str) -> bool:
    """Whether a path below the package leads to a module, what is in one, or a field of it."""
    parts = ["ddefense", *name.split(".")]
    for length in range(len(parts), 1, -1):
        module, rest = ".".join(parts[:length]), parts[length:]
        try:
            value = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for part in rest:
            fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
            if hasattr(value, part):
                value = getattr(value, part)
            elif part not in {field.name for field in fields}:
                return False
        return True
    return False


def test_a_name_that_does_not_exist_is_not_found() -> None:
    assert _found("records.LogitRecord.mean_abs")
    assert not _found("records.LogitRecord.mean")
    assert not _found("networks.undeployed")
    assert not _found("defences.undeployed")


@pytest.mark.parametrize("name", _NAMES)
def test_names_in_code_exist(name: str) -> None:
    assert _found(name)


def test_every_term_stands_once_with_its_meaning_and_a_link() -> None:
    terms = [row[0] for row in _ROWS]
    assert len(set(terms)) == len(terms) > 40
    for row in _ROWS:
        assert len(row) == 5, row
        term, symbol, code, meaning, link = row
        assert symbol == "-" or re.fullmatch(r"\$[^$]+\$", symbol), term
        assert code == "-" or re.fullmatch(r"`[\w.]+`( `[\w.]+`)*", code), term
        assert meaning.endswith("."), term
        assert re.fullmatch(r"\[[^]]+\]\([^)]+\)", link), term


def test_the_words_of_the_paper_are_there() -> None:
    expected = {
        *("temperature", "logits", "soft labels", "initial network", "distilled network"),
        *("saliency map", "distortion", "robustness", "forward derivative", "theta"),
    }
    assert expected <= {row[0] for row in _ROWS}
