"""`bin/evaluate` refuses what it cannot do in two lines, before TensorFlow is imported."""

import dataclasses
import json
from pathlib import Path

import pytest

from ddefense import attack_catalog, records
from ddefense import config as config_lib
from ddefense.cli import attack_flags

USAGE, RUN = 2, 1
ROOT = Path(__file__).resolve().parents[3]
NETWORKS = ROOT / "docs" / "results" / "digits" / "networks"
NETWORK = f"--network={NETWORKS / 'distilled_t20.keras'}"
UNDISTILLED = f"--undistilled={NETWORKS / 'baseline.keras'}"
SUBSTITUTE = f"--substitute={NETWORKS / 'distilled_t1.keras'}"
BOTH = (SUBSTITUTE, "--temperature=20")
DATA = "--data=photos"
DIGITS = "--dataset=digits"
MODEL = f"--model={ROOT / 'exported_models' / 'digits_distilled_t100'}"

# Runs the program in a fork for every line of arguments: starting Python takes far longer.
REFUSE = """
import json, os, sys
sys.modules["tensorflow"] = None  # what needs it too early ends in a traceback
from ddefense.cli import evaluate
found = []
for arguments in json.loads(sys.argv[1]):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(write, 2)
        sys.argv = ["bin/evaluate", *arguments]
        evaluate.run()
        os._exit(99)
    os.close(write)
    with open(read) as said:
        text = said.read()
    found.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text])
print(json.dumps(found))
"""

# What the flags ask for.
PARSE = """
import dataclasses, json, sys
from absl import flags
from ddefense.cli import attack_flags, evaluate

attack_flags.define()
found = []
for arguments in json.loads(sys.argv[1]):
    flags.FLAGS.unparse_flags()
    assert flags.FLAGS(["bin/evaluate", *arguments])[1:] == []
    config, workdir = evaluate._configure()
    found.append([dataclasses.asdict(config), str(workdir), attack_flags.left_out()])
print(json.dumps(found))
"""

MISTAKES = [
    ([], ["--network", ".keras", "none"]),
    (["--network=missing.keras", DATA], ["--network", "'missing.keras'"]),
    ([NETWORK], ["--dataset: expected", "--data="]),
    ([NETWORK, DATA, "--dataset=digits"], ["--data", "--dataset=digits"]),
    ([NETWORK, DATA, "--undistilled=missing.keras"], ["--undistilled", "'missing.keras'"]),
    ([NETWORK, DATA, UNDISTILLED], ["--temperature", "--undistilled", "none"]),
    ([NETWORK, DATA, "--temperature=0"], ["--temperature", "> 0", "0.0"]),
    ([NETWORK, DATA, "--temperature=20", "--outlier_class"], ["--temperature", "T = 1", "20"]),
    ([NETWORK, DATA, "--attacks=pgd_linf_temperature"], ["--attacks", "--temperature="]),
    ([NETWORK, DATA, "--attacks=transfer_cw_l2"], ["--attacks", "--substitute="]),
    ([NETWORK, DATA, "--value_range=x"], ["--value_range", "'x'"]),
    ([NETWORK, DATA, "--class_names=cat"], ["--class_names", "'cat'"]),
    ([NETWORK, DATA, "--test_share=1.5"], ["--test_share", "1.5"]),
    (["--network=", DATA], ["--network", ".keras", "none"]),
    (["--network=.", DATA], ["--network", "'.'"]),
    ([NETWORK, DATA, "--substitute=missing.keras"], ["--substitute", "'missing.keras'"]),
    ([NETWORK, DATA, "--temperature=inf"], ["--temperature", "finite", "inf"]),
    ([NETWORK, DATA, "--temperature=hot"], ["--temperature=hot", "float"]),
    (
        [NETWORK, DATA, "--attacks=jsma_f,jsma_f_temperature,fgsm_temperature_targeted"],
        ["--attacks", "--temperature=", "with jsma_f_temperature, fgsm_temperature_targeted;"],
    ),
    ([NETWORK, DATA, "--attacks=deepfool"], ["--attacks", "deepfool", "jsma_f", "cw_l2"]),
    ([NETWORK, DATA, "--epsilon=2"], ["--epsilon", "(0, 1]", "2.0"]),
    ([NETWORK, DATA, "--samples=4", "--cw_samples=5"], ["--cw_samples", "at most 4", "received 5"]),
    (
        [NETWORK, DATA, "--samples=4", "--costly_samples=5"],
        ["--costly_samples", "at most 4", "--samples", "received 5"],
    ),
    ([NETWORK, DIGITS, "--image_shape=8x8"], ["--image_shape", "with --data"]),
    ([NETWORK, DIGITS, "--class_names=a,b"], ["--class_names", "with --data"]),
    ([NETWORK, DIGITS, "--value_range=1,0"], ["--value_range", "'1,0'"]),
    ([NETWORK, DATA, "--image_shape=8"], ["--image_shape", "'8'"]),
    ([NETWORK, MODEL, DIGITS], ["--network", "--model", "both"]),
    (["--model=missing", DIGITS], ["--model", "saved_model.pb", "'missing'"]),
    ([f"--network={MODEL[8:]}", DIGITS], ["--network", ".keras", f"--model={MODEL[8:]}"]),
    ([NETWORK, DIGITS, "--signature=serve"], ["--signature", "with --model", "--network"]),
    ([NETWORK, DIGITS, "--logits_output=z"], ["--logits_output", "with --model"]),
    ([MODEL, DIGITS, "--model_range=1"], ["--model_range: expected", "'1'"]),
    ([MODEL, DIGITS, "--outlier_class"], ["--outlier_class", "with --network", "--model"]),
    (
        [MODEL, DIGITS, "--logits_output=z", "--probabilities_output=p"],
        ["--probabilities_output", "--logits_output", "both"],
    ),
    (
        [MODEL, DIGITS, "--attacks=jsma_f,jsma_z,cw_l2"],
        ["--attacks", "--logits_output=", "with jsma_z, cw_l2;"],
    ),
    # Flags of training mean nothing here.
    ([NETWORK, DATA, "--temperatures=20"], ["temperatures"]),
    ([NETWORK, DATA, "--seeds=0,1"], ["seeds"]),
    ([NETWORK, DATA, "--epochs=3"], ["epochs"]),
    ([NETWORK, DATA, "photos"], ["flags only", "photos"]),
]


