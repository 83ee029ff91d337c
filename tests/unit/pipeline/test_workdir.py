"""The run directory: of one configuration for life."""

import dataclasses
import errno
import os

import pytest

from ddefense import config as config_lib
from ddefense import records
from ddefense.pipeline import workdir
from ddefense.records import RunError
from ddefense.settings import ConfigError

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
        "Choose another workdir",
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


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file", "is not a writable directory"),
        ("file/below", "is not a writable directory"),
        ("n" * 300, "name too long"),
    ],
)
def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path, name, why):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=rf"(?i)^workdir: .*{why}\. Choose another"):
        prepare(tmp_path / name, CONFIG)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match="is not a writable directory"):
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
    assert "Choose another workdir" in message
    assert (tmp_path / "config.json").read_text() == content
    assert "--report_only" not in message
    # What it found out is of use without it.
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(RunError, match=r"bin/compare .* shows them, and --report_only draws"):
        prepare(tmp_path, CONFIG)


def test_a_directory_is_held_by_one_process_at_a_time(tmp_path):
    with (
        workdir.claimed(tmp_path, CONFIG),
        pytest.raises(RunError, match="another process is running"),
        workdir.claimed(tmp_path, CONFIG),
    ):
        pass
    prepare(tmp_path, CONFIG)  # free again


def test_a_directory_in_use_is_refused_before_it_is_claimed(tmp_path):
    with workdir.claimed(tmp_path, CONFIG):
        for check in (workdir.check, lambda path, config: workdir.check_seeds(path, [config])):
            with pytest.raises(RunError, match="another process is running"):
                check(tmp_path, CONFIG)
    workdir.check(tmp_path, CONFIG)
    workdir.check(tmp_path, CONFIG)  # checking holds nothing


def test_where_directories_cannot_be_locked_a_run_goes_on_with_a_warning(
    tmp_path, monkeypatch, caplog
):
    def flock(handle, kind):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))  # NFS

    monkeypatch.setattr(workdir.fcntl, "flock", flock)
    prepare(tmp_path, CONFIG)
    assert records.load(config_lib.Config, tmp_path / "config.json") == CONFIG
    (record,) = caplog.records
    for part in (str(tmp_path), "cannot be locked", "start no other run"):
        assert part in record.getMessage()


def test_what_killed_processes_left_is_removed_by_the_next_that_holds_the_directory(tmp_path):
    prepare(tmp_path, CONFIG)
    kept = snapshot(tmp_path)
    for name in (".tmp-1-results.json", "networks/.tmp-2-baseline.keras", "stages/a/.tmp-3-b.npz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    (tmp_path / "exported" / ".tmp-x").mkdir(parents=True)
    (tmp_path / "exported" / ".tmp-x" / "saved_model.pb").write_text("half")
    before = snapshot(tmp_path)
    workdir.check(tmp_path, CONFIG)
    assert snapshot(tmp_path) == before
    prepare(tmp_path, CONFIG)
    assert snapshot(tmp_path) == kept
    assert not list(tmp_path.rglob(".tmp-*"))


SEEDS = [dataclasses.replace(CONFIG, seed=seed) for seed in (3, 10)]


def prepare_seeds(directory):
    workdir.check_seeds(directory, SEEDS)
    with workdir.held(directory):
        for config in SEEDS:
            prepare(workdir.seed_directory(directory, config.seed), config)


def test_seeds_have_directories_of_their_own(tmp_path):
    prepare_seeds(tmp_path / "new")
    assert [p.name for p in sorted((tmp_path / "new").iterdir())] == ["seed_10", "seed_3"]
    for name in ("report.md", ".tmp-1-report.md"):
        (tmp_path / "new" / name).write_text("")
    for name in ("figures", "tables"):
        (tmp_path / "new" / name).mkdir()
    workdir.check_seeds(tmp_path / "new", [*SEEDS, dataclasses.replace(CONFIG, seed=4)])


def test_the_checks_of_several_seeds_make_nothing(tmp_path):
    workdir.check_seeds(tmp_path / "new", SEEDS)
    assert not (tmp_path / "new").exists()


def test_a_seed_of_another_configuration_is_refused(tmp_path):
    prepare_seeds(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(RunError, match=r"seed_10 belongs.*: momentum \(0.5 there, 0.7 now\)\. "):
        workdir.check_seeds(tmp_path, [SEEDS[0], dataclasses.replace(SEEDS[1], momentum=0.7)])
    assert snapshot(tmp_path) == before


def test_a_seed_added_with_another_configuration_is_refused(tmp_path):
    prepare_seeds(tmp_path)
    before = snapshot(tmp_path)
    added = dataclasses.replace(CONFIG, seed=4, epochs=4)
    with pytest.raises(RunError, match=r"seed_3 belongs.*: epochs \(3 there, 4 now\)\. "):
        workdir.check_seeds(tmp_path, [added])
    assert snapshot(tmp_path) == before


def test_several_seeds_and_one_seed_refuse_the_directory_of_the_other(tmp_path):
    prepare(tmp_path / "one", CONFIG)
    with pytest.raises(RunError, match="belongs to a run of one seed"):
        workdir.check_seeds(tmp_path / "one", SEEDS)
    prepare_seeds(tmp_path / "several")
    with pytest.raises(RunError, match="belongs to a run with --seeds"):
        workdir.check(tmp_path / "several", CONFIG)
    # Each seed on its own is a run like any other.
    workdir.check(tmp_path / "several" / "seed_3", SEEDS[0])


def test_several_seeds_know_what_is_written_about_them(tmp_path):
    for name in ("report.html", "report.md", "comparison.html", "comparison_claims.csv"):
        (tmp_path / name).write_text("")
    workdir.check_seeds(tmp_path, SEEDS)


def test_several_seeds_refuse_foreign_contents(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match=r"which contains thesis\.tex"):
        workdir.check_seeds(tmp_path, SEEDS)
    assert snapshot(tmp_path) == {tmp_path / "thesis.tex": b"precious"}


def test_seeds_with_results_are_found_in_the_order_of_their_numbers(tmp_path):
    prepare_seeds(tmp_path)
    (tmp_path / "seed_old").mkdir()
    for name in ("seed_10", "seed_3", "seed_old"):
        (tmp_path / name / "results.json").write_text("")
    (tmp_path / "seed_4").mkdir()
    assert [p.name for p in workdir.seed_directories(tmp_path)] == ["seed_3", "seed_10"]
