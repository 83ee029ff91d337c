"""The documentation builds without a warning, and has every public name."""

import ast
import html
import importlib
import os
import pathlib
import re
import subprocess
import sys
import types

import pytest

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).parents[2]


def _exporting_packages() -> dict[str, list[str]]:
    """Names in `__all__`, by package."""
    found = {}
    for path in sorted((_ROOT / "ddefense").rglob("__init__.py")):
        for statement in ast.parse(path.read_text()).body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
                package = ".".join(path.parent.relative_to(_ROOT).parts)
                found[package] = ast.literal_eval(statement.value)
    return found


_PACKAGES = _exporting_packages()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The built pages."""
    directory = tmp_path_factory.mktemp("site")
    # Nobody listens on port 9: whatever would be fetched fails.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    built = subprocess.run(
        [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--site-dir", directory],
        cwd=_ROOT,
        env=os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert not re.search("WARNING|ERROR", built.stdout + built.stderr), built.stderr
    return directory


@pytest.fixture(scope="module")
def anchors(site: pathlib.Path) -> set[str]:
    """What the pages of the library have a heading for."""
    pages = "".join(path.read_text() for path in (site / "api").glob("*.html"))
    return set(re.findall(r'<h\d id="(ddefense\.[\w.]+)"', pages))


@pytest.mark.parametrize("package", _PACKAGES)
def test_every_public_name_has_its_place(package: str, anchors: set[str]) -> None:
    module = importlib.import_module(package)
    missing = [
        name
        for name in _PACKAGES[package]
        if not _is_shown(f"{package}.{name}", getattr(module, name), anchors)
    ]
    assert not missing, f"docs/api: add a page or a directive for these names of {package}"


def _is_shown(path: str, value: object, anchors: set[str]) -> bool:
    if isinstance(value, types.ModuleType):
        return any(anchor.startswith(f"{value.__name__}.") for anchor in anchors)
    # A page may show a function or a class under the module that defines it.
    defined = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    return not {path, defined}.isdisjoint(anchors)


def test_pages_fetch_nothing_from_elsewhere(site: pathlib.Path) -> None:
    for path in site.rglob("*.html"):
        fetched = re.findall(
            r"<(?:script|link|img)\b[^>]*(?:src|href)=\"?https?:[^>]*", path.read_text()
        )
        assert not fetched, path


def test_formulas_are_shown_as_formulas(site: pathlib.Path) -> None:
    page = html.unescape((site / "api" / "layers.html").read_text())
    formula = re.search(r'<math[^>]*display="block">.*?</math>', page)
    assert formula is not None
    assert "<mfrac>" in formula.group()
    for path in (site / "api").glob("*.html"):
        assert "arithmatex" not in path.read_text(), path
