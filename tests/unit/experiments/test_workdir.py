"""The run directory: of one configuration for life."""

import dataclasses
import os

import pytest

from ddefense import config as config_lib
from ddefense import records
from ddefense.experiments import workdir
from ddefense.records import RunError

CONFIG = config_lib.Config(epochs=3, temperatures=(20.0,))


def prepare(directory, config):
    workdir.check(directory, config)
    with workdir.claimed(directory, config):
        pass


def snapshot(directory):
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["new", "deeply/nested/new", "."])
def test_a_new_or_empty_directory_gets_the_configuration(tmp_path, name):
    prepare(tmp_path / name, CONFIG)
    assert records.load(config_lib.Config, tmp_path / name / "config.json") == CONFIG


def test_checking_makes_nothing(tmp_path):
    workdir.check(tmp_path / "new", CONFIG)
    assert not (tmp_path / "new").exists()


def test_the_directory_of_the_same_run_is_left_alone(tmp_path):
    prepare(tmp_path, CONFIG)
    (tmp_path / "stages").mkdir()
    before = snapshot(tmp_path)
    prepare(tmp_path, CONFIG)
    assert snapshot(tmp_path) == before


def test_another_configuration_is_refused_by_its_differing_fields(tmp_path):
    prepare(tmp_path, CONFIG)
    before = snapshot(tmp_path)
    other = dataclasses.replace(CONFIG, epochs=4, temperatures=(1.0, 5.0))
    with pytest.raises(RunError) as caught:
        prepare(tmp_path, other)
    message = str(caught.value)
    for part in (
        str(tmp_path),
        "epochs (3 there, 4 now)",
        "temperatures ((20.0,) there, (1.0, 5.0) now)",
        "Choose another --workdir",
    ):
        assert part in message
    assert "seed" not in message
    assert snapshot(tmp_path) == before


def test_foreign_contents_are_refused_and_kept(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match=r"has contents but no config\.json") as caught:
        prepare(tmp_path, CONFIG)
    assert str(tmp_path) in str(caught.value)
    assert snapshot(tmp_path) == {tmp_path / "thesis.tex": b"precious"}


def test_a_process_killed_while_writing_the_configuration_does_not_lock_the_directory(tmp_path):
    (tmp_path / ".tmp-123-config.json").write_text('{"dataset"')
    prepare(tmp_path, CONFIG)
    assert records.load(config_lib.Config, tmp_path / "config.json") == CONFIG


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"is not a writable directory\. Choose another"):
        prepare(tmp_path / name, CONFIG)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunError, match="is not a writable directory"):
            prepare(tmp_path, CONFIG)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("content", ["", "{", '{"dataset": "digits"', "[]", '{"epochs": "x"}'])
def test_a_damaged_configuration_is_refused_with_a_remedy_that_works(tmp_path, content):
    prepare(tmp_path, CONFIG)
    (tmp_path / "stages").mkdir()
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunError) as caught:
        prepare(tmp_path, CONFIG)
    message = str(caught.value)
    assert str(tmp_path / "config.json") in message
    # With the file moved away the directory would be refused as foreign.
    assert "Choose another --workdir" in message
    assert (tmp_path / "config.json").read_text() == content


def test_a_directory_is_held_by_one_process_at_a_time(tmp_path):
    with (
        workdir.claimed(tmp_path, CONFIG),
        pytest.raises(RunError, match="another process is running"),
        workdir.claimed(tmp_path, CONFIG),
    ):
        pass
    prepare(tmp_path, CONFIG)  # free again
