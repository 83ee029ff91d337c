"""The files about the project agree with the project: licence, citation, changelog, house map."""

import configparser
import hashlib
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

import ddefense

_ROOT = pathlib.Path(__file__).parents[2]
_PAGES = ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
# Of the text that the Apache Software Foundation publishes, with its appendix.
_APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def _metadata() -> configparser.SectionProxy:
    parser = configparser.ConfigParser()
    parser.read(_ROOT / "setup.cfg")
    return parser["metadata"]


def _citation() -> dict[str, object]:
    found = yaml.safe_load((_ROOT / "CITATION.cff").read_text())
    assert isinstance(found, dict)
    return found


def test_the_licence_is_the_standard_text() -> None:
    assert hashlib.sha256((_ROOT / "LICENSE").read_bytes()).hexdigest() == _APACHE_2
    assert _metadata()["license"] == "Apache-2.0"


def test_every_licence_of_the_package_goes_with_it() -> None:
    patterns = _metadata()["license_files"].split()
    shipped = {path for pattern in patterns for path in _ROOT.glob(pattern)}
    there = {_ROOT / "LICENSE", *(_ROOT / "ddefense").rglob("*LICENSE*")}
    assert len(there) > 1
    assert shipped == there


class TestCitation:
    def test_it_names_this_version_and_licence(self) -> None:
        found = _citation()
        assert found["version"] == ddefense.__version__
        assert found["license"] == _metadata()["license"]
        assert found["title"] == _metadata()["name"]

    def test_it_has_what_the_format_asks_for(self) -> None:
        found = _citation()
        assert found["cff-version"] == "1.2.0"
        assert {"message", "title", "authors"} <= found.keys()
        references = found["references"]
        assert isinstance(references, list)
        for work in [found, *references]:
            assert work["authors"]
            for author in work["authors"]:
                assert {"name", "family-names"} & author.keys()

    def test_it_cites_the_paper(self) -> None:
        references = _citation()["references"]
        assert isinstance(references, list)
        (paper,) = references
        opening = " ".join((_ROOT / "README.md").read_text()[:600].split())
        assert f"*{paper['title']}*" in opening
        for author in paper["authors"]:
            assert author["family-names"] in opening
        assert f"S&P {paper['year']}" in opening


class TestChangelog:
    headings = re.findall(r"^(#+) (.*)$", (_ROOT / "CHANGELOG.md").read_text(), re.M)

    def test_it_begins_with_this_version(self) -> None:
        versions = [text for level, text in self.headings if level == "##"]
        assert versions[0].split(" - ")[0] == ddefense.__version__
        for version in versions:
            assert re.fullmatch(r"\d+\.\d+\.\d+ - (\d{4}-\d\d-\d\d|unreleased)", version)

    def test_it_sorts_changes_by_the_kinds_of_the_format(self) -> None:
        kinds = {text for level, text in self.headings if level == "###"}
        assert kinds
        assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}

    def test_it_names_every_command(self) -> None:
        text = (_ROOT / "CHANGELOG.md").read_text()
        shown = set(re.findall(r"`bin/(\w+)", text))
        commands = {path.name for path in (_ROOT / "bin").iterdir() if path.is_file()}
        assert commands - {"test"} <= shown


@pytest.mark.parametrize("page", _PAGES)
def test_links_of_the_root_pages_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(#[^)]*)?\)", (_ROOT / page).read_text()):
        path, anchor = target
        if "://" in path:
            continue
        text = (_ROOT / path).read_text()
        headings = {_anchor(heading) for heading in re.findall("^#+ (.*)$", text, re.M)}
        assert not anchor or anchor[1:] in headings, anchor


def _anchor(heading: str) -> str:
    """As code hosts and MkDocs name it."""
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")


class TestHouseMap:
    page = (_ROOT / "docs/contributing.md").read_text()

    def test_the_layers_are_those_of_the_contract(self) -> None:
        settings = tomllib.loads((_ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
        (contract,) = (c for c in settings["contracts"] if c["type"] == "layers")
        (shown,) = re.findall("^```text\n(.*?)^```$", self.page, re.M | re.S)
        assert shown.splitlines() == contract["layers"]
        for name in contract["exhaustive_ignores"]:
            assert f"`{name}` belongs to no line" in self.page

    def test_every_package_has_its_row(self) -> None:
        package = _ROOT / "ddefense"
        there = {path.parent.name for path in package.glob("*/__init__.py")}
        there |= {path.stem for path in package.glob("*.py")} - {"__init__"}
        table = self.page.split("## Where things are")[1].split("\n## ")[0]
        rows = re.findall(r"^\| (`.*?) \|", table, re.M)
        named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
        assert sorted(named) == sorted(there)

    def test_every_folder_of_tests_has_its_row(self) -> None:
        there = {path.parent.name for path in (_ROOT / "tests").glob("*/*.py")}
        named = re.findall(r"^\| `tests/(\w+)/` \|", self.page, re.M)
        assert sorted(named) == sorted(there)

    def test_what_it_names_is_there(self) -> None:
        for path in re.findall(r"`((?:ddefense|tests|docs|bin)/[\w/.*]+)`", self.page):
            assert list(_ROOT.glob(path)), path


class TestHooks:
    hooks = yaml.safe_load((_ROOT / ".pre-commit-config.yaml").read_text())["repos"]

    def test_they_are_all_of_this_checkout(self) -> None:
        (local,) = self.hooks
        assert local["repo"] == "local"
        assert {"format", "lint", "imports", "types"} <= {hook["id"] for hook in local["hooks"]}
        for hook in local["hooks"]:
            assert hook["language"] == "unsupported"
            assert hook["entry"].startswith(".ci/python ")

    def test_pre_commit_takes_them(self) -> None:
        command = [sys.executable, "-P", "-m", "pre_commit", "validate-config"]
        answer = subprocess.run(
            [*command, ".pre-commit-config.yaml"], cwd=_ROOT, capture_output=True, text=True
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert "WARNING" not in answer.stdout + answer.stderr