@pytest.fixture(scope="module")
def refused(run_python, tmp_path_factory):
    """The outcome of every mistaken command, with the folder they ran in."""
    folder = tmp_path_factory.mktemp("evaluate")
    found = run_python("-c", REFUSE, json.dumps([asked for asked, _ in MISTAKES]), cwd=folder)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout), folder


@pytest.mark.parametrize("index", range(len(MISTAKES)), ids=lambda i: " ".join(MISTAKES[i][0][-1:]))
def test_a_mistaken_command_is_refused_with_its_usage(refused, index):
    outcomes, folder = refused
    (status, said), named = outcomes[index], MISTAKES[index][1]
    assert status == USAGE
    message, usage = said.splitlines()[-2:]
    assert usage == "Usage: bin/evaluate [flags]; --help lists them."
    for part in named:
        assert part in message
    assert list(folder.iterdir()) == []


def test_a_directory_of_another_configuration_is_refused_at_once(run_python, tmp_path):
    made = config_lib.preset("smoke", "digits", attacks=("fgsm",), epsilon=0.1)
    records.dump(made, tmp_path / "config.json")
    asked = [NETWORK, DIGITS, "--preset=smoke", "--attacks=fgsm", "--epsilon=0.2"]
    found = run_python("-c", REFUSE, json.dumps([[*asked, f"--workdir={tmp_path}"]]), cwd=tmp_path)
    ((status, said),) = json.loads(found.stdout)
    assert status == RUN
    (line,) = said.splitlines()
    assert "workdir" in line
    assert "epsilon (0.1 there, 0.2 now)" in line


@pytest.fixture(scope="module")
def parse(run_python, tmp_path_factory):
    """The configuration, run directory and remarks that flags make, for several commands."""

    def parse(*commands):
        folder = tmp_path_factory.mktemp("parse")
        found = run_python("-c", PARSE, json.dumps(commands), cwd=folder)
        assert found.returncode == 0, found.stderr
        made = json.loads(found.stdout)
        return [(config_lib.Config(**config), path, said) for config, path, said in made]

    return parse


