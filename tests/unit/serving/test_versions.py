"""Which children of a folder are versions and models to a server."""

from ddefense.serving.versions import models, versions


def test_versions_are_folders_with_integer_names_in_the_order_of_numbers(tmp_path):
    for name in ("10", "9", "007", ".tmp-1", "1a", "variables", "-1", "1.0"):
        (tmp_path / name).mkdir()
    (tmp_path / "3").touch()
    assert [path.name for path in versions(tmp_path)] == ["007", "9", "10"]
    assert versions(tmp_path / "missing") == []


def test_models_are_folders_with_a_version_that_can_be_loaded(tmp_path):
    for name in ("b/1", "a/2", ".hidden/1", "no_graph/1", "no_version/one"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("b/1", "a/2", ".hidden/1", "no_version/one"):
        (tmp_path / name / "saved_model.pb").touch()
    (tmp_path / "file").touch()
    assert [path.name for path in models(tmp_path)] == ["a", "b"]
