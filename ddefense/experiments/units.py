"""A directory that is made once, wherever that is done: resumable, and never half-seen."""

import contextlib
import dataclasses
import errno
import fcntl
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence

import pydantic
from absl import logging
from pydantic.dataclasses import dataclass

from ddefense import interruption, records
from ddefense.experiments.storage import MARKER, Storage
from ddefense.progress import Progress

_REFUSALS = tuple(
    os.strerror(code)
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
)
_ADVICE = (
    "Make room or choose another --workdir or --export_dir; finished stages are kept, and the same "
    "command resumes."
)
_POLL_SECONDS = 0.2
SCRATCH = "scratch"
"""Where a unit keeps what it needs only until it is finished."""

Work = Callable[[pathlib.Path], None]
MadeBy = Callable[[], dict[str, str]]


@dataclass(config=pydantic.ConfigDict(frozen=True, extra="forbid"), kw_only=True)
class StageRecord:
    """What a finished stage says of itself.

    Attributes:
        name: of the stage.
        digest: of its settings and of those of the stages it builds on.
        starts: how often it was started; more than once if it was interrupted.
        seconds: that the processes which finished it and its parts spent.
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
class Place:
    """Where units are.

    Attributes:
        folder: on this machine, or on a file system that all nodes share.
        storage: where finished units go beside that, for other nodes. Their folders are copies.
    """

    folder: pathlib.Path
    storage: Storage | None = None

    def __reduce__(self) -> tuple[object, ...]:
        """In another process, which may be on another machine."""
        if self.storage is None:
            return Place, (self.folder.absolute(),)
        return _elsewhere, (self.storage,)

    def here(self, key: str) -> pathlib.Path:
        """The directory of a finished unit, brought to this machine."""
        directory = self.folder / key
        if self.storage is not None and not directory.exists():
            self.storage.fetch(key, directory)
        return directory


def _elsewhere(storage: Storage) -> Place:
    return Place(storage.copies(), storage)


@dataclasses.dataclass(frozen=True)
class Unit:
    """A stage, or a part of one.

    Attributes:
        name: for messages.
        key: of its directory within the place.
        digest: of everything that determines it.
        place: where it is.
        announced: whether a log says that it is made.
    """

    name: str
    key: str
    digest: str
    place: Place
    announced: bool = True

    @property
    def directory(self) -> pathlib.Path:
        """Where it is when it is finished."""
        return self.place.folder / self.key

    @property
    def partial(self) -> pathlib.Path:
        """Where it is made."""
        return self.directory.with_name(f".partial-{self.directory.name}")

    def part(self, name: str) -> "Unit":
        """A part of it."""
        key = self.partial.relative_to(self.place.folder) / SCRATCH / name
        digest = f"{self.digest}/{name}"
        return Unit(f"{self.name}, {name}", key.as_posix(), digest, self.place, announced=False)

    def record(self) -> StageRecord | None:
        """What it says of itself; None if it is not finished.

        Raises:
            RunError: if it was made with other settings, or is damaged.
        """
        if self.directory.exists():
            return self._load(self.directory)
        found = self._published()
        if found is None:
            self.check()
        return found

    def check(self) -> int:
        """How often it was started before.

        Raises:
            RunError: if that was with other settings, or its record is damaged.
        """
        marker = self.partial / MARKER
        if not marker.exists():
            return 0
        try:
            return self._load(self.partial).starts
        except records.RunError:
            if marker.exists():
                raise
            return 0  # another process has just finished it, which renames it

    def make(
        self,
        work: Work,
        made_by: MadeBy,
        parts: "Sequence[Part]" = (),
        unless: Callable[[], bool] = lambda: False,
    ) -> None:
        """Makes it, unless it is finished.

        Args:
            work: called with the directory to fill, in which all parts are.
            made_by: gives versions and machine.
            parts: what is made before it.
            unless: whether nobody needs it any more, asked when no other process makes it.
        """
        with _alone(self.partial):
            if unless():
                return
            if self.record() is not None:
                self.publish()  # a copy may have outlived what it was of
            else:
                try:
                    self._make(work, made_by, parts)
                except (records.RunError, OSError):
                    # Another node may have finished it meanwhile, and removed what this one needed.
                    if not self.is_finished():
                        raise
        self.tidy()

    def publish(self) -> None:
        """Copies it to the storage, if it is finished here alone: an earlier run may have had none.

        Raises:
            RunError: if the storage holds it made with other settings, or damaged.
        """
        if self.directory.exists():
            self._publish(self.directory)

    def tidy(self) -> None:
        """Removes what only the making of it needed."""
        shutil.rmtree(self.directory / SCRATCH, ignore_errors=True)
        # A node that was given up may have gone on with a part.
        shutil.rmtree(self.partial, ignore_errors=True)
        if self.place.storage is not None:
            self.place.storage.remove(self.partial.relative_to(self.place.folder).as_posix())

    def _make(self, work: Work, made_by: MadeBy, parts: "Sequence[Part]") -> None:
        start, starts = time.monotonic(), 1 + self.check()
        if self.announced:
            logging.info("%s %s", "running" if starts == 1 else "resuming", self.name)
        record = StageRecord(name=self.name, digest=self.digest, starts=starts)
        records.dump(record, self.partial / MARKER)
        (self.partial / SCRATCH).mkdir(exist_ok=True)
        with _naming_full_disks(self.name, self.partial):
            elsewhere = self._make_parts(parts, made_by)
            work(self.partial)
        seconds = time.monotonic() - start + elsewhere
        record = dataclasses.replace(record, seconds=seconds, finished=True, made_by=made_by())
        records.dump(record, self.partial / MARKER)
        self._publish(self.partial)
        self.partial.replace(self.directory)

    def _publish(self, directory: pathlib.Path) -> None:
        # Other nodes may be reading what is there.
        if self.place.storage is not None and self._published() is None:
            self.place.storage.publish(self.key, directory, without=SCRATCH)

    def _published(self) -> StageRecord | None:
        """What the storage says of it; None if it is not complete there, or there is no storage."""
        storage = self.place.storage
        found = None if storage is None else storage.marker(self.key)
        if storage is None or found is None:
            return None
        where = f"{storage.url}/{self.key}"
        try:
            record = StageRecord(**found)
        except (TypeError, pydantic.ValidationError) as error:
            raise records.RunError(
                f"Expected the record of a stage at {where}/{MARKER}, but it is damaged. Move "
                f"{where} away to run the stage again."
            ) from error
        return self._checked(record, where)

    def is_finished(self) -> bool:
        """Whether it is here, or in the storage."""
        return self.directory.exists() or self._published() is not None

    def _make_parts(self, parts: "Sequence[Part]", made_by: MadeBy) -> float:
        """Makes the missing parts and brings the others here; returns the seconds of the latter."""
        seconds = 0.0
        if not parts:
            return seconds
        label = self.name.replace("_on_", " on ").replace("_times_", " times ")
        with Progress(label, sum(part.size for part in parts), parts[0].of) as progress:
            for part in parts:
                found = self.part(part.name).record()
                seconds += found.seconds if found else 0.0
                part.make(self, made_by)
                self.place.here(self.part(part.name).key)
                progress.update(part.size)
        return seconds

    def _load(self, directory: pathlib.Path) -> StageRecord:
        try:
            record = records.load(StageRecord, directory / MARKER)
        except records.RunError as error:
            raise records.RunError(
                f"Expected the record of a stage at {directory / MARKER}, but it is damaged. Move "
                f"{directory} away to run the stage again."
            ) from error
        return self._checked(record, str(directory))

    def _checked(self, record: StageRecord, where: str) -> StageRecord:
        if record.digest != self.digest:
            raise records.RunError(
                f"{where} holds stage {record.name} made with other settings (digest "
                f"{record.digest}, expected {self.digest}). Choose another --workdir, or move that "
                "directory away to run the stage again."
            )
        return record


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a stage's work, which can be done before the rest, and elsewhere.

    Attributes:
        name: among those of the stage.
        size: how much of the work it is.
        of: what the size counts.
        work: called with the directory to fill. The stage finds it in `scratch/<name>`.
    """

    name: str
    size: int
    of: str
    work: Work

    def make(self, stage: Unit, made_by: MadeBy) -> None:
        """Makes it, unless it or its stage is finished."""
        if stage.record() is not None:
            return
        unit = stage.part(self.name)
        try:
            if unit.record() is None:
                unit.make(self.work, made_by, unless=stage.is_finished)
        except (records.RunError, OSError):
            # Another process may have finished the stage, and removed what the part needed.
            if not stage.is_finished():
                raise
        if stage.is_finished():  # meanwhile: nobody else would remove the part
            stage.tidy()


