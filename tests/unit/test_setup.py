"""What bin/setup decides, what the scripts beside it run, and the metadata they rest on.

The scripts run as a user would run them, on a copy of the checkout: only one test installs
anything, the others are given an empty environment that a stamp declares ready.
"""

import configparser
import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ddefense

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ["requirements.lock", "requirements-gpu.lock"]
COPIED = [
    *("setup.cfg", "setup.py", "pyproject.toml", "requirements.in", *LOCKS),
    *("LICENSE", ".pre-commit-config.yaml", ".gitignore"),
]


def run(*command, cwd="/", **variables):
    environ = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # The scripts start with `env python3`: make that the Python that runs the tests.
    environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), environ["PATH"]])
    environ.update(variables)
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True)


def run_setup(checkout, *options, python=sys.executable, **variables):
    return run(python, checkout / "bin" / "setup", *options, **variables)


def load_setup(checkout):
    loader = importlib.machinery.SourceFileLoader("setup_script", str(checkout / "bin" / "setup"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    return module


def make_empty(environment):
    command = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
    subprocess.run(command, check=True)


def declare_ready(checkout, kind="CPU"):
    environment = getattr(load_setup(checkout), kind)
    environment.stamp.write_text(environment.fingerprint())
    return next((environment.folder / "lib").glob("python*/site-packages"))


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def section(*keys):
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg")
    value = metadata
    for key in keys:
        value = value[key]
    return value


@pytest.fixture
def bare(tmp_path):
    """A copy of the checkout with no environment, and nothing in the package but its version."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "bin", checkout / "bin", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / ".ci", checkout / ".ci")
    (checkout / "ddefense").mkdir()
    for name in [*COPIED, "ddefense/__init__.py", "ddefense/version.py"]:
        shutil.copy(ROOT / name, checkout / name)
    return checkout


@pytest.fixture
def checkout(bare):
    """The same with a .venv that counts as ready."""
    make_empty(bare / ".venv")
    declare_ready(bare)
    return bare


@pytest.fixture
def both(checkout):
    """The same with a .venv-gpu beside it whose TensorFlow sees as many GPUs as GPUS says."""
    make_empty(checkout / ".venv-gpu")
    packages = declare_ready(checkout, "GPU")
    (packages / "tensorflow.py").write_text(
        "import os, types\n"
        "gpus = range(int(os.environ['GPUS']))\n"
        "config = types.SimpleNamespace(list_physical_devices={'GPU': gpus}.get)\n"
    )
    return checkout


class TestMetadata:
    def test_version_is_the_literal_that_setup_cfg_reads(self):
        assert section("metadata", "version") == "attr: ddefense.version.__version__"
        assert re.fullmatch(r"\d+\.\d+\.\d+", ddefense.__version__)

    def test_importing_the_package_loads_no_tensorflow(self):
        code = "import sys, ddefense; print(sorted({'keras', 'tensorflow'} & set(sys.modules)))"
        answer = run(sys.executable, "-c", code, PYTHONPATH=str(ROOT))
        assert answer.stdout.strip() == "[]", answer.stderr

    def test_the_package_says_that_it_is_typed(self):
        assert (ROOT / "ddefense" / "py.typed").exists()
        assert section("options.package_data", "ddefense") == "py.typed"


RUN_TIME = list(filter(None, section("options", "install_requires").splitlines()))
EXTRAS = [
    line
    for extra in ("labels-only", "ray", "tensorboard")
    for line in section("options.extras_require", extra).split("\n")
    if line
]
DEV = [
    line
    for extra in ("dev", "docs")
    for line in section("options.extras_require", extra).split("\n")
    if line
]


def pins(lock):
    """The entries of a lock by name, each with its hashes."""
    entries = re.findall(r"^(([\w.-]+)==.*(?:\n +.*)*)", (ROOT / lock).read_text(), re.MULTILINE)
    return {name: entry for entry, name in entries}


PINS, GPU_PINS = map(pins, LOCKS)


def pinned(entry):
    (clause,) = Requirement(entry.split("\\")[0]).specifier
    assert clause.operator == "=="
    return clause.version


class TestLock:
    @pytest.mark.parametrize("line", RUN_TIME + EXTRAS + DEV)
    def test_pins_what_setup_cfg_asks_for(self, line):
        requirement = Requirement(line)
        assert pinned(PINS[canonicalize_name(requirement.name)]) in requirement.specifier

    @pytest.mark.parametrize("line", RUN_TIME + EXTRAS)
    def test_for_gpus_pins_what_a_run_needs(self, line):
        requirement = Requirement(line)
        assert pinned(GPU_PINS[canonicalize_name(requirement.name)]) in requirement.specifier

    def test_for_gpus_has_the_same_versions_and_cuda_besides(self):
        shared = PINS.keys() & GPU_PINS.keys()
        assert {name: pinned(GPU_PINS[name]) for name in shared} == {
            name: pinned(PINS[name]) for name in shared
        }
        added = GPU_PINS.keys() - shared
        assert {"nvidia-cudnn-cu12", "nvidia-cublas-cu12"} <= added
        assert all(name.startswith("nvidia-") for name in added)

    def test_for_gpus_has_tensorflow_once(self):
        assert "tensorflow-cpu" not in GPU_PINS
        assert Requirement(GPU_PINS["tensorflow"].split("\\")[0]).marker is None

    @pytest.mark.parametrize("line", RUN_TIME + EXTRAS + DEV)
    def test_is_made_from_the_same_bounds(self, line):
        if not line.startswith("tensorflow>"):  # The lock takes one of two builds instead.
            assert line in (ROOT / "requirements.in").read_text().splitlines()

    def test_gives_each_platform_one_tensorflow(self):
        markers = [
            Requirement(PINS[name].split("\\")[0]).marker
            for name in ("tensorflow", "tensorflow-cpu")
        ]
        for system in ("linux", "darwin", "win32"):
            for machine in ("x86_64", "aarch64", "arm64", "AMD64"):
                platform = {"sys_platform": system, "platform_machine": machine}
                assert sum(marker.evaluate(platform) for marker in markers) == 1, platform

    @pytest.mark.parametrize(("name", "pins"), [(LOCKS[0], PINS), (LOCKS[1], GPU_PINS)])
    def test_has_a_hash_for_every_pin(self, name, pins):
        text = (ROOT / name).read_text()
        assert len(pins) == len(re.findall("^[^ #\n]", text, re.MULTILINE)) > 50
        assert all("--hash=sha256:" in entry for entry in pins.values())

    @pytest.mark.parametrize("name", ["requirements.in", "requirements-gpu.in", *LOCKS])
    def test_names_no_host(self, name):
        assert "://" not in (ROOT / name).read_text()


class TestChoice:
    def test_active_python_with_this_checkout_and_every_dependency(self, checkout):
        answer = run_setup(checkout, "--python", "--dev", PYTHONPATH=str(checkout))
        assert answer.stdout.strip() == sys.executable, answer.stderr
        assert answer.stderr == ""

    def test_not_one_without_this_checkout(self, checkout):
        answer = run_setup(checkout, "--python")
        assert answer.stdout.strip() == str(checkout / ".venv" / "bin" / "python"), answer.stderr

    def test_not_one_that_finds_it_in_the_current_folder_only(self, checkout):
        for path in ("", ".", "checkout"):
            folder = checkout.parent if path == "checkout" else checkout
            answer = run_setup(checkout, "--python", cwd=folder, PYTHONPATH=path)
            assert answer.stdout.strip() == str(checkout / ".venv" / "bin" / "python")

    def test_not_one_without_what_a_run_needs(self, checkout, tmp_path):
        make_empty(tmp_path / "active")
        active = tmp_path / "active" / "bin" / "python"
        answer = run_setup(checkout, "--python", python=active, PYTHONPATH=str(checkout))
        assert answer.stdout.strip() == str(checkout / ".venv" / "bin" / "python"), answer.stderr

    def test_development_tools_matter_only_where_they_are_used(self, checkout, tmp_path):
        make_empty(tmp_path / "active")
        active = tmp_path / "active" / "bin" / "python"
        packages = next((tmp_path / "active" / "lib").glob("python*/site-packages"))
        for name in ("tensorflow", "keras", "pydantic"):
            (packages / f"{name}.py").touch()
        for options, chosen in (([], active), (["--dev"], checkout / ".venv" / "bin" / "python")):
            answer = run_setup(
                checkout, "--python", *options, python=active, PYTHONPATH=str(checkout)
            )
            assert answer.stdout.strip() == str(chosen), answer.stderr


class TestReadiness:
    def test_second_call_is_instant(self, checkout):
        durations = []
        for _ in range(3):
            started = time.perf_counter()
            answer = run_setup(checkout)
            durations.append(time.perf_counter() - started)
            assert (answer.returncode, answer.stderr) == (0, "bin/setup: .venv is ready\n")
        assert min(durations) < 1.0

    def test_ends_with_a_change_of_the_lock(self, checkout):
        environment = load_setup(checkout).CPU
        assert environment.is_ready()
        edit(checkout / "requirements.lock", "numpy==", "numpy==1")
        assert not environment.is_ready()

    def test_does_not_move_with_a_copy(self, checkout, tmp_path):
        shutil.copytree(checkout, tmp_path / "copy", symlinks=True)
        assert not load_setup(tmp_path / "copy").CPU.is_ready()

    def test_is_not_claimed_by_a_damaged_stamp(self, checkout):
        (checkout / ".venv" / "ready").write_text("")
        assert not load_setup(checkout).CPU.is_ready()


class TestGpu:
    @pytest.mark.parametrize(
        ("count", "seen"),
        [
            ("0", "0 GPU(s) in it: runs use the CPU"),
            ("8", "8 GPU(s) in it"),
        ],
    )
    def test_ends_with_the_gpus_that_tensorflow_sees(self, both, count, seen):
        answer = run_setup(both, "--gpu", GPUS=count)
        assert (answer.returncode, answer.stdout) == (0, "")
        assert answer.stderr == (
            f"bin/setup: .venv-gpu is ready\nbin/setup: TensorFlow sees {seen}\n"
        )

    def test_says_when_tensorflow_does_not_start(self, both):
        answer = run_setup(both, "--gpu", GPUS="none")
        assert answer.returncode == 1
        assert "error: TensorFlow does not start in .venv-gpu; see above" in answer.stderr

    def test_is_refused_where_there_is_no_cuda_build(self, checkout, tmp_path):
        (tmp_path / "sitecustomize.py").write_text(
            "import platform\nplatform.machine = lambda: 'riscv64'\n"
        )
        answer = run_setup(checkout, "--gpu", PYTHONPATH=str(tmp_path))
        assert (answer.returncode, answer.stdout) == (1, "")
        assert answer.stderr == (
            "bin/setup: error: .venv-gpu is for linux on x86_64, where TensorFlow has a CUDA "
            f"build; this is {sys.platform} on riscv64\n"
        )
        assert not (checkout / ".venv-gpu").exists()

    def test_is_chosen_for_runs_where_it_exists_but_not_for_tests(self, both):
        for options, name in (([], ".venv-gpu"), (["--dev"], ".venv")):
            answer = run_setup(both, "--python", *options)
            assert answer.stdout.strip() == str(both / name / "bin" / "python"), answer.stderr
        shutil.rmtree(both / ".venv-gpu")
        answer = run_setup(both, "--python")
        assert answer.stdout.strip() == str(both / ".venv" / "bin" / "python"), answer.stderr

    def test_gives_way_to_an_active_python_that_will_do(self, both):
        answer = run_setup(both, "--python", PYTHONPATH=str(both))
        assert answer.stdout.strip() == sys.executable, answer.stderr

    @pytest.mark.parametrize("name", [".venv", ".venv-gpu"])
    def test_an_active_environment_of_ours_is_the_one_used(self, both, name):
        python = both / name / "bin" / "python"
        # As for any other Python, what PYTHONPATH adds does not count in it.
        answer = run_setup(both, "--python", python=python, PYTHONPATH=str(both))
        assert answer.stdout.strip() == str(python), answer.stderr

    def test_has_a_readiness_of_its_own(self, both):
        setup = load_setup(both)
        edit(both / "requirements-gpu.lock", "numpy==", "numpy==1")
        assert setup.CPU.is_ready()
        assert not setup.GPU.is_ready()
        declare_ready(both, "GPU")
        edit(both / "requirements.lock", "numpy==", "numpy==1")
        assert setup.GPU.is_ready()
        assert not setup.CPU.is_ready()

    def test_that_cannot_be_made_says_how_to_do_without(self, both):
        edit(both / "requirements-gpu.lock", "numpy==", "numpy==1")
        edit(both / "bin" / "setup", "NEWEST, OLDEST = 13, 11", "NEWEST, OLDEST = 98, 98")
        answer = run_setup(both, "--python", PATH="/nowhere")
        assert (answer.returncode, answer.stdout) == (1, "")
        (line,) = answer.stderr.splitlines()
        assert "expected a Python 3.98" in line
        assert line.endswith(f" (without {both / '.venv-gpu'}, runs use .venv)")

    def test_python_under_an_environment_outlives_it(self, both):
        code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['find_python']())"
        for name in (".venv", ".venv-gpu"):
            answer = run(both / name / "bin" / "python", "-c", code, both / "bin" / "setup")
            assert Path(answer.stdout.strip()).exists(), answer.stderr
            assert both not in Path(answer.stdout.strip()).parents

    def test_takes_no_other_action(self, both):
        assert run_setup(both, "--gpu", "--python").returncode == 2


class TestRefusals:
    def test_no_supported_python(self, bare, tmp_path):
        # The running one counts as too old, and what PATH has fails, as a manager's stand-in does.
        edit(bare / "bin" / "setup", "NEWEST, OLDEST = 13, 11", "NEWEST, OLDEST = 98, 98")
        stand_in = tmp_path / "bin" / "python3.98"
        stand_in.parent.mkdir()
        stand_in.write_text("#!/bin/sh\necho 'python3.98: not selected' >&2\nexit 127\n")
        stand_in.chmod(0o755)
        answer = run_setup(bare, PATH=str(stand_in.parent))
        assert (answer.returncode, answer.stdout) == (1, "")
        (last,) = answer.stderr.splitlines()
        assert "expected a Python 3.98 to 3.98 that can make environments, found none" in last
        assert "Install python3.98" in last

    def test_supported_versions_are_those_of_setup_cfg(self):
        setup = load_setup(ROOT)
        supported = f">=3.{setup.OLDEST},<3.{setup.NEWEST + 1}"
        assert section("options", "python_requires") == supported

    def test_folder_in_the_way(self, bare):
        kept = bare / ".venv" / "thesis.txt"
        kept.parent.mkdir()
        kept.write_text("irreplaceable")
        answer = run_setup(bare)
        assert answer.returncode == 1
        assert "is in the way, and no environment: move it elsewhere" in answer.stderr
        assert kept.read_text() == "irreplaceable"


class TestReproduce:
    @pytest.fixture
    def job(self, checkout):
        """A checkout whose main job reports how it was started, and ends with status 7."""
        (declare_ready(checkout) / "checkout.pth").write_text(f"{checkout}\n")
        (checkout / "ddefense" / "cli").mkdir()
        (checkout / "ddefense" / "cli" / "__init__.py").touch()
        (checkout / "ddefense" / "cli" / "__main__.py").write_text(
            "import json, os, sys, ddefense\n"
            "print(json.dumps([sys.executable, os.getcwd(), sys.argv[1:], ddefense.__file__]))\n"
            "sys.exit(7)\n"
        )
        return checkout

    def test_runs_this_checkout_from_anywhere(self, job, tmp_path):
        other = tmp_path / "other place"
        (other / "ddefense").mkdir(parents=True)
        (other / "ddefense" / "__init__.py").write_text("raise RuntimeError('not this one')\n")
        (other / "link").symlink_to(job / "bin" / "reproduce")
        for command in (job / "bin" / "reproduce", "./link"):
            answer = run(command, "--a", "b c", cwd=other, PYTHONPATH=str(other))
            assert answer.returncode == 7, answer.stderr
            assert json.loads(answer.stdout) == [
                str(job / ".venv" / "bin" / "python"),
                str(other),
                ["--a", "b c"],
                str(job / "ddefense" / "__init__.py"),
            ]

    def test_takes_no_modules_from_elsewhere_into_the_gpu_environment(self, job, tmp_path):
        make_empty(job / ".venv-gpu")
        (declare_ready(job, "GPU") / "checkout.pth").write_text(f"{job}\n")
        (tmp_path / "ddefense.py").write_text("raise RuntimeError('not this one')\n")
        answer = run(job / "bin" / "reproduce", PYTHONPATH=str(tmp_path))
        assert answer.returncode == 7, answer.stderr
        assert json.loads(answer.stdout)[0] == str(job / ".venv-gpu" / "bin" / "python")

    def test_stops_when_there_is_no_environment(self, job):
        shutil.rmtree(job / ".venv")
        (job / ".venv").write_text("a file")
        answer = run(job / "bin" / "reproduce")
        assert answer.returncode == 1
        assert "is in the way, and no environment" in answer.stderr


class TestTesting:
    @pytest.fixture
    def tested(self, checkout):
        """A checkout with a test that passes and a slow one that fails."""
        (checkout / "tests").mkdir()
        (checkout / "tests" / "test_two.py").write_text(
            '"""Two tests."""\n\nimport pytest\n\n\ndef test_quick():\n    assert True\n\n\n'
            "@pytest.mark.slow\ndef test_slow():\n    pytest.fail()\n"
        )
        return checkout

    def test_plain_leaves_out_the_slow_and_says_so(self, tested):
        answer = run(tested / "bin" / "test", PYTHONPATH=str(tested))
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert "1 passed" in answer.stdout
        assert "2 workers" in answer.stdout
        assert answer.stdout.splitlines()[-1] == (
            "bin/test: left out: tests marked slow and the checks of .pre-commit-config.yaml; "
            "bin/test --all runs everything"
        )

    def test_arguments_and_status_are_those_of_pytest(self, tested):
        answer = run(tested / "bin" / "test", "-m", "slow", PYTHONPATH=str(tested))
        assert answer.returncode == 1
        assert "1 failed, 1 deselected" in answer.stdout
        answer = run(tested / "bin" / "test", "-k", "nothing", PYTHONPATH=str(tested))
        assert answer.returncode == pytest.ExitCode.NO_TESTS_COLLECTED

    @pytest.mark.slow
    def test_all_runs_no_test_after_a_failed_check(self, tested):
        (tested / "ddefense" / "records.py").write_text("import  os\n")
        answer = run(tested / "bin" / "test", "--all", PYTHONPATH=str(tested))
        assert answer.returncode == 1
        for name in ("format", "lint", "imports"):
            assert re.search(rf"bin/test: {name} +FAILED", answer.stdout), answer.stdout
        assert re.search("bin/test: types +(ok|FAILED)", answer.stdout), answer.stdout
        assert re.search("bin/test: spaces +not run: .* no .git", answer.stdout), answer.stdout
        assert answer.stdout.splitlines()[-1] == "bin/test: tests     not run: a check failed"

    @pytest.mark.slow
    def test_all_in_a_clone_looks_at_tracked_files_too(self, tested, tmp_path):
        notes = tested / "notes.md"
        notes.write_text("A space at the end \n")
        (tested / "broken.toml").write_text("a = \n")
        for arguments in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *arguments], cwd=tested, check=True)
        variables = {"PYTHONPATH": str(tested), "PRE_COMMIT_HOME": str(tmp_path / "home")}
        answer = run(tested / "bin" / "test", "--all", **variables)
        assert answer.returncode == 1
        for name, outcome in {"spaces": "FAILED", "toml": "FAILED", "yaml": "ok"}.items():
            assert re.search(rf"bin/test: {name} +{outcome}", answer.stdout), answer.stdout
        assert answer.stdout.splitlines()[-1] == "bin/test: tests     not run: a check failed"
        assert notes.read_text() == "A space at the end\n"


class TestContinuousIntegration:
    TOOLS = ("bash", "chmod", "dirname", "env", "git", "mktemp", "rm", "sed", "sh")

    @pytest.fixture
    def integrate(self, bare, tmp_path):
        """Runs .ci/run where there are only the Pythons that are given, and 3.12, the checkout's.

        The commands that it runs say what they are and under which Python; a Python is given by
        its version and the exit status of `bin/test` under it.
        """

        def script(path, *lines):
            path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
            path.chmod(0o755)

        def integrate(**statuses):
            (folder := tmp_path / "a path").mkdir()
            for tool in self.TOOLS:
                (folder / tool).symlink_to(shutil.which(tool))
            script(folder / "chromium")
            script(folder / "python3", "echo own")
            for minor, status in statuses.items():
                version = f"3.{minor[1:]}"
                # -c: where it is.
                answers = f'-c) echo "$0";; status) exit {status};; *) echo {version};;'
                script(folder / f"python{version}", f'case "$1" in {answers} esac')
            script(bare / ".ci" / "python", "echo 3.12")
            script(bare / "bin" / "reproduce", 'echo "reproduce $* $(python3)"')
            script(bare / "bin" / "test", 'echo "test $* $(python3)"', '[ "$1" ] || python3 status')
            git = ["git", "-C", str(bare), "-c", "user.name=a", "-c", "user.email=a@example.org"]
            for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "All"]):
                subprocess.run([*git, *arguments], check=True)
            (scratch := tmp_path / "scratch").mkdir()
            answer = run(bare / ".ci" / "run", "-x", PATH=str(folder), TMPDIR=str(scratch))
            assert not list(scratch.iterdir()), answer.stderr
            first, *lines = answer.stdout.splitlines()
            return answer.returncode, first, [line for line in lines if "fresh" not in line]

        return integrate

    def test_the_oldest_and_the_newest_python_do_what_the_readme_says(self, integrate):
        status, first, lines = integrate(m11=0, m13=0)
        assert "found Python 3.11 3.12 3.13; not found: none" in first
        assert lines == [
            *("reproduce --preset=smoke 3.11", "test  3.11"),
            *("reproduce --preset=smoke 3.13", "test  3.13"),
            "test --all -x own",
        ]
        assert status == 0

    def test_what_is_not_here_is_said(self, integrate):
        status, first, lines = integrate(m11=0)
        assert "found Python 3.11 3.12; not found: 3.13" in first
        assert lines == ["reproduce --preset=smoke 3.11", "test  3.11", "test --all -x own"]
        assert status == 0

    def test_it_fails_where_another_python_does(self, integrate):
        status, _, lines = integrate(m13=3)
        assert lines == ["reproduce --preset=smoke 3.13", "test  3.13"]
        assert status == 3


def wait_until(holds, seconds=120):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def index_is_reachable(folder):
    command = [sys.executable, "-m", "pip", "--retries", "0", "--timeout", "10", "download"]
    return run(*command, "--no-deps", "--dest", folder, "importlib_resources").returncode == 0


@pytest.mark.slow
class TestInstallation:
    def test_from_nothing_through_an_interruption(self, bare, tmp_path):
        if not index_is_reachable(tmp_path / "fetched"):
            pytest.skip("pip cannot fetch a small package here: no package index within reach")
        shutil.copytree(ROOT / "ddefense", bare / "ddefense", dirs_exist_ok=True)
        command = [sys.executable, bare / "bin" / "setup"]
        first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in first.stderr:
            if "making the environment" in line:
                break
        wait_until((bare / ".venv" / "bin" / "uv").exists)
        first.send_signal(signal.SIGKILL)
        first.wait()
        first.stderr.close()
        assert not load_setup(bare).CPU.is_ready()

        # Two at once: one makes it, the other waits.
        callers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        messages = "".join(caller.communicate()[1] for caller in callers)
        assert [caller.returncode for caller in callers] == [0, 0], messages
        assert messages.count("making the environment") == 1, messages

        assert run_setup(bare).stderr == "bin/setup: .venv is ready\n"
        scripts = bare / ".venv" / "bin"
        where = run(scripts / "python", "-c", "import ddefense; print(ddefense.__file__)")
        assert where.stdout.strip() == str(bare / "ddefense" / "__init__.py"), where.stderr
        help_text = run(scripts / "ddefense-reproduce", "--helpshort")
        assert "ddefense" in help_text.stdout + help_text.stderr
