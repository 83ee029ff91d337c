"""What is finished is there whole, on file systems that cannot rename, or not at all."""

import json
import pickle
import sys
import uuid

import pytest

from ddefense.config import ConfigError
from ddefense.experiments.storage import Storage
from ddefense.records import RunError

KEY = "distilled_t20"


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    name = uuid.uuid4().hex
    return (tmp_path / name).as_uri() if request.param == "file" else f"memory://{name}"


@pytest.fixture
def storage(url):
    return Storage(url)


@pytest.fixture
def made(tmp_path):
    """A finished directory, with what was needed only to make it."""
    directory = tmp_path / "made"
    for name, content in {
        "stage.json": json.dumps({"name": KEY}),
        "network.keras": "weights",
        "model/variables": "more",
        "scratch/checkpoint.npz": "large",
    }.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)
    return directory


def contents(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_text()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_what_is_published_is_fetched_whole_but_for_its_scratch(storage, made, tmp_path):
    assert storage.marker(KEY) is None
    storage.publish(KEY, made, without="scratch")
    assert storage.marker(KEY) == {"name": KEY}
    storage.fetch(KEY, tmp_path / "node" / "fetched")
    expected = contents(made)
    del expected["scratch/checkpoint.npz"]
    assert contents(tmp_path / "node" / "fetched") == expected
    assert [path.name for path in (tmp_path / "node").iterdir()] == ["fetched"]


def test_the_marker_is_written_last(storage, made, monkeypatch):
    put, put_marker, seen = Storage._put, Storage._put_marker, []

    def watched(self, path, target):
        assert self.marker(KEY) is None
        seen.append(path.name)
        put(self, path, target)

    def watched_marker(self, content, base):
        assert self.marker(KEY) is None
        seen.append("marker")
        put_marker(self, content, base)

    monkeypatch.setattr(Storage, "_put", watched)
    monkeypatch.setattr(Storage, "_put_marker", watched_marker)
    storage.publish(KEY, made, without="scratch")
    assert seen[-1] == "marker"
    assert sorted(seen) == ["marker", "network.keras", "variables"]


def test_what_was_published_by_half_is_not_there_and_is_published_again(
    storage, made, tmp_path, monkeypatch
):
    put = Storage._put

    def full(self, path, target):
        if path.name == "network.keras":
            raise OSError("No space left on device")
        put(self, path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "_put", full)
        with pytest.raises(OSError, match="No space"):
            storage.publish(KEY, made, without="scratch")
    assert storage.marker(KEY) is None
    with pytest.raises(
        RunError, match=r"Expected a finished stage at .*distilled_t20, received no"
    ):
        storage.fetch(KEY, tmp_path / "fetched")
    storage.publish(KEY, made, without="scratch")
    storage.fetch(KEY, tmp_path / "fetched")
    assert "network.keras" in contents(tmp_path / "fetched")


def test_what_is_fetched_by_half_leaves_nothing(storage, made, tmp_path, monkeypatch):
    storage.publish(KEY, made, without="scratch")
    fetched = []

    def lost(found, target, **kwargs):
        if fetched:
            raise OSError("connection lost")
        fetched.append(found)
        with open(target, "w") as file:
            file.write("half")

    monkeypatch.setattr(storage._files, "get_file", lost)
    (tmp_path / "node").mkdir()
    with pytest.raises(OSError, match="connection lost"):
        storage.fetch(KEY, tmp_path / "node" / "fetched")
    assert not list((tmp_path / "node").iterdir())


def test_two_that_fetch_the_same_do_not_mind(storage, made, tmp_path):
    storage.publish(KEY, made, without="scratch")
    storage.fetch(KEY, tmp_path / "fetched")
    storage.fetch(KEY, tmp_path / "fetched")
    assert "network.keras" in contents(tmp_path / "fetched")
    assert not list(tmp_path.glob(".tmp-*"))


def test_what_is_removed_is_gone(storage, made):
    storage.publish(KEY, made, without="scratch")
    storage.publish("other", made, without="scratch")
    storage.remove(KEY)
    storage.remove("never there")
    assert storage.marker(KEY) is None
    assert storage.marker("other") is not None


def test_a_folder_in_it_is_a_storage_of_its_own(storage, made, url):
    inside = storage.within("seed_0")
    inside.publish(KEY, made, without="scratch")
    assert storage.marker(KEY) is None
    assert storage.marker(f"seed_0/{KEY}") == {"name": KEY}
    assert inside == Storage(f"{url}/seed_0/") != storage


def test_small_files_are_written_read_and_deleted(storage):
    assert storage.read("probe") is None
    storage.write("probe", b"driver")
    assert storage.read("probe") == b"driver"
    storage.delete("probe")
    storage.delete("probe")
    assert storage.read("probe") is None


def test_a_damaged_marker_is_named(storage, made, url):
    (made / "stage.json").write_text('{"name":')
    storage.publish(KEY, made, without="scratch")
    with pytest.raises(RunError) as caught:
        storage.marker(KEY)
    assert f"{url}/{KEY}/stage.json" in str(caught.value)


def test_another_process_connects_to_the_same(storage, made):
    other = pickle.loads(pickle.dumps(storage))
    storage.publish(KEY, made, without="scratch")
    assert other == storage
    assert hash(other) == hash(storage)
    assert other.marker(KEY) == {"name": KEY}
    assert other.copies() == storage.copies() != storage.within("seed_0").copies()
    assert storage.copies() in storage.within("seed_0").copies().parents


def test_what_other_processes_do_not_see_says_so(tmp_path):
    assert Storage("memory://here").of_one_process
    assert not Storage(tmp_path.as_uri()).of_one_process


def test_file_systems_that_are_unknown_are_refused():
    with pytest.raises(ConfigError) as caught:
        Storage("nosuch://bucket")
    message = str(caught.value)
    assert message.startswith("storage: expected a folder or a URL that fsspec knows")
    assert "nosuch://bucket" in message


def test_a_file_system_whose_library_is_missing_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(ConfigError, match=r"sftp://host/folder.*paramiko"):
        Storage("sftp://host/folder")
