"""Writing to disk so that nothing is ever seen half-written."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator


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
        An empty directory beside `path`, removed again if the block fails.

    Raises:
        FileExistsError: if `path` exists and is not empty; nothing is overwritten.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(
            f"Expected a new or empty directory, received {path}, which has contents. "
            "Choose another path, or move the old one away."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=".tmp-", dir=path.parent))
    try:
        yield temporary
        # mkdtemp makes it private; the artefact gets what the user's umask gives any directory.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
