"""Every command in the pages can be typed: run by a test, or read by the program that it names.

What takes too long is read by the program's own parser, with the checks that it makes before any
work. Programs of others stand in tables here, so that a new one fails until somebody has decided.
"""

import configparser
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).parents[2]
_PAGES = sorted(
    [
        *_ROOT.glob("*.md"),
        *(_ROOT / "docs").rglob("*.md"),
        *(_ROOT / name / "README.md" for name in ("exported_models", "tests/benchmarks")),
    ]
)

_RUN_WITH_ALL_ITS_COMMANDS = {
    # Its last command is about what the page has added.
    "docs/extending.md": "tests/unit/test_extending.py",
}
"""Pages whose blocks cannot be read without what they did before: the test that runs them."""

_PYTHON_RUN_BY = {
    "README.md": "tests/unit/test_docs_commands.py",
    "docs/devices.md": "tests/unit/test_docs_commands.py",
    "docs/distilling.md": "tests/unit/test_docs.py",
    "docs/extending.md": "tests/unit/test_extending.py",
    "docs/results.md": "tests/unit/test_docs_commands.py",
    "docs/serving.md": "tests/serving/test_docs.py",
}
"""The test that runs a page's blocks of Python."""

_OTHERS_RUN_BY = {
    ("README.md", "python -m mkdocs"): "tests/unit/test_api_pages.py",
    ("docs/jobs.md", "tensorboard"): "tests/end_to_end/test_tensorboard.py",
    ("docs/serving.md", "curl"): "tests/serving/test_docs.py",
    ("docs/scaling.md", "ray"): "tests/end_to_end/cluster.py",
    ("docs/decisions/0012-ray.md", "ray"): "tests/end_to_end/cluster.py",
    ("tests/benchmarks/README.md", "ray"): "tests/end_to_end/cluster.py",
    ("CONTRIBUTING.md", "make"): "tests/unit/test_docs_commands.py",
    ("CONTRIBUTING.md", "python -m pre_commit"): "tests/unit/test_docs_commands.py",
    ("docs/contributing.md", "python -m mkdocs"): "tests/unit/test_api_pages.py",
    ("docs/serving.md", "sha256sum"): "tests/unit/test_docs_commands.py",
}
"""Programs of others that a test runs as the page does, by page and name."""

_OTHERS_NOT_RUN = {
    ("docs/jobs.md", "srun"): "were not run here",
    ("docs/jobs.md", "scontrol"): "were not run here",
    ("docs/scaling.md", "srun"): "not run on Slurm here",
    ("docs/scaling.md", "scontrol"): "not run on Slurm here",
    ("docs/scaling.md", "head"): "not run on Slurm here",
    ("docs/serving.md", "docker"): "not run here",
}
"""Programs of others that cannot be run: what the section says so with."""

_INSTALLED_FROM_AN_INDEX = {"tensorflow-serving-api", "s3fs", "gcsfs"}
"""What pages tell to install beside this package; `pip` is run by the slow tests of bin/setup."""

_SHELL = {"for", "fi", "done", "exit", "export", "sleep", "["}
_SHELL_BEFORE = {"if", "then", "else", "do"}


class Command(NamedTuple):
    """A command of a page.

    Attributes:
        page: path of the page.
        section: text of the section that it stands in.
        words: program and arguments.
        whole: true in a block; in a sentence only some of the flags may stand.
    """

    page: str
    section: str
    words: list[str]
    whole: bool


def _statements(text: str) -> Iterator[list[str]]:
    """The simple commands of a piece of shell, in order."""
    text = re.sub(r"(?m)(^|\s)#.*$", r"\1", text)
    text = re.sub(r" *\\\n *", " ", text)
    text = re.sub(r"\$\(\(.*?\)\)", "1", text)
    # Whatever was set to, or is, the interpreter of the environment.
    text = re.sub(r"(?m)^\$\((bin/setup[^)]*)\)", r"\1\npython", text)
    text = re.sub(r"(?m)^(\$python|\.venv/bin/python)\b", "python", text)
    text = re.sub(r"(?m)^srun (.*?)(?=bin/)", r"srun \1\n", text)
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|()<>\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    for token in [*lexer, ";"]:
        if words[-1:] == [">"]:
            words.pop()
        elif token and set(token) <= {"<", ">"}:
            words.append(">")
        elif token and set(token) <= set(";&|()\n"):
            while words and (words[0] in _SHELL_BEFORE or re.match(r"\w+=", words[0])):
                words.pop(0)
            if words and words != ["$"] and words[0] not in _SHELL:
                yield words
            words = []
        else:
            words.append(token)


