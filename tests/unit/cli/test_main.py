"""The command line refuses what it cannot do in a few lines, with the right exit code."""

import json
import socket
import subprocess

import pytest

from ddefense import config as config_lib
from ddefense import records

USAGE, RUN = 2, 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands run: none of these may leave anything there."""
    return tmp_path_factory.mktemp("cwd")


@pytest.fixture
def cli(run_python, folder):
    def run(*arguments, **variables):
        found = run_python("-m", "ddefense.cli", *arguments, cwd=folder, **variables)
        assert "Traceback" not in found.stderr
        return found

    return run


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--dataset=cifar"], ["--dataset=cifar", "digits", "mnist"]),
        (["--preset=tiny"], ["--preset=tiny", "paper", "quick", "smoke"]),
        (["--tempratures=1"], ["tempratures"]),
        (["--temperatures=0"], ["--temperatures", "> 0"]),
        (["--temperatures=1,-1"], ["--temperatures", "-1"]),
        (["--temperatures=nan"], ["--temperatures", "nan"]),
        (["--temperatures=inf"], ["--temperatures", "inf"]),
        (["--temperatures=abc"], ["--temperatures", "abc", "1,20,100"]),
        (["--temperatures="], ["--temperatures"]),
        (["--temperatures=5,5"], ["--temperatures", "once"]),
        (["--max_features=11.5"], ["--max_features", "11.5"]),
        (["--max_features=111"], ["--max_features", "even", "111"]),
        (["--theta=0"], ["--theta", "0"]),
        (["--theta=nan"], ["--theta", "nan"]),
        (["--samples=0"], ["--samples", ">= 1", "0"]),
        (["--attacks=fgsm"], ["--attacks", "fgsm", "jsma_f"]),
        (["--dropout=1"], ["--dropout", "[0, 1)"]),
        (["--seed=-1"], ["--seed", ">= 0"]),
        (["digits"], ["flags only", "digits"]),
        (["--flagfile=no_such_file"], ["no_such_file"]),
    ],
    ids=lambda value: value[0] if value and value[0].startswith("--") else "",
)
def test_a_mistaken_command_is_refused_with_its_usage(cli, folder, arguments, named):
    found = cli(*arguments)
    assert found.returncode == USAGE
    assert found.stdout == ""
    for part in named:
        assert part in found.stderr
    lines = found.stderr.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("Usage: bin/reproduce [flags]")
    assert not list(folder.iterdir())


def test_help_lists_the_flags_and_needs_no_tensorflow(run_python, folder):
    found = run_python("-X", "importtime", "-m", "ddefense.cli", "--help", cwd=folder)
    for field in ("dataset", "preset", "temperatures", "workdir", "report_only"):
        assert f"--{field}" in found.stdout.replace("[no]", "")
    imported = {line.split("|")[-1].strip() for line in found.stderr.splitlines()}
    assert "ddefense.cli.flags" in imported  # or the next line would say nothing
    assert not imported & {"tensorflow", "keras", "tensorflow_datasets", "sklearn"}


def test_flags_may_come_from_a_file(cli, tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text("# one flag per line\n--temperatures=1,zero\n")
    found = cli(f"--flagfile={file}")
    assert found.returncode == USAGE
    assert "'1,zero'" in found.stderr


def assert_run_error(found, *named):
    assert found.returncode == RUN
    lines = found.stderr.splitlines()
    assert len(lines) == 1, lines
    for part in named:
        assert part in lines[0]


@pytest.fixture(scope="module")
def refused(start_python, tmp_path_factory):
    """Commands that fail after TensorFlow is imported; all at once, because that takes a while.

    Their outcomes by name, with the folder that each one ran in.
    """
    folders = {
        name: tmp_path_factory.mktemp(name) for name in ("samples", "other", "foreign", "missing")
    }
    records.dump(
        config_lib.preset("smoke", "digits", seed=7), folders["other"] / "run" / "config.json"
    )
    (folders["foreign"] / "run").mkdir()
    (folders["foreign"] / "run" / "thesis.tex").write_text("precious")
    (folders["missing"] / "data").mkdir()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        # Bound but not listening: connections are refused, wherever the tests run.
        proxy = f"http://127.0.0.1:{unused.getsockname()[1]}"
        variables = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy)
        variables |= {"no_proxy": "", "NO_PROXY": ""}
        arguments = {
            "samples": ["--samples=361"],
            "other": ["--seed=8"],
            "foreign": [],
            "missing": ["--dataset=mnist", "--data_dir=data"],
        }
        started = {
            name: start_python(
                *("-m", "ddefense.cli", "--preset=smoke", "--workdir=run", *arguments[name]),
                cwd=folder,
                **variables,
            )
            for name, folder in folders.items()
        }
        ended = {name: process.communicate(timeout=300) for name, process in started.items()}
    return {
        name: (subprocess.CompletedProcess([], started[name].returncode, *ended[name]), folder)
        for name, folder in folders.items()
    }


def test_more_samples_than_test_images_are_refused_before_anything_is_made(refused):
    found, folder = refused["samples"]
    assert found.returncode == USAGE
    lines = found.stderr.splitlines()
    assert len(lines) == 2
    assert "--samples: expected at most 360" in lines[0]
    assert "received 361" in lines[0]
    assert not list(folder.iterdir())


def test_a_directory_of_another_configuration_is_refused(refused):
    found, folder = refused["other"]
    assert_run_error(found, "--workdir", "run", "seed (7 there, 8 now)")
    assert [path.name for path in (folder / "run").iterdir()] == ["config.json"]
    assert json.loads((folder / "run" / "config.json").read_text())["seed"] == 7


def test_a_directory_with_foreign_contents_is_refused(refused):
    found, folder = refused["foreign"]
    assert_run_error(found, "--workdir", "run", "has contents but no config.json")
    assert [path.name for path in (folder / "run").iterdir()] == ["thesis.tex"]
    assert (folder / "run" / "thesis.tex").read_text() == "precious"


def test_missing_data_is_refused_with_the_way_to_get_it(refused):
    found, folder = refused["missing"]
    assert found.returncode == RUN
    assert "Traceback" not in found.stderr
    # TFDS may have warned before.
    for part in ("mnist", "data/mnist", "cannot be reached", "--data_dir", "TFDS_DATA_DIR"):
        assert part in found.stderr.splitlines()[-1]
    assert [path.name for path in folder.iterdir()] == ["data"]


def test_there_is_nothing_to_report_on_in_an_empty_directory(cli, tmp_path):
    found = cli("--report_only", f"--workdir={tmp_path}")
    assert_run_error(found, str(tmp_path / "results.json"), "No such file")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", '{"schema_version": 1,', '{"networks": []}'])
def test_damaged_results_are_named_and_kept(cli, tmp_path, content):
    results = tmp_path / "results.json"
    results.write_text(content)
    found = cli("--report_only", f"--workdir={tmp_path}")
    assert_run_error(found, str(results), "damaged")
    assert results.read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
