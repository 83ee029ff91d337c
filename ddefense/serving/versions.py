"""The directory of a model, as TF Serving reads it: one folder per version, named by its number."""

import pathlib

_MOST = 2**63 - 1
GRAPH = "saved_model.pb"
"""The file that every version has."""


def versions(base: pathlib.Path) -> list[pathlib.Path]:
    """The version directories of a model, oldest first.

    Args:
        base: the model's directory, which may not exist.

    Returns:
        Its children with integer names. Others, such as a version that is being written under a
        temporary name, are none.
    """
    found = [child for child in base.glob("*") if _number(child) >= 0 and child.is_dir()]
    return sorted(found, key=_number)


def next_version(base: pathlib.Path) -> pathlib.Path:
    """Where the next version of a model goes: one above all that bear a number."""
    return base / str(1 + max([0, *map(_number, base.glob("*"))]))


def _number(path: pathlib.Path) -> int:
    """The version that a server takes a name for; -1 for none. Its numbers are 64-bit integers."""
    number = int(path.name) if path.name.isdecimal() else -1
    return number if number < _MOST else -1


def models(folder: pathlib.Path) -> list[pathlib.Path]:
    """The model directories in a folder: those with a version that a server can load, by name."""
    return [
        child
        for child in sorted(folder.glob("*"))
        if not child.name.startswith(".")
        and any((version / GRAPH).is_file() for version in versions(child))
    ]
