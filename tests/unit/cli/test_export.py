"""`bin/export` refuses what it cannot do in a few lines, before TensorFlow is imported."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from ddefense import config, files, records
from ddefense.cli import values

USAGE, RUN = 2, 1
RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results" / "digits"
NETWORK = f"--network={RESULTS / 'networks' / 'distilled_t20.keras'}"

COMMAND, MODULE = "bin/export", "ddefense.cli.export"
MISSING = ("tensorflow", "keras", "tensorflow_datasets", "sklearn")

# The models' names, class names and ranges that flags make.
PARSE = """
import json, pathlib, sys
from absl import flags
from ddefense.cli import export, flags as cli_flags, values
from ddefense.experiments import known_results

cli_flags.define_for_export()
found = []
for arguments in json.loads(sys.argv[1]):
    flags.FLAGS.unparse_flags()
    assert flags.FLAGS(["bin/export", *arguments])[1:] == []
    asked = flags.FLAGS
    network = pathlib.Path(asked.network)
    known = known_results.find(network, pathlib.Path(asked.results) if asked.results else None)
    dataset = known.dataset if known else asked.dataset
    found.append([
        export._name(network, dataset),
        values.class_names(asked.class_names) if asked.class_names else None,
        values.value_range(asked.value_range) if asked.value_range else None,
    ])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Copies of a network without its results: under its own name, and under others."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("distilled_t20", "mine", "a b", "7", ".hidden"):
        shutil.copy(RESULTS / "networks" / "distilled_t20.keras", folder / f"{name}.keras")
    return folder


@pytest.fixture
def attack_run(tmp_path):
    """The directory of a run of bin/attack on the network: as little as it can hold."""
    run = records.AttackRun(
        network="its.keras",
        sha256=files.sha256(RESULTS / "networks" / "distilled_t20.keras"),
        substitute=None,
        temperature=None,
        dataset="digits",
        config=config.preset("smoke", "digits"),
        environment={},
        timings={},
        test_accuracy=0.5,
        sample_indices=[],
        attacks={},
        transfer=[],
    )
    records.dump(run, tmp_path / "attacked" / "attack.json")
    return tmp_path / "attacked"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ["--network", ".keras", "--verify", "--write_server_config", "none"]),
        (["--network="], ["--network", ".keras", "none"]),
        (["--network=missing.keras"], ["--network", "'missing.keras'"]),
        (["--network=."], ["--network", "'.'"]),
        ([NETWORK, "--name=a/b"], ["--name", "'a/b'", "letters"]),
        ([NETWORK, "--name=.a"], ["--name", "'.a'"]),
        ([NETWORK, "--name=.."], ["--name", "'..'"]),
        ([NETWORK, "--name=a:b"], ["--name", "'a:b'"]),
        ([NETWORK, "--name="], ["--name", "''"]),
        ([NETWORK, "--name=12"], ["--name", "'12'", "a version"]),
        ([NETWORK, "--class_names=one"], ["--class_names", "at least two", "'one'"]),
        ([NETWORK, "--class_names=one,,two"], ["--class_names", "empty", "'one,,two'"]),
        ([NETWORK, "--class_names="], ["--class_names", "at least two"]),
        ([NETWORK, "--class_names=a,b,a"], ["--class_names", "different", "received a more than"]),
        ([NETWORK, "--class_names=@no.txt"], ["--class_names", "'@no.txt'", "No such file"]),
        ([NETWORK, "--value_range=1"], ["--value_range", "two", "'1'"]),
        ([NETWORK, "--value_range=1,0"], ["--value_range", "lower first", "'1,0'"]),
        ([NETWORK, "--value_range=0,nan"], ["--value_range", "finite", "'0,nan'"]),
        ([NETWORK, "--value_range=0,inf"], ["--value_range", "finite"]),
        ([NETWORK, "--value_range=0,1,2"], ["--value_range", "two"]),
        ([NETWORK, "--value_range=a,b"], ["--value_range", "'a,b'"]),
        ([NETWORK, "--quantize=int8"], ["--quantize", "--dataset"]),
        ([NETWORK, "--quantize=int4"], ["--quantize=int4", "int8"]),
        ([NETWORK, "--dataset=mnist"], ["--dataset", "expected digits", "received mnist"]),
        ([NETWORK, "--dataset=cifar"], ["--dataset=cifar", "digits"]),
        ([NETWORK, "--results=missing"], ["--results", "'missing'", "results.json", "attack.json"]),
        ([NETWORK, "--server_base=models"], ["--server_base", "absolute", "'models'"]),
        (["--write_server_config", "--server_base=../m"], ["--server_base", "'../m'"]),
        (["--write_server_config", "--name=a"], ["--write_server_config", "--name"]),
        (["--verify=missing"], ["--verify", "'missing'"]),
        (["--verify="], ["--verify", "''"]),
        ([f"--verify={'n' * 300}"], ["--verify", "expected the directory"]),
        ([NETWORK, "--export_dir="], ["--export_dir", "''"]),
        (["--verify=.", NETWORK], ["--verify", "without --network"]),
        (["--verify=.", "--write_server_config"], ["--verify", "--write_server_config"]),
        # Flags of other commands mean nothing here.
        ([NETWORK, "--workdir=run"], ["workdir"]),
        ([NETWORK, "--samples=3"], ["samples"]),
        ([str(RESULTS / "networks" / "baseline.keras")], ["flags only", "baseline.keras"]),
    ],
    ids=lambda value: value[-1].rsplit("/", 1)[-1] if value else "nothing",
)
def test_a_mistaken_command_is_refused_with_its_usage(cli, folder, arguments, named):
    found = cli(*arguments)
    assert found.returncode == USAGE
    assert found.stdout == ""
    for part in named:
        assert part in found.stderr
    lines = found.stderr.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("Usage: bin/export [flags]")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", ["a b", "7", ".hidden"])
