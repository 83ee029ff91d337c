"""`bin/evaluate` refuses what it cannot do in two lines, before TensorFlow is imported."""

import dataclasses
import json
from pathlib import Path

import pytest

from ddefense import config as config_lib

USAGE = 2
NETWORKS = Path(__file__).resolve().parents[3] / "docs" / "results" / "digits" / "networks"
NETWORK = f"--network={NETWORKS / 'distilled_t20.keras'}"
UNDISTILLED = f"--undistilled={NETWORKS / 'baseline.keras'}"
SUBSTITUTE = f"--substitute={NETWORKS / 'distilled_t1.keras'}"
DATA = "--data=photos"

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

attack_flags.define_for_evaluate()
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
    # A SavedModel has no weights to measure.
    ([NETWORK, DATA, "--model=m"], ["model"]),
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
        [f"--network={NETWORKS / 'baseline.keras'}", DATA],
    ]
    first, again, *others = (path for _, path, _ in parse(*commands))
    assert first == again
    assert len({first, *others}) == 10
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
