"""SHA-256 of every file of an exported version, in the format of `sha256sum`."""

import hashlib
import pathlib

from ddefense.records import RunError

MANIFEST = pathlib.Path("assets.extra", "SHA256SUMS")
"""Below the version directory, from where `sha256sum -c` reads it too."""


class ChecksumError(RunError):
    """A version whose files are not those that were written."""


def write(directory: pathlib.Path) -> None:
    """Writes the manifest of everything in a version directory."""
    lines = [f"{_sha256(directory / name)}  {name}\n" for name in _files(directory)]
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
    problems = [f"missing: {name}" for name in sorted(expected.keys() - present)]
    problems += [f"not in the manifest: {name}" for name in sorted(present - expected.keys())]
    problems += [
        f"changed: {name}"
        for name in sorted(present & expected.keys())
        if _sha256(directory / name) != expected[name]
    ]
    if problems:
        raise ChecksumError(
            f"Expected {directory} as it was written, but found {len(problems)} differences: "
            f"{'; '.join(problems)}. Do not serve it; export or copy it again."
        )
    return len(expected)


def _files(directory: pathlib.Path) -> list[str]:
    found = (path for path in directory.rglob("*") if path.is_file())
    names = sorted(path.relative_to(directory).as_posix() for path in found)
    return [name for name in names if name != MANIFEST.as_posix()]


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
