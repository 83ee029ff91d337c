"""The run directory: of one configuration for life."""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
from collections.abc import Iterator

from ddefense import config as config_lib
from ddefense import records

_CONFIG = "config.json"


def check(workdir: pathlib.Path, config: config_lib.Config) -> None:
    """Checks that a run directory can be used, without making or changing anything.

    Args:
        workdir: new, empty, or of an earlier run with the same configuration.
        config: of this run.

    Raises:
        RunError: if the directory cannot be written, holds something else, or belongs to another
            configuration.
    """
    check_writable("--workdir", workdir)
    path = workdir / _CONFIG
    if path.exists():
        try:
            stored = records.load(config_lib.Config, path)
        except records.RunError as error:
            raise records.RunError(
                f"--workdir: expected the configuration of an earlier run at {path}, but that file "
                "is damaged or of another version. Choose another --workdir."
            ) from error
        _compare(stored, config, workdir)
        if (workdir / "results.json").exists():
            records.load(records.Results, workdir / "results.json")  # damaged: refuse, keep it
    # A process killed while it claimed the directory leaves a temporary file, which is nothing.
    elif workdir.exists() and any(not p.name.startswith(".tmp-") for p in workdir.iterdir()):
        raise records.RunError(
            f"--workdir: expected a new directory or one of an earlier run, received {workdir}, "
            f"which has contents but no {_CONFIG}. Choose another."
        )


def check_writable(flag: str, path: pathlib.Path) -> None:
    """Checks that a directory can be written, or made, without making it.

    Args:
        flag: what the message calls it.
        path: the directory.

    Raises:
        RunError: if it, or the nearest parent that exists, is not a writable directory.
    """
    nearest = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise records.RunError(
            f"{flag}: expected a directory that can be written, received {path}, but {nearest} is "
            "not a writable directory. Choose another."
        )


@contextlib.contextmanager
def claimed(workdir: pathlib.Path, config: config_lib.Config) -> Iterator[None]:
    """Makes the run directory, stores the configuration in it, and holds it while the block runs.

    The hold is a kernel lock, which a killed process cannot leave behind.

    Raises:
        RunError: if another process holds the directory.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    held = os.open(workdir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise records.RunError(
                f"--workdir: another process is running in {workdir}. Wait for it, or choose "
                "another --workdir."
            ) from error
        path = workdir / _CONFIG
        if not path.exists():
            records.dump(config, path)
        yield
    finally:
        os.close(held)


def _compare(stored: config_lib.Config, config: config_lib.Config, workdir: pathlib.Path) -> None:
    old, new = dataclasses.asdict(stored), dataclasses.asdict(config)
    differing = [f"{k} ({old[k]!r} there, {new[k]!r} now)" for k in new if old[k] != new[k]]
    if differing:
        raise records.RunError(
            f"--workdir: {workdir} belongs to a run with another configuration: "
            f"{'; '.join(differing)}. Choose another --workdir, or repeat its flags."
        )