def test_statements_are_found_in_shell_as_pages_write_it() -> None:
    block = (
        "#!/bin/bash\n#SBATCH --nodes=4\npython=$(bin/setup --python)\n"
        "$python docs/a.py runs/a   # a comment\n"
        "A=1 bin/reproduce --seeds=0,1 \\\n  --workdir=\"$HOME/a b\" && bin/test -k 'x; y'\n"
        "for run in a b; do\n  bin/query --images=$run > out.txt\ndone\n"
        'if [ "$status" -eq 143 ]; then scontrol requeue "$ID"; fi\n'
        "srun --nodes=$((N - 1)) \\\n  ray start --block &\nsrun bin/export --help\n"
        '.venv/bin/python -c "import json\nprint(1)" > out.json\n'
        "$(bin/setup --python --dev) -m mkdocs serve\n"
    )
    assert list(_statements(block)) == [
        ["bin/setup", "--python"],
        ["python", "docs/a.py", "runs/a"],
        ["bin/reproduce", "--seeds=0,1", "--workdir=$HOME/a b"],
        ["bin/test", "-k", "x; y"],
        ["bin/query", "--images=$run"],
        ["scontrol", "requeue", "$ID"],
        ["srun", "--nodes=1", "ray", "start", "--block"],
        ["srun"],
        ["bin/export", "--help"],
        ["python", "-c", "import json\nprint(1)"],
        ["bin/setup", "--python", "--dev"],
        ["python", "-m", "mkdocs", "serve"],
    ]


_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.M | re.S)
_INDENTED = re.compile(r"^ {4}((?:\w+=\S+ )?(?:python|bin/\w+|pip) .*)$", re.M)
_KNOWN_OTHERS = {name for _, name in [*_OTHERS_RUN_BY, *_OTHERS_NOT_RUN]} - {"head"}
_INLINE = re.compile(
    r"`((?:bin/\w+|ddefense-\w+|python|\$python|pip|kubectl|sbatch|"
    + "|".join(sorted(map(re.escape, _KNOWN_OTHERS)))
    + r")(?:\s[^`]*)?|\w+\.py\s+--[^`]*)`"
)


def _commands(page: pathlib.Path) -> Iterator[Command]:
    """Every command of a page, of its blocks and of its sentences."""
    name = str(page.relative_to(_ROOT))
    for section in re.split(r"(?m)^(?=## )", page.read_text()):
        for language, block in _BLOCK.findall(section):
            text = block if language in ("sh", "bash", "console") else ""
            if language == "yaml":
                text = "\n".join(_entry_points(yaml.safe_load(block)))
            for words in _statements(text):
                yield Command(name, section, words, whole=True)
        prose = _BLOCK.sub("", section)
        for line in _INDENTED.findall(prose):
            for words in _statements(line):
                yield Command(name, section, words, whole=True)
        for span in _INLINE.findall(_INDENTED.sub("", prose)):
            # `<this>` stands for something, not for a file to read from.
            text = re.sub(r"<[^>]*>", "1", " ".join(span.split()))
            # Sentences about benchmarks leave out where they are.
            text = re.sub(r"^(\w+\.py)", r"python tests/benchmarks/\1", text)
            for words in _statements(text):
                yield Command(name, section, words, whole=False)


def _entry_points(value: object) -> Iterator[str]:
    """Commands of this package among the texts of a YAML document."""
    if isinstance(value, str) and value.startswith("ddefense-"):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _entry_points(inner)


_ALL = [command for page in _PAGES for command in _commands(page)]


def _is_ours(words: list[str]) -> bool:
    script = len(words) > 1 and words[0] == "python" and words[1].startswith(("tests/", "docs/"))
    return script or words[0].startswith(("bin/", "ddefense-"))


def _name(words: list[str]) -> str:
    return " ".join(words[:3] if words[:2] == ["python", "-m"] else words[:1])


_OURS = [command for command in _ALL if _is_ours(command.words)]
_OTHERS = [command for command in _ALL if not _is_ours(command.words)]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str]]:
    """Exit status and output of every command of ours, in order, when it was read."""
    folder = tmp_path_factory.mktemp("scratch")
    for name in ("bin", "docs"):
        (folder / name).symlink_to(_ROOT / name)
    for name in ("exported_models", "runs"):
        (folder / name).mkdir()
    model = "exported_models/digits_distilled_t100"
    (folder / model).symlink_to(_ROOT / model)
    # What the first run leaves.
    shutil.copytree(_ROOT / "docs/results/digits", folder / "runs/digits_quick")
    for command in _OURS:
        _provide(command.words, folder)
    return _read([(c.words, c.whole or c.words[0] == "bin/reproduce") for c in _OURS], folder)


