"""SHA-256 of every file of an exported version, in the format of `sha256sum`."""

import pathlib
from collections.abc import Iterable

from ddefense import files
from ddefense.records import RunError

MANIFEST = pathlib.Path("assets.extra", "SHA256SUMS")
"""Below the version directory, from where `sha256sum -c` reads it too."""


class ChecksumError(RunError):
    """A version whose files are not those that were written."""


def write(directory: pathlib.Path) -> None:
    """Writes the manifest of everything in a version directory."""
    lines = [f"{files.sha256(directory / name)}  {name}\n" for name in _files(directory)]
    (directory / MANIFEST).parent.mkdir(exist_ok=True)
    (directory / MANIFEST).write_text("".join(lines))


def check(directory: pathlib.Path) -> int:
    """Compares a version directory with its manifest.

    Args:
        directory: of the version.

    Returns:
        The number of files compared.

    Raises:
        ChecksumError: if a file is missing, changed, or not in the manifest, or there is none.
    """
    try:
        lines = (directory / MANIFEST).read_text().splitlines()
        expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise ChecksumError(
            f"Expected the manifest {MANIFEST} in {directory}, one line per file as sha256sum "
            f"writes it; reading it failed: {error}"
        ) from error
    present = set(_files(directory))
    # What a link leads to may change, or stay behind when the version is copied.
    problems = [f"no plain file: {name}" for name in _others(directory)]
    problems += [f"missing: {name}" for name in sorted(expected.keys() - present)]
    problems += [f"not in the manifest: {name}" for name in sorted(present - expected.keys())]
    problems += [
        f"changed: {name}"
        for name in sorted(present & expected.keys())
        if files.sha256(directory / name) != expected[name]
    ]
    if problems:
        raise ChecksumError(
            f"Expected {directory} as it was written, but found {len(problems)} differences: "
            f"{'; '.join(problems)}. Do not serve it; export or copy it again."
        )
    return len(expected)


def _files(directory: pathlib.Path) -> list[str]:
    found = (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    return [name for name in _names(directory, found) if name != MANIFEST.as_posix()]


def _others(directory: pathlib.Path) -> list[str]:
    """Links, sockets and whatever else is neither a file nor a folder."""
    return _names(
        directory,
        (
            path
            for path in directory.rglob("*")
            if path.is_symlink() or not (path.is_file() or path.is_dir())
        ),
    )


def _names(directory: pathlib.Path, paths: Iterable[pathlib.Path]) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in paths)
