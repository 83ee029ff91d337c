"""What a run refuses once it knows the dataset, before it makes anything."""

import pytest

from ddefense import attacks
from ddefense import config as config_lib
from ddefense.experiments import attacking_saved, reproduce


@pytest.mark.parametrize(
    ("field", "value", "limit"), [("samples", 361, "360"), ("max_features", 786, "784")]
)
def test_a_setting_that_does_not_fit_the_dataset_is_refused(tmp_path, field, value, limit):
    config = config_lib.preset("smoke", "digits", **{field: value})
    with pytest.raises(
        config_lib.ConfigError, match=rf"{field}: expected at most {limit}.*{value}"
    ):
        reproduce.run(config, tmp_path / "run", export_dir=tmp_path / "exported")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "run",
    [
        lambda config, path: reproduce.run(config, path / "run", export_dir=path / "exported"),
        lambda config, path: attacking_saved.run(config, path / "run", network=path / "no.keras"),
    ],
    ids=["reproduce", "attack"],
)
def test_an_attack_whose_library_is_missing_is_refused(tmp_path, monkeypatch, run):
    """Not after hours, when it is its turn."""
    monkeypatch.setattr(attacks, "labels_only_available", lambda: False)
    config = config_lib.preset("smoke", "digits", attacks=("fgsm", "labels_only", "jsma_z"))
    with pytest.raises(config_lib.ConfigError) as caught:
        run(config, tmp_path)
    message = str(caught.value)
    for part in ("attacks: labels_only", "pip install", "--attacks=fgsm,jsma_z"):
        assert part in message
    assert not list(tmp_path.iterdir())