def test_a_file_whose_name_is_none_for_a_model(cli, elsewhere, name):
    found = cli(f"--network={elsewhere / name}.keras")
    assert found.returncode == USAGE
    assert f"received {name!r}, after the network's file. Give one with --name" in found.stderr


def test_results_of_other_networks_are_refused(cli, elsewhere):
    found = cli(f"--network={elsewhere / 'mine.keras'}", f"--results={RESULTS}")
    assert found.returncode == USAGE
    assert "--results: expected results about 'mine'" in found.stderr
    assert "is about baseline, distilled_t1" in found.stderr


def test_results_without_the_runs_own_network_are_refused(cli, elsewhere, tmp_path):
    """Where there is no digest either, nothing tells whose results they are."""
    results = records.load(records.Results, RESULTS / "results.json")
    nameless = [dataclasses.replace(n, weights_sha256=None) for n in results.networks]
    records.dump(dataclasses.replace(results, networks=nameless), tmp_path / "results.json")
    found = cli(f"--network={elsewhere / 'distilled_t20.keras'}", f"--results={tmp_path}")
    assert found.returncode == USAGE
    assert str(tmp_path / "networks" / "distilled_t20.keras") in found.stderr


def test_attacks_on_another_file_are_refused(cli, attack_run):
    other = RESULTS / "networks" / "baseline.keras"
    for given in (attack_run, attack_run / "attack.json"):
        found = cli(f"--network={other}", f"--results={given}", "--name=a")
        assert found.returncode == USAGE
        assert "--results: expected attacks on " in found.stderr
        assert f"{attack_run / 'attack.json'} is about its.keras" in found.stderr
    found = cli(NETWORK, f"--results={attack_run}", "--dataset=mnist")
    assert "--dataset: expected digits, on which" in found.stderr


def assert_run_error(found, *named):
    assert found.returncode == RUN
    lines = found.stderr.splitlines()
    assert len(lines) == 1, lines
    for part in named:
        assert part in lines[0]


