"""A directory that is made once, wherever that is done: resumable, and never half-seen."""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pydantic
from absl import logging
from pydantic.dataclasses import dataclass

from ddefense import files, interruption, records
from ddefense.pipeline.executing import Pending
from ddefense.pipeline.storage import MARKER, Storage
from ddefense.progress import Progress

_REFUSALS = tuple(
    os.strerror(code)
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
)
_ADVICE = (
    "Make room or choose another workdir or export_dir; finished stages are kept, and the same "
    "command resumes."
)
_POLL_SECONDS = 0.2
SCRATCH = "scratch"
"""Where a unit keeps what it needs only until it is finished."""
_NOT_CONTENT = (MARKER, SCRATCH)

Work = Callable[[pathlib.Path], None]
MadeBy = Callable[[], dict[str, str]]


@dataclass(config=pydantic.ConfigDict(frozen=True, extra="forbid"), kw_only=True)
class StageRecord:
    """What a finished stage says of itself.

    Attributes:
        name: of the stage.
        digest: of its settings and of those of the stages it builds on: its recipe.
        starts: how often it was started; more than once if it was interrupted.
        content: of the files that it left; empty until it is finished.
        inputs: the content of each stage that it was made from, by name.
        seconds: that the processes which finished it and its parts spent.
        finished: whether the artefact is complete.
        made_by: versions and machine of the process that finished it.
    """

    name: str
    digest: str
    starts: int
    content: str = ""
    inputs: dict[str, str] = dataclasses.field(default_factory=dict)
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
        """The directory of a finished unit, brought to this machine.

        Raises:
            RunError: if it is not there, or its files are not those that it was finished with.
        """
        directory, original = self.folder / key, ""
        if self.storage is not None:
            self._fetch(key, directory, self.storage)
            original = f", and {self.storage.url}/{key}, of which it may be a copy,"
        _check_content(directory, original)
        return directory

    def found(self, key: str) -> Iterator[tuple[str, StageRecord]]:
        """Where a finished unit is and what it says of itself: in the storage, then here.

        With a storage the first is what counts, and the second may be an old copy.

        Raises:
            RunError: if a record is damaged, or of an earlier version.
        """
        marker = None if self.storage is None else self.storage.marker(key)
        if self.storage is not None and marker is not None:
            yield (where := f"{self.storage.url}/{key}"), _record_in(marker, where)
        record = _load(self.folder / key)
        if record is not None:
            yield str(self.folder / key), record

    def content(self, key: str) -> str:
        """What stands for the files of a finished unit.

        Raises:
            RunError: if it is not there.
        """
        for _, record in self.found(key):
            return record.content
        raise records.RunError(
            f"Expected the finished stage {key} at {self.folder / key}, which is not there. "
            "Was it removed? The same command makes it again."
        )

    def _fetch(self, key: str, directory: pathlib.Path, storage: Storage) -> None:
        if not directory.exists():
            storage.fetch(key, directory)
        elif self._is_old(key, directory):
            # Another process of this machine may look for it, too.
            with _alone(_partial(directory)):
                if self._is_old(key, directory):
                    _remove(directory)
                    storage.fetch(key, directory)
                _partial(directory).rmdir()

    def _is_old(self, key: str, directory: pathlib.Path) -> bool:
        """Whether a copy is of something else than the storage holds now."""
        copy = _load(directory)
        return copy is not None and copy.content != self.content(key)


def _elsewhere(storage: Storage) -> Place:
    return Place(storage.copies(), storage)


@dataclasses.dataclass(frozen=True)
class Artefact:
    """What a stage leaves; it may still be at work.

    Attributes:
        name: of the stage.
        digest: of its recipe: its settings, and the recipes of what it is made from.
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
            RunError: if the stage failed, or its files are not those that it was finished with.
        """
        self._wait()
        return self.place.here(self.name)

    @property
    def content(self) -> str:
        """What stands for its files, once the stage is finished: this waits for it.

        Raises:
            RunError: if the stage failed.
        """
        self._wait()
        return self.place.content(self.name)

    def _wait(self) -> None:
        if self.pending is not None:
            self.pending.wait()

    def __reduce__(self) -> tuple[object, ...]:
        """For tasks of other processes, which start when it is finished."""
        return Artefact, (self.name, self.digest, self.place)


