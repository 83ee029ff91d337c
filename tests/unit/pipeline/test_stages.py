"""A stage is done once, resumes, and is never half-seen nor overwritten."""

import dataclasses
import functools
import json
import pickle
import shutil
import uuid
from pathlib import Path

import pytest

from ddefense import files
from ddefense.pipeline.executing import Here
from ddefense.pipeline.stages import SCRATCH, Part, Stages, finished, kept, place_of, reading
from ddefense.pipeline.storage import Storage
from ddefense.records import RunError


@pytest.fixture
def stages(tmp_path):
    return Stages(tmp_path)


def writes(text, calls=None):
    def work(directory):
        if calls is not None:
            calls.append(text)
        (directory / "artefact.txt").write_text(text)

    return work


def content(artefact):
    return (artefact.directory / "artefact.txt").read_text()


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_finished_stage_is_skipped(stages, tmp_path):
    calls = []
    first = stages.run("train", {"epochs": 3}, [], writes("one", calls))
    again = Stages(tmp_path)
    assert again.run("train", {"epochs": 3}, [], writes("two", calls)) == first
    assert calls == ["one"]
    assert content(first) == "one"
    assert first.directory == tmp_path / "stages" / "train"
    assert [(r.name, r.starts, r.finished) for r in again.done] == [("train", 1, True)]


