"""A stage is done once, resumes, and is never half-seen nor overwritten."""

import pytest

from ddefense.experiments.stages import Stages
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
    for part in (str(tmp_path / "stages"), "--workdir", "move that directory away"):
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
    artefact = stages.run("train", {}, [], writes("one"))
    marker = artefact.directory / "stage.json"
    marker.write_text(marker.read_text()[:20])
    with pytest.raises(RunError) as caught:
        Stages(tmp_path).run("train", {}, [], writes("two"))
    assert str(marker) in str(caught.value)
    assert content(artefact) == "one"