@dataclasses.dataclass(frozen=True)
class Unit:
    """A stage, or a part of one.

    Attributes:
        name: for messages.
        key: of its directory within the place.
        digest: of its recipe: the settings that determine it, and the recipes of its inputs.
        place: where it is.
        inputs: what it is made from; it is made again if they are not what they were.
        announced: whether a log says that it is made.
    """

    name: str
    key: str
    digest: str
    place: Place
    inputs: Sequence[Artefact] = ()
    announced: bool = True

    @property
    def directory(self) -> pathlib.Path:
        """Where it is when it is finished."""
        return self.place.folder / self.key

    @property
    def partial(self) -> pathlib.Path:
        """Where it is made."""
        return _partial(self.directory)

    def part(self, name: str) -> "Unit":
        """A part of it."""
        key = self.partial.relative_to(self.place.folder) / SCRATCH / name
        digest = f"{self.digest}/{name}"
        return Unit(
            f"{self.name}, {name}", key.as_posix(), digest, self.place, self.inputs, announced=False
        )

    def record(self) -> StageRecord | None:
        """What it says of itself; None if it is not finished, or made from other inputs.

        Raises:
            RunError: if it was made with other settings, or is damaged.
        """
        found = [self._checked(record, where) for where, record in self.place.found(self.key)]
        fresh = next((record for record in found if record.inputs == self.made_from()), None)
        if fresh is None:
            self.check()
        return fresh

    def earlier(self) -> StageRecord | None:
        """What it says of itself, whatever it was made from; None if it is not finished.

        Raises:
            RunError: if it was made with other settings, or is damaged.
        """
        for where, record in self.place.found(self.key):
            return self._checked(record, where)
        self.check()
        return None

    def made_from(self) -> dict[str, str]:
        """The present content of its inputs, which are finished, by name."""
        return {artefact.name: artefact.content for artefact in self.inputs}

    def check(self) -> StageRecord | None:
        """What an unfinished one says of itself; None if it was not begun.

        Raises:
            RunError: if that was with other settings, or its record is damaged.
        """
        record = _load(self.partial, maybe=True)
        return None if record is None else self._checked(record, str(self.partial))

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
                if self.earlier() is not None:  # made from other inputs
                    self.remove()
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

    def remove(self) -> None:
        """Removes it where it is finished, so that nobody ever sees half of it."""
        if self.place.storage is not None:
            self.place.storage.remove(self.key)
        _remove(self.directory)

    def tidy(self) -> None:
        """Removes what only the making of it needed."""
        shutil.rmtree(self.directory / SCRATCH, ignore_errors=True)
        # A node that was given up may have gone on with a part.
        shutil.rmtree(self.partial, ignore_errors=True)
        if self.place.storage is not None:
            self.place.storage.remove(self.partial.relative_to(self.place.folder).as_posix())

    def _make(self, work: Work, made_by: MadeBy, parts: "Sequence[Part]") -> None:
        start, begun, inputs = time.monotonic(), self.check(), self.made_from()
        if begun is not None and begun.inputs != inputs:
            self._clear(parts)
            logging.info("making %s from its start: %s", self.name, changed(begun.inputs, inputs))
            begun = None
        starts = 1 if begun is None else 1 + begun.starts
        if self.announced:
            logging.info("%s %s", "running" if starts == 1 else "resuming", self.name)
        record = StageRecord(name=self.name, digest=self.digest, starts=starts, inputs=inputs)
        records.dump(record, self.partial / MARKER)
        (self.partial / SCRATCH).mkdir(exist_ok=True)
        with _naming_full_disks(self.name, self.partial):
            elsewhere = self._make_parts(parts, made_by)
            work(self.partial)
        seconds = time.monotonic() - start + elsewhere
        record = dataclasses.replace(
            record,
            content=files.folder_sha256(self.partial, without=_NOT_CONTENT),
            seconds=seconds,
            finished=True,
            made_by=made_by(),
        )
        records.dump(record, self.partial / MARKER)
        self._publish(self.partial)
        self.partial.replace(self.directory)

    def _clear(self, parts: "Sequence[Part]") -> None:
        """Removes what was begun from other inputs; parts know themselves from what they are."""
        kept = {
            name for part in parts for name in (part.name, _partial(pathlib.Path(part.name)).name)
        }
        for path in (*self.partial.glob("*"), *(self.partial / SCRATCH).glob("*")):
            if path.name not in ({MARKER, SCRATCH} if path.parent == self.partial else kept):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _publish(self, directory: pathlib.Path) -> None:
        storage = self.place.storage
        if storage is None:
            return
        published = self._published()
        # Other nodes may be reading what is there.
        if published is None or published.inputs != self.made_from():
            _check_content(directory)
            storage.remove(self.key)
            storage.publish(self.key, directory, without=SCRATCH)

    def _published(self) -> StageRecord | None:
        """What the storage says of it; None if it is not complete there, or there is no storage."""
        storage = self.place.storage
        marker = None if storage is None else storage.marker(self.key)
        if storage is None or marker is None:
            return None
        where = f"{storage.url}/{self.key}"
        return self._checked(_record_in(marker, where), where)

    def is_finished(self) -> bool:
        """Whether it is here, or in the storage, made from what its inputs are now."""
        return self.record() is not None

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

    def _checked(self, record: StageRecord, where: str) -> StageRecord:
        if record.digest != self.digest:
            raise records.RunError(
                f"{where} holds stage {record.name} made with other settings (digest "
                f"{record.digest}, expected {self.digest}), or by another version of ddefense. "
                "Choose another workdir, or move that directory away to run the stage again."
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


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Says which inputs are not what a unit was made from."""
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    verb = "is" if len(names) == 1 else "are"
    return f"{', '.join(names)} {verb} not what it was made from"


def refuse_earlier(directory: pathlib.Path) -> None:
    """Refuses a unit that an earlier version made or began; what else is there is left alone.

    Raises:
        RunError: if its record says nothing of its content.
    """
    with contextlib.suppress(OSError, ValueError):
        _refuse_earlier(json.loads((directory / MARKER).read_bytes()), str(directory))


def _refuse_earlier(found: Any, where: str) -> None:
    if isinstance(found, dict) and "digest" in found and "content" not in found:
        raise records.RunError(
            f"{where} was made by an earlier version of ddefense, which kept no digests of what "
            "stages hold and were made from. Choose another workdir."
        )


def _partial(directory: pathlib.Path) -> pathlib.Path:
    return directory.with_name(f".partial-{directory.name}")


def _remove(directory: pathlib.Path) -> None:
    """Removes a directory, not in place: a process killed meanwhile would leave half of it."""
    doomed = directory.with_name(f".tmp-{directory.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        directory.replace(doomed)
        shutil.rmtree(doomed)


def _load(directory: pathlib.Path, *, maybe: bool = False) -> StageRecord | None:
    """The record in a directory; None if there is no directory, or maybe no record in it."""
    marker = directory / MARKER
    try:
        return _record_in(json.loads(marker.read_bytes()), str(directory))
    except (FileNotFoundError, NotADirectoryError):
        # Another process may have removed it, or have just finished it, which renames it.
        if maybe or not directory.exists():
            return None
        raise _damaged(str(directory)) from None
    except (OSError, ValueError) as error:
        if not marker.exists():
            return None
        raise _damaged(str(directory)) from error


def _record_in(found: Any, where: str) -> StageRecord:
    _refuse_earlier(found, where)
    try:
        return StageRecord(**found)
    except (TypeError, pydantic.ValidationError) as error:
        raise _damaged(where) from error


def _damaged(where: str) -> records.RunError:
    return records.RunError(
        f"Expected the record of a stage at {where}/{MARKER}, but it is damaged. Move {where} away "
        "to run the stage again."
    )


def _check_content(directory: pathlib.Path, original: str = "") -> None:
    """Refuses a finished unit whose files are not those that it was finished with.

    Files are read once per process, unless they are written meanwhile.

    Args:
        directory: of the unit.
        original: what is to be moved away, too.
    """
    record = _load(directory)
    try:
        inside = files.folder_files(directory, without=_NOT_CONTENT)
        stats = [(str(path), path.stat()) for path in sorted(inside)]
        seen = tuple((path, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in stats)
        good = record is not None and _content(directory, seen) == record.content
        cause = "" if good else "its files are not those that it was finished with."
    except (OSError, files.DamagedError) as error:
        cause = str(error).rstrip(".") + "."
    if cause:
        raise records.RunError(
            f"The finished stage in {directory} is damaged: {cause} Move that directory{original} "
            "away to run the stage again."
        )


@functools.lru_cache(maxsize=1024)
def _content(directory: pathlib.Path, seen: tuple[object, ...]) -> str:
    del seen  # what would be another if a file were
    return files.folder_sha256(directory, without=_NOT_CONTENT)


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
