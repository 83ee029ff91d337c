"""Records whose every text was written by somebody else."""

import dataclasses

import pydantic

HOSTILE = (
    "`<script>alert(1)</script>`<img src=x onerror=alert(1)>",
    "\n\n# forged\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n<script>alert(1)</script>",
    "](javascript:alert(1)) ![x](http://example.org/x.png) [x]: http://example.org <http://a.b>",
    '" onload="alert(1)\r\n- forged\r\n***\r\n**`` ` ``` ~~~\r\n&lt;b&gt; \\| $\\frac',
)
HARMLESS = "x"
# Attacks have names of their own, and what they are called decides what is drawn.
_ATTACKS = frozenset({"attacks", "details"})
# So have the settings by which a reading of JSMA is told.
_SETTINGS = frozenset({"theta", "max_features"})


def changed(value, mark):
    """The record with a mark at both ends of every text that may hold one."""
    if isinstance(value, str):
        return f"{mark}{value}{mark}"
    if isinstance(value, list | tuple):
        return type(value)(changed(each, mark) for each in value)
    if isinstance(value, dict):
        return {
            key if key in _SETTINGS else changed(key, mark): changed(each, mark)
            for key, each in value.items()
        }
    if not dataclasses.is_dataclass(value):
        return value
    for field in dataclasses.fields(value):
        old = getattr(value, field.name)
        if field.name in _ATTACKS and isinstance(old, dict):
            new = {name: changed(each, mark) for name, each in old.items()}
        else:
            new = changed(old, mark)
        try:
            value = dataclasses.replace(value, **{field.name: new})
        except (pydantic.ValidationError, ValueError):  # one of a few words
            continue
    return value
