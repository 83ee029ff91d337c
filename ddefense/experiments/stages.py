"""A stage is one function (config) -> artefact directory, done once, resumable, never half-seen."""

import contextlib
import dataclasses
import errno
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pydantic
from absl import logging
from pydantic.dataclasses import dataclass

from ddefense import interruption, records
from ddefense.config import digest

_MARKER = "stage.json"
_REFUSALS = tuple(
    os.strerror(code)
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
)
SCRATCH = "scratch"
"""Where a stage keeps what it needs only until it is finished."""


@dataclass(config=pydantic.ConfigDict(frozen=True, extra="forbid"), kw_only=True)
class StageRecord:
    """What a finished stage says of itself.

    Attributes:
        name: of the stage.
        digest: of its settings and of those of the stages it builds on.
        starts: how often it was started; more than once if it was interrupted.
        seconds: that the process which finished it spent.
        finished: whether the artefact is complete.
        made_by: versions and machine of the process that finished it.
    """

    name: str
    digest: str
    starts: int
    seconds: float = 0.0
    finished: bool = False
    made_by: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Artefact:
    """A finished stage.

    Attributes:
        directory: where its files are.
        digest: stands for everything that determined it.
    """

    directory: pathlib.Path
    digest: str


class Stages:
    """Runs stages in one run directory.

    Args:
        workdir: the run directory; artefacts go to `stages/<name>`.
        made_by: versions and machine, kept with every stage.
        when_done: called with the record of every stage that is done, skipped ones included.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        made_by: dict[str, str] | None = None,
        when_done: Callable[[StageRecord], None] | None = None,
    ) -> None:
        """Remembers the directory."""
        self._directory = _stages(workdir)
        self._made_by = made_by or {}
        self._when_done = when_done or (lambda record: None)
        self.done: list[StageRecord] = []

    def run(
        self,
        name: str,
        settings: dict[str, Any],
        inputs: list[Artefact],
        work: Callable[[pathlib.Path], None],
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

        Returns:
            The artefact.

        Raises:
            RunError: if the directory holds a stage of that name with other settings.
            StoppedError: if the run was asked to stop.
        """
        interruption.check()
        expected = digest([settings, [artefact.digest for artefact in inputs]])
        directory = self._directory / name
        if directory.exists():
            record = self._check(directory, expected)
            logging.info("skipped %s", name)
        else:
            partial = self._directory / f".partial-{name}"
            partial.mkdir(parents=True, exist_ok=True)
            starts = 1
            if (partial / _MARKER).exists():
                starts += self._check(partial, expected).starts
                logging.info("resuming %s", name)
            else:
                logging.info("running %s", name)
            record = StageRecord(name=name, digest=expected, starts=starts)
            records.dump(record, partial / _MARKER)
            start = time.monotonic()
            (partial / SCRATCH).mkdir(exist_ok=True)
            with _naming_full_disks(name, partial):
                work(partial)
            record = dataclasses.replace(
                record, seconds=time.monotonic() - start, finished=True, made_by=self._made_by
            )
            records.dump(record, partial / _MARKER)
            partial.replace(directory)
        shutil.rmtree(directory / SCRATCH, ignore_errors=True)
        self.done.append(record)
        self._when_done(record)
        return Artefact(directory, expected)

    def forget(self, name: str, *, unless: Callable[[pathlib.Path], bool]) -> None:
        """Removes a finished stage whose effect outside the run directory is gone.

        Args:
            name: of the stage.
            unless: called with the stage's directory; whether it still holds.
        """
        directory = self._directory / name
        if directory.exists() and not unless(directory):
            # Not in place: a process killed meanwhile would leave half a stage.
            doomed = self._directory / f".tmp-{name}"
            directory.replace(doomed)
            shutil.rmtree(doomed)

    def _check(self, directory: pathlib.Path, expected: str) -> StageRecord:
        try:
            record = records.load(StageRecord, directory / _MARKER)
        except records.RunError as error:
            raise records.RunError(
                f"Expected the record of a stage at {directory / _MARKER}, but it is damaged. Move "
                f"{directory} away to run the stage again."
            ) from error
        if record.digest != expected:
            raise records.RunError(
                f"{directory} holds stage {record.name} made with other settings (digest "
                f"{record.digest}, expected {expected}). Choose another --workdir, or move that "
                "directory away to run the stage again."
            )
        return record


@contextlib.contextmanager
def _naming_full_disks(name: str, directory: pathlib.Path) -> Iterator[None]:
    """Turns a refused write into advice that helps, whichever library met it.

    HDF5 and TensorFlow raise errors of their own, which share only the system's words.
    """
    try:
        yield
    except Exception as error:
        found = next((words for words in _REFUSALS if words in str(error)), None)
        if found is None:
            raise
        raise records.RunError(
            f"Cannot write stage {name} in {directory}: {found}. Make room or choose another "
            "--workdir or --export_dir; finished stages are kept, and the same command resumes."
        ) from error


def finished(workdir: pathlib.Path, name: str) -> bool:
    """Whether a run directory holds a stage."""
    return (_stages(workdir) / name).exists()


def _stages(workdir: pathlib.Path) -> pathlib.Path:
    return workdir / "stages"


@contextlib.contextmanager
def reading(artefact: Artefact) -> Iterator[None]:
    """Turns what a damaged artefact raises in the block into advice that helps.

    Raises:
        RunError: naming the stage's directory, whatever file in it is damaged.
    """
    try:
        yield
    except (records.RunError, OSError, ValueError, KeyError, EOFError) as error:
        raise records.RunError(
            f"The finished stage in {artefact.directory} is damaged: {error} Move that directory "
            "away to run the stage again."
        ) from error
