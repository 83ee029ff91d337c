"""Nothing is ever seen half-written, and nothing temporary stays behind."""

import os
import stat
import zipfile

import numpy as np
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

    def test_removes_what_a_killed_process_left_and_nothing_that_is_being_written(
        self, start_python, tmp_path
    ):
        writing = """
import pathlib, time
from ddefense import files
with files.atomic_directory(pathlib.Path("1")) as temporary:
    (temporary / "half").touch()
    print("writing", flush=True)
    time.sleep(600)
"""
        (tmp_path / ".tmp-elsewhere-1").mkdir()  # on another machine
        with start_python("-c", writing, cwd=tmp_path) as other:
            assert other.stdout.readline() == "writing\n"
            with files.atomic_directory(tmp_path / "2"):
                pass
            assert len(list(tmp_path.glob(".tmp-*/half"))) == 1
            other.kill()
        with files.atomic_directory(tmp_path / "3"):
            pass
        assert contents(tmp_path) == [".tmp-elsewhere-1", "2", "3"]


def test_the_digest_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"graph")
    expected = "eef93e1d14482804277fca0172464032d1a4fdbcc338524059fa1e861454ad4d"  # by sha256sum
    assert files.sha256(tmp_path / "a") == expected


def test_the_digest_of_a_folder(tmp_path):
    def make(name, **contents):
        for path, content in contents.items():
            target = tmp_path / name / path.replace("__", "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return files.folder_sha256(tmp_path / name, without=("scratch",))

    digest = make("one", a=b"1", b__c=b"2")
    # What does not count: the order of writing, temporary files, what is left out.
    assert make("two", b__c=b"2", a=b"1") == digest
    (tmp_path / "two" / ".tmp-1-a").touch()
    assert make("two", scratch__a=b"3") == digest
    others = [{"a": b"2", "b__c": b"1"}, {"a": b"1", "c": b"2"}, {"a": b"1"}, {"b__scratch": b"1"}]
    found = {make(f"other_{i}", **contents) for i, contents in enumerate(others)}
    assert len({digest, *found}) == 5


def test_a_network_saved_on_another_day_is_the_same_content(tmp_path):
    def make(name, date, weights=b"weights"):
        (tmp_path / name).mkdir()
        with zipfile.ZipFile(tmp_path / name / "network.keras", "w") as archive:
            for member, content in (("metadata.json", date), ("model.weights.h5", weights)):
                archive.writestr(zipfile.ZipInfo(member, (int(date[:4]), 1, 1, 0, 0, 0)), content)
        return files.folder_sha256(tmp_path / name)

    assert make("a", "2024") == make("b", "2025")
    assert make("c", "2024", b"others") != make("d", "2024")
    path = tmp_path / "a" / "network.keras"
    path.write_bytes(path.read_bytes().replace(b"weights\n", b"weighty\n").replace(b"PK", b"KP"))
    with pytest.raises(files.DamagedError, match=r"network\.keras"):
        files.folder_sha256(tmp_path / "a")


def test_a_fifo_is_no_npz_file_and_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "data.npz")
    with (
        pytest.raises(files.DamagedError, match="it is a FIFO"),
        files.read_npz(tmp_path / "data.npz"),
    ):
        pass


@pytest.mark.parametrize("unpacked", [2**60, 2**40])
def test_arrays_that_no_memory_holds_are_refused(tmp_path, unpacked):
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive, archive.open("a.npy", "w") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (unpacked,)}
        np.lib.format.write_array_header_1_0(file, header)
    with (
        pytest.raises(files.DamagedError, match="Unable to allocate"),
        files.read_npz(tmp_path / "data.npz") as arrays,
    ):
        arrays["a"]


def test_arrays_larger_than_the_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "data.npz", a=np.zeros(2**20))
    with files.read_npz(tmp_path / "data.npz") as arrays:
        assert arrays["a"].shape == (2**20,)
    monkeypatch.setattr(files, "physical_memory", lambda: 2**22)
    with (
        pytest.raises(files.DamagedError, match="GiB, more than the"),
        files.read_npz(tmp_path / "data.npz"),
    ):
        pytest.fail("The block must not run.")


def test_a_single_array_is_no_npz_file(tmp_path):
    with (tmp_path / "data.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with (
        pytest.raises(files.DamagedError, match="not a zip file"),
        files.read_npz(tmp_path / "data.npz"),
    ):
        pass


def test_what_is_there_or_not_is_not_odd(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in (".", "file", "link", "nothing"):
        assert files.odd_kind(tmp_path / name) is None


class FailedError(Exception):
    """As TensorFlow's errors are: with a message of its own."""

    message = "{{function_node __wrapped__Save_device_/CPU:0}} No space left.\nMore [Op:Save]"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FailedError(), "No space left"),
        (ValueError("{{node Read}} is damaged. [Op:ReadFile] name: "), "is damaged"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (KeyError(), "KeyError"),
        (ValueError("assertion failed: [no image]\n\t [[{{node Assert}}]]"), "no image"),
        (ValueError("\n  no.  \nmore"), "no"),
    ],
)
def test_the_reason_of_an_error_names_no_node_of_a_graph(error, words):
    assert files.reason(error) == words
