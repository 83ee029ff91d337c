"""The settings: what is refused and how, the presets, and what a run is named after."""

import dataclasses
import re

import pytest

from ddefense import config

NAN, INF = float("nan"), float("inf")
INTEGERS = {
    "epochs": 1,
    "batch_size": 1,
    "samples": 1,
    "gradient_samples": 1,
    "shard_samples": 1,
    "attack_batch_size": 1,
    "max_features": 2,
    "warm_start_steps": 0,
    "seed": 0,
}


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("temperatures", (), "one or more finite numbers > 0"),
        ("temperatures", (1, 0), "one or more finite numbers > 0"),
        ("temperatures", (-20,), "one or more finite numbers > 0"),
        ("temperatures", (1, NAN), "one or more finite numbers > 0"),
        ("temperatures", (INF,), "one or more finite numbers > 0"),
        ("temperatures", (1, 20, 1), "each temperature once"),
        ("temperatures", (1, 1.0), "each temperature once"),
        ("temperatures", (20, 20.0000001), "each temperature once"),
        ("max_features", 111, "an even number"),
        ("learning_rate", 0, "a finite number > 0"),
        ("learning_rate", -0.1, "a finite number > 0"),
        ("learning_rate", NAN, "a finite number > 0"),
        ("learning_rate", INF, "a finite number > 0"),
        ("momentum", 1, r"a number in [0, 1)"),
        ("momentum", -0.1, r"a number in [0, 1)"),
        ("momentum", NAN, r"a number in [0, 1)"),
        ("dropout", 1.0, r"a number in [0, 1)"),
        ("dropout", -0.5, r"a number in [0, 1)"),
        ("dropout", NAN, r"a number in [0, 1)"),
        ("theta", 0, r"a number in [-1, 1] other than 0"),
        ("theta", 2.0, r"a number in [-1, 1] other than 0"),
        ("theta", -1.5, r"a number in [-1, 1] other than 0"),
        ("theta", NAN, r"a number in [-1, 1] other than 0"),
        ("attacks", (), "names among"),
        ("attacks", ("jsma_f", "fgsm"), "names among"),
        ("attacks", ("jsma_z", "jsma_z"), "each attack once"),
    ],
)
def test_a_value_out_of_range_is_refused(field, value, expected):
    with pytest.raises(config.ConfigError, match=rf"^{field}: expected .*received") as error:
        config.Config(**{field: value})
    assert expected in str(error.value)


@pytest.mark.parametrize(("field", "minimum"), INTEGERS.items())
def test_an_integer_field_takes_only_integers_from_its_minimum(field, minimum):
    smallest = config.Config(**{field: minimum})
    assert getattr(smallest, field) == minimum
    for value in (minimum - 1, -2, float(minimum + 2), 2.5, True, "4", None, NAN):
        message = rf"^{field}: expected an integer >= {minimum}; received {re.escape(repr(value))}"
        with pytest.raises(config.ConfigError, match=message):
            config.Config(**{field: value})


@pytest.mark.parametrize("value", ["0.5", None, True])
@pytest.mark.parametrize("field", ["learning_rate", "momentum", "dropout", "theta"])
def test_a_real_field_takes_only_numbers(field, value):
    with pytest.raises(config.ConfigError, match=rf"^{field}: expected a .*received {value!r}"):
        config.Config(**{field: value})


@pytest.mark.parametrize("value", [("hot",), (None,), (True,), 20.0, None])
def test_temperatures_takes_only_a_list_of_numbers(value):
    with pytest.raises(
        config.ConfigError, match=r"^temperatures: expected one or more finite numbers"
    ):
        config.Config(temperatures=value)


def test_a_refusal_is_a_value_error():
    assert issubclass(config.ConfigError, ValueError)


