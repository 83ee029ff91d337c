"""What a setting is: its type, bound, default and text stand in one line, its field.

A class of settings is a frozen dataclass that pydantic checks. Its fields are annotated with the
types of this module, so that flags, their help and what is refused follow from the field.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable
from typing import (
    Annotated,
    Any,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import pydantic
import pydantic.dataclasses
from pydantic_core import CoreSchema, core_schema

LARGEST_INTEGER = 2**31 - 1
"""Of a setting: what TensorFlow's 32-bit integers hold."""
# Of float32: the smallest that is not flushed to 0, and the largest.
_SMALLEST, _LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127

Settings = TypeVar("Settings")


class ConfigError(ValueError):
    """An argument, setting or flag that cannot be.

    Attributes:
        argument: its name.
        reason: what was expected, what was received and how to fix it, as a sentence.
    """

    def __init__(self, argument: str, reason: str) -> None:
        """Sets both."""
        super().__init__(argument, reason)  # what pickle builds it from again
        self.argument = argument
        self.reason = reason

    def __str__(self) -> str:
        """Both, as one message."""
        return f"{self.argument}: {self.reason}"

    def about(self, argument: str) -> "ConfigError":
        """The same of an argument by another name."""
        return type(self)(argument, self.reason)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a field says of a setting.

    Attributes:
        name: of the field.
        kind: int, float, bool, str or tuple.
        bound: what it may be.
        default: its default; None for what is found out.
        text: what it is.
        group: the class that it is a field of, with its module.
    """

    name: str
    kind: type
    bound: "Bound"
    default: Any
    text: str
    group: str


def setting(text: str, *, default: Any = dataclasses.MISSING) -> Any:
    """A field of a class of settings.

    Args:
        text: what it is, in sentences that follow its name; the help of its flag.
        default: its default; none for a field that must be given.
    """
    return dataclasses.field(default=default, metadata={"text": text})


@dataclasses.dataclass(frozen=True)
class Bound:
    """What a setting may be.

    Attributes:
        expected: the same in words, after "expected".
        holds: whether a value is that.
        convert: a value that holds -> what is kept.
    """

    expected: str
    holds: Callable[[Any], bool]
    convert: Callable[[Any], Any]

    def check(self, received: Any) -> Any:
        """Returns what is kept of a value.

        Raises:
            ValueError: if it does not hold, saying what was expected and what was received.
        """
        if not self.holds(received):
            raise ValueError(reason(self.expected, received))
        return self.convert(received)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: pydantic.GetCoreSchemaHandler
    ) -> CoreSchema:
        """Checks before pydantic does, which would take `"4"` or `True` for integers."""
        return core_schema.no_info_before_validator_function(self.check, handler(source))


class Whole(Bound):
    """Integers, those of NumPy too, from a minimum to a maximum."""

    def __init__(self, minimum: int, maximum: int = LARGEST_INTEGER) -> None:
        """Sets both."""
        super().__init__(f"an integer >= {minimum}", lambda x: is_integer(x, minimum), int)
        object.__setattr__(self, "maximum", maximum)

    maximum: int

    def check(self, received: Any) -> int:
        """Returns the integer; see `Bound`."""
        kept = int(super().check(received))
        if kept > self.maximum:
            raise ValueError(reason(f"an integer <= {self.maximum}", received))
        return kept


def real(expected: str, holds: Callable[[float], bool]) -> Bound:
    """Numbers that float32 holds, and for which something else holds."""
    return Bound(expected, lambda x: is_number(x) and holds(float(x)), float)


def reals(expected: str, holds: Callable[[tuple[float, ...]], bool]) -> Bound:
    """Lists of numbers that float32 holds, and for which something else holds."""

    def all_hold(value: Any) -> bool:
        return (
            isinstance(value, list | tuple) and all(map(is_number, value)) and holds(tuple(value))
        )

    return Bound(expected, all_hold, lambda values: tuple(map(float, values)))


class OneOf(Bound):
    """Some values."""

    def __init__(self, choices: tuple[str, ...]) -> None:
        """Sets them."""
        super().__init__(f"one of {list(choices)}", lambda x: x in choices, str)
        object.__setattr__(self, "choices", choices)

    choices: tuple[str, ...]


def told_apart(values: tuple[float, ...]) -> bool:
    """Whether numbers differ in six digits, by which networks and arrays are named after them."""
    return len({f"{value:g}" for value in values}) == len(values)


Count = Annotated[int, Whole(1)]
Even = Annotated[
    int,
    Whole(2),
    Bound(
        "an even number, because features are changed in pairs",
        lambda x: not is_integer(x, 2) or x > LARGEST_INTEGER or int(x) % 2 == 0,
        lambda x: x,
    ),
]
Natural = Annotated[int, Whole(0)]
Positive = Annotated[float, real("a finite number > 0", lambda x: x > 0)]
Share = Annotated[float, real("a number in [0, 1)", lambda x: 0 <= x < 1)]
Number = Annotated[float, real("a finite number >= 0", lambda x: x >= 0)]
Weight = Annotated[float, real("a number in [0, 1]", lambda x: 0 <= x <= 1)]
Factor = Annotated[float, real("a number in (0, 1]", lambda x: 0 < x <= 1)]
Switch = Annotated[bool, Bound("true or false", lambda x: isinstance(x, bool), bool)]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting,))
def checked(cls: type[Settings]) -> type[Settings]:
    """Makes a class of settings; building one raises `ConfigError` if a field cannot be."""
    # A stored configuration with a field that this version does not know is refused.
    config = pydantic.ConfigDict(extra="forbid")
    made: Any = pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=config)
    build = made.__init__

    @functools.wraps(build)
    def refusing(self: Any, **fields: Any) -> None:
        try:
            build(self, **fields)
        except pydantic.ValidationError as error:
            raise _refusal(error) from None

    made.__init__ = refusing
    found: type[Settings] = made
    return found


def _refusal(error: pydantic.ValidationError) -> Exception:
    """What stands for the first fault that pydantic found."""
    found = error.errors()[0]
    cause = found.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):  # of a check of several fields
        return cause
    name = ".".join(map(str, found["loc"]))
    if found["type"] in ("missing", "unexpected_keyword_argument"):
        return TypeError(f"{name}: {found['msg']}")
    return ConfigError(name, f"{cause or found['msg']}")


def fields(settings: type) -> list[Setting]:
    """The fields of a class of settings that have a bound."""
    hints = get_type_hints(settings, include_extras=True)
    found = []
    for field in dataclasses.fields(settings):
        hint = hints[field.name]
        for part in (hint, *get_args(hint)):  # of `Count | None` too
            if get_origin(part) is Annotated:
                kind, bound, *_ = get_args(part)
                kind = get_origin(kind) or kind
                owner = next(c for c in settings.__mro__ if field.name in c.__annotations__)
                group = f"{owner.__module__}.{owner.__qualname__}"
                text = field.metadata["text"]
                found.append(Setting(field.name, kind, bound, field.default, text, group))
    return found


def reason(expected: str, received: Any) -> str:
    """What was expected and what was received, and whether float32 is why."""
    numbers_in = received if isinstance(received, list | tuple) else [received]
    beyond = any(_is_real(number) and not is_number(number) for number in numbers_in)
    why = ", which float32 cannot hold" if beyond else ""
    return f"expected {expected}; received {received!r}{why}."


def expect(holds: bool, name: str, expected: str, received: Any) -> None:
    """Refuses a setting that does not hold.

    Raises:
        ConfigError: naming the setting, what was expected and what was received.
    """
    if not holds:
        raise ConfigError(name, reason(expected, received))


def is_integer(value: Any, minimum: int) -> bool:
    """Whether it is an integer, of NumPy too, from a minimum."""
    integral = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return integral and int(value) >= minimum


def is_number(value: Any) -> bool:
    """Whether it is a number that float32 neither rounds to 0 nor to infinity.

    NumPy's numbers are some; truth values, NaN and the infinities are none.
    """
    return _is_real(value) and (value == 0 or _SMALLEST <= abs(value) <= _LARGEST)


def is_range(low: Any, high: Any) -> bool:
    """Whether they are the ends of a range of float32 numbers, the lower first."""
    return is_number(low) and is_number(high) and low < high and is_number(float(high) - float(low))


def _is_real(value: Any) -> bool:
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and value == value
        and abs(value) != math.inf
    )
