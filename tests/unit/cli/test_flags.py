"""Flags of settings say and refuse what the settings' own fields say."""

import json

import pytest

from ddefense import config as config_lib
from ddefense.distill_config import DistillConfig
from ddefense.settings import fields

# Flags belong to a process.
_HELP = """
import json
from absl.flags import FLAGS
from ddefense.cli import {module}
{module}.{define}()
print(json.dumps({{name: FLAGS[name].help for name in FLAGS}}))
"""
_PROGRAMS = {
    ("flags", "define_for_reproduce"): config_lib.Config,
    ("distill_flags", "define"): DistillConfig,
    ("attack_flags", "define"): config_lib.Attacking,
}


@pytest.fixture(scope="module")
def texts(run_python, tmp_path_factory):
    found = {}
    for (module, define), settings in _PROGRAMS.items():
        code = _HELP.format(module=module, define=define)
        answer = run_python("-c", code, cwd=tmp_path_factory.mktemp("flags"))
        assert answer.returncode == 0, answer.stderr
        found[settings] = json.loads(answer.stdout)
    return found


@pytest.mark.parametrize("settings", _PROGRAMS.values())
def test_each_setting_has_a_flag_that_says_its_bound(texts, settings):
    for each in fields(settings):
        text = texts[settings][each.name]
        if each.kind in (int, float, tuple):
            assert f" Expects {each.bound.expected}." in text
        if each.default is None:
            assert "Default: " in text or each.name == "class_weights"


def test_defaults_are_those_of_the_command(texts):
    reproduce, distill = texts[config_lib.Config], texts[DistillConfig]
    assert reproduce["epochs"].endswith("Default: that of the preset.")
    assert distill["epochs"].endswith("Default: 50.")
    assert reproduce["decay_epochs"].endswith("Default: 10.")
    assert "0.1 with sgd, 0.001 with adam" in distill["learning_rate"]
    assert DistillConfig(temperature=1, optimizer="adam").rate == 0.001
    assert DistillConfig(temperature=1).rate == 0.1


def test_names_of_settings_in_texts_are_names_of_flags(texts):
    assert "every --decay_epochs" in texts[DistillConfig]["momentum_decay"]