def test_messages_repeat_what_was_received():
    with pytest.raises(config.ConfigError, match=r"received \['fgsm'\]"):
        config.Config(attacks=("jsma_f", "fgsm"))
    with pytest.raises(config.ConfigError, match=r"jsma_f_literal.*jsma_z"):
        config.Config(attacks=("fgsm",))
    with pytest.raises(config.ConfigError, match=r"received 111"):
        config.Config(max_features=111)
    with pytest.raises(config.ConfigError, match=r"received \(1, 20, 1\)"):
        config.Config(temperatures=(1, 20, 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [("theta", 1.0), ("theta", -1.0), ("momentum", 0.0), ("dropout", 0.0), ("max_features", 2)],
)
def test_the_ends_of_a_range_belong_to_it(field, value):
    assert getattr(config.Config(**{field: value}), field) == value


def test_lists_become_tuples_of_floats():
    made = config.Config(temperatures=[1, 20], attacks=["jsma_z"])
    assert made.temperatures == (1.0, 20.0)
    assert all(isinstance(t, float) for t in made.temperatures)
    assert made.attacks == ("jsma_z",)


def test_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.Config().epochs = 3  # type: ignore[misc]


def test_the_default_is_the_papers_protocol():
    made = config.Config()
    assert made.temperatures == (1, 2, 5, 10, 20, 30, 40, 50, 100)
    assert (made.epochs, made.batch_size, made.warm_start_steps) == (50, 128, 0)
    assert (made.learning_rate, made.momentum, made.dropout) == (0.1, 0.5, 0.5)
    assert (made.samples, made.max_features, made.theta) == (100, 112, 1.0)
    assert not made.reduced


@pytest.mark.parametrize(
    ("changes", "reduced"),
    [
        ({}, False),
        ({"epochs": 49}, True),
        ({"epochs": 51}, False),
        ({"samples": 99}, True),
        ({"samples": 101}, False),
        ({"temperatures": config.PAPER_TEMPERATURES[:-1]}, True),
        ({"temperatures": (*config.PAPER_TEMPERATURES, 200.0)}, False),
        ({"temperatures": config.PAPER_TEMPERATURES[::-1]}, False),
        ({"reduced": True}, False),  # derived, whatever is passed
        ({"epochs": 1, "reduced": False}, True),
    ],
)
def test_reduced_says_whether_less_than_the_paper_was_done(changes, reduced):
    assert config.Config(**changes).reduced is reduced
    assert dataclasses.replace(config.Config(), **changes).reduced is reduced


CHANGES = {
    "dataset": "mnist",
    "preset": "paper",
    "temperatures": (20.0,),
    "epochs": 60,
    "warm_start_steps": 5,
    "batch_size": 64,
    "learning_rate": 0.01,
    "momentum": 0.9,
    "dropout": 0.25,
    "samples": 200,
    "gradient_samples": 10,
    "attacks": ("jsma_z",),
    "theta": -1.0,
    "max_features": 56,
    "shard_samples": 10,
    "attack_batch_size": 16,
    "seed": 1,
}


def test_the_digest_changes_with_every_field():
    fields = {f.name for f in dataclasses.fields(config.Config)} - {"reduced"}
    assert fields == set(CHANGES)
    digests = {config.Config(**{name: value}).digest() for name, value in CHANGES.items()}
    assert len(digests | {config.Config().digest()}) == len(CHANGES) + 1


def test_the_digest_is_twelve_hexadecimal_digits_of_the_values_alone():
    assert re.fullmatch("[0-9a-f]{12}", config.Config().digest())
    assert config.Config().digest() == config.Config(reduced=True).digest()
    assert config.digest({"a": 1, "b": 2}) == config.digest({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("whole", "real"),
    [
        ({"theta": 1}, {"theta": 1.0}),
        ({"learning_rate": 1}, {"learning_rate": 1.0}),
        ({"momentum": 0, "dropout": 0}, {"momentum": 0.0, "dropout": 0.0}),
        ({"temperatures": (1, 20)}, {"temperatures": (1.0, 20.0)}),
    ],
)
def test_equal_settings_have_equal_digests(whole, real):
    assert config.Config(**whole) == config.Config(**real)
    assert config.Config(**whole).digest() == config.Config(**real).digest()


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
@pytest.mark.parametrize("name", config.PRESETS)
def test_presets_are_valid(name, dataset):
    made = config.preset(name, dataset)
    assert (made.preset, made.dataset) == (name, dataset)
    assert made.reduced == (name != "paper")
    # Whatever else is reduced, the attack and the optimizer are the paper's.
    assert (made.max_features, made.theta, made.learning_rate) == (112, 1.0, 0.1)


def test_the_paper_preset_is_literal():
    made = config.preset("paper", "mnist")
    assert made == config.Config(dataset="mnist", preset="paper")


def test_changes_replace_what_the_preset_says():
    made = config.preset("smoke", "digits", epochs=7, seed=3)
    assert (made.epochs, made.seed) == (7, 3)
    assert made.temperatures == config.preset("smoke", "digits").temperatures
    with pytest.raises(config.ConfigError, match=r"^epochs: "):
        config.preset("smoke", "digits", epochs=0)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(config.ConfigError, match=r"preset: .*paper.*quick.*smoke.*received 'fast'"):
        config.preset("fast", "digits")