def _provide(words: list[str], folder: pathlib.Path) -> None:
    """Makes what a command wants to be there, if by name only."""
    for word in words[1:]:
        flag, _, value = word.partition("=") if word.startswith("--") else ("", "", word)
        for path in (folder / part for part in value.split(",") if part):
            # What is committed has to be there.
            if path.exists() or path.is_relative_to(folder / "docs"):
                continue
            if path.suffix in (".keras", ".png", ".txt"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            elif (flag == "--data" and "/" in value) or flag == "--saved_model":
                path.mkdir(parents=True)
            elif flag == "--results":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(_ROOT / "docs/results/tutorial")
            elif words[0] == "bin/compare" and not flag:
                path.parent.mkdir(parents=True, exist_ok=True)
                # The same results twice in one command are refused.
                run = ("digits", "mnist", "cifar10")[words.index(word) % 3]
                path.symlink_to(_ROOT / "docs/results" / run)


def _without_the_outside(word: str) -> str:
    """A word without what only a shell knows, and what only others' packages reach."""
    return re.sub(r"\$\w+", "1", word).replace("s3://", "memory://")


def _read(commands: list[tuple[list[str], bool]], folder: pathlib.Path) -> list[tuple[int, str]]:
    given = [
        {"words": [_without_the_outside(word) for word in words], "whole": whole}
        for words, whole in commands
    ]
    answer = subprocess.run(
        [sys.executable, "-P", _ROOT / "tests/unit/parse_commands.py"],
        input=json.dumps(given),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    return [(status, printed) for status, printed in json.loads(answer.stdout)]


@pytest.mark.parametrize("page", sorted({command.page for command in _OURS}))
def test_the_programs_take_their_commands(page: str, answers: list[tuple[int, str]]) -> None:
    found = 0
    for command, (status, printed) in zip(_OURS, answers, strict=True):
        if command.page == page and not (command.whole and page in _RUN_WITH_ALL_ITS_COMMANDS):
            # A sentence may name a flag without its value.
            named = not command.whole and "Missing value for flag" in printed
            assert status == 0 or named, f"{shlex.join(command.words)}\n{printed}"
            found += 1
    assert found or page in _RUN_WITH_ALL_ITS_COMMANDS


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["bin/reproduce", "--epoch=3"], "Unknown command line flag 'epoch'"),
        (["bin/reproduce", "--attacks=jsma_f,jsma_g"], "jsma_g"),
        (["ddefense-reproduce", "--dataset=svhn"], "svhn"),
        (["bin/distill", "--data=photos/", "--network=none.keras"], "none.keras"),
        (["bin/evaluate", "--network=my.keras", "--data=photos/", "more"], "more"),
        (["bin/evaluate", "--network=my.keras"], "dataset"),
        (["bin/export", "--verify=nothing"], "nothing"),
        (["bin/query", "--model=m", "--images=docs/images/none.png"], "none.png"),
        (["bin/compare"], "RUN"),
        (["bin/setup", "--gpus"], "--gpus"),
        (["python", "tests/benchmarks/jsma_peers.py", "--peerage=art"], "--peerage"),
        (["python", "tests/benchmarks/scaling.py", "--parts", "all"], "all"),
        (["python", "tests/benchmarks/page.py", "--rounds", "x"], "--rounds"),
    ],
)
def test_a_command_that_is_wrong_is_found(
    words: list[str], complaint: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "my.keras").touch()
    ((status, printed),) = _read([(words, True)], tmp_path)
    assert status != 0
    assert complaint in printed


def test_what_bin_test_is_given_is_there() -> None:
    for command in _OURS:
        if command.words[0] == "bin/test":
            for word in command.words[1:]:
                assert "/" not in word or (_ROOT / word).exists(), shlex.join(command.words)


@pytest.mark.parametrize("page", sorted({command.page for command in _OTHERS}))
def test_programs_of_others_are_run_or_said_not_to_be(page: str) -> None:
    for command in _OTHERS:
        place = (page, _name(command.words))
        if command.page != page or command.words[:2] == ["pip", "install"]:
            continue
        if page in _RUN_WITH_ALL_ITS_COMMANDS and command.whole:
            continue
        assert place in _OTHERS_RUN_BY or place in _OTHERS_NOT_RUN, shlex.join(command.words)
        if place in _OTHERS_NOT_RUN:
            assert _OTHERS_NOT_RUN[place] in " ".join(command.section.split()), place


