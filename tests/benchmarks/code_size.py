"""Counts the logical lines of Python in `ddefense/` and `bin/`, by package.

A logical line is what `tokenize` ends with NEWLINE: a call that is written over six lines is one,
and so is a docstring. Comments, empty lines, templates and data files do not count.

Usage: python tests/benchmarks/code_size.py [ROOT]
"""

import collections
import io
import pathlib
import sys
import tokenize


def logical_lines(source: str) -> int:
    """The logical lines of a module."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return sum(token.type == tokenize.NEWLINE for token in tokens)


def python_files(root: pathlib.Path) -> list[pathlib.Path]:
    """The modules of the package, and the scripts of bin/ that are Python."""
    scripts = [path for path in (root / "bin").iterdir() if path.is_file()]
    found = [path for path in scripts if path.read_bytes().startswith(b"#!/usr/bin/env python3")]
    return sorted([*(root / "ddefense").rglob("*.py"), *found])


def main() -> None:
    """Prints a line for each package, and the sum."""
    root = pathlib.Path(sys.argv[1] if sys.argv[1:] else ".").resolve()
    sizes: collections.Counter[str] = collections.Counter()
    for path in python_files(root):
        parts = path.relative_to(root).parts
        package = "/".join(parts[:2]) if len(parts) > 2 else parts[0]
        sizes[package] += logical_lines(path.read_text(encoding="utf-8"))
    for package, size in sorted(sizes.items()):
        print(f"{package:24}{size:8,}")
    print(f"{'sum':24}{sum(sizes.values()):8,}")


if __name__ == "__main__":
    main()
