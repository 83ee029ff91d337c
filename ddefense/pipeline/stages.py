"""A stage is one function (config) -> artefact directory, done once, resumable, never half-seen."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from absl import logging

from ddefense import files, interruption, records
from ddefense.config import digest
from ddefense.pipeline.executing import Executor, Here, Kind, Task
from ddefense.pipeline.units import (
    SCRATCH,
    Artefact,
    MadeBy,
    Part,
    Place,
    StageRecord,
    Unit,
    Work,
    changed,
)

__all__ = [
    "SCRATCH",
    "Artefact",
    "Part",
    "Place",
    "StageRecord",
    "Stages",
    "finished",
    "kept",
    "place_of",
    "reading",
]

Arguments = ParamSpec("Arguments")
Loaded = TypeVar("Loaded")


class Stages:
    """Runs the stages of one run.

    Args:
        workdir: the run directory; artefacts go to `stages/<name>`.
        made_by: gives versions and machine of the process that makes a stage, kept with it.
        when_done: called with the record of every stage that is done, skipped ones included.
        executor: does the work; None for this process.
        place: where artefacts go; None for the run directory alone.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        made_by: MadeBy = dict,
        when_done: Callable[[StageRecord], None] | None = None,
        executor: Executor | None = None,
        place: Place | None = None,
    ) -> None:
        """Remembers the directory."""
        self._place = place or place_of(workdir)
        self._made_by = made_by
        self._when_done = when_done or (lambda record: None)
        self._executor: Executor = executor or Here()
        self._asked: dict[str, Artefact] = {}
        self._records: dict[str, StageRecord | None] = {}

    def __reduce__(self) -> tuple[object, ...]:
        """The work of a stage, wherever it is done, runs no other stages."""
        return _no_stages, ()

    @property
    def done(self) -> list[StageRecord]:
        """The records of the stages that are done, in the order in which they were asked for."""
        return [record for record in self._records.values() if record is not None]

    def run(
        self,
        name: str,
        settings: dict[str, Any],
        inputs: list[Artefact],
        work: Work,
        *,
        kind: Kind = "measure",
        parts: Sequence[Part] = (),
    ) -> Artefact:
        """Runs a stage, or skips it if it is finished and its inputs are what it was made from.

        Work happens in a hidden directory that survives a killed run, so that `work` can resume
        from what it left in the subdirectory `scratch`, and is renamed when finished. Scratch is
        removed only after that.

        Args:
            name: of the stage and of its directory.
            settings: what determines the artefact beside `inputs`, as JSON values, or dataclasses
                of them, of which those fields count that are not at their default.
            inputs: artefacts it is made from.
            work: called with the directory to fill.
            kind: what it is for.
            parts: pieces of the work that come first; a resumed run keeps the finished ones.

        Returns:
            The artefact, which the executor may still be at work on.

        Raises:
            RunError: if the directory holds a stage of that name with other settings.
            StoppedError: if the run was asked to stop.
        """
        interruption.check()
        expected = digest([settings, [artefact.digest for artefact in inputs]])
        asked = self._asked.get(name)
        if asked is not None and asked.digest == expected and asked.pending is not None:
            return asked
        unit = Unit(name, name, expected, self._place, tuple(inputs))
        self._records.pop(name, None)
        pending = [artefact.pending for artefact in inputs if artefact.pending is not None]
        earlier = unit.earlier()
        # What pending inputs will be, only the task can know.
        record = unit.record() if not pending else None
        submitted = None
        if record is not None:
            logging.info("skipped %s", name)
            unit.publish()
            unit.tidy()
            self._finish(unit)
        else:
            if earlier is not None and not pending:
                _log_again(earlier, unit.made_from())
                earlier = None
            self._records[name] = None  # its place in the order
            submitted = self._executor.submit(
                Task(
                    name,
                    kind,
                    functools.partial(unit.make, work, self._made_by, parts),
                    [functools.partial(part.make, unit, self._made_by) for part in parts],
                ),
                pending,
                functools.partial(self._finish, unit, earlier),
            )
        self._asked[name] = Artefact(name, expected, self._place, submitted)
        return self._asked[name]

    def forget(self, name: str, *, unless: Callable[[pathlib.Path], bool]) -> None:
        """Removes a finished stage whose effect outside the run directory is gone.

        Args:
            name: of the stage.
            unless: called with the stage's directory; whether it still holds.
        """
        if not finished(self._place, name) or unless(self._place.here(name)):
            return
        self._asked.pop(name, None)
        Unit(name, name, "", self._place).remove()

    def _finish(self, unit: Unit, earlier: StageRecord | None = None) -> None:
        """Notes a finished stage.

        Args:
            unit: the stage.
            earlier: what it was before the inputs that it had to wait for were finished.
        """
        record = unit.record()
        if record is None:
            raise records.RunError(
                f"Expected the finished stage {unit.name} at {unit.directory}, which is not there. "
                "Was it removed? The same command makes it again."
            )
        if earlier is not None and earlier.inputs != record.inputs:
            _log_again(earlier, record.inputs)
        self._records[unit.name] = record
        self._when_done(record)


def _no_stages() -> None:
    return None


def _log_again(earlier: StageRecord, inputs: dict[str, str]) -> None:
    logging.info("making %s again: %s", earlier.name, changed(earlier.inputs, inputs))


def kept(
    load: Callable[Concatenate[Artefact, Arguments], Loaded],
) -> Callable[Concatenate[Artefact, Arguments], Loaded]:
    """Keeps the last few things that a function made of artefacts, until their content is another.

    Args:
        load: of hashable arguments, the first of them an artefact.
    """

    def of_content(content: str, *args: Any, **kwargs: Any) -> Loaded:
        del content
        return load(*args, **kwargs)

    cached: Callable[..., Loaded] = functools.lru_cache(maxsize=4)(of_content)

    def look(artefact: Artefact, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Loaded:
        return cached(artefact.content, artefact, *args, **kwargs)

    functools.update_wrapper(look, load)
    return look


def place_of(workdir: pathlib.Path) -> Place:
    """Where a run directory keeps its stages."""
    return Place(workdir / "stages")


def finished(place: Place, name: str) -> bool:
    """Whether a stage is there."""
    if (place.folder / name).exists():
        return True
    return place.storage is not None and place.storage.marker(name) is not None


@contextlib.contextmanager
def reading(artefact: Artefact) -> Iterator[None]:
    """Turns what a damaged artefact raises in the block into advice that helps.

    Raises:
        RunError: naming the stage's directory, whatever file in it is damaged.
    """
    directory = artefact.directory
    try:
        yield
    except (records.RunError, files.DamagedError, OSError, ValueError, KeyError, EOFError) as error:
        raise records.RunError(
            f"The finished stage in {directory} is damaged: {error} Move that directory "
            "away to run the stage again."
        ) from error
