"""The directory of a model, as TF Serving reads it: one folder per version, named by its number."""

import pathlib

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
    found = [child for child in base.glob("*") if child.name.isdecimal() and child.is_dir()]
    return sorted(found, key=lambda child: int(child.name))


def models(folder: pathlib.Path) -> list[pathlib.Path]:
    """The model directories in a folder: those with a version that a server can load, by name."""
    return [
        child
        for child in sorted(folder.glob("*"))
        if not child.name.startswith(".")
        and any((version / GRAPH).is_file() for version in versions(child))
    ]
