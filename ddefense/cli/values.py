"""What the text of a flag stands for, where absl has no type for it."""

import csv
import math
import pathlib

from ddefense.experiments import workdir
from ddefense.files import odd_kind
from ddefense.settings import ConfigError, is_range


def class_names(text: str) -> tuple[str, ...]:
    """Names separated by commas, or the lines of `@<file>`.

    Raises:
        ConfigError: if there are fewer than two, or an empty one, or one twice.
    """
    if text.startswith("@"):
        path = pathlib.Path(text[1:])
        try:
            if kind := odd_kind(path):  # never opened
                raise OSError(f"it is {kind}")
            names = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                "class_names",
                f"expected @<text file> with a name per line; received {text!r}: {error}.",
            ) from error
        while names and not names[-1].strip():
            names.pop()
    else:
        names = next(csv.reader([text]), [])
    names = [name.strip() for name in names]
    if len(names) < 2 or not all(names):
        raise ConfigError(
            "class_names",
            "expected at least two names separated by commas, such as cat,dog, or "
            f"@<text file> with a name per line, none of them empty; received {text!r}.",
        )
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(
            "class_names",
            "expected different names, or clients could not tell the classes apart; "
            f"received {', '.join(sorted(twice))} more than once.",
        )
    return tuple(names)


def value_range(text: str) -> tuple[float, float]:
    """Two numbers separated by a comma, the lower first.

    Raises:
        ConfigError: if it is none.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = math.nan
    if not is_range(low, high):
        raise ConfigError(
            "value_range",
            "expected two finite numbers separated by a comma, the lower first, such "
            f"as 0,255; received {text!r}.",
        )
    return low, high


def image_shape(text: str) -> tuple[int, int, int]:
    """Height, width and, unless they are 3, channels, separated by an x.

    Raises:
        ConfigError: if it is none.
    """
    parts = [part.strip() for part in text.lower().split("x")]
    if len(parts) not in (2, 3) or not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(
            "image_shape",
            "expected height, width and perhaps channels separated by an x, such as "
            f"64x48 or 64x48x1; received {text!r}.",
        )
    if any(len(part) > 9 for part in parts):
        raise ConfigError("image_shape", f"expected sizes below 10 digits; received {text!r}.")
    height, width, *channels = map(int, parts)
    return height, width, channels[0] if channels else 3


def directory(flag: str, text: str) -> pathlib.Path:
    """A directory to write to, which is made later where it is missing.

    Raises:
        ConfigError: if it cannot be.
    """
    if not text or "\0" in text:
        raise ConfigError(flag, f"expected the path of a directory; received {text!r}.")
    path = pathlib.Path(text)
    workdir.check_writable(flag, path)
    return path