def test_damaged_results_are_named(cli, tmp_path):
    (tmp_path / "networks").mkdir()
    shutil.copy(RESULTS / "networks" / "distilled_t20.keras", tmp_path / "networks")
    (tmp_path / "results.json").write_text("{")
    found = cli(f"--network={tmp_path / 'networks' / 'distilled_t20.keras'}")
    assert_run_error(found, str(tmp_path / "results.json"), "damaged")


def test_an_export_directory_that_is_a_file_is_refused(cli, tmp_path):
    (tmp_path / "file").touch()
    found = cli(NETWORK, f"--export_dir={tmp_path / 'file'}")
    assert found.returncode == USAGE
    assert "--export_dir: expected a directory that can be written" in found.stderr


def test_there_is_nothing_to_serve(cli, tmp_path):
    (tmp_path / "model").mkdir()
    found = cli("--write_server_config", f"--export_dir={tmp_path}")
    assert_run_error(found, "Expected exported models in", str(tmp_path), "bin/export --network=")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_there_is_nothing_to_verify(cli, tmp_path):
    assert_run_error(cli(f"--verify={tmp_path}"), str(tmp_path / "1"), "several models", "is none")


def test_damaged_versions_are_named_without_tensorflow(cli, tmp_path):
    versions = [tmp_path / name for name in ("a/2", "a/10", "b/1")]
    for version in versions:
        version.mkdir(parents=True)
        (version / "saved_model.pb").touch()
    for directory, expected in ((tmp_path / "a", versions[:2]), (tmp_path, versions)):
        found = cli(f"--verify={directory}")
        assert found.returncode == RUN
        for line, version in zip(found.stderr.splitlines(), expected, strict=True):
            assert line.startswith(f"FAIL {version}: Expected the manifest")


def test_help_lists_the_flags_and_needs_no_tensorflow(run_python, folder):
    found = run_python("-X", "importtime", "-m", "ddefense.cli.export", "--help", cwd=folder)
    for field in ("network", "name", "class_names", "value_range", "expose_logits", "verify"):
        assert f"--{field}" in found.stdout.replace("[no]", "")
    for field in ("temperatures", "workdir", "attacks", "seed", "preset"):
        assert f"--{field}:" not in found.stdout.replace("[no]", "")
    imported = {line.split("|")[-1].strip() for line in found.stderr.splitlines()}
    assert "ddefense.cli.flags" in imported  # or the next line would say nothing
    assert not imported & {"tensorflow", "keras", "tensorflow_datasets", "sklearn"}


def test_class_names_are_not_read_from_a_fifo_which_might_not_end(tmp_path):
    os.mkfifo(tmp_path / "names")
    with pytest.raises(config.ConfigError, match=r"class_names: expected @<text.*it is a FIFO"):
        values.class_names(f"@{tmp_path / 'names'}")


def test_names_ranges_and_classes(run_python, folder, elsewhere):
    mine = f"--network={elsewhere / 'mine.keras'}"
    copy = f"--network={elsewhere / 'distilled_t20.keras'}"
    (folder.parent / "labels.txt").write_text("\ufeffcat \nbig, dog\n\n", encoding="utf-8")
    commands = [
        [NETWORK],
        [NETWORK, "--name=my_model"],
        [mine, "--class_names=cat, dog", "--value_range=0,255"],
        [mine, "--dataset=mnist", "--class_names=@../labels.txt", "--value_range=-1,1"],
        [mine, "--name=v1.0-b", '--class_names="big, dog",cät'],
        [copy],
        [copy, f"--results={RESULTS}"],
        [copy, f"--results={RESULTS / 'results.json'}"],
    ]
    found = run_python("-c", PARSE, json.dumps(commands), cwd=folder)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == [
        ["digits_distilled_t20", None, None],
        ["my_model", None, None],
        ["mine", ["cat", "dog"], [0, 255]],
        ["mnist_mine", ["cat", "big, dog"], [-1, 1]],
        ["v1.0-b", ["big, dog", "cät"], None],
        ["distilled_t20", None, None],
        ["digits_distilled_t20", None, None],
        ["digits_distilled_t20", None, None],
    ]
