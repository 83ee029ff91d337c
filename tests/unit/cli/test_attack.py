"""`bin/attack` refuses what it cannot do in a few lines, before TensorFlow is imported."""

import dataclasses
import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from ddefense import attack_catalog, records
from ddefense import config as config_lib
from ddefense.cli import attack_flags
from ddefense.experiments import workdir

pytestmark = pytest.mark.slow

USAGE, RUN = 2, 1
ROOT = Path(__file__).resolve().parents[3]
NETWORKS = ROOT / "docs" / "results" / "digits" / "networks"
NETWORK = f"--network={NETWORKS / 'distilled_t20.keras'}"
DIGITS = "--dataset=digits"
SUBSTITUTE = f"--substitute={NETWORKS / 'baseline.keras'}"
BOTH = (SUBSTITUTE, "--temperature=20")
MODEL = f"--model={ROOT / 'exported_models' / 'digits_distilled_t100'}"

COMMAND, MODULE = "bin/attack", "ddefense.cli.attack"
MISSING = ("tensorflow",)

# What the flags ask for, and what is said of it.
PARSE = """
import dataclasses, json, sys
from absl import flags
from ddefense.cli import attack, attack_flags

attack_flags.define_for_attack()
found = []
for arguments in json.loads(sys.argv[1]):
    flags.FLAGS.unparse_flags()
    assert flags.FLAGS(["bin/attack", *arguments])[1:] == []
    config, workdir = attack._configure()
    found.append([dataclasses.asdict(config), str(workdir), attack_flags.left_out()])
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ["--network", ".keras", "none"]),
        (["--network="], ["--network", ".keras", "none"]),
        (["--network=missing.keras"], ["--network", "'missing.keras'"]),
        (["--network=."], ["--network", "'.'"]),
        ([NETWORK, "--substitute=missing.keras"], ["--substitute", "'missing.keras'"]),
        ([NETWORK, "--temperature=0"], ["--temperature", "> 0", "0.0"]),
        ([NETWORK, "--temperature=-1"], ["--temperature", "> 0", "-1.0"]),
        ([NETWORK, "--temperature=nan"], ["--temperature", "> 0", "nan"]),
        ([NETWORK, "--temperature=inf"], ["--temperature", "finite", "inf"]),
        ([NETWORK, "--temperature=hot"], ["--temperature=hot", "float"]),
        ([NETWORK], ["--dataset: expected", "['digits', 'mnist', 'fashion_mnist', 'cifar10']"]),
        ([NETWORK, "--dataset=cifar"], ["--dataset=cifar", "digits", "mnist"]),
        (
            [NETWORK, DIGITS, "--attacks=transfer_cw_l2"],
            ["--attacks", "--substitute=", "transfer_cw_l2"],
        ),
        ([NETWORK, DIGITS, "--attacks=cw_l2,transfer_cw_l2"], ["--attacks", "--substitute="]),
        (
            [NETWORK, DIGITS, "--attacks=jsma_f,jsma_f_temperature,fgsm_temperature_targeted"],
            ["--attacks", "--temperature=", "with jsma_f_temperature, fgsm_temperature_targeted;"],
        ),
        (
            [NETWORK, DIGITS, SUBSTITUTE, "--attacks=transfer_cw_l2,pgd_linf_temperature"],
            ["--attacks", "--temperature=", "with pgd_linf_temperature;"],
        ),
        ([NETWORK, DIGITS, "--attacks=deepfool"], ["--attacks", "deepfool", "jsma_f", "cw_l2"]),
        ([NETWORK, DIGITS, "--attacks="], ["--attacks"]),
        ([NETWORK, DIGITS, "--attacks=fgsm,fgsm"], ["--attacks", "once"]),
        ([NETWORK, DIGITS, "--epsilon=2"], ["--epsilon", "(0, 1]", "2.0"]),
        (
            [NETWORK, DIGITS, "--samples=4", "--cw_samples=5"],
            ["--cw_samples", "at most 4", "--samples", "received 5"],
        ),
        (
            [NETWORK, DIGITS, "--samples=4", "--costly_samples=5"],
            ["--costly_samples", "at most 4", "--samples", "received 5"],
        ),
        (
            [NETWORK, DIGITS, "--preset=smoke", "--cw_samples=3"],
            ["--cw_samples", "at most 2", "--samples", "received 3"],
        ),
        ([NETWORK, DIGITS, "--data=photos"], ["--data", "--dataset=digits", "'photos'"]),
        ([NETWORK, DIGITS, "--image_shape=8x8"], ["--image_shape", "with --data"]),
        ([NETWORK, DIGITS, "--class_names=a,b"], ["--class_names", "with --data"]),
        ([NETWORK, DIGITS, "--value_range=1,0"], ["--value_range", "'1,0'"]),
        ([NETWORK, "--data=photos", "--value_range=1"], ["--value_range", "'1'"]),
        ([NETWORK, "--data=photos", "--test_share=0"], ["--test_share", "(0, 1]", "0.0"]),
        ([NETWORK, "--data=photos", "--image_shape=8"], ["--image_shape", "'8'"]),
        ([NETWORK, MODEL, DIGITS], ["--network", "--model", "both"]),
        (["--model=missing", DIGITS], ["--model", "saved_model.pb", "'missing'"]),
        (["--model=.", DIGITS], ["--model", "saved_model.pb", "'.'"]),
        ([f"--network={MODEL[8:]}", DIGITS], ["--network", ".keras", f"--model={MODEL[8:]}"]),
        ([NETWORK, DIGITS, "--signature=serve"], ["--signature", "with --model", "--network"]),
        ([NETWORK, DIGITS, "--logits_output=z"], ["--logits_output", "with --model"]),
        ([MODEL, DIGITS, "--model_range=1"], ["--model_range: expected", "'1'"]),
        (
            [MODEL, DIGITS, "--logits_output=z", "--probabilities_output=p"],
            ["--probabilities_output", "--logits_output", "both"],
        ),
        (
            [MODEL, DIGITS, "--attacks=jsma_f,jsma_z,cw_l2"],
            ["--attacks", "--logits_output=", "with jsma_z, cw_l2;"],
        ),
        # Flags of training mean nothing here.
        ([NETWORK, "--epochs=3"], ["epochs"]),
        ([NETWORK, "--temperatures=20"], ["temperatures"]),
        ([NETWORK, "--export_dir=exported"], ["export_dir"]),
        ([NETWORK, "--seeds=0,1"], ["seeds"]),
        ([str(NETWORKS / "baseline.keras")], ["flags only", "baseline.keras"]),
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
    assert lines[1].startswith("Usage: bin/attack [flags]")
    assert not list(folder.iterdir())


def test_help_lists_the_flags_and_needs_no_tensorflow(run_python, folder):
    found = run_python("-X", "importtime", "-m", "ddefense.cli.attack", "--help", cwd=folder)
    for field in ("network", "substitute", "temperature", "gradient_samples", "attacks", "workdir"):
        assert f"--{field}" in found.stdout.replace("[no]", "")
    for field in ("temperatures", "epochs", "export_dir", "seeds", "defense"):
        assert f"--{field}:" not in found.stdout.replace("[no]", "")
    imported = {line.split("|")[-1].strip() for line in found.stderr.splitlines()}
    assert "ddefense.cli.flags" in imported  # or the next line would say nothing
    assert not imported & {"tensorflow", "keras", "tensorflow_datasets", "sklearn"}


def with_a_softmax(path):
    """A stored network whose layer `logits` gives probabilities."""
    with zipfile.ZipFile(NETWORKS / "baseline.keras") as source, zipfile.ZipFile(path, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                config = json.loads(content)
                for layer in config["config"]["layers"]:
                    if layer["config"]["name"] == "logits":
                        layer["config"]["activation"] = "softmax"
                content = json.dumps(config)
            copy.writestr(name, content)


@pytest.fixture(scope="module")
def refused(start_python, tmp_path_factory):
    """Commands that fail after TensorFlow is imported; at once, because that takes a while.

    Their outcomes by name, with the folder that each one ran in.
    """
    made = {
        "text": lambda path: path.write_text("no network"),
        "probabilities": with_a_softmax,
    }
    folders = {name: tmp_path_factory.mktemp(name) for name in made}
    started = {}
    for name, make in made.items():
        make(folders[name] / "mine.keras")
        started[name] = start_python(
            *("-m", "ddefense.cli.attack", "--network=mine.keras", DIGITS, "--attacks=fgsm"),
            cwd=folders[name],
        )
    ended = {name: process.communicate(timeout=300) for name, process in started.items()}
    return {
        name: (subprocess.CompletedProcess([], started[name].returncode, *ended[name]), folder)
        for name, folder in folders.items()
    }


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("text", ["--network: expected a .keras file that Keras can load", "'mine.keras'"]),
        ("probabilities", ["--network: mine.keras: ", "one softmax", "ends in two"]),
    ],
)
def test_a_network_that_cannot_be_attacked_is_refused_before_anything_is_made(refused, name, named):
    found, folder = refused[name]
    assert found.returncode == USAGE
    assert found.stdout == ""
    message, usage = found.stderr.splitlines()
    for part in named:
        assert part in message
    assert usage.startswith("Usage: bin/attack [flags]")
    assert [path.name for path in folder.iterdir()] == ["mine.keras"]


def assert_run_error(found, *named):
    assert found.returncode == RUN
    lines = found.stderr.splitlines()
    assert len(lines) == 1, lines
    for part in named:
        assert part in lines[0]


@pytest.fixture
def made(tmp_path):
    """The run directory of another configuration."""
    config = config_lib.preset("smoke", "digits", attacks=("fgsm",), epsilon=0.1)
    records.dump(config, tmp_path / "config.json")
    return tmp_path


def test_a_directory_of_another_configuration_is_refused(cli, made):
    before = {path: path.read_bytes() for path in made.iterdir()}
    asked = (NETWORK, DIGITS, "--preset=smoke", "--attacks=fgsm", "--epsilon=0.2")
    found = cli(*asked, f"--workdir={made}")
    assert_run_error(found, "--workdir", str(made), "epsilon (0.1 there, 0.2 now)")
    assert {path: path.read_bytes() for path in made.iterdir()} == before


def test_a_directory_in_use_is_refused(cli, made):
    with workdir.held(made):
        asked = (NETWORK, DIGITS, "--preset=smoke", "--attacks=fgsm", "--epsilon=0.1")
        found = cli(*asked, f"--workdir={made}")
    assert_run_error(found, "--workdir: another process is running in", str(made))


def test_a_directory_with_foreign_contents_is_refused(cli, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    found = cli(NETWORK, DIGITS, f"--workdir={tmp_path}")
    assert_run_error(found, "--workdir", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.fixture(scope="module")
def parse(run_python, folder):
    """The configuration, run directory and remarks that flags make, for several commands."""

    def parse(*commands):
        found = run_python("-c", PARSE, json.dumps(commands), cwd=folder)
        assert found.returncode == 0, found.stderr
        made = json.loads(found.stdout)
        return [(config_lib.Config(**config), path, said) for config, path, said in made]

    return parse


BY_TEMPERATURE = "jsma_f_temperature, fgsm_temperature, pgd_linf_temperature"


def test_attacks_of_a_preset_that_lack_what_they_need_are_left_out_with_a_word(parse):
    preset = config_lib.preset("smoke", "digits")
    asked = [NETWORK, DIGITS, "--preset=smoke"]
    (none, _, lines), (without, _, line), (unscaled, _, other), (everything, _, silent) = parse(
        asked, [*asked, "--temperature=20"], [*asked, SUBSTITUTE], [*asked, *BOTH]
    )
    lacking = {"transfer_cw_l2", *BY_TEMPERATURE.split(", ")}
    assert lacking < set(preset.attacks)

    def less(left_out):
        names = tuple(name for name in preset.attacks if name not in left_out)
        return dataclasses.replace(preset, attacks=names)

    assert none == less(lacking)
    assert without == less({"transfer_cw_l2"})
    assert unscaled == less(lacking - {"transfer_cw_l2"})
    assert everything == preset
    assert lines == [*other, *line]
    assert (len(line), len(other), silent) == (1, 1, [])
    assert line[0].startswith("Left out transfer_cw_l2 (")
    assert line[0].endswith("; --substitute=<undistilled .keras network> brings it in.")
    assert other[0].startswith(f"Left out {BY_TEMPERATURE} (")
    assert other[0].endswith("; --temperature=<T that the network was trained at> brings them in.")


def test_named_attacks_are_run_as_named(parse):
    names = ("transfer_cw_l2", "fgsm", "fgsm_temperature")
    named = f"--attacks={','.join(names)}"
    (config, _, lines), (few, _, none) = parse(
        [NETWORK, DIGITS, named, *BOTH], [NETWORK, DIGITS, "--attacks=fgsm"]
    )
    assert (config.attacks, lines) == (names, [])
    assert (few.attacks, none) == (("fgsm",), [])


def test_a_saved_model_without_logits_leaves_out_what_needs_them(parse):
    """Each attack once, by the first thing that it lacks."""
    preset = config_lib.preset("smoke", "digits")
    asked = [MODEL, DIGITS, "--preset=smoke"]
    (probabilities, _, lines), (of_logits, _, others), (all_, _, none) = parse(
        [*asked, *BOTH], [*asked, "--logits_output=z"], [*asked, "--logits_output=z", *BOTH]
    )
    on_probabilities = {*attack_catalog.PROBABILITY_ATTACKS} & {*preset.attacks}
    assert set(probabilities.attacks) == on_probabilities
    (line,) = lines
    for name in {*preset.attacks} - on_probabilities:
        assert name in line
    assert line.endswith("; --logits_output=<name of the output that is logits> brings them in.")
    assert len(others) == 2
    assert {"cw_l2", "jsma_z"} < set(of_logits.attacks)
    assert (all_, none) == (preset, [])


@pytest.mark.parametrize(("named", "found"), [(".", "9"), ("2", "2"), ("9", "9")])
def test_the_newest_version_of_a_model_is_attacked(tmp_path, named, found):
    """Of those with a graph."""
    for version in ("2", "10", "9"):
        (tmp_path / version).mkdir()
    for version in ("2", "9"):
        (tmp_path / version / "saved_model.pb").write_bytes(b"")
    assert attack_flags.version_of(tmp_path / named) == tmp_path / found


def test_a_folder_without_a_graph_is_no_model(tmp_path):
    (tmp_path / "1").mkdir()
    assert attack_flags.version_of(tmp_path) is None
    assert attack_flags.version_of(tmp_path / "nothing") is None


def test_data_of_ones_own_has_a_directory_of_its_own(parse):
    commands = [
        [NETWORK, "--data=photos"],
        [NETWORK, "--data=photos", "--value_range=0,255"],
        [NETWORK, "--data=photos", "--test_share=1"],
        [NETWORK, "--data=photos", "--image_shape=8x8"],
        [NETWORK, "--data=other/photos"],
        [NETWORK, DIGITS, "--value_range=0,255"],
        [MODEL, "--data=photos"],
        [MODEL, "--data=photos", "--signature=serve"],
        [MODEL, "--data=photos", "--model_range=0,255"],
        [MODEL, "--data=photos", "--logits_output=z"],
    ]
    found = parse(*commands)
    assert len({path for _, path, _ in found}) == len(commands)
    assert [config.dataset for config, _, _ in found[:5]] == ["photos"] * 5
    ((folder, _, _), (file, _, _)) = parse(
        [NETWORK, "--data=some/photos/"], [NETWORK, "--data=some/digits.v2.npz"]
    )
    assert (folder.dataset, file.dataset) == ("photos", "digits.v2")


def test_an_empty_list_of_temperatures_is_one(parse):
    ((config, _, _),) = parse([NETWORK, DIGITS, "--preset=paper", "--cw_all_targets_at="])
    assert config.cw_all_targets_at == ()


def test_samples_that_no_flag_names_are_as_many_as_there_are(parse):
    (by_preset, _, _), (as_many, _, _) = parse(
        [NETWORK, DIGITS, "--preset=paper", "--samples=5"],
        [NETWORK, DIGITS, "--samples=5", "--cw_samples=5", "--costly_samples=5"],
    )
    assert (by_preset.samples, by_preset.cw_samples) == (5, 20)
    assert (as_many.cw_samples, as_many.costly_samples) == (5, 5)


def test_what_is_asked_for_has_a_directory_of_its_own(parse):
    commands = [
        [NETWORK],
        [NETWORK],
        [NETWORK, "--temperature=1"],
        [NETWORK, "--temperature=20"],
        [NETWORK, SUBSTITUTE],
        [NETWORK, "--epsilon=0.1"],
        [NETWORK, "--preset=smoke"],
        [f"--network={NETWORKS / 'distilled_t5.keras'}"],
    ]
    first, again, *others = (
        path for _, path, _ in parse(*([*asked, DIGITS] for asked in commands))
    )
    assert first == again
    assert len({first, *others}) == 7
    *of_this, of_other = (first, *others)
    assert all(path.startswith("runs/attack_distilled_t20_") for path in of_this)
    assert of_other.startswith("runs/attack_distilled_t5_")
    ((_, asked, _),) = parse([NETWORK, DIGITS, "--workdir=elsewhere"])
    assert asked == "elsewhere"
