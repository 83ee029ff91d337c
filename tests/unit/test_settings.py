"""A setting's bound, text and default are those of its field; errors carry what they are about."""

import dataclasses
import pathlib
import pickle
import re
from typing import Annotated

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ddefense
from ddefense.datasets.streaming import ReadingError
from ddefense.settings import (
    ConfigError,
    Count,
    OneOf,
    Setting,
    Share,
    checked,
    expect,
    fields,
    setting,
)


@checked
class Oven:
    """Some settings."""

    minutes: Count = setting("How long.", default=20)
    humidity: Share | None = setting("How damp.", default=None)
    program: Annotated[str, OneOf(("bread", "cake"))] = setting("What for.", default="bread")
    shelf: int = setting("Which one; without a bound.", default=1)

    def __post_init__(self) -> None:
        """Checks two together."""
        expect(self.program == "bread" or self.minutes > 10, "minutes", "> 10", self.minutes)


def test_fields_with_a_bound_are_listed_with_all_that_stands_in_them():
    minutes, humidity, program = fields(Oven)
    assert minutes == Setting("minutes", int, minutes.bound, 20, "How long.", f"{__name__}.Oven")
    assert minutes.bound.expected == "an integer >= 1"
    assert (humidity.kind, humidity.default) == (float, None)
    assert program.bound.choices == ("bread", "cake")


@pytest.mark.parametrize(
    ("given", "argument", "reason"),
    [
        ({"minutes": 0}, "minutes", "expected an integer >= 1; received 0."),
        ({"humidity": 1}, "humidity", "expected a number in [0, 1); received 1."),
        ({"program": "stew"}, "program", "expected one of ['bread', 'cake']; received 'stew'."),
        ({"program": "cake", "minutes": 9}, "minutes", "expected > 10; received 9."),
    ],
)
def test_a_refusal_carries_the_setting_and_the_reason(given, argument, reason):
    with pytest.raises(ConfigError) as caught:
        Oven(**given)
    assert (caught.value.argument, caught.value.reason) == (argument, reason)
    assert str(caught.value) == f"{argument}: {reason}"
    with pytest.raises(ConfigError):
        dataclasses.replace(Oven(), **given)


def test_a_setting_that_does_not_exist_is_no_setting():
    with pytest.raises(TypeError, match="grill"):
        Oven(grill=True)


@given(st.integers(1, 2**31 - 1))
def test_integers_of_numpy_are_kept_as_those_of_python(minutes):
    kept = Oven(minutes=np.int64(minutes)).minutes
    assert (type(kept), kept) == (int, minutes)


@pytest.mark.parametrize("kind", [ConfigError, ReadingError])
def test_errors_come_whole_from_another_process(kind):
    error = pickle.loads(pickle.dumps(kind("images", "expected some; received none.")))
    assert (type(error), error.argument) == (kind, "images")
    assert str(error) == "images: expected some; received none."


def test_the_same_of_an_argument_by_another_name():
    error = ReadingError("data", "expected some; received none.").about("validation_data")
    assert type(error) is ReadingError
    assert str(error) == "validation_data: expected some; received none."


def test_no_code_cuts_the_text_of_an_error():
    cuts = re.compile(r"str\(error\)\.(removeprefix|removesuffix|replace|partition)\(")
    package = pathlib.Path(ddefense.__file__).parent
    assert [path for path in package.rglob("*.py") if cuts.search(path.read_text())] == []
