"""Nothing is ever seen half-written, and nothing temporary stays behind."""

import os
import stat

import pytest

from ddefense import files


def contents(directory):
    return sorted(p.name for p in directory.iterdir())


def write_half_a_file(path, error):
    with files.atomic_file(path) as temporary:
        temporary.write_text("half")
        raise error


def write_half_a_directory(path, error):
    with files.atomic_directory(path) as temporary:
        (temporary / "variables").mkdir()
        (temporary / "variables" / "half").write_text("half")
        raise error


def be_overtaken(path):
    with files.atomic_directory(path) as temporary:
        (temporary / "mine").write_text("new")
        path.mkdir()
        (path / "theirs").write_text("old")


class TestAtomicFile:
    def test_appears_whole_and_only_at_the_end(self, tmp_path):
        path = tmp_path / "deep" / "er" / "results.json"
        with files.atomic_file(path) as temporary:
            assert temporary.parent == path.parent
            assert temporary.suffix == path.suffix
            temporary.write_text("new")
            assert not path.exists()
        assert path.read_text() == "new"
        assert contents(path.parent) == ["results.json"]

    def test_replaces_the_old_file(self, tmp_path):
        path = tmp_path / "results.json"
        path.write_text("old")
        with files.atomic_file(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new"

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_leaves_the_old_file_on_failure(self, tmp_path, error):
        path = tmp_path / "results.json"
        path.write_text("old")
        with pytest.raises(error):
            write_half_a_file(path, error)
        assert path.read_text() == "old"
        assert contents(tmp_path) == ["results.json"]

    def test_leaves_nothing_on_failure_where_nothing_was(self, tmp_path):
        with pytest.raises(RuntimeError):
            write_half_a_file(tmp_path / "a.npz", RuntimeError)
        assert contents(tmp_path) == []

    def test_fails_where_nothing_was_written(self, tmp_path):
        path = tmp_path / "results.json"
        path.write_text("old")
        with pytest.raises(FileNotFoundError), files.atomic_file(path):
            pass
        assert path.read_text() == "old"


class TestAtomicDirectory:
    @pytest.mark.parametrize("exists", [False, True])
    def test_appears_whole_and_only_at_the_end(self, tmp_path, exists):
        path = tmp_path / "models" / "1"
        if exists:
            path.mkdir(parents=True)
        with files.atomic_directory(path) as temporary:
            assert temporary.parent == path.parent
            assert contents(temporary) == []
            (temporary / "saved_model.pb").write_text("model")
            assert not path.exists() or contents(path) == []
        assert contents(path) == ["saved_model.pb"]
        assert contents(path.parent) == ["1"]

    def test_has_the_mode_of_any_new_directory(self, tmp_path):
        (tmp_path / "any").mkdir()
        with files.atomic_directory(tmp_path / "made"):
            pass
        modes = [stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("any", "made")]
        assert modes[0] == modes[1]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_leaves_nothing_on_failure(self, tmp_path, error):
        path = tmp_path / "1"
        with pytest.raises(error):
            write_half_a_directory(path, error)
        assert contents(tmp_path) == []

    def test_refuses_a_directory_with_contents(self, tmp_path):
        path = tmp_path / "1"
        path.mkdir()
        (path / "keep").write_text("old")
        with (
            pytest.raises(FileExistsError, match=r"new or empty directory, received .*1.*another"),
            files.atomic_directory(path),
        ):
            pytest.fail("The block must not run.")
        assert (path / "keep").read_text() == "old"
        assert contents(tmp_path) == ["1"]

    def test_refuses_a_file(self, tmp_path):
        path = tmp_path / "1"
        path.write_text("old")
        with (
            pytest.raises(FileExistsError, match=r"received .*1"),
            files.atomic_directory(path),
        ):
            pytest.fail("The block must not run.")
        assert path.read_text() == "old"

    def test_overwrites_nothing_that_came_in_the_meantime(self, tmp_path):
        path = tmp_path / "1"
        with pytest.raises(OSError, match="not empty"):
            be_overtaken(path)
        assert contents(path) == ["theirs"]
        assert contents(tmp_path) == ["1"]


def test_the_digest_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"graph")
    expected = "eef93e1d14482804277fca0172464032d1a4fdbcc338524059fa1e861454ad4d"  # by sha256sum
    assert files.sha256(tmp_path / "a") == expected