def test_an_interrupted_stage_resumes_with_what_it_left(stages, tmp_path):
    def interrupted(directory):
        (directory / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.run("train", {}, [], interrupted)
    # Whoever looks for the stage does not find half of it.
    assert names(tmp_path / "stages") == [".partial-train"]
    assert stages.done == []

    def resumed(directory):
        assert (directory / "half.txt").read_text() == "half"
        writes("whole")(directory)

    again = Stages(tmp_path)
    artefact = again.run("train", {}, [], resumed)
    assert content(artefact) == "whole"
    assert names(tmp_path / "stages") == ["train"]
    assert again.done[0].starts == 2
    # The count of starts is part of the record that a later run reads.
    later = Stages(tmp_path)
    later.run("train", {}, [], writes("never"))
    assert later.done == again.done


def test_a_stage_killed_before_its_first_file_starts_again(stages, tmp_path):
    (tmp_path / "stages" / ".partial-train").mkdir(parents=True)
    assert content(stages.run("train", {}, [], writes("one"))) == "one"
    assert stages.done[0].starts == 1


@pytest.mark.parametrize("interrupted", [False, True])
def test_other_settings_are_refused_and_nothing_is_overwritten(stages, tmp_path, interrupted):
    def work(directory):
        writes("one")(directory)
        if interrupted:
            raise KeyboardInterrupt

    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            stages.run("train", {"epochs": 3}, [], work)
    else:
        stages.run("train", {"epochs": 3}, [], work)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    calls = []
    with pytest.raises(RunError, match="stage train made with other settings") as caught:
        Stages(tmp_path).run("train", {"epochs": 4}, [], writes("two", calls))
    message = str(caught.value)
    assert calls == []
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    for part in (str(tmp_path / "stages"), "workdir", "move that directory away"):
        assert part in message
    assert "\n" not in message


def test_a_stage_knows_what_it_was_made_from(stages, tmp_path):
    first = stages.run("data", {"seed": 0}, [], writes("data"))
    trained = stages.run("train", {}, [first], writes("network"))
    other = Stages(tmp_path / "other")
    second = other.run("data", {"seed": 1}, [], writes("other data"))
    assert other.run("train", {}, [second], writes("network")).digest != trained.digest
    with pytest.raises(RunError, match="other settings"):
        Stages(tmp_path).run("train", {}, [second], writes("network"))


def test_a_failing_stage_leaves_no_artefact(stages, tmp_path):
    def work(directory):
        raise RunError("no")

    for _ in range(2):
        with pytest.raises(RunError, match=r"^no$"):
            stages.run("train", {}, [], work)
    assert not (tmp_path / "stages" / "train").exists()


def test_a_damaged_marker_is_named(stages, tmp_path):
    directory = stages.run("train", {}, [], writes("one")).directory
    marker = directory / "stage.json"
    marker.write_text(marker.read_text()[:20])
    with pytest.raises(RunError) as caught:
        Stages(tmp_path).run("train", {}, [], writes("two"))
    assert str(marker) in str(caught.value)
    assert (directory / "artefact.txt").read_text() == "one"


# --- killed at every change of the file system ----------------------------------------------------

# Runs a small run in forks. The hook is told of every change before it is made.
KILLED = """
import os, pathlib, shutil, sys
from ddefense import config, files
from ddefense.pipeline import workdir
from ddefense.pipeline.stages import Stages

CHANGES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")

def write(path, text):
    with files.atomic_file(path) as temporary:
        temporary.write_text(text)

def run(folder):
    directory, exported = folder / "run", folder / "exported"

    def train(partial):
        checkpoint = partial / "scratch" / "checkpoint"
        for epoch in range(2):
            done = checkpoint.read_text() if checkpoint.exists() else ""
            if len(done) <= epoch:
                write(checkpoint, done + str(epoch))
        (partial / "network").write_text("network of " + checkpoint.read_text())

    def export(partial):
        with files.atomic_directory(exported / str(len(list(exported.glob("[0-9]"))))) as temporary:
            (temporary / "model").write_text("model of " + (trained / "network").read_text())
        (partial / "export").write_text("done")

    with workdir.claimed(directory, config.Config()):
        stages = Stages(directory)
        artefact = stages.run("train", {}, [], train)
        trained = artefact.directory
        stages.forget("export", unless=lambda stage: any(exported.glob("[0-9]")))
        stages.run("export", {}, [artefact], export)
        write(directory / "results", (trained / "network").read_text())

def forked(folder, survived=None):
    child = os.fork()
    if not child:
        left = survived

        def hook(event, arguments):
            nonlocal left
            if left is not None and event in CHANGES and str(folder) in str(arguments[0]):
                left -= 1
                if left < 0:
                    os._exit(9)

        sys.addaudithook(hook)
        run(folder)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

root, prepared = map(pathlib.Path, sys.argv[1:3])
survived = 0
while True:
    folder = root / f"killed_{survived:03d}"
    if prepared.exists():
        shutil.copytree(prepared, folder)
        shutil.rmtree(folder / "exported")  # what makes a stage be forgotten
    status = forked(folder, survived)
    assert forked(folder) == 0
    if status == 0:
        break
    assert status == 9
    survived += 1
print(survived)
"""


MODEL = Path("exported/0/model")


def contents(folder):
    """What a run leaves, except for what may be told of its past."""
    found = {p.relative_to(folder): p.read_text() for p in folder.rglob("*") if p.is_file()}
    for path in [path for path in found if path.name == "stage.json"]:
        record = json.loads(found[path])
        assert record["finished"]
        found[path] = record["digest"]
    return found


@pytest.mark.slow
def test_a_run_killed_at_any_change_of_the_file_system_ends_the_same(run_python, tmp_path):
    for name, prepared, least in (("new", "none", 30), ("forgotten", "new/killed_000", 10)):
        (tmp_path / name).mkdir()
        found = run_python("-c", KILLED, tmp_path / name, tmp_path / prepared, cwd=tmp_path)
        assert found.returncode == 0, found.stderr
        kills = int(found.stdout)
        assert kills >= least
        undisturbed = contents(tmp_path / name / f"killed_{kills:03d}")
        assert {str(path) for path in undisturbed} == {
            "run/config.json",
            "run/results",
            "run/stages/train/stage.json",
            "run/stages/train/network",
            "run/stages/export/stage.json",
            "run/stages/export/export",
            str(MODEL),
        }
        exported_twice = 0
        for number in range(kills):
            ended = contents(tmp_path / name / f"killed_{number:03d}")
            # A server takes no notice of hidden leftovers. Killed between an export and the end of
            # its stage, a run exports again, the same.
            spare = {p: ended.pop(p) for p in [*ended] if p.parts[0] == "exported" and p != MODEL}
            for path, text in spare.items():
                assert path.parts[1].startswith(".tmp-") or text == undisturbed[MODEL]
            exported_twice += any(path.parts[1] == "1" for path in spare)
            assert ended == undisturbed, number
        assert exported_twice  # or the kills did not come so close


# --- done by another executor ---------------------------------------------------------------------


class Later:
    """Does tasks when they are waited for, the last part of each first."""

    at_once = 2.0

    def __init__(self):
        self.order = []

    def submit(self, task, after, when_done):
        return Waiting(self, task, after, when_done)


class Waiting:
    def __init__(self, executor, task, after, when_done):
        self._executor, self._task, self._after, self._when_done = executor, task, after, when_done
        self._ended = False

    def wait(self):
        if self._ended:
            return
        for pending in self._after:
            pending.wait()
        for part in reversed(self._task.parts):
            part()
        self._executor.order.append((self._task.name, self._task.kind))
        self._task.work()
        self._ended = True
        self._when_done()


@pytest.fixture
def later():
    return Later()


def test_an_artefact_waits_for_its_stage_and_that_for_those_before(later, tmp_path):
    stages = Stages(tmp_path, executor=later)
    calls = []
    first = stages.run("train", {}, [], writes("network", calls), kind="train")
    second = stages.run(
        "attack", {}, [first], lambda directory: writes(content(first), calls)(directory)
    )
    never = stages.run("measure", {}, [first], writes("never", calls))
    assert (calls, stages.done, later.order) == ([], [], [])
    assert content(second) == "network"
    assert later.order == [("train", "train"), ("attack", "measure")]
    assert content(never) == "never"
    # In the order in which they were asked for, whenever they ended.
    assert [record.name for record in stages.done] == ["train", "attack", "measure"]


def test_done_keeps_the_order_in_which_stages_were_asked_for(later, tmp_path):
    stages = Stages(tmp_path, executor=later)
    artefacts = [stages.run(name, {}, [], writes(name)) for name in ("a", "b", "c")]
    told = []
    stages._when_done = lambda record: told.append(record.name)
    for artefact in reversed(artefacts):
        assert artefact.directory.exists()
    assert told == ["c", "b", "a"]
    assert [record.name for record in stages.done] == ["a", "b", "c"]


def test_a_stage_that_is_asked_for_twice_is_one_task(later, tmp_path):
    stages, calls = Stages(tmp_path, executor=later), []
    one = stages.run("train", {}, [], writes("one", calls))
    assert stages.run("train", {}, [], writes("two", calls)) is one
    assert content(one) == "one"
    assert calls == ["one"]
    assert len(stages.done) == 1


def test_parts_may_be_done_in_any_order(later, tmp_path):
    order = []

    def make_part(number, directory):
        order.append(number)
        (directory / "part.txt").write_text(str(number))

    parts = [Part(f"p{n}", 1, "part", functools.partial(make_part, n)) for n in range(3)]

    def join(directory):
        found = [(directory / SCRATCH / part.name / "part.txt").read_text() for part in parts]
        writes("".join(found))(directory)

    later_content = content(Stages(tmp_path, executor=later).run("a", {}, [], join, parts=parts))
    assert order == [2, 1, 0]
    here = content(Stages(tmp_path / "here").run("a", {}, [], join, parts=parts))
    assert later_content == here == "012"


def test_what_a_task_raises_is_raised_where_it_is_waited_for_and_unchanged(later, tmp_path):
    def fails(directory):
        raise RunError("no")

    artefact = Stages(tmp_path, executor=later).run("train", {}, [], fails)
    with pytest.raises(RunError, match=r"^no$"), reading(artefact):
        raise AssertionError


def test_a_stage_that_vanished_is_named(later, tmp_path):
    artefact = Stages(tmp_path, executor=later).run("train", {}, [], writes("one"))
    artefact.pending._task = dataclasses.replace(artefact.pending._task, work=lambda: None)
    with pytest.raises(RunError, match="Expected the finished stage train at "):
        artefact.pending.wait()


def test_what_travels_with_the_work_is_no_executor(later, tmp_path):
    stages = Stages(tmp_path, executor=later)
    artefact = stages.run("train", {}, [], writes("one"))
    found, copy = pickle.loads(pickle.dumps((stages, artefact)))
    assert found is None
    assert copy == artefact
    assert copy.pending is None
    assert content(artefact) == content(copy)


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_stages_of_one_machine_are_those_of_the_next_through_a_storage(scheme, tmp_path):
    folder = (tmp_path / "storage").as_uri()
    storage = Storage(folder if scheme == "file" else f"memory://{uuid.uuid4().hex}")
    calls = []

    def run(name):
        place = dataclasses.replace(place_of(tmp_path / name), storage=storage)
        stages = Stages(tmp_path / name, place=place)
        first = stages.run("train", {}, [], writes("network", calls))
        second = stages.run("attack", {}, [first], lambda d: writes(content(first), calls)(d))
        return stages, place, content(second)

    assert run("one")[2] == run("two")[2] == "network"
    assert calls == ["network", "network"]  # of the first machine alone
    stages, place, _ = run("three")
    # Nothing is copied that nobody looks at.
    assert names(tmp_path / "three" / "stages") == ["attack"]
    assert finished(place, "train")
    stages.forget("train", unless=lambda directory: (directory / "artefact.txt").exists())
    assert finished(place, "train")
    stages.forget("train", unless=lambda directory: False)
    assert not finished(place, "train")


# --- what was made from other inputs is made again ------------------------------------------------

# Each stage and what it is made from. `count` says little of its input, and `page` is made of that.
GRAPH = {
    "train": [],
    "data": [],
    "label": ["train"],
    "distil": ["label", "data"],
    "attack": ["distil", "data"],
    "count": ["train"],
    "page": ["count"],
}


def text_of(name, inputs):
    return "always the same" if name == "count" else f"{name}({','.join(inputs)})"


class Graph:
    """Runs all stages of the graph and says which were made."""

    def __init__(self, folder, executor=None, storage=None):
        self.place = dataclasses.replace(place_of(folder), storage=storage)
        self.stages = Stages(folder, executor=executor, place=self.place)
        self.calls = []

    def run(self):
        found = {}
        for name, inputs in GRAPH.items():
            work = functools.partial(self.make, name, [found[each] for each in inputs])
            found[name] = self.stages.run(name, {}, [found[each] for each in inputs], work)
        return {name: content(artefact) for name, artefact in found.items()}

    def make(self, name, inputs, directory):
        writes(text_of(name, [content(each) for each in inputs]), self.calls)(directory)
        self.calls[-1] = name


def replace(directory, text):
    """Puts something else in the place of a finished stage, as if it had been made so."""
    (directory / "artefact.txt").write_text(text)
    marker = directory / "stage.json"
    record = json.loads(marker.read_text())
    record["content"] = files.folder_sha256(directory, without=("stage.json",))
    marker.write_text(json.dumps(record))


def expected_after(replaced, text):
    """The texts of all stages afterwards, and which of them have to be made again."""
    before, after, made = {}, {}, set()
    for name, inputs in GRAPH.items():
        before[name] = text_of(name, [before[each] for each in inputs])
        if any(after[each] != before[each] for each in inputs):
            made.add(name)
            after[name] = text_of(name, [after[each] for each in inputs])
        else:
            after[name] = text if name == replaced else before[name]
    return after, made


@pytest.mark.slow
@pytest.mark.parametrize("stored", [False, True], ids=["folder", "storage"])
@pytest.mark.parametrize("executor", [Here, Later])
@pytest.mark.parametrize("replaced", GRAPH)
def test_what_depends_on_a_stage_that_is_another_now_is_made_again_and_nothing_else(
    tmp_path, executor, stored, replaced, caplog
):
    storage = Storage((tmp_path / "storage").as_uri()) if stored else None
    folder = tmp_path / "run"
    first = Graph(folder, executor(), storage)
    assert first.run() == expected_after(None, "")[0]
    assert sorted(first.calls) == sorted(GRAPH)
    replace((tmp_path / "storage" if stored else folder / "stages") / replaced, "another")
    texts, made = expected_after(replaced, "another")
    with caplog.at_level("INFO", logger="absl"):
        again = Graph(folder, executor(), storage)
        assert again.run() == texts
    assert set(again.calls) == made
    assert len(again.calls) == len(made)
    for name in GRAPH:
        said = [line for line in caplog.messages if line.startswith(f"making {name} again: ")]
        assert len(said) == (name in made)
        if said and replaced in GRAPH[name]:
            assert replaced in said[0].partition(": ")[2]
    third = Graph(folder, executor(), storage)
    assert third.run() == texts
    assert third.calls == []
    if stored:  # another machine, which has copies of what was before
        other = Graph(tmp_path / "other", executor(), storage)
        assert other.run() == texts
        assert other.calls == []


def test_a_removed_stage_that_comes_out_the_same_leaves_the_others_alone(tmp_path):
    Graph(tmp_path).run()
    shutil.rmtree(tmp_path / "stages" / "train")
    again = Graph(tmp_path)
    again.run()
    assert again.calls == ["train"]


def test_a_copy_of_what_the_storage_held_before_is_fetched_anew(tmp_path):
    storage = Storage((tmp_path / "storage").as_uri())
    one, two = (Graph(tmp_path / name, storage=storage) for name in ("one", "two"))
    one.run()
    two.run()
    shutil.rmtree(tmp_path / "storage" / "train")
    replace(tmp_path / "one" / "stages" / "train", "another")
    texts = expected_after("train", "another")[0]
    assert Graph(tmp_path / "one", storage=storage).run() == texts
    assert Graph(tmp_path / "two", storage=storage).run() == texts
    copy = tmp_path / "two" / "stages" / "train" / "artefact.txt"
    assert copy.read_text() == "another"
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".partial-train"]


