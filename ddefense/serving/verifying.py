"""Whether an exported version is as it was written, and a server would serve it."""

import dataclasses
import pathlib

from ddefense import interruption
from ddefense.records import RunError
from ddefense.serving import checksums, runtime
from ddefense.serving.fresh_process import FailedError, ask
from ddefense.serving.versions import GRAPH, versions


class DamagedVersionError(RunError):
    """A version that must not be served."""


@dataclasses.dataclass(frozen=True)
class Verified:
    """A version that is as it was written.

    Attributes:
        path: its directory.
        files: files compared with their SHA-256.
        requests: warm-up requests that it answered.
    """

    path: pathlib.Path
    files: int
    requests: int


def versions_of(directory: pathlib.Path) -> list[pathlib.Path]:
    """What is to be checked where a user names a directory.

    Args:
        directory: of a version, of a model, or of several models.

    Returns:
        The one version, or all of the model's, oldest first, or those of every model.

    Raises:
        RunError: if it is none of these.
    """
    if found := versions(directory):
        return found
    if (directory / GRAPH).exists() or (directory / checksums.MANIFEST).exists():
        return [directory]
    children = sorted(child for child in directory.glob("*") if not child.name.startswith("."))
    if several := [version for child in children for version in versions(child)]:
        return several
    raise RunError(
        f"Expected the directory of an exported model, with versions such as {directory / '1'}, of "
        f"one version, with a file {GRAPH}, or of several models; {directory} is none."
    )


def verify(version: pathlib.Path) -> Verified:
    """Checks a version: its files' SHA-256, that it loads, that it answers its warm-up requests.

    It is loaded by TensorFlow's C++ runtime in a process of its own, as TF Serving does it.

    Args:
        version: its directory, as `export_for_serving` wrote it.

    Returns:
        What was checked.

    Raises:
        ChecksumError: if a file is missing, changed or not one of its own.
        DamagedVersionError: if it does not load, or refuses a warm-up request.
        StoppedError: if the run was asked to stop.
    """
    interruption.check()
    files = checksums.check(version)
    try:
        ask(version, {})
    except FailedError as error:
        raise DamagedVersionError(
            f"Expected {version} to load and to answer its warm-up requests, as a server asks of "
            f"it; its runtime says: {error} Do not serve it; export it again."
        ) from error
    warm_up = version / runtime.WARM_UP
    requests = sum(1 for _ in runtime.read_records(warm_up)) if warm_up.exists() else 0
    return Verified(version, files, requests)
