"""A stage is one function (config) -> artefact directory, done once, resumable, never half-seen."""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import logging

from ddefense import files, interruption, records
from ddefense.config import digest
from ddefense.experiments.executing import Executor, Here, Kind, Pending, Task
from ddefense.experiments.units import SCRATCH, MadeBy, Part, Place, StageRecord, Unit, Work

__all__ = [
    "SCRATCH",
    "Artefact",
    "Part",
    "Place",
    "StageRecord",
    "Stages",
    "finished",
    "place_of",
    "reading",
]


@dataclasses.dataclass(frozen=True)
class Artefact:
    """What a stage leaves; it may still be at work.

    Attributes:
        name: of the stage.
        digest: stands for everything that determined it.
        place: where it is.
        pending: what to wait for; None if the stage is finished.
    """

    name: str
    digest: str
    place: Place
    pending: Pending | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def directory(self) -> pathlib.Path:
        """Where its files are, once the stage is finished: this waits for it.

        Raises:
            RunError: if the stage failed.
        """
        if self.pending is not None:
            self.pending.wait()
        return self.place.here(self.name)

    def __reduce__(self) -> tuple[object, ...]:
        """For tasks of other processes, which start when it is finished."""
        return Artefact, (self.name, self.digest, self.place)


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
        """Runs a stage, or skips it if it is finished.

        Work happens in a hidden directory that survives a killed run, so that `work` can resume
        from what it left in the subdirectory `scratch`, and is renamed when finished. Scratch is
        removed only after that.

        Args:
            name: of the stage and of its directory.
            settings: what determines the artefact beside `inputs`, as JSON values.
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
        unit = Unit(name, name, expected, self._place)
        self._records.pop(name, None)
        record = unit.record()
        pending = None
        if record is not None:
            logging.info("skipped %s", name)
            unit.publish()
            unit.tidy()
            self._finish(unit)
        else:
            self._records[name] = None  # its place in the order
            pending = self._executor.submit(
                Task(
                    name,
                    kind,
                    functools.partial(unit.make, work, self._made_by, parts),
                    [functools.partial(part.make, unit, self._made_by) for part in parts],
                ),
                [artefact.pending for artefact in inputs if artefact.pending is not None],
                functools.partial(self._finish, unit),
            )
        self._asked[name] = Artefact(name, expected, self._place, pending)
        return self._asked[name]

    def forget(self, name: str, *, unless: Callable[[pathlib.Path], bool]) -> None:
        """Removes a finished stage whose effect outside the run directory is gone.

        Args:
            name: of the stage.
            unless: called with the stage's directory; whether it still holds.
        """
        directory, storage = self._place.folder / name, self._place.storage
        if not finished(self._place, name) or unless(self._place.here(name)):
            return
        self._asked.pop(name, None)
        if storage is not None:
            storage.remove(name)
        # Not in place: a process killed meanwhile would leave half a stage.
        doomed = self._place.folder / f".tmp-{name}"
        directory.replace(doomed)
        shutil.rmtree(doomed)

    def _finish(self, unit: Unit) -> None:
        record = unit.record()
        if record is None:
            raise records.RunError(
                f"Expected the finished stage {unit.name} at {unit.directory}, which is not there. "
                "Was it removed? The same command makes it again."
            )
        self._records[unit.name] = record
        self._when_done(record)


def _no_stages() -> None:
    return None


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