def test_a_stage_with_other_files_than_it_was_finished_with_is_refused(stages, tmp_path):
    artefact = stages.run("train", {}, [], writes("one"))
    (artefact.directory / "artefact.txt").write_text("two")
    with pytest.raises(RunError, match="is damaged") as caught:
        content(Stages(tmp_path).run("train", {}, [], writes("three")))
    assert str(tmp_path / "stages" / "train") in str(caught.value)
    assert "Move that directory away" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("executor", [Here, Later])
def test_parts_and_scratch_of_other_inputs_are_not_used(tmp_path, executor):
    """A stage that was killed after one of its parts, before what it is made of was replaced."""
    seen = []

    def run(kill):
        stages = Stages(tmp_path, executor=executor())
        network = stages.run("train", {}, [], writes("network"))

        def part(name, directory):
            if kill == name:
                raise KeyboardInterrupt
            seen.append(f"{name} of {content(network)}")
            (directory / "part.txt").write_text(seen[-1])

        def join(directory):
            scratch = directory / SCRATCH
            assert not (scratch / "checkpoint").exists()
            (scratch / "checkpoint").write_text("half")
            if kill == "join":
                raise KeyboardInterrupt
            parts = sorted(scratch.glob("p?/part.txt"))
            writes(" ".join(path.read_text() for path in parts))(directory)

        parts = [Part(name, 1, "part", functools.partial(part, name)) for name in ("p0", "p1")]
        return content(stages.run("attack", {}, [network], join, parts=parts))

    killed_at = "p1" if executor is Here else "p0"
    with pytest.raises(KeyboardInterrupt):
        run(killed_at)
    kept = seen.pop()
    assert seen == []
    replace(tmp_path / "stages" / "train", "another")
    with pytest.raises(KeyboardInterrupt):
        run("join")
    assert sorted(seen) == ["p0 of another", "p1 of another"]
    assert kept.removesuffix("network") + "another" in seen
    replace(tmp_path / "stages" / "train", "a third")
    assert run(None) == "p0 of a third p1 of a third"
    assert names(tmp_path / "stages") == ["attack", "train"]


