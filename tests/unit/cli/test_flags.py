"""The help of the flags that bin/reproduce and bin/distill share is true of both."""

import json

import pytest

from ddefense.config import preset
from ddefense.distill_config import DistillConfig

# Flags belong to a process.
_HELP = """
import json
from absl import flags
from ddefense.cli import distill_flags
distill_flags.define()
print(json.dumps({name: flags.FLAGS[name].help for name in flags.FLAGS}))
"""


@pytest.fixture(scope="module")
def texts(run_python, tmp_path_factory):
    answer = run_python("-c", _HELP, cwd=tmp_path_factory.mktemp("flags"))
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


DISTILL = DistillConfig(temperature=20)
PAPER = preset("paper", "mnist")
CIFAR10 = preset("paper", "cifar10")


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_what_a_preset_sets_has_a_default_of_its_own_in_distill(texts, name):
    assert texts[name].endswith(f"Default: the preset's; of bin/distill {getattr(DISTILL, name)}.")


@pytest.mark.parametrize(
    "name", ["learning_rate", "momentum", "learning_rate_decay", "momentum_decay"]
)
def test_the_default_of_the_optimizer_is_that_of_both_but_for_cifar10(texts, name):
    own = DISTILL.rate if name == "learning_rate" else getattr(DISTILL, name)
    assert own == getattr(PAPER, name)
    cifar10 = getattr(CIFAR10, name)
    assert f"Default: {own:g}; of bin/reproduce on cifar10 {cifar10:g}" in texts[name]


def test_the_other_defaults_are_those_of_the_configuration(texts):
    adam = DistillConfig(temperature=20, optimizer="adam")
    assert texts["learning_rate"].endswith(f"of bin/distill with --optimizer=adam {adam.rate}.")
    assert DISTILL.decay_epochs == PAPER.decay_epochs == CIFAR10.decay_epochs
    shared = ("decay_epochs", "outlier_alpha", "dropout_passes", "validation_share", "seed")
    for name in (*shared, "devices"):
        assert texts[name].endswith(f"Default: {getattr(DISTILL, name):g}."), name