@contextlib.contextmanager
def _alone(directory: pathlib.Path) -> Iterator[None]:
    """Makes a directory and holds it, after any other process that holds it.

    A node that was given up because it did not answer may still be at work in it. The hold is a
    kernel lock, which ends with the process.
    """
    while True:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            handle = os.open(directory, os.O_RDONLY)
        except FileNotFoundError:
            continue  # the other has just finished it, and tidies
        try:
            while not _locked(handle):
                interruption.check()
                time.sleep(_POLL_SECONDS)
            # The other may have finished it, which renames it.
            if _is_at(directory, handle):
                yield
                return
        finally:
            os.close(handle)


def _is_at(directory: pathlib.Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(directory), os.fstat(handle))
    except FileNotFoundError:
        return False


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # network file systems have their reasons, and a run there is better than none
    return True


@contextlib.contextmanager
def _naming_full_disks(name: str, directory: pathlib.Path) -> Iterator[None]:
    """Turns a refused write into advice that helps, whichever library met it.

    HDF5 and TensorFlow raise errors of their own, which share only the system's words.
    """
    try:
        yield
    except Exception as error:
        found = next((words for words in _REFUSALS if words in str(error)), None)
        if found is None or _ADVICE in str(error):  # of a part
            raise
        raise records.RunError(
            f"Cannot write stage {name} in {directory}: {found}. {_ADVICE}"
        ) from error
