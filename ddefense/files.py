"""Writing so that nothing is ever seen half-written, and reading what may be damaged."""

import contextlib
import errno
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator

import numpy as np


class DamagedError(Exception):
    """A file that is missing, cut short, or not what it should be."""


def odd_kind(path: pathlib.Path) -> str | None:
    """What a path is that is neither a file nor a folder; it is not opened, which might not end.

    Returns:
        Such as `a FIFO`, or `a link to a folder`; None for a file, a folder, and where nothing is.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if not path.is_symlink():
            return None
        return "a link to itself" if error.errno == errno.ELOOP else "a link to nothing"
    if stat.S_ISDIR(mode):
        return "a link to a folder" if path.is_symlink() else None
    return next((name for holds, name in _ODD if holds(mode)), None)


_ODD = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


# How TensorFlow says where in a graph an error arose.
_NODES = re.compile(r"\{\{.*?\}\}|\[Op:.*")
_ASSERTION = re.compile(r"assertion failed: \[(.*)\]")


def reason(error: BaseException) -> str:
    """What an error says, in one line without a full stop, whatever library it is from."""
    return one_line(getattr(error, "message", None) or str(error)) or type(error).__name__


def one_line(message: str) -> str:
    """The first line of a message, without where in a graph that is, and without a full stop."""
    first = _NODES.sub("", message).strip().partition("\n")[0]
    assertion = _ASSERTION.search(first)
    return (assertion[1] if assertion else first).rstrip(". ")


@contextlib.contextmanager
def atomic_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path that is renamed to `path` when the block succeeds.

    A reader sees the old file or the whole new one, whenever the process is killed.

    Args:
        path: the final path; its parent directories are made.

    Yields:
        A path beside `path` with the same suffix (NumPy and Keras look at it).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary directory that is renamed to `path` when the block succeeds.

    Args:
        path: the final directory. It must not exist, or be empty.

    Yields:
        An empty directory beside `path`, removed again if the block fails; by the next call for
        the same parent if the process is killed.

    Raises:
        FileExistsError: if `path` exists and is not empty; nothing is overwritten.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(
            f"Expected a new or empty directory, received {path}, which has contents. "
            "Choose another path, or move the old one away."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    temporary, handle = _claim(path.parent)
    try:
        yield temporary
        # mkdtemp makes it private; the artefact gets what the user's umask gives any directory.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


# Not every file system tells one machine of the locks of another.
_OURS = f".tmp-{os.uname().nodename}-"


def _claim(folder: pathlib.Path) -> tuple[pathlib.Path, int]:
    """A new directory, and a handle that holds it by a kernel lock, which ends with the process."""
    while True:
        made = pathlib.Path(tempfile.mkdtemp(prefix=_OURS, dir=folder))
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(made, os.O_RDONLY)
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if made.exists():  # or another process was faster, and took it for abandoned
                return made, handle
            os.close(handle)


def _remove_abandoned(folder: pathlib.Path) -> None:
    """Removes what killed processes of this machine left of directories: what nobody holds."""
    for path in folder.glob(f"{_OURS}*"):
        with contextlib.suppress(OSError):  # it is held, or gone by now
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(handle)


def sha256(path: pathlib.Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: pathlib.Path, *, without: Collection[str] = ()) -> str:
    """The SHA-256 of the names and contents of all files in a folder, in hexadecimal.

    A `.keras` file counts by its members, without the one that holds the date on which it was
    saved: the same network saved twice has the same content.

    Args:
        folder: whose files count, those in its subfolders too, but for temporary ones (`.tmp-`).
        without: names of files and subfolders right in it that do not count.

    Raises:
        DamagedError: if a `.keras` file is no archive, or a member of it is damaged.
    """
    lines = []
    for path in folder_files(folder, without=without):
        digest = _keras_sha256(path) if path.suffix == ".keras" else sha256(path)
        lines.append(f"{digest}  {path.relative_to(folder).as_posix()}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def folder_files(folder: pathlib.Path, *, without: Collection[str] = ()) -> list[pathlib.Path]:
    """The files whose content `folder_sha256` is about."""
    inside = {path: path.relative_to(folder).parts for path in folder.rglob("*")}
    return [
        path
        for path, parts in inside.items()
        if parts[0] not in without
        and not any(part.startswith(".tmp-") for part in parts)
        and path.is_file()
    ]


def _keras_sha256(path: pathlib.Path) -> str:
    found = hashlib.sha256()
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(set(archive.namelist()) - {"metadata.json"}):
                with archive.open(name) as member:
                    digest = hashlib.file_digest(member, "sha256").hexdigest()  # type: ignore[arg-type]
                found.update(f"{digest}  {name}\n".encode())
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedError(f"{path.name}: {error}") from error
    return found.hexdigest()


@contextlib.contextmanager
def read_npz(path: pathlib.Path) -> Iterator[np.lib.npyio.NpzFile]:
    """Yields the arrays of an .npz file.

    Args:
        path: of the file; pickled arrays are refused.

    Yields:
        The arrays by name.

    Raises:
        DamagedError: if the file or an array in it cannot be read or is too large for this machine,
            or the block finds that they do not fit (by a ValueError or KeyError).
    """
    if kind := odd_kind(path):
        raise DamagedError(f"it is {kind}")
    try:
        with zipfile.ZipFile(path) as archive:  # zeros shrink a thousandfold
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > physical_memory():
            raise ValueError(
                f"its arrays take {unpacked / 2**30:.1f} GiB, more than the "
                f"{physical_memory() / 2**30:.1f} GiB of memory here"
            )
        # Opened here: NumPy leaves the file open where the archive in it is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except (
        OSError,
        KeyError,
        ValueError,
        EOFError,
        RuntimeError,
        MemoryError,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        raise DamagedError(f"{error}") from error


def physical_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
