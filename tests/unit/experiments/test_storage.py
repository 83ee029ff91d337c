"""A directory in a storage is complete or not there, whatever the file system."""

import json
import pickle
import uuid

import fsspec
import pytest
from ddefense.settings import ConfigError

from ddefense.experiments.storage import Storage
from ddefense.records import RunError

FILES = {
    "network.bin": b"\x00\xff" * 500,
    "stage.json": b'{"name": "train", "starts": 2}',
    "variables/deep/a": b"a",
    "z": b"",
}
MARKER = json.loads(FILES["stage.json"])


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    if request.param == "file":
        return f"file://{tmp_path}/storage"
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def storage(url):
    return Storage(url)


@pytest.fixture
def made(tmp_path):
    """A directory as a stage leaves it, with its scratch."""
    write(
        tmp_path / "made", FILES | {"scratch/checkpoint": b"large", "scratch/p/stage.json": b"{}"}
    )
    return tmp_path / "made"


def write(directory, files):
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


def contents(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def stored(url):
    """What is there, looked at without the class."""
    files, root = fsspec.core.url_to_fs(url)
    return {
        found.removeprefix(root).strip("/"): files.cat_file(found) for found in files.find(root)
    }


def files_of(storage):
    """The file system that a storage writes with; fsspec keeps one per protocol."""
    return fsspec.core.url_to_fs(storage.url)[0]


def test_what_is_published_is_fetched_but_for_what_stays(storage, made, tmp_path):
    assert storage.marker("train") is None
    storage.publish("train", made, without="scratch")
    assert storage.marker("train") == MARKER
    assert stored(storage.url) == {f"train/{name}": data for name, data in FILES.items()}
    storage.fetch("train", tmp_path / "deep" / "copy")
    assert contents(tmp_path / "deep" / "copy") == FILES
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]


def test_a_directory_called_like_what_stays_goes_along_deeper_inside(storage, made, tmp_path):
    write(made, {"variables/scratch/b": b"b"})
    storage.publish("train", made, without="scratch")
    storage.fetch("train", tmp_path / "copy")
    assert contents(tmp_path / "copy") == FILES | {"variables/scratch/b": b"b"}


def test_one_directory_is_not_taken_for_another_that_starts_like_it(storage, made, tmp_path):
    storage.publish("train_2", made, without="scratch")
    assert storage.marker("train") is None
    storage.remove("train")
    storage.publish("train", made, without="scratch")
    storage.remove("train")
    assert storage.marker("train_2") == MARKER
    storage.fetch("train_2", tmp_path / "copy")
    assert contents(tmp_path / "copy") == FILES


def test_a_reader_sees_nothing_until_all_is_there(storage, made, tmp_path, monkeypatch):
    files, seen = files_of(storage), []
    put_file = type(files).put_file

    def looking(self, source, target, **options):
        seen.append(Storage(storage.url).marker("train"))
        put_file(self, source, target, **options)
        seen.append(Storage(storage.url).marker("train"))
        with pytest.raises(RunError, match=r"finished stage at .*/train, received none"):
            Storage(storage.url).fetch("train", tmp_path / "copy")

    monkeypatch.setattr(type(files), "put_file", looking)
    storage.publish("train", made, without="scratch")
    assert seen == [None] * 2 * 3  # all files but the marker
    assert not (tmp_path / "copy").exists()
    assert Storage(storage.url).marker("train") == MARKER


@pytest.mark.parametrize("written", range(len(FILES)))
def test_a_publication_that_fails_at_any_file_is_not_complete(
    storage, made, tmp_path, monkeypatch, written
):
    files, calls = files_of(storage), []

    def failing(method):
        original = getattr(type(files), method)

        def once(self, *arguments, **options):
            if len(calls) == written:
                raise OSError("No space left on device")
            calls.append(method)
            return original(self, *arguments, **options)

        return once

    with monkeypatch.context() as broken:
        for method in ("put_file", "pipe_file"):
            broken.setattr(type(files), method, failing(method))
        with pytest.raises(OSError, match="No space"):
            storage.publish("train", made, without="scratch")
    assert len(calls) == written
    assert len(stored(storage.url)) == written
    assert storage.marker("train") is None
    with pytest.raises(RunError, match=r"received none"):
        storage.fetch("train", tmp_path / "copy")
    # The next attempt makes it whole.
    storage.publish("train", made, without="scratch")
    storage.fetch("train", tmp_path / "copy")
    assert contents(tmp_path / "copy") == FILES


def test_a_marker_in_a_shared_folder_is_never_seen_half_written(made, tmp_path, monkeypatch):
    storage, seen = Storage(f"file://{tmp_path}/storage"), []
    files = files_of(storage)
    move = type(files).mv

    def looking(self, source, target, **options):
        assert json.loads(files.cat_file(source)) == MARKER
        seen.append(storage.marker("train"))
        move(self, source, target, **options)

    monkeypatch.setattr(type(files), "mv", looking)
    storage.publish("train", made, without="scratch")
    assert seen == [None]
    assert storage.marker("train") == MARKER


