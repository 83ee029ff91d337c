"""A unit is made once, wherever that is, from parts that are made once."""

import functools
import json
import os
import pathlib
import pickle
import tempfile
import threading
import time
import uuid

import pytest

from ddefense.pipeline.storage import Storage
from ddefense.pipeline.units import Part, Place, Unit
from ddefense.records import RunError


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "stages")


@pytest.fixture(params=["file", "memory"])
def storage(request, tmp_path):
    if request.param == "file":
        return Storage(f"file://{tmp_path}/storage")
    return Storage(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def nodes(storage, tmp_path):
    """Two machines with folders of their own and one storage."""
    return [Place(tmp_path / name / "stages", storage) for name in ("a", "b")]


def unit_in(place, digest="d1"):
    return Unit("attack", "attack", digest, place)


class Run:
    """Work that leaves text and keeps account of itself."""

    def __init__(self):
        self.calls = []

    def parts(self, *names):
        return [Part(name, 2, "sample", functools.partial(self.part, name)) for name in names]

    def part(self, name, directory):
        self.calls.append(name)
        (directory / "text").write_text(f"of {name}")

    def join(self, directory):
        self.calls.append("join")
        parts = sorted((directory / "scratch").iterdir())
        (directory / "text").write_text(" ".join((part / "text").read_text() for part in parts))

    def fail_at(self, name):
        """The part of this name is killed the next time."""
        part = self.part

        def killed(called, directory):
            if called == name and not hasattr(self, "killed"):
                self.killed = True
                (directory / "half").write_text("half")
                raise KeyboardInterrupt
            part(called, directory)

        self.part = killed


@pytest.fixture
def run():
    return Run()


def made_by():
    return {"machine": "this one"}


def text(unit):
    return (unit.place.here(unit.key) / "text").read_text()


def left_in(place):
    return sorted(path.relative_to(place.folder).as_posix() for path in place.folder.rglob("*"))


def stored(storage):
    files = storage._files
    return sorted(found.removeprefix(storage._root + "/") for found in files.find(storage._root))


WHOLE = ["attack", "attack/stage.json", "attack/text"]


def test_a_unit_is_made_from_its_parts_once(place, run):
    unit = unit_in(place)
    assert unit.record() is None
    for _ in range(2):
        unit.make(run.join, made_by, run.parts("p0", "p1"))
        assert run.calls == ["p0", "p1", "join"]
    assert text(unit) == "of p0 of p1"
    assert left_in(place) == WHOLE
    record = unit.record()
    assert (record.name, record.digest, record.starts) == ("attack", "d1", 1)
    assert record.finished
    assert record.made_by == {"machine": "this one"}


def test_finished_parts_are_kept_when_the_process_is_killed(place, run):
    run.fail_at("p1")
    with pytest.raises(KeyboardInterrupt):
        unit_in(place).make(run.join, made_by, run.parts("p0", "p1", "p2"))
    assert run.calls == ["p0"]
    assert unit_in(place).record() is None
    assert not unit_in(place).directory.exists()
    unit_in(place).make(run.join, made_by, run.parts("p0", "p1", "p2"))
    assert run.calls == ["p0", "p1", "p2", "join"]
    assert text(unit_in(place)) == "of p0 of p1 of p2"
    assert unit_in(place).record().starts == 2


def test_a_part_resumes_with_what_it_left(place, run):
    run.fail_at("p0")
    parts, unit = run.parts("p0"), unit_in(place)
    with pytest.raises(KeyboardInterrupt):
        parts[0].make(unit, made_by)
    parts[0].make(unit, made_by)
    part = unit.part("p0")
    assert part.record().starts == 2
    assert sorted(path.name for path in part.directory.iterdir()) == ["half", "stage.json", "text"]


def test_parts_that_were_made_elsewhere_are_not_made_again(place, run):
    parts, unit = run.parts("p0", "p1", "p2"), unit_in(place)
    # As an executor does it: in any order, some twice, some not at all.
    for i in (2, 0, 2):
        functools.partial(parts[i].make, unit, made_by)()
    assert run.calls == ["p2", "p0"]
    assert unit.record() is None
    unit.make(run.join, made_by, parts)
    assert run.calls == ["p2", "p0", "p1", "join"]
    assert text(unit) == "of p0 of p1 of p2"
    assert left_in(place) == WHOLE


def test_no_part_is_made_of_what_is_finished(place, run):
    unit = unit_in(place)
    unit.make(run.join, made_by, run.parts("p0"))
    run.parts("p0")[0].make(unit, made_by)
    run.parts("p1")[0].make(unit, made_by)
    assert run.calls == ["p0", "join"]
    assert left_in(place) == WHOLE


@pytest.mark.parametrize("started", [False, True])
def test_a_part_with_other_settings_is_refused(place, run, started):
    run.parts("p0")[0].make(unit_in(place), made_by)
    if started:
        run.fail_at("p1")
        with pytest.raises(KeyboardInterrupt):
            unit_in(place).make(run.join, made_by, run.parts("p0", "p1"))
    other = unit_in(place, "d2")
    for make in (
        lambda: run.parts("p0")[0].make(other, made_by),
        lambda: other.make(run.join, made_by, run.parts("p0")),
    ):
        with pytest.raises(RunError, match=r"with other settings \(digest d1(/p0)?, expected d2"):
            make()
    assert run.calls == ["p0"]
    assert (unit_in(place).part("p0").directory / "text").read_text() == "of p0"


def test_seconds_of_parts_that_were_made_elsewhere_are_added(place, run):
    unit, parts = unit_in(place), run.parts("p0", "p1", "p2")
    for part, seconds in zip(parts[:2], (1000.0, 200.0), strict=True):
        part.make(unit, made_by)
        edit(unit.part(part.name).directory / "stage.json", seconds=seconds)
    unit.make(run.join, made_by, parts)
    # Those of the third are within the time that the unit took itself, which is short.
    assert 1200 <= unit.record().seconds < 1260


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_leftover_of_a_node_that_was_given_up_is_tidied(place, run):
    unit = unit_in(place)
    unit.make(run.join, made_by)
    # It goes on with a part when another has finished the unit.
    unit.part("p0").make(functools.partial(run.part, "p0"), made_by)
    assert left_in(place) != WHOLE
    unit.make(run.join, made_by, run.parts("p0"))
    assert run.calls == ["join", "p0"]
    assert left_in(place) == WHOLE


def test_a_part_is_not_made_again_when_its_stage_was_finished_meanwhile(place, run):
    unit = unit_in(place)
    waiting = threading.Thread(target=lambda: run.parts("p0")[0].make(unit, made_by))

    def overtaken(directory):
        run.part("p0", directory)
        waiting.start()  # another node, which waits for this one to end
        time.sleep(0.3)
        unit.make(run.join, made_by)

    Part("p0", 2, "sample", overtaken).make(unit, made_by)
    waiting.join()
    assert run.calls == ["p0", "join"]
    assert left_in(place) == WHOLE


def test_a_failure_is_kept_as_it_is_and_nothing_is_finished(place, run):
    def fails(directory):
        raise RunError("no")

    with pytest.raises(RunError, match=r"^no$"):
        unit_in(place).make(fails, made_by)
    assert unit_in(place).record() is None
    unit_in(place).make(run.join, made_by)
    assert unit_in(place).record().starts == 2


def test_a_full_disk_is_named_once(place):
    def fails(directory):
        raise ValueError("HDF5: write failed: No space left on device, errno 28")

    with pytest.raises(
        RunError, match=r"^Cannot write stage attack in .*: No space left on device"
    ):
        unit_in(place).make(fails, made_by)
    with pytest.raises(RunError) as caught:
        unit_in(place).make(lambda directory: None, made_by, [Part("p0", 1, "sample", fails)])
    assert str(caught.value).count("Cannot write stage attack, p0 in") == 1
    assert str(caught.value).count("Cannot write") == 1


# --- several processes ----------------------------------------------------------------------------

# Says that it is ready, waits for the word, and makes a unit of two slow parts.
RACER = """
import functools, os, pathlib, sys, time
from ddefense.pipeline.units import Part, Place, Unit

folder, log = map(pathlib.Path, sys.argv[1:3])

def note(name):
    with log.open("a") as file:
        file.write(name + "\\n")

def part(name, directory):
    note(name)
    time.sleep(0.3)
    (directory / "text").write_text(name)

def join(directory):
    note("join")
    time.sleep(0.3)
    parts = sorted((directory / "scratch").iterdir())
    (directory / "text").write_text(" ".join((part / "text").read_text() for part in parts))

parts = [Part(name, 1, "sample", functools.partial(part, name)) for name in ("p0", "p1")]
unit = Unit("attack", "attack", "d1", Place(folder))
print("ready", flush=True)
while not (folder.parent / "go").exists():
    time.sleep(0.001)
if sys.argv[3] == "part":
    for each in reversed(parts):
        each.make(unit, dict)
else:
    unit.make(join, dict, parts)
"""


@pytest.mark.slow
@pytest.mark.parametrize("roles", [("unit", "unit"), ("unit", "part"), ("unit", "unit", "part")])
def test_processes_that_make_the_same_unit_at_the_same_time_do_it_once(
    start_python, tmp_path, roles
):
    place, log = Place(tmp_path / "stages"), tmp_path / "log"
    racers = [start_python("-c", RACER, place.folder, log, role, cwd=tmp_path) for role in roles]
    try:
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"
        (tmp_path / "go").touch()
        ended = [(*racer.communicate(timeout=60), racer.returncode) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
    assert [(out, code) for out, _, code in ended] == [("", 0)] * len(roles), ended
    assert sorted(log.read_text().split()) == ["join", "p0", "p1"]
    assert left_in(place) == WHOLE
    assert text(unit_in(place)) == "p0 p1"
    assert unit_in(place).record().starts == 1


# Removes the directory that the unit is made in just before it is opened, as a process does that
# has finished the unit and tidies.
OVERTAKEN = """
import os, pathlib, sys
from ddefense.pipeline.units import Place, Unit

unit = Unit("attack", "attack", "d1", Place(pathlib.Path(sys.argv[1])))
tidied = []

def hook(event, arguments):
    if event == "open" and str(arguments[0]) == str(unit.partial) and not tidied:
        tidied.append(event)
        os.rmdir(unit.partial)

sys.addaudithook(hook)
unit.make(lambda directory: (directory / "text").write_text("made"), dict)
print(tidied)
"""


def test_a_directory_that_another_process_tidies_is_made_again(run_python, place, tmp_path):
    found = run_python("-c", OVERTAKEN, place.folder, cwd=tmp_path)
    assert (found.returncode, found.stdout) == (0, "['open']\n"), found.stderr
    assert left_in(place) == WHOLE


# Makes a part, and lets another process finish the stage just before its k-th look at a file, for
# every k. Prints how many there were.
OVERTAKEN_ANYWHERE = """
import contextlib, functools, itertools, pathlib, sys
from ddefense.pipeline.units import Part, Place, Unit

EVENTS = "open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree"
left = None

def hook(event, arguments):
    global left
    if left is not None and event in EVENTS and str(arguments[0]).startswith(str(place.folder)):
        left -= 1
        if left < 0:
            left = None
            unit.make(functools.partial(write, "join"), dict)

def write(text, directory):
    (directory / "text").write_text(text)

def killed(directory):
    raise KeyboardInterrupt

def make(work):
    Part("p0", 1, "sample", work).make(unit, dict)

sys.addaudithook(hook)
for k in itertools.count():
    place = Place(pathlib.Path(sys.argv[1]) / str(k))
    unit = Unit("attack", "attack", "d1", place)
    with contextlib.suppress(KeyboardInterrupt):
        if sys.argv[2] == "part":
            make(killed)
        elif sys.argv[2] == "stage":
            unit.make(killed, dict)
    left = k
    make(functools.partial(write, "p0"))
    if left is not None:
        break
    if unit.record() is None or [path.name for path in place.folder.iterdir()] != ["attack"]:
        raise AssertionError(f"at {k}: {sorted(place.folder.rglob('*'))}")
print(k)
"""


@pytest.mark.slow
@pytest.mark.parametrize("begun", ["nothing", "part", "stage"])
def test_a_part_may_be_overtaken_at_any_time(run_python, tmp_path, begun):
    found = run_python("-c", OVERTAKEN_ANYWHERE, tmp_path, begun, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 10


# --- with a storage -------------------------------------------------------------------------------


def test_what_one_node_made_is_skipped_and_fetched_by_another(nodes, run):
    a, b = (unit_in(node) for node in nodes)
    a.make(run.join, made_by, run.parts("p0"))
    assert b.record() == a.record()
    b.make(run.join, made_by, run.parts("p0"))
    run.parts("p1")[0].make(b, made_by)
    assert run.calls == ["p0", "join"]
    assert text(b) == "of p0"
    for node in nodes:
        assert left_in(node) == WHOLE
    assert stored(nodes[0].storage) == WHOLE[1:]


def test_parts_that_other_nodes_made_are_fetched_and_then_removed(nodes, run, tmp_path):
    a, b = (unit_in(node) for node in nodes)
    parts = run.parts("p0", "p1", "p2")
    parts[0].make(a, made_by)
    parts[2].make(a, made_by)
    edit_stored(nodes[0].storage, a.part("p2").key, seconds=1000.0)
    assert any("p2" in name for name in stored(nodes[0].storage))
    b.make(run.join, made_by, parts)
    assert run.calls == ["p0", "p2", "p1", "join"]
    assert text(b) == "of p0 of p1 of p2"
    assert 1000 <= b.record().seconds < 1060
    assert stored(nodes[0].storage) == WHOLE[1:]
    assert left_in(nodes[1]) == WHOLE


def edit_stored(storage, key, **changes):
    storage.write(f"{key}/stage.json", json.dumps(storage.marker(key) | changes).encode())


def test_other_settings_in_the_storage_are_refused(nodes, run):
    run.parts("p0")[0].make(unit_in(nodes[0]), made_by)
    with pytest.raises(RunError, match=r"with other settings \(digest d1/p0, expected d2/p0"):
        run.parts("p0")[0].make(unit_in(nodes[1], "d2"), made_by)
    unit_in(nodes[0]).make(run.join, made_by)
    other = unit_in(nodes[1], "d2")
    for look in (other.record, lambda: other.make(run.join, made_by)):
        with pytest.raises(RunError, match=r"attack holds stage attack made with other settings"):
            look()
    assert run.calls == ["p0", "join"]


@pytest.mark.parametrize("damaged", [b'{"name": "attack"}', b'{"no": 1}', b"{}", b"[]", b"{"])
def test_a_damaged_marker_in_the_storage_is_named(nodes, run, damaged):
    unit_in(nodes[0]).make(run.join, made_by)
    nodes[0].storage.write("attack/stage.json", damaged)
    with pytest.raises(RunError) as caught:
        unit_in(nodes[1]).make(run.join, made_by)
    assert f"{nodes[0].storage.url}/attack/stage.json" in str(caught.value)
    assert run.calls == ["join"]


def test_a_node_whose_parts_were_tidied_takes_what_another_finished(nodes, run):
    """A node is given up, but goes on: it ends the unit just before its successor does."""
    a, b = (unit_in(node) for node in nodes)
    parts = run.parts("p0", "p1")
    parts[0].make(a, made_by)

    def overtaken(directory):
        a.make(run.join, made_by, run.parts("p0", "p1"))
        raise RunError("Expected a finished stage, received none.")

    b.make(run.join, made_by, [Part("p1", 2, "sample", overtaken), parts[0]])
    assert run.calls == ["p0", "p1", "join"]
    assert text(b) == "of p0 of p1"
    assert left_in(nodes[1]) == WHOLE
    assert stored(nodes[0].storage) == WHOLE[1:]


def test_what_is_complete_in_the_storage_is_not_written_again(nodes, run):
    a, b = (unit_in(node) for node in nodes)

    def overtaken(directory):
        a.make(run.join, lambda: {"machine": "a"})
        (directory / "text").write_text("of b")

    b.make(overtaken, lambda: {"machine": "b"})
    assert b.place.storage.marker("attack")["made_by"] == {"machine": "a"}


def test_what_was_finished_without_a_storage_is_published_once(nodes, run):
    a, b = (unit_in(node) for node in nodes)
    unit_in(Place(nodes[0].folder)).make(run.join, made_by)
    a.publish()
    assert text(b) == ""
    edit(a.directory / "stage.json", seconds=1000.0)
    a.publish()
    assert nodes[0].storage.marker("attack")["seconds"] < 60
    # There is nothing to publish where nothing is finished, or without a storage.
    Unit("other", "other", "d1", nodes[0]).publish()
    unit_in(Place(nodes[0].folder)).publish()
    assert stored(nodes[0].storage) == WHOLE[1:]


def test_what_is_finished_here_is_not_published_over_other_settings(nodes, run):
    unit_in(nodes[1], "d2").make(run.join, made_by)
    unit_in(Place(nodes[0].folder)).make(run.join, made_by)
    with pytest.raises(RunError, match=r"with other settings \(digest d2, expected d1\)"):
        unit_in(nodes[0]).publish()


def test_an_unfinished_publication_is_made_again(nodes, run, monkeypatch):
    files = type(nodes[0].storage._files)

    def killed(self, *arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(files, "pipe_file", killed)  # which writes the marker
        with pytest.raises(KeyboardInterrupt):
            unit_in(nodes[0]).make(run.join, made_by)
    assert stored(nodes[0].storage) == ["attack/text"]
    assert unit_in(nodes[0]).record() is None
    assert unit_in(nodes[1]).record() is None
    for node in nodes[::-1]:
        unit_in(node).make(run.join, made_by)
    assert run.calls == ["join", "join"]
    assert text(unit_in(nodes[0])) == ""
    for node in nodes:
        assert left_in(node) == WHOLE


# --- in other processes ---------------------------------------------------------------------------


def test_a_place_without_storage_is_the_same_folder_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(Place(pathlib.Path("run/stages")))
    monkeypatch.chdir("/")
    assert pickle.loads(pickled) == Place(tmp_path / "run" / "stages")


def test_a_place_with_a_storage_is_a_folder_of_the_node(nodes, tmp_path, monkeypatch):
    pickled = pickle.dumps(nodes[0])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))  # another machine's
    there = pickle.loads(pickled)
    assert there.folder == nodes[0].storage.copies()
    assert tmp_path / "node" / f"ddefense-{os.getuid()}" in there.folder.parents
    assert there.storage == nodes[0].storage
    # From there it goes on to a third as it came.
    assert pickle.loads(pickle.dumps(there)) == there


def test_a_unit_made_in_another_place_is_brought_here(nodes, run, tmp_path, monkeypatch):
    pickled = pickle.dumps(unit_in(nodes[0]))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    there = pickle.loads(pickled)
    there.make(run.join, made_by, run.parts("p0"))
    assert not nodes[0].folder.exists()
    assert text(unit_in(nodes[0])) == "of p0"
    assert unit_in(nodes[0]).record() == there.record()
