"""The command line refuses what it cannot do in a few lines, with the right exit code."""

import dataclasses
import pathlib
import re
import shutil
import socket
import subprocess

import pytest

from ddefense import config as config_lib
from ddefense import records
from ddefense.pipeline import workdir

_ROOT = pathlib.Path(config_lib.__file__).parents[1]
USAGE, RUN = 2, 1

COMMAND, MODULE = "bin/reproduce", "ddefense.cli.main"
MISSING = ("tensorflow",)
LOADED = ("ddefense.reporting",)


@pytest.mark.slow
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
        (["--attacks=deepfool"], ["--attacks", "deepfool", "jsma_f", "cw_l2"]),
        (["--epsilon=0"], ["--epsilon", "(0, 1]", "0.0"]),
        (["--epsilon=8/255"], ["--epsilon=8/255", "float"]),
        (["--pgd_steps=0"], ["--pgd_steps", ">= 1", "0"]),
        (["--pgd_restarts=0"], ["--pgd_restarts", ">= 1", "0"]),
        (["--cw_samples=0"], ["--cw_samples", ">= 1", "0"]),
        (["--cw_steps=0"], ["--cw_steps", ">= 1", "0"]),
        (["--cw_search_steps=0"], ["--cw_search_steps", ">= 1", "0"]),
        (["--cw_learning_rate=0"], ["--cw_learning_rate", "> 0", "0"]),
        (["--cw_initial_c=-1"], ["--cw_initial_c", "> 0", "-1"]),
        (["--cw_all_targets_at=20,20"], ["--cw_all_targets_at", "once"]),
        (["--cw_all_targets_at=x"], ["--cw_all_targets_at", "'x'"]),
        (["--kappas=40,0"], ["--kappas", "rising"]),
        (["--kappas="], ["--kappas", "rising"]),
        (["--kappas=a"], ["--kappas", "'a'"]),
        (["--costly_samples=0"], ["--costly_samples", ">= 1", "0"]),
        (["--labels_only_queries=0"], ["--labels_only_queries", ">= 1", "0"]),
        (["--defense=none"], ["--defense=none", "distillation", "adversarial_training"]),
        (["--adversarial_epochs=0"], ["--adversarial_epochs", ">= 1", "0"]),
        (["--adversarial_steps=0"], ["--adversarial_steps", ">= 1", "0"]),
        (["--dropout=1"], ["--dropout", "[0, 1)"]),
        (["--seed=-1"], ["--seed", ">= 0"]),
        (["--seed=0,1"], ["--seed=0,1", "int()"]),
        (["--seeds=a"], ["--seeds", "such as 0,1,2", "'a'"]),
        (["--seeds="], ["--seeds", "''"]),
        (["--seeds=0,0"], ["--seeds", "different", "'0,0'"]),
        (["--seeds=0,-1"], ["--seeds", ">= 0", "'0,-1'"]),
        (["--seeds=0.5"], ["--seeds", "integers", "'0.5'"]),
        (["--seeds=1,2", "--seed=0"], ["--seeds", "--seed;", "both"]),
        (["--precision=float16"], ["--precision=float16", "float32", "mixed_bfloat16"]),
        (["--learning_rate_decay=0"], ["--learning_rate_decay", "(0, 1]", "0.0"]),
        (["--learning_rate_decay=1.5"], ["--learning_rate_decay", "(0, 1]", "1.5"]),
        (["--learning_rate_decay=nan"], ["--learning_rate_decay", "(0, 1]", "nan"]),
        (["--momentum_decay=-0.5"], ["--momentum_decay", "(0, 1]", "-0.5"]),
        (["--momentum_decay=half"], ["--momentum_decay=half", "float"]),
        (["--decay_epochs=0"], ["--decay_epochs", ">= 1", "0"]),
        (["--decay_epochs=2.5"], ["--decay_epochs=2.5", "int()"]),
        (["--threads=-1"], ["--threads", ">= 0", "-1"]),
        (["--threads=two"], ["--threads=two", "int()"]),
        (["--threads=100000000000"], ["--threads", "4096"]),
        (["--jit_compile=maybe"], ["--jit_compile", "maybe"]),
        (["--misclassified=maybe"], ["--misclassified", "maybe"]),
        (["--devices=0"], ["--devices", ">= 1", "0"]),
        (["--devices=two"], ["--devices=two", "int()"]),
        (["--devices=9", "--batch_size=8"], ["--devices", "at most 8", "batch_size", "9"]),
        (
            ["--devices=2", "--defense=adversarial_training"],
            ["--devices", "1 with adversarial_training", "2"],
        ),
        (["--executor=dask"], ["--executor=dask", "local", "ray"]),
        (["--ray_address=auto"], ["--ray_address", "--executor=ray", "auto"]),
        (["--num_gpus=0.5"], ["--num_gpus", "--executor=ray", "0.5"]),
        (["--num_gpus=-1", "--executor=ray"], ["--num_gpus", "-1"]),
        (["--max_concurrent=0", "--executor=ray"], ["--max_concurrent", "0"]),
        (["--task_retries=3"], ["--task_retries", "--executor=ray", "3"]),
        (["--executor=ray", "--threads=0"], ["--threads", "at least 1", "--executor=ray"]),
        (["--executor=ray", "--devices=2"], ["--devices", "--num_gpus", "2"]),
        (["--executor=ray", "--ray_address=head"], ["--ray_address", "<host>:<port>", "'head'"]),
        (["--executor=ray", "--ray_address=127.0.0.1:1"], ["--ray_address", "127.0.0.1:1"]),
        (
            ["--executor=ray", "--storage=memory://a"],
            ["--storage", "memory://a", "other processes"],
        ),
        (["--storage=nosuch://a"], ["--storage", "nosuch://a", "s3://bucket/sweep"]),
        (["--nojit_compile=1"], ["--nojit_compile=1"]),
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
    assert found.returncode == 0
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
    commands = {
        "samples": ["--samples=361"],
        "missing": ["--dataset=cifar10", "--data_dir=data"],
    }
    folders = {name: tmp_path_factory.mktemp(name) for name in commands}
    (folders["missing"] / "data").mkdir()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        # Bound but not listening: connections are refused, wherever the tests run.
        proxy = f"http://127.0.0.1:{unused.getsockname()[1]}"
        variables = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy)
        variables |= {"no_proxy": "", "NO_PROXY": ""}
        started = {
            name: start_python(
                *("-m", "ddefense.cli", "--preset=smoke", "--workdir=run", *arguments),
                cwd=folders[name],
                **variables,
            )
            for name, arguments in commands.items()
        }
        ended = {name: process.communicate(timeout=300) for name, process in started.items()}
    return {
        name: (subprocess.CompletedProcess([], started[name].returncode, *ended[name]), folder)
        for name, folder in folders.items()
    }


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
from ddefense.cli import main
sys.argv = ["bin/reproduce", "--executor=ray"]
main.run()
"""


def test_without_the_extra_ray_it_is_named(run_python, folder):
    found = run_python("-c", WITHOUT_RAY, cwd=folder)
    assert found.returncode == USAGE
    assert found.stderr.splitlines()[0] == (
        "--executor: ray expects the extra ray, which is not installed. Install it with: "
        "pip install 'ddefense[ray]'"
    )


def test_more_samples_than_test_images_are_refused_before_anything_is_made(refused):
    found, folder = refused["samples"]
    assert found.returncode == USAGE
    lines = found.stderr.splitlines()
    assert len(lines) == 2
    assert "samples: expected at most 360" in lines[0]
    assert "received 361" in lines[0]
    assert not list(folder.iterdir())


def test_missing_data_is_refused_with_the_way_to_get_it(refused):
    found, folder = refused["missing"]
    assert_run_error(found, "data/cifar10", "cannot be reached", "--data_dir", "TFDS_DATA_DIR")
    assert [path.name for path in folder.iterdir()] == ["data"]


# Every field that may be changed from the command line, with another value than the preset's.
CHANGES = {
    "temperatures": "3",
    "epochs": "3",
    "warm_start_steps": "3",
    "batch_size": "3",
    "learning_rate": "0.3",
    "momentum": "0.3",
    "learning_rate_decay": "0.3",
    "momentum_decay": "0.3",
    "decay_epochs": "3",
    "dropout": "0.3",
    "samples": "3",
    "gradient_samples": "3",
    "attacks": "jsma_z",
    "theta": "0.3",
    "max_features": "4",
    "shard_samples": "3",
    "attack_batch_size": "3",
    "epsilon": "0.1",
    "pgd_steps": "3",
    "pgd_restarts": "3",
    "cw_samples": "3",
    "cw_all_targets_at": "20",
    "cw_steps": "7",
    "cw_search_steps": "7",
    "cw_learning_rate": "0.3",
    "cw_initial_c": "0.3",
    "kappas": "0,7",
    "costly_samples": "7",
    "labels_only_queries": "7",
    "defense": "adversarial_training",
    "adversarial_epochs": "7",
    "adversarial_steps": "3",
    "precision": "mixed_bfloat16",
    "jit_compile": "true",
    "threads": "3",
    "misclassified": "true",
    "devices": "2",
}


@pytest.fixture
def made(tmp_path):
    """Run directories of one seed (7) and of two (7 and 8), with the smoke preset."""
    for name, seed in (("one", 7), ("several/seed_7", 7), ("several/seed_8", 8)):
        records.dump(
            config_lib.preset("smoke", "digits", seed=seed), tmp_path / name / "config.json"
        )
    return tmp_path


def files_in(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seeds"), [("one", ["--seed=7"]), ("several", ["--seeds=7,8"])], ids=["one", "several"]
)
@pytest.mark.parametrize(
    "changed",
    # Not every training can be split over devices.
    [("learning_rate",), ("precision", "devices"), tuple(CHANGES.keys() - {"devices"})],
    ids=["one", "two", "all others"],
)
def test_every_changed_setting_is_named(cli, made, name, seeds, changed):
    before = files_in(made)
    flags = [f"--{field}={CHANGES[field]}" for field in changed]
    found = cli("--preset=smoke", f"--workdir={made / name}", *seeds, *flags)
    belongs = made / name / ("" if name == "one" else "seed_7")
    assert_run_error(found, "workdir", f"{belongs} belongs to", "another configuration")
    for field in CHANGES:
        assert (f" {field} (" in found.stderr) == (field in changed), field
    assert files_in(made) == before


def test_changes_names_every_field():
    fixed = {"dataset", "preset", "seed", "reduced"}
    assert set(CHANGES) == {field.name for field in dataclasses.fields(config_lib.Config)} - fixed


def test_another_seed_or_dataset_is_named(cli, made):
    found = cli("--preset=smoke", f"--workdir={made / 'one'}", "--seed=8", "--dataset=mnist")
    assert_run_error(found, "seed (7 there, 8 now)", "dataset ('digits' there, 'mnist' now)")


def test_one_seed_and_several_do_not_share_a_directory(cli, made):
    before = files_in(made)
    found = cli("--preset=smoke", f"--workdir={made / 'one'}", "--seeds=7,8")
    assert_run_error(found, "workdir", "belongs to a run of one seed")
    found = cli("--preset=smoke", f"--workdir={made / 'several'}", "--seed=7")
    assert_run_error(found, "workdir", "belongs to a run with --seeds")
    assert files_in(made) == before


@pytest.mark.parametrize("seeds", [[], ["--seeds=0,1"]], ids=["one", "several"])
def test_a_directory_with_foreign_contents_is_refused(cli, tmp_path, seeds):
    (tmp_path / "thesis.tex").write_text("precious")
    found = cli("--preset=smoke", f"--workdir={tmp_path}", *seeds)
    assert_run_error(found, "workdir", str(tmp_path), "which ")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert (tmp_path / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "held", "seeds"),
    [
        ("one", "one", ["--seed=7"]),
        ("several", "several", ["--seeds=7,8"]),
        ("several", "several/seed_8", ["--seeds=7,8"]),
    ],
    ids=["one", "several", "one of several"],
)
def test_a_directory_in_use_is_refused(cli, made, name, held, seeds):
    before = files_in(made)
    with workdir.held(made / held):
        found = cli("--preset=smoke", f"--workdir={made / name}", *seeds)
    assert_run_error(found, "workdir: another process is running in", str(made / held))
    assert files_in(made) == before


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "flag",
    [
        *("--epochs=999999999999999999999", "--seeds=0,99999999999999999999", "--seed=4294967296"),
        *("--learning_rate=inf", "--temperatures=nan", "--num_gpus=nan", "--max_concurrent=1e30"),
        *("--workdir=", "--workdir=file", "--workdir=file/below", f"--workdir={'n' * 300}"),
        "--export_dir=",
    ],
)
def test_a_value_that_no_run_could_use_is_a_usage_error(cli, folder, flag):
    (folder / "file").touch()
    found = cli("--preset=smoke", *(["--workdir=new"] if "workdir" not in flag else []), flag)
    assert found.returncode == USAGE
    assert flag.partition("=")[0].lstrip("-") in found.stderr
    assert "Traceback" not in found.stderr
    assert not (folder / "new").exists()


@pytest.mark.slow
def test_a_report_alone_names_no_model_that_is_gone(cli, tmp_path):
    for name in ("results.json", "samples.npz"):
        shutil.copy(_ROOT / "docs/results/digits" / name, tmp_path)
    (tmp_path / "config.json").write_text("{")  # nothing that a report needs
    found = cli("--report_only", f"--workdir={tmp_path}")
    assert found.returncode == 0, found.stderr
    paths = re.findall(r"(?m)^(?:results|models?|page|report): (.*)$", found.stderr)
    assert len(paths) == 3
    assert all(pathlib.Path(path).exists() for path in paths)
