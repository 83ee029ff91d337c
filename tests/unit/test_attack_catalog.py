"""The catalogue of attacks: complete, and with the roles that the verdict relies on."""

import dataclasses
import importlib
import subprocess
import sys

import pytest

from ddefense import attack_catalog
from ddefense.attack_catalog import ATTACKS, by_role, taking
from ddefense.config import Config

SETTINGS = {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize("spec", ATTACKS.values(), ids=ATTACKS)
def test_every_entry_is_complete(spec):
    assert spec.label
    assert spec.brief
    assert spec.text.endswith(".")
    assert {spec.samples, *spec.settings, *spec.steps} <= SETTINGS
    assert spec.bound is None or spec.bound in SETTINGS
    assert bool(spec.attacker) == (spec.role in ("decisive", "adaptive"))
    module, function = spec.code.split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_names_labels_and_styles_of_figures_are_apart():
    specs = attack_catalog._SPECS
    assert len(ATTACKS) == len(specs)
    assert len({spec.label for spec in specs}) == len(specs)
    own = [spec.style for spec in specs if spec.style != attack_catalog.OTHER_STYLE]
    assert len(set(own)) == len(own)


def test_it_is_read_without_any_library():
    code = "import sys; before = set(sys.modules); import ddefense.attack_catalog; "
    code += "print({name.split('.')[0] for name in set(sys.modules) - before})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = eval(answer.stdout)
    assert loaded - sys.stdlib_module_names == {"ddefense"}


def test_families_of_attacks():
    assert attack_catalog.JSMA_ATTACKS == (
        "jsma_f",
        "jsma_f_theta_1",
        "jsma_f_literal",
        "jsma_f_exact",
        "jsma_f_temperature",
        "jsma_z",
    )
    signs = attack_catalog.SIGN_ATTACKS
    assert signs == taking("epsilon")
    assert all(name.startswith(("fgsm", "pgd_linf")) for name in signs)
    assert attack_catalog.GRADIENT_FREE_ATTACKS == ("transfer_cw_l2", "labels_only")
    for name, spec in ATTACKS.items():
        if name in signs:
            assert spec.targets == ("all" if name.endswith("_targeted") else "untargeted")
        assert (spec.gradient == "logits / T") == ("_temperature" in name)


def test_attacks_by_their_role_in_the_verdict():
    assert by_role("paper", "one_step", "iterative") == ("jsma_f", "fgsm", "pgd_linf")
    assert by_role("decisive", "adaptive") == (
        "cw_l2",
        "jsma_f_exact",
        "jsma_f_temperature",
        "pgd_linf_temperature",
    )
    supporting = ("cw_l0", "cw_linf", "labels_only", "transfer_cw_l2")
    assert by_role("supporting", "transfer") == supporting
    assert {name for name, spec in ATTACKS.items() if spec.minimises} == {
        "cw_l2",
        "cw_l0",
        "cw_linf",
        "labels_only",
    }


def test_settings_and_the_attacks_that_they_concern():
    assert taking("cw_search_steps") == ("cw_l2", "transfer_cw_l2")
    assert taking("costly_samples") == ("cw_l0", "cw_linf", "labels_only")
    assert "jsma_f_theta_1" not in taking("theta")