def test_what_is_asked_for_has_a_directory_of_its_own(parse):
    commands = [
        [NETWORK, DATA],
        [NETWORK, DATA],
        [NETWORK, "--data=other"],
        [NETWORK, "--dataset=digits"],
        [NETWORK, DATA, "--value_range=0,255"],
        [NETWORK, DATA, "--temperature=20"],
        [NETWORK, DATA, "--temperature=20", UNDISTILLED],
        [NETWORK, DATA, SUBSTITUTE],
        [NETWORK, DATA, "--samples=3"],
        [NETWORK, DATA, "--outlier_class"],
        [NETWORK, DATA, "--test_share=1"],
        [NETWORK, DATA, "--image_shape=8x8"],
        [MODEL, DATA],
        [MODEL, DATA, "--signature=serve"],
        [MODEL, DATA, "--model_range=0,255"],
        [MODEL, DATA, "--logits_output=z"],
        [MODEL, DATA, "--probabilities_output=p"],
        [f"--network={NETWORKS / 'baseline.keras'}", DATA],
    ]
    first, again, *others = (path for _, path, _ in parse(*commands))
    assert first == again
    assert len({first, *others}) == len(commands) - 1
    assert first.startswith("runs/evaluate_distilled_t20_")
    ((_, asked, _),) = parse([NETWORK, DATA, "--workdir=elsewhere"])
    assert asked == "elsewhere"


def test_an_outlier_class_brings_in_an_attack_that_aims_past_it(parse):
    asked = [NETWORK, DATA, "--preset=smoke"]
    commands = [asked, [*asked, "--outlier_class", UNDISTILLED]]
    (plain, _, _), (past, _, _) = parse(*commands)
    assert set(past.attacks) == {*plain.attacks, "pgd_linf_targeted"}
    ((named, _, _),) = parse([*asked, "--outlier_class", "--attacks=fgsm"])
    assert named.attacks == ("fgsm",)


def test_attacks_that_lack_what_they_need_are_left_out_with_a_word(parse):
    preset = config_lib.preset("smoke", "photos")
    asked = [NETWORK, DATA, "--preset=smoke"]
    (few, _, lines), (every, _, none) = parse(asked, [*asked, SUBSTITUTE, "--temperature=20"])
    assert every == preset
    assert none == []
    lacking = {name for name in preset.attacks if "_temperature" in name} | {"transfer_cw_l2"}
    kept = tuple(name for name in preset.attacks if name not in lacking)
    assert few == dataclasses.replace(preset, attacks=kept)
    assert [line.split(" (")[0] for line in lines] == [
        "Left out jsma_f_temperature, fgsm_temperature, pgd_linf_temperature",
        "Left out transfer_cw_l2",
    ]


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


def test_the_data_have_the_name_of_their_folder_or_file(parse):
    (folder, _, _), (file, _, _) = parse(
        [NETWORK, "--data=some/photos/"], [NETWORK, "--data=some/digits.v2.npz"]
    )
    assert (folder.dataset, file.dataset) == ("photos", "digits.v2")


def test_samples_that_no_flag_names_are_as_many_as_there_are(parse):
    (by_preset, _, _), (as_many, _, _) = parse(
        [NETWORK, DIGITS, "--preset=paper", "--samples=5"],
        [NETWORK, DIGITS, "--samples=5", "--cw_samples=5", "--costly_samples=5"],
    )
    assert (by_preset.samples, by_preset.cw_samples) == (5, 20)
    assert (as_many.cw_samples, as_many.costly_samples) == (5, 5)


def test_an_empty_list_of_temperatures_is_one(parse):
    ((config, _, _),) = parse([NETWORK, DIGITS, "--preset=paper", "--cw_all_targets_at="])
    assert config.cw_all_targets_at == ()


@pytest.mark.slow
def test_a_file_that_is_no_network_is_refused_before_anything_is_made(run_python, tmp_path):
    """What only TensorFlow sees."""
    (tmp_path / "mine.keras").write_text("no network")
    arguments = ("--network=mine.keras", DIGITS, "--attacks=fgsm")
    found = run_python("-m", "ddefense.cli.evaluate", *arguments, cwd=tmp_path)
    assert found.returncode == USAGE
    message, usage = found.stderr.splitlines()
    assert message.startswith("--network: expected a .keras file that Keras can load")
    assert usage.startswith("Usage: bin/evaluate [flags]")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.keras"]