def test_what_a_killed_publication_left_beside_the_marker_is_not_fetched(made, tmp_path):
    storage = Storage(f"file://{tmp_path}/storage")
    storage.publish("train", made, without="scratch")
    write(tmp_path / "storage" / "train", {".tmp-0123": b'{"na'})
    storage.fetch("train", tmp_path / "copy")
    assert contents(tmp_path / "copy") == FILES


@pytest.mark.parametrize("error", [OSError("gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("fetched", range(len(FILES)))
def test_a_fetch_that_fails_at_any_file_leaves_nothing(
    storage, made, tmp_path, monkeypatch, fetched, error
):
    storage.publish("train", made, without="scratch")
    files, calls = files_of(storage), []
    get_file = type(files).get_file

    def failing(self, source, target, **options):
        if len(calls) == fetched:
            raise error
        calls.append(source)
        get_file(self, source, target, **options)

    with monkeypatch.context() as broken:
        broken.setattr(type(files), "get_file", failing)
        with pytest.raises(type(error)):
            storage.fetch("train", tmp_path / "node" / "train")
    assert list((tmp_path / "node").iterdir()) == []
    storage.fetch("train", tmp_path / "node" / "train")
    assert contents(tmp_path / "node" / "train") == FILES


@pytest.mark.parametrize("fetched", range(len(FILES)))
def test_a_directory_that_is_removed_while_it_is_fetched_is_not_taken_for_whole(
    storage, made, tmp_path, monkeypatch, fetched
):
    storage.publish("train", made, without="scratch")
    files, calls = files_of(storage), []
    get_file = type(files).get_file

    def overtaken(self, source, target, **options):
        if len(calls) == fetched:
            storage.remove("train")
        calls.append(source)
        get_file(self, source, target, **options)

    monkeypatch.setattr(type(files), "get_file", overtaken)
    with pytest.raises(RunError, match=r"finished stage at .*/train, received none"):
        storage.fetch("train", tmp_path / "node" / "train")
    assert list((tmp_path / "node").iterdir()) == []


def test_a_directory_that_is_half_removed_when_it_is_listed_is_not_taken_for_whole(
    storage, made, tmp_path, monkeypatch
):
    storage.publish("train", made, without="scratch")
    files = files_of(storage)
    find = type(files).find

    def overtaken(self, path, **options):
        self.rm_file(f"{path}/stage.json")
        self.rm_file(f"{path}/network.bin")
        return find(self, path, **options)

    monkeypatch.setattr(type(files), "find", overtaken)
    with pytest.raises(RunError, match=r"received none"):
        storage.fetch("train", tmp_path / "node" / "train")
    assert list((tmp_path / "node").iterdir()) == []


def test_who_fetches_second_keeps_what_the_first_brought(storage, made, tmp_path, monkeypatch):
    storage.publish("train", made, without="scratch")
    files, target = files_of(storage), tmp_path / "node" / "train"
    get_file = type(files).get_file

    def overtaken(self, *arguments, **options):
        target.mkdir(exist_ok=True)
        (target / "first").write_text("first")
        get_file(self, *arguments, **options)

    monkeypatch.setattr(type(files), "get_file", overtaken)
    storage.fetch("train", target)
    assert contents(target) == {"first": b"first"}
    assert [path.name for path in target.parent.iterdir()] == ["train"]


def test_a_removed_directory_is_gone_with_those_in_it(storage, made):
    storage.publish("train", made, without="scratch")
    storage.publish("train/scratch/part", made, without="scratch")
    storage.publish("other", made, without="scratch")
    storage.remove("train")
    assert storage.marker("train") is None
    assert storage.marker("train/scratch/part") is None
    assert {name.split("/")[0] for name in stored(storage.url)} == {"other"}
    storage.remove("train")  # which is not there
    storage.remove("never/was")
    assert storage.marker("other") == MARKER


def test_a_removal_that_is_killed_leaves_no_complete_directory(storage, made, monkeypatch):
    storage.publish("train", made, without="scratch")
    storage.publish("train/scratch/part", made, without="scratch")

    def killed(self, *arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(type(files_of(storage)), "rm", killed)
        with pytest.raises(KeyboardInterrupt):
            storage.remove("train")
    assert storage.marker("train") is None
    assert storage.marker("train/scratch/part") is None
    assert f"train/{next(iter(FILES))}" in stored(storage.url)


def test_two_may_remove_the_same_directory(storage, made, monkeypatch):
    storage.publish("train", made, without="scratch")
    files = files_of(storage)
    remove, remove_file = type(files).rm, type(files).rm_file

    def overtaken(self, path, **options):
        remove(self, path, **options)
        remove(self, path, **options)

    def overtaken_at_a_file(self, path):
        remove_file(self, path)
        if path.endswith("stage.json"):
            remove_file(self, path)

    monkeypatch.setattr(type(files), "rm", overtaken)
    monkeypatch.setattr(type(files), "rm_file", overtaken_at_a_file)
    storage.remove("train")
    assert stored(storage.url) == {}


def test_a_folder_in_a_storage_is_a_storage(storage, made):
    seed = storage.within("seed_0")
    seed.publish("train", made, without="scratch")
    assert seed == Storage(f"{storage.url}/seed_0")
    assert storage.marker("seed_0/train") == seed.marker("train") == MARKER
    assert storage.within("seed_1").marker("train") is None


def test_small_files(storage):
    assert storage.read("probe") is None
    storage.delete("probe")
    storage.write("probe", b"one")
    storage.write("probe", b"two")
    assert Storage(storage.url).read("probe") == b"two"
    assert stored(storage.url) == {"probe": b"two"}
    storage.delete("probe")
    assert storage.read("probe") is None
    assert stored(storage.url) == {}


OTHER = """
import pathlib, sys
from ddefense.experiments.storage import Storage

storage = Storage(sys.argv[1])
storage.publish("train", pathlib.Path(sys.argv[2]), without="scratch")
storage.write("probe", b"node")
print(storage.of_one_process)
"""


def test_what_another_process_writes_is_seen(run_python, made, tmp_path):
    storage = Storage(f"file://{tmp_path}/storage")
    # Looked for before, so that a remembered listing would be found out.
    assert (storage.marker("train"), storage.read("probe")) == (None, None)
    found = run_python("-c", OTHER, storage.url, made, cwd=tmp_path)
    assert (found.returncode, found.stdout) == (0, "False\n"), found.stderr
    assert (storage.marker("train"), storage.read("probe")) == (MARKER, b"node")
    storage.fetch("train", tmp_path / "copy")
    assert contents(tmp_path / "copy") == FILES


def test_what_only_one_process_sees_is_known(storage):
    assert storage.of_one_process == storage.url.startswith("memory://")


@pytest.mark.parametrize("damaged", [b"", b'{"name": "tra', b"\xff\xfe", b"null", b"[1]", b'"a"'])
def test_a_damaged_marker_is_named(storage, made, tmp_path, damaged):
    storage.publish("train", made, without="scratch")
    storage.write("train/stage.json", damaged)
    for look in (storage.marker, lambda key: storage.fetch(key, tmp_path / "copy")):
        with pytest.raises(RunError) as caught:
            look("train")
        assert f"{storage.url}/train/stage.json" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "url",
    ["nosuch://bucket/sweep", "zip://inside::file:///nowhere/a.zip"],
    ids=["protocol", "file"],
)
def test_an_unknown_storage_is_refused_in_one_line(url):
    with pytest.raises(ConfigError) as caught:
        Storage(url)
    message = str(caught.value)
    assert message.startswith("storage: ")
    assert repr(url) in message
    assert "\n" not in message


# The first finder of modules says that it is not installed, as it may be here.
MISSING = """
import sys
sys.modules["s3fs"] = None
from ddefense.settings import ConfigError
from ddefense.experiments.storage import Storage
try:
    Storage("s3://bucket/sweep")
except ConfigError as error:
    print(error)
"""


def test_a_missing_library_is_named_in_one_line(run_python, tmp_path):
    found = run_python("-c", MISSING, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("storage: expected a folder or a URL that fsspec knows")
    assert "s3fs" in found.stdout
    assert found.stdout.count("\n") == 1


def test_equality_and_pickling(storage, made):
    storage.publish("train", made, without="scratch")
    again = pickle.loads(pickle.dumps(storage))
    assert again == storage == Storage(storage.url + "/")
    assert hash(again) == hash(storage)
    assert again.marker("train") == MARKER
    assert storage != Storage(storage.url + "2")
    assert storage != storage.url


def test_a_folder_stays_the_same_for_a_process_that_works_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    storage = Storage("sweep/")
    pickled = pickle.dumps([storage, storage.within("seed_0")])
    storage.write("probe", b"one")
    monkeypatch.chdir(tmp_path / "there")
    storages = pickle.loads(pickled)
    assert storages == [storage, Storage(str(tmp_path / "sweep" / "seed_0"))]
    assert storages[0].read("probe") == b"one"
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize(
    ("url", "within"),
    [
        ("memory://", "memory://seed_0"),
        ("memory:///", "memory:///seed_0"),
        ("file:///", "file:///seed_0"),
        ("/", "file:///seed_0"),
        ("memory://sweep/", "memory://sweep/seed_0"),
    ],
)
def test_the_root_of_a_file_system_is_a_storage(url, within, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a misread URL would become a folder
    storage = Storage(url)
    assert pickle.loads(pickle.dumps(storage)) == storage
    assert storage.of_one_process == url.startswith("memory")
    assert storage.within("seed_0") == Storage(within)
    assert storage.within("seed_0").of_one_process == storage.of_one_process


def test_copies_of_storages_lie_apart_and_those_of_a_folder_within(storage):
    inside = storage.within("seed_0")
    assert pickle.loads(pickle.dumps(storage)).copies() == storage.copies()
    assert storage.copies() in inside.copies().parents
