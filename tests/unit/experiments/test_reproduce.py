"""What a run refuses once it knows the dataset, before it makes anything."""

import pytest

from ddefense import config as config_lib
from ddefense.experiments import reproduce


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
