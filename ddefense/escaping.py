"""Text of others on a terminal or in a log, where it must neither steer nor forge a line."""

import os
import re
from typing import TextIO

_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
# C0 and C1 controls, separators of lines and paragraphs, overrides of the direction of writing, and
# surrogates without a partner, which no encoding has.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape(text: str) -> str:
    r"""The text in one line that shows what is in it.

    Args:
        text: of any origin.

    Returns:
        The text with escape sequences, such as `\u001b` or `\n`, for control characters, line
        separators, bidirectional overrides and lone surrogates. JSON has the same sequences.
    """
    return _UNSAFE.sub(lambda found: _SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}", text)


def escape_lines(text: str) -> str:
    """The same for text whose line breaks are its own."""
    return "\n".join(map(escape, text.split("\n")))


def write_safely(text: str, stream: TextIO) -> None:
    """Writes to a stream, whatever its encoding is, and whether or not it is read to its end.

    Args:
        text: escaped, apart from line breaks and colours of our own.
        stream: standard output or standard error.
    """
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:  # who reads it, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
