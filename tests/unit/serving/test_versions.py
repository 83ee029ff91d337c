"""Which children of a folder are versions and models to a server."""

from ddefense.serving.versions import models, next_version, versions


def test_versions_are_folders_with_integer_names_in_the_order_of_numbers(tmp_path):
    too_large = str(2**63)
    for name in ("10", "9", "007", "0", ".tmp-1", "1a", "variables", "-1", "1.0", too_large):
        (tmp_path / name).mkdir()
    (tmp_path / "3").touch()
    assert [path.name for path in versions(tmp_path)] == ["0", "007", "9", "10"]
    assert versions(tmp_path / "missing") == []


def test_the_next_version_is_above_all_numbers(tmp_path):
    assert next_version(tmp_path / "missing").name == "1"
    for name, expected in (("0", "1"), ("7", "8"), ("notes", "8"), (str(2**63), "8")):
        (tmp_path / name).mkdir()
        assert next_version(tmp_path).name == expected
    (tmp_path / "11").touch()  # no version, but its name is taken
    assert next_version(tmp_path).name == "12"


def test_models_are_folders_with_a_version_that_can_be_loaded(tmp_path):
    for name in ("b/1", "a/2", ".hidden/1", "no_graph/1", "no_version/one"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("b/1", "a/2", ".hidden/1", "no_version/one"):
        (tmp_path / name / "saved_model.pb").touch()
    (tmp_path / "file").touch()
    assert [path.name for path in models(tmp_path)] == ["a", "b"]