def test_what_an_earlier_version_made_is_refused(stages, tmp_path):
    stages.run("train", {}, [], writes("one"))
    marker = tmp_path / "stages" / "train" / "stage.json"
    record = json.loads(marker.read_text())
    del record["content"], record["inputs"]
    marker.write_text(json.dumps(record))
    with pytest.raises(RunError, match="earlier version") as caught:
        Stages(tmp_path).run("train", {}, [], writes("two"))
    assert "workdir" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_kept_of_a_stage_is_kept_until_it_is_another(stages, tmp_path):
    artefact = stages.run("train", {}, [], writes("one"))
    load = kept(content)
    assert load(artefact) == load(artefact) == "one"
    replace(artefact.directory, "two")
    assert load(artefact) == "two"


# --- the recipe -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a stage."""

    rate: float
    epochs: int = 3


@dataclasses.dataclass(frozen=True)
class LaterSettings(Settings):
    """The same of a later version, which knows of one thing more."""

    decay: float = 1.0


def recipe(tmp_path, settings):
    folder = tmp_path / uuid.uuid4().hex
    return Stages(folder).run("train", {"settings": settings}, [], writes("one")).digest


def test_a_setting_that_is_added_with_a_default_is_no_other_recipe(tmp_path):
    before = recipe(tmp_path, Settings(0.1))
    assert recipe(tmp_path, LaterSettings(0.1)) == before
    assert recipe(tmp_path, Settings(0.1, epochs=3)) == before
    others = [Settings(0.2), Settings(0.1, epochs=4), LaterSettings(0.1, decay=0.9)]
    assert len({before, *(recipe(tmp_path, other) for other in others)}) == 4