def test_a_manifest_says_that_it_was_not_applied() -> None:
    found = 0
    for page in _PAGES:
        for section in re.split(r"(?m)^(?=#+ )", page.read_text()):
            if any("apiVersion:" in block for _, block in _BLOCK.findall(section)):
                assert "This was not run on Kubernetes here" in section
                found += 1
    assert found


def test_the_tables_name_nothing_that_is_gone() -> None:
    there = {(command.page, _name(command.words)) for command in _OTHERS}
    assert {*_OTHERS_RUN_BY, *_OTHERS_NOT_RUN} <= there
    tests = [*_RUN_WITH_ALL_ITS_COMMANDS.items(), *_PYTHON_RUN_BY.items()]
    for page, test in [*tests, *((page, test) for (page, _), test in _OTHERS_RUN_BY.items())]:
        assert (_ROOT / page).exists()
        assert (_ROOT / test).exists()


def test_what_pip_is_told_to_install_can_be_asked_for() -> None:
    metadata = configparser.ConfigParser()
    metadata.read(_ROOT / "setup.cfg")
    extras = metadata["options.extras_require"]
    asked = [c.words[2:] for c in _OTHERS if c.words[:2] == ["pip", "install"]]
    assert asked
    for name in (name for names in asked for name in names):
        match = re.fullmatch(r"(?:\.|ddefense)\[([\w-]+)\]", name)
        assert match[1] in extras if match else name in _INSTALLED_FROM_AN_INDEX, name


def test_make_check_runs_every_check() -> None:
    answer = subprocess.run(["make", "-n", "check"], cwd=_ROOT, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (0, "bin/test --all\n")


def test_pre_commit_is_installed_as_the_page_says(tmp_path: pathlib.Path) -> None:
    shutil.copy(_ROOT / ".pre-commit-config.yaml", tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (words,) = (c.words for c in _OTHERS if _name(c.words) == "python -m pre_commit")
    environ = os.environ | {"PRE_COMMIT_HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, env=environ, check=True)
    assert (tmp_path / ".git/hooks/pre-commit").exists()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum")
def test_digests_are_checked_as_the_page_says() -> None:
    (words,) = (c.words for c in _OTHERS if c.words[0] == "sha256sum")
    version = _ROOT / "exported_models/digits_distilled_t100/1"
    assert subprocess.run(words, cwd=version, capture_output=True).returncode == 0


def _python_blocks(page: str) -> list[str]:
    blocks = _BLOCK.findall((_ROOT / page).read_text())
    return [text for language, text in blocks if language == "python"]


def test_every_block_of_python_is_run() -> None:
    pages = (str(page.relative_to(_ROOT)) for page in _PAGES)
    assert {page for page in pages if _python_blocks(page)} == _PYTHON_RUN_BY.keys()


@pytest.fixture
def after_a_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder as the first run leaves it: the committed run, and a model of it."""
    for place, what in {
        "runs/digits_quick": "docs/results/digits",
        "exported_models/digits_distilled_t20": "exported_models/digits_distilled_t100",
    }.items():
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).symlink_to(_ROOT / what)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_readme_runs(after_a_run: pathlib.Path) -> None:
    (block,) = _python_blocks("README.md")
    import_, load, call = block.strip().replace("\n\n", "\n").splitlines()
    known: dict[str, object] = {}
    exec(f"{import_}\n{load}\nfound = {call}", known)
    found = np.asarray(known["found"])
    assert found.shape == (1, 10)
    assert found.sum() == pytest.approx(1, abs=1e-5)


def test_the_python_of_the_page_on_results_runs(
    after_a_run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates, samples = _python_blocks("docs/results.md")
    exec(rates, {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines][::4] == ["baseline", "distilled_t100"]
    known: dict[str, object] = {}
    exec(samples, known)
    assert np.shape(known["image"]) == (28, 28, 1)


_TWO_DEVICES = """
class Reader(dict):
    # Devices are named before anything runs on one: what the reader has is made when asked for.
    def __missing__(self, name):
        import keras
        import numpy as np

        made = {
            "network": lambda: keras.Sequential(
                [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
            ),
            "images": lambda: np.zeros((128, 4, 4, 1), np.float32),
            "labels": lambda: np.arange(128) % 3,
        }
        if name not in made:
            raise KeyError(name)
        return made[name]()


known = Reader()
exec(BLOCK, {}, known)
print(len(known["tf"].config.list_logical_devices("CPU")), known["pair"].temperature)
"""


def test_the_python_of_the_page_on_devices_runs(
    run_python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: pathlib.Path
) -> None:
    (block,) = _python_blocks("docs/devices.md")
    # Fifty epochs of one step.
    answer = run_python("-c", f"BLOCK = {block!r}\n{_TWO_DEVICES}", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-1] == "2 20.0"
