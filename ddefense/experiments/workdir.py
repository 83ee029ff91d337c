"""The run directory: made once, for one configuration."""

import dataclasses
import os
import pathlib

from ddefense import config as config_lib
from ddefense import records

_CONFIG = "config.json"


def prepare(workdir: pathlib.Path, config: config_lib.Config) -> None:
    """Makes a run directory, or checks that an existing one belongs to this configuration.

    Args:
        workdir: new, empty, or of an earlier run with the same configuration.
        config: of this run; stored as `config.json`.

    Raises:
        RunError: if the directory cannot be written, holds something else, or belongs to another
            configuration. Nothing in it is touched then.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise records.RunError(
            f"--workdir: expected a directory that can be made, received {workdir}: "
            f"{error.strerror}. Choose another."
        ) from error
    if not os.access(workdir, os.W_OK | os.X_OK):
        raise records.RunError(
            f"--workdir: expected a writable directory, received {workdir}. Choose another."
        )
    path = workdir / _CONFIG
    if path.exists():
        _compare(records.load(config_lib.Config, path), config, workdir)
    elif any(workdir.iterdir()):
        raise records.RunError(
            f"--workdir: expected a new directory or one of an earlier run, received {workdir}, "
            f"which has contents but no {_CONFIG}. Choose another."
        )
    else:
        records.dump(config, path)


def _compare(stored: config_lib.Config, config: config_lib.Config, workdir: pathlib.Path) -> None:
    old, new = dataclasses.asdict(stored), dataclasses.asdict(config)
    differing = [f"{k} ({old[k]!r} there, {new[k]!r} now)" for k in new if old[k] != new[k]]
    if differing:
        raise records.RunError(
            f"--workdir: {workdir} belongs to a run with another configuration: "
            f"{'; '.join(differing)}. Choose another --workdir, or repeat its flags."
        )
