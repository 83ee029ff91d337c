"""A unit is made once, in parts if it has some, by whoever comes first, wherever its place is."""

import functools
import json
import pathlib
import pickle

import pytest

from ddefense.experiments.storage import Storage
from ddefense.experiments.units import Part, Place, Unit
from ddefense.records import RunError

MADE_BY = {"machine": "here"}


def made_by():
    return MADE_BY


def attack(calls, number, directory):
    calls.append(number)
    (directory / "shard.txt").write_text(f"shard {number};")


def join(parts, directory):
    found = [(directory / "scratch" / part.name / "shard.txt").read_text() for part in parts]
    (directory / "joined.txt").write_text("".join(found))


@pytest.fixture
def calls():
    return []


@pytest.fixture
def parts(calls):
    return [
        Part(f"shard_{number}", 10, "attack", functools.partial(attack, calls, number))
        for number in range(3)
    ]


@pytest.fixture
def make(parts):
    def make(unit):
        unit.make(functools.partial(join, parts), made_by, parts)
        return (unit.directory / "joined.txt").read_text()

    return make


def unit_in(place, digest="d1"):
    return Unit("attack", "attack", digest, place)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


WHOLE = "shard 0;shard 1;shard 2;"


def test_parts_are_made_before_the_rest_and_only_then_thrown_away(make, calls, tmp_path):
    unit = unit_in(Place(tmp_path))
    assert unit.record() is None
    assert make(unit) == WHOLE
    assert calls == [0, 1, 2]
    record = unit.record()
    assert (record.name, record.digest, record.starts) == ("attack", "d1", 1)
    assert (record.finished, record.made_by) == (True, MADE_BY)
    assert names(tmp_path) == ["attack"]
    assert names(unit.directory) == ["joined.txt", "stage.json"]


def test_a_finished_unit_is_not_made_again(make, calls, tmp_path):
    make(unit_in(Place(tmp_path)))
    assert make(unit_in(Place(tmp_path))) == WHOLE
    assert calls == [0, 1, 2]
    assert names(tmp_path) == ["attack"]


def test_parts_that_others_have_made_are_taken_with_their_seconds(make, parts, calls, tmp_path):
    unit = unit_in(Place(tmp_path))
    for number in (2, 0):
        parts[number].make(unit, made_by)
    marker = tmp_path / ".partial-attack" / "scratch" / "shard_2" / "stage.json"
    slow = json.loads(marker.read_text()) | {"seconds": 1000.0}
    marker.write_text(json.dumps(slow))
    assert make(unit) == WHOLE
    assert calls == [2, 0, 1]
    assert 1000 < unit.record().seconds < 1100
    # The unit itself was started once.
    assert unit.record().starts == 1


def test_a_part_is_not_made_when_its_unit_is_finished(make, parts, calls, tmp_path):
    unit = unit_in(Place(tmp_path))
    make(unit)
    parts[1].make(unit, made_by)
    assert calls == [0, 1, 2]
    assert names(tmp_path) == ["attack"]


def test_what_a_lost_node_goes_on_to_leave_is_tidied(make, tmp_path):
    unit = unit_in(Place(tmp_path))
    make(unit)
    late = tmp_path / ".partial-attack" / "scratch" / ".partial-shard_1"
    late.mkdir(parents=True)
    unit.tidy()
    assert names(tmp_path) == ["attack"]


@pytest.mark.parametrize("finished", [True, False])
def test_parts_of_other_settings_are_refused(make, parts, calls, tmp_path, finished):
    parts[0].make(unit_in(Place(tmp_path)), made_by)
    if not finished:
        part = tmp_path / ".partial-attack" / "scratch" / "shard_0"
        part.rename(part.with_name(".partial-shard_0"))
    with pytest.raises(RunError, match="made with other settings"):
        make(unit_in(Place(tmp_path), digest="d2"))
    assert calls == [0]


AT_ONCE = """
import functools, pathlib, sys, time
from ddefense.experiments.units import Part, Place, Unit

def work(directory):
    (directory / "made.txt").write_text("whole")
    with open("calls", "a") as calls:
        calls.write("call\\n")
    time.sleep(1)

def part(directory):
    with open("parts", "a") as parts:
        parts.write("part\\n")
    time.sleep(0.5)

print("ready", flush=True)
sys.stdin.readline()
unit = Unit("attack", "attack", "d1", Place(pathlib.Path("stages")))
unit.make(work, dict, [Part("shard", 1, "attack", part)])
assert (unit.directory / "made.txt").read_text() == "whole"
"""


def test_two_processes_that_make_one_unit_make_it_once(tmp_path):
    import subprocess
    import sys

    root = pathlib.Path(__file__).resolve().parents[3]
    both = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", AT_ONCE],
            cwd=tmp_path,
            env={"PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 0, errors
    assert (tmp_path / "calls").read_text() == "call\n"
    assert (tmp_path / "parts").read_text() == "part\n"
    assert names(tmp_path / "stages") == ["attack"]


# --- with a storage -------------------------------------------------------------------------------


@pytest.fixture
def storage(tmp_path):
    return Storage((tmp_path / "storage").as_uri())


@pytest.fixture
def nodes(tmp_path, storage):
    """Places of two machines that share nothing else."""
    return [Place(tmp_path / name, storage) for name in ("one", "two")]


def test_what_one_node_made_another_fetches(make, calls, nodes):
    make(unit_in(nodes[0]))
    there = unit_in(nodes[1])
    assert there.record() == unit_in(nodes[0]).record()
    directory = nodes[1].here("attack")
    assert directory == there.directory
    assert (directory / "joined.txt").read_text() == WHOLE
    make(there)
    assert calls == [0, 1, 2]


def test_parts_come_from_any_node_and_go_when_they_are_joined(
    make, parts, calls, nodes, tmp_path, storage
):
    parts[0].make(unit_in(nodes[0]), made_by)
    parts[2].make(unit_in(nodes[1]), made_by)
    assert storage.marker(".partial-attack/scratch/shard_0") is not None
    assert make(unit_in(nodes[1])) == WHOLE
    assert calls == [0, 2, 1]
    assert names(tmp_path / "storage") == ["attack"]
    assert names(tmp_path / "two") == ["attack"]


def test_what_a_storage_has_lost_is_published_again(make, calls, nodes, storage):
    make(unit_in(nodes[0]))
    storage.remove("attack")
    assert unit_in(nodes[1]).record() is None
    make(unit_in(nodes[0]))
    assert unit_in(nodes[1]).record() is not None
    assert calls == [0, 1, 2]


def test_a_storage_of_other_settings_is_refused(make, nodes, storage):
    make(unit_in(nodes[0]))
    with pytest.raises(RunError) as caught:
        make(unit_in(nodes[1], digest="d2"))
    assert f"{storage.url}/attack holds stage attack made with other settings" in str(caught.value)


def test_another_process_has_the_shared_folder_or_a_copy_of_the_storage(
    nodes, storage, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shared = pickle.loads(pickle.dumps(Place(pathlib.Path("run/stages"))))
    assert shared == Place(tmp_path / "run" / "stages")
    assert pickle.loads(pickle.dumps(nodes[0])) == Place(storage.copies(), storage)
