"""The run directory: of one configuration for life."""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from absl import logging

from ddefense import config as config_lib
from ddefense import records
from ddefense.experiments import units

_CONFIG, _RESULTS = "config.json", "results.json"
_REPORTS = ("report.html", "report.md")

Stored = TypeVar("Stored")


def check(workdir: pathlib.Path, config: Any) -> None:
    """Checks that a run directory can be used, without making or changing anything.

    Args:
        workdir: new, empty, or of an earlier run with the same configuration.
        config: of this run: a `Config`, or another dataclass that says all that was asked for.

    Raises:
        ConfigError: if the directory cannot be written.
        RunError: if it holds something else, belongs to another configuration or an earlier
            version, or is held by another process.
    """
    check_writable("workdir", workdir)
    _check_free(workdir)
    path = workdir / _CONFIG
    if path.exists():
        stored = _load_config(workdir, type(config))
        for stage in sorted((workdir / "stages").glob("*")):
            units.refuse_earlier(stage)
        _compare(stored, config, workdir)
        if (workdir / _RESULTS).exists():
            records.load(records.Results, workdir / _RESULTS)  # damaged: refuse, keep it
    elif seed_directories(workdir, _CONFIG):
        raise records.RunError(
            f"--workdir: {workdir} belongs to a run with --seeds. Choose another for a run of one "
            "seed, or name its seeds."
        )
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
        ConfigError: if it, or the nearest parent that exists, is not a writable directory.
    """
    try:
        nearest = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        usable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
        why = "" if usable else f"{nearest} is not a writable directory"
    except OSError as error:  # a name too long, or within a directory that may not be read
        why = error.strerror or str(error)
    if why:
        raise config_lib.ConfigError(
            flag,
            f"expected a directory that can be written, received {path}, but: {why}. "
            "Choose another.",
        )


def seed_directory(workdir: pathlib.Path, seed: int) -> pathlib.Path:
    """The run directory of one of several seeds."""
    return workdir / f"seed_{seed}"


def seed_directories(workdir: pathlib.Path, having: str = "results.json") -> list[pathlib.Path]:
    """The run directories of a run with several seeds that have results, or another file."""
    seeds = sorted(
        int(path.name.removeprefix("seed_"))
        for path in workdir.glob("seed_*")
        if path.name.removeprefix("seed_").isdecimal() and (path / having).exists()
    )
    return [seed_directory(workdir, seed) for seed in seeds]


def check_seeds(workdir: pathlib.Path, configs: Sequence[config_lib.Config]) -> None:
    """Checks that a directory can hold one run directory per seed, without making anything.

    Args:
        workdir: new, empty, or of earlier runs with several seeds.
        configs: of each seed.

    Raises:
        ConfigError: if the directory cannot be written.
        RunError: if it holds something else, or a seed's directory cannot be used.
    """
    check_writable("workdir", workdir)
    _check_free(workdir)
    if (workdir / _CONFIG).exists():
        raise records.RunError(
            f"--workdir: {workdir} belongs to a run of one seed. Choose another for --seeds."
        )
    known = ("seed_*", "report.html", "report.md", "tables", "figures", "comparison*", ".tmp-*")
    others = [
        path.name
        for path in (workdir.iterdir() if workdir.exists() else ())
        if not any(path.match(pattern) for pattern in known)
    ]
    if others:
        raise records.RunError(
            f"--workdir: expected a new directory or one of earlier runs with --seeds, received "
            f"{workdir}, which contains {sorted(others)[0]}. Choose another."
        )
    for directory in seed_directories(workdir, _CONFIG):
        stored = _load_config(directory, config_lib.Config)
        _compare(stored, dataclasses.replace(configs[0], seed=stored.seed), directory)
    for config in configs:
        check(seed_directory(workdir, config.seed), config)


@contextlib.contextmanager
def claimed(workdir: pathlib.Path, config: Any) -> Iterator[None]:
    """Makes the run directory, stores the configuration in it, and holds it while the block runs.

    What killed processes left half-written in it is removed.

    Raises:
        RunError: if another process holds the directory.
    """
    with held(workdir):
        for leftover in list(workdir.rglob(".tmp-*")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        path = workdir / _CONFIG
        if not path.exists():
            records.dump(config, path)
        yield


def leave(workdir: pathlib.Path, results: records.Results, samples: records.Samples) -> None:
    """Writes what a run found out, so that files of two runs never lie beside each other.

    If it is not what an earlier run left, the results and reports of that one go first: a process
    killed meanwhile leaves none.

    Args:
        workdir: the run directory.
        results: go to `results.json`.
        samples: go to `samples.npz`.
    """
    path = workdir / _RESULTS
    if path.exists():
        earlier = records.load(records.Results, path)
        earlier = dataclasses.replace(
            earlier, environment=results.environment, timings=results.timings
        )
        if earlier != results:
            for name in (_RESULTS, *_REPORTS):
                (workdir / name).unlink(missing_ok=True)
    samples.save(workdir / "samples.npz")
    records.dump(results, path)


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
    """Makes a directory, and holds it while the block runs.

    The hold is a kernel lock, which a killed process cannot leave behind.

    Raises:
        RunError: if another process holds the directory.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with _locked(workdir, fcntl.LOCK_EX):
        yield


def _check_free(workdir: pathlib.Path) -> None:
    """Refuses a directory that another process holds, long before `held` would."""
    if workdir.exists():
        with _locked(workdir, fcntl.LOCK_SH):
            pass


@contextlib.contextmanager
def _locked(workdir: pathlib.Path, kind: int) -> Iterator[None]:
    handle = os.open(workdir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise records.RunError(
                f"--workdir: another process is running in {workdir}. Wait for it, or choose "
                "another --workdir."
            ) from error
        except OSError as error:
            # Network file systems have their reasons, and a run there is better than none.
            if kind == fcntl.LOCK_EX:
                logging.warning(
                    "%s cannot be locked (%s): start no other run in it.", workdir, error.strerror
                )
        yield
    finally:
        os.close(handle)


def _load_config(workdir: pathlib.Path, kind: type[Stored]) -> Stored:
    path = workdir / _CONFIG
    try:
        return records.load(kind, path)
    except records.RunError as error:
        results = workdir / _RESULTS
        still = (
            f" Its results are left: bin/compare {workdir} shows them, and --report_only draws "
            "their report."
        )
        raise records.RunError(
            f"--workdir: expected the configuration of an earlier run at {path}, but that file "
            "is damaged, or of another version or command. Choose another --workdir."
            f"{still if results.exists() else ''}"
        ) from error


def _compare(stored: Any, config: Any, workdir: pathlib.Path) -> None:
    differing = list(_differences(stored, config))
    if differing:
        raise records.RunError(
            f"--workdir: {workdir} belongs to a run with another configuration: "
            f"{'; '.join(differing)}. Choose another --workdir, or repeat its flags."
        )


def _differences(stored: Any, config: Any) -> Iterator[str]:
    """The settings that differ, those of settings within settings one by one."""
    for field in dataclasses.fields(config):
        old, new = getattr(stored, field.name), getattr(config, field.name)
        if dataclasses.is_dataclass(old) and type(old) is type(new):
            yield from _differences(old, new)
        elif old != new:
            yield f"{field.name} ({old!r} there, {new!r} now)"
