"""The settings: what is refused and how, the presets, and what a run is named after."""

import dataclasses
import math
import re

import numpy as np
import pytest

from ddefense import config, datasets

NAN, INF = float("nan"), float("inf")
INTEGERS = {
    "epochs": 1,
    "batch_size": 1,
    "samples": 1,
    "gradient_samples": 1,
    "shard_samples": 1,
    "attack_batch_size": 1,
    "max_features": 2,
    "decay_epochs": 1,
    "pgd_steps": 1,
    "pgd_restarts": 1,
    "cw_samples": 1,
    "cw_steps": 1,
    "cw_search_steps": 1,
    "costly_samples": 1,
    "labels_only_queries": 1,
    "adversarial_epochs": 1,
    "adversarial_steps": 1,
    "warm_start_steps": 0,
    "seed": 0,
    "threads": 0,
    "devices": 1,
}
REALS = (
    "learning_rate",
    "momentum",
    "learning_rate_decay",
    "momentum_decay",
    "dropout",
    "theta",
    "epsilon",
)


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
        ("misclassified", 1, "true or false"),
        ("devices", 129, "at most 128, the images of a batch"),
        ("learning_rate", 0, "a finite number > 0"),
        ("learning_rate", -0.1, "a finite number > 0"),
        ("cw_learning_rate", 0.0, "a finite number > 0"),
        ("cw_learning_rate", INF, "a finite number > 0"),
        ("cw_initial_c", 0, "a finite number > 0"),
        ("cw_initial_c", NAN, "a finite number > 0"),
        ("learning_rate", NAN, "a finite number > 0"),
        ("learning_rate", INF, "a finite number > 0"),
        ("momentum", 1, r"a number in [0, 1)"),
        ("momentum", -0.1, r"a number in [0, 1)"),
        ("momentum", NAN, r"a number in [0, 1)"),
        ("learning_rate_decay", 0, r"a number in (0, 1]"),
        ("learning_rate_decay", 1.5, r"a number in (0, 1]"),
        ("learning_rate_decay", -0.5, r"a number in (0, 1]"),
        ("learning_rate_decay", NAN, r"a number in (0, 1]"),
        ("learning_rate_decay", INF, r"a number in (0, 1]"),
        ("momentum_decay", 0, r"a number in (0, 1]"),
        ("momentum_decay", 1.5, r"a number in (0, 1]"),
        ("momentum_decay", -0.5, r"a number in (0, 1]"),
        ("momentum_decay", NAN, r"a number in (0, 1]"),
        ("momentum_decay", INF, r"a number in (0, 1]"),
        ("dropout", 1.0, r"a number in [0, 1)"),
        ("dropout", -0.5, r"a number in [0, 1)"),
        ("dropout", NAN, r"a number in [0, 1)"),
        ("theta", 0, r"a number in [-1, 1] other than 0"),
        ("theta", 2.0, r"a number in [-1, 1] other than 0"),
        ("theta", -1.5, r"a number in [-1, 1] other than 0"),
        ("theta", NAN, r"a number in [-1, 1] other than 0"),
        ("epsilon", 0, r"a number in (0, 1]"),
        ("epsilon", 1.5, r"a number in (0, 1]"),
        ("epsilon", NAN, r"a number in (0, 1]"),
        ("cw_all_targets_at", (0,), "finite numbers > 0"),
        ("cw_all_targets_at", (20, 20), "each temperature once"),
        ("kappas", (), "one or more rising numbers >= 0"),
        ("kappas", (0, 20, 10), "one or more rising numbers >= 0"),
        ("kappas", (20, 20), "one or more rising numbers >= 0"),
        ("kappas", (-1,), "one or more rising numbers >= 0"),
        ("kappas", (NAN,), "one or more rising numbers >= 0"),
        ("defense", "prayer", "one of"),
        ("attacks", (), "names among"),
        ("attacks", ("jsma_f", "deepfool"), "names among"),
        ("attacks", ("jsma_z", "jsma_z"), "each attack once"),
    ],
)
def test_a_value_out_of_range_is_refused(field, value, expected):
    with pytest.raises(config.ConfigError, match=rf"^{field}: expected .*received") as error:
        config.Config(**{field: value})
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperatures", (1e39,)),
        ("temperatures", (20.0, 1e-46)),
        ("learning_rate", 1e39),
        ("learning_rate", 10**400),
        ("cw_learning_rate", 1e-39),
        ("cw_initial_c", 1e-46),
        ("epsilon", 1e-46),
        ("theta", -1e-46),
        ("kappas", (0, 1e39)),
        ("momentum", 1e-50),
    ],
)
def test_a_number_that_float32_cannot_hold_is_refused(field, value):
    message = rf"^{field}: expected .*; received .*, which float32 cannot hold\."
    with pytest.raises(config.ConfigError, match=message):
        config.Config(**{field: value})


def test_the_ends_of_float32_are_numbers():
    smallest, largest = np.finfo(np.float32).tiny, np.finfo(np.float32).max
    for value in (0, smallest, -largest, float(smallest), float(largest), 1):
        assert config.is_number(value)
    beyond = (float(smallest) / 2, float(largest) * 2)
    for value in (*beyond, NAN, INF, -INF, True, "1", None, 1j):
        assert not config.is_number(value)
    assert not config.is_range(-largest, largest)


@pytest.mark.parametrize(("field", "minimum"), INTEGERS.items())
def test_an_integer_field_takes_only_integers_from_its_minimum(field, minimum):
    smallest = config.Config(**{field: minimum})
    assert getattr(smallest, field) == minimum
    for value in (minimum - 1, -2, float(minimum + 2), 2.5, True, "4", None, NAN):
        message = rf"^{field}: expected an integer >= {minimum}; received {re.escape(repr(value))}"
        with pytest.raises(config.ConfigError, match=message):
            config.Config(**{field: value})


@pytest.mark.parametrize("field", INTEGERS)
def test_an_integer_field_takes_none_that_no_run_could_do(field):
    message = rf"^{field}: expected an integer <= {config.LARGEST_INTEGER}; received 9{{21}}"
    with pytest.raises(config.ConfigError, match=message):
        config.Config(**{field: 10**21 - 1})


@pytest.mark.parametrize("value", ["0.5", None, True])
@pytest.mark.parametrize("field", REALS)
def test_a_real_field_takes_only_numbers(field, value):
    with pytest.raises(config.ConfigError, match=rf"^{field}: expected a .*received {value!r}"):
        config.Config(**{field: value})


@pytest.mark.parametrize("value", [("hot",), (None,), (True,), 20.0, None])
def test_temperatures_takes_only_a_list_of_numbers(value):
    with pytest.raises(
        config.ConfigError, match=r"^temperatures: expected one or more finite numbers"
    ):
        config.Config(temperatures=value)


# Among them policies that Keras would take.
@pytest.mark.parametrize(
    "value", ["mixed_float16", "float16", "bfloat16", "FLOAT32", "float32 ", "", None, 32, True]
)
def test_precision_is_one_of_two_names(value):
    message = (
        r"^precision: expected one of \['float32', 'mixed_bfloat16'\]; "
        rf"received {re.escape(repr(value))}\.$"
    )
    with pytest.raises(config.ConfigError, match=message):
        config.Config(precision=value)


@pytest.mark.parametrize("value", config.PRECISIONS)
def test_both_precisions_are_taken(value):
    assert config.Config(precision=value).precision == value


@pytest.mark.parametrize("value", [0, 1, 1.0, "true", "False", "", None, [], NAN])
def test_jit_compile_is_true_or_false(value):
    message = rf"^jit_compile: expected true or false; received {re.escape(repr(value))}\.$"
    with pytest.raises(config.ConfigError, match=message):
        config.Config(jit_compile=value)


def test_a_refusal_is_a_value_error():
    assert issubclass(config.ConfigError, ValueError)


def test_messages_repeat_what_was_received():
    with pytest.raises(config.ConfigError, match=r"received \['deepfool'\]"):
        config.Config(attacks=("jsma_f", "deepfool"))
    with pytest.raises(config.ConfigError, match=r"jsma_f_literal.*jsma_z.*cw_l2"):
        config.Config(attacks=("deepfool",))
    with pytest.raises(config.ConfigError, match=r"received 111"):
        config.Config(max_features=111)
    with pytest.raises(config.ConfigError, match=r"received \(1, 20, 1\)"):
        config.Config(temperatures=(1, 20, 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("theta", 1.0),
        ("theta", -1.0),
        ("momentum", 0.0),
        ("dropout", 0.0),
        ("max_features", 2),
        ("learning_rate_decay", 1.0),
        ("momentum_decay", 1.0),
        ("momentum_decay", 1e-30),
    ],
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
    assert (made.learning_rate_decay, made.momentum_decay) == (1.0, 1.0)
    assert (made.precision, made.jit_compile, made.threads) == ("float32", False, 0)
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
    "learning_rate_decay": 0.95,
    "momentum_decay": 0.5,
    "decay_epochs": 5,
    "dropout": 0.25,
    "samples": 200,
    "gradient_samples": 10,
    "attacks": ("jsma_z",),
    "theta": -1.0,
    "max_features": 56,
    "shard_samples": 10,
    "attack_batch_size": 16,
    "epsilon": 0.1,
    "pgd_steps": 7,
    "pgd_restarts": 2,
    "cw_samples": 3,
    "cw_all_targets_at": (),
    "cw_steps": 10,
    "cw_search_steps": 3,
    "cw_learning_rate": 0.02,
    "cw_initial_c": 0.1,
    "kappas": (0.0, 5.0),
    "costly_samples": 2,
    "labels_only_queries": 100,
    "defense": "adversarial_training",
    "adversarial_epochs": 2,
    "adversarial_steps": 3,
    "seed": 1,
    "precision": "mixed_bfloat16",
    "jit_compile": True,
    "threads": 2,
    "misclassified": True,
    "devices": 2,
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
        ({"learning_rate_decay": 1, "momentum_decay": 1}, {}),
        ({"temperatures": (1, 20)}, {"temperatures": (1.0, 20.0)}),
    ],
)
def test_equal_settings_have_equal_digests(whole, real):
    assert config.Config(**whole) == config.Config(**real)
    assert config.Config(**whole).digest() == config.Config(**real).digest()


# Training images of every dataset.
SIZES = {"digits": 1437, "mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000}


def test_every_dataset_stands_in_this_table():
    assert set(SIZES) == set(datasets.NAMES)


@pytest.mark.parametrize("dataset", SIZES)
@pytest.mark.parametrize("name", config.PRESETS)
def test_presets_are_valid(name, dataset):
    made = config.preset(name, dataset)
    assert (made.preset, made.dataset) == (name, dataset)
    assert made.reduced == (not name.startswith("paper"))
    # Whatever else is reduced, the most features are the paper's.
    assert made.max_features == 112


def optimizer(made):
    """(learning rate, factor on it), (momentum, factor on it), epochs between two decays."""
    return (
        (made.learning_rate, made.learning_rate_decay),
        (made.momentum, made.momentum_decay),
        made.decay_epochs,
    )


@pytest.mark.parametrize("name", config.PRESETS)
def test_no_preset_changes_the_optimizer_of_a_dataset(name):
    for dataset in ("digits", "mnist", "fashion_mnist", "a dataset of one's own"):
        made = config.preset(name, dataset)
        assert optimizer(made) == ((0.1, 1.0), (0.5, 1.0), 10)
    assert optimizer(config.preset(name, "cifar10")) == ((0.01, 0.95), (0.9, 0.5), 10)


@pytest.mark.parametrize("name", config.PRESETS)
def test_presets_attack_with_the_frozen_theta_and_where_it_is_not_one_with_one_as_well(name):
    for dataset in (*SIZES, "a dataset of one's own"):
        made = config.preset(name, dataset)
        assert made.theta == config.frozen_theta(dataset)
        assert (made.theta == 1.0) == (dataset != "cifar10")
        assert ("jsma_f_theta_1" in made.attacks) == (made.theta != 1.0)
        left_out = set(config.Config().attacks) - set(made.attacks)
        assert left_out == ({"cw_l0", "cw_linf"} if name in ("quick", "smoke") else set())


def test_the_attacks_of_presets_in_their_order():
    names = [
        "jsma_f",
        "jsma_f_literal",
        "jsma_f_exact",
        "jsma_f_temperature",
        "jsma_z",
        "fgsm",
        "fgsm_temperature",
        "pgd_linf",
        "pgd_linf_temperature",
        "cw_l2",
        "cw_l0",
        "cw_linf",
        "transfer_cw_l2",
        "labels_only",
    ]
    made = config.preset("paper", "digits")
    assert made.attacks == tuple(names)
    joined = config.past_outlier_class(made).attacks
    assert joined == (*names[:9], "pgd_linf_targeted", *names[9:])
    with_theta_1 = config.preset("paper", "cifar10").attacks
    assert with_theta_1 == ("jsma_f", "jsma_f_theta_1", *names[1:])


@pytest.mark.parametrize("name", config.PRESETS)
def test_every_preset_attacks_in_every_way_that_needs_no_training(name):
    """The verdict is no option: only targeted gradient signs and a second theta are left out."""
    for dataset in SIZES:
        made = config.preset(name, dataset)
        assert made.defense == "distillation"
        assert {"jsma_f", "fgsm", "pgd_linf", "cw_l2", "transfer_cw_l2", "labels_only"} <= set(
            made.attacks
        )
        # Carlini and Wagner's samples transfer at 40.
        assert (made.kappas[-1] == 40.0) == name.startswith("paper")
    assert config.preset(name, "mnist").epsilon == 0.3
    assert config.preset(name, "cifar10").epsilon == 8 / 255
    assert config.preset(name, "digits").epsilon == 0.15


def test_the_paper_preset_is_literal():
    for dataset in ("mnist", "fashion_mnist"):
        made = config.preset("paper", dataset)
        assert made == config.Config(dataset=dataset, preset="paper")
    made = config.preset("paper", "cifar10")
    assert (made.epochs, made.batch_size, made.warm_start_steps) == (50, 128, 0)
    assert (made.temperatures, made.samples) == (config.PAPER_TEMPERATURES, 100)


@pytest.mark.parametrize(("dataset", "images"), SIZES.items())
def test_the_warm_paper_preset_is_the_paper_after_one_epoch(dataset, images):
    warm, paper = config.preset("paper_warm", dataset), config.preset("paper", dataset)
    assert warm.warm_start_steps == math.ceil(images / warm.batch_size)
    assert warm == dataclasses.replace(
        paper, preset="paper_warm", warm_start_steps=warm.warm_start_steps
    )


def test_changes_replace_what_the_preset_says():
    made = config.preset("smoke", "digits", epochs=7, seed=3)
    assert (made.epochs, made.seed) == (7, 3)
    assert made.temperatures == config.preset("smoke", "digits").temperatures
    # Those of a dataset as well.
    made = config.preset("paper", "cifar10", learning_rate=0.2, momentum_decay=1)
    assert optimizer(made) == ((0.2, 0.95), (0.9, 1.0), 10)
    with pytest.raises(config.ConfigError, match=r"^epochs: "):
        config.preset("smoke", "digits", epochs=0)
    with pytest.raises(config.ConfigError, match=r"^momentum_decay: "):
        config.preset("smoke", "cifar10", momentum_decay=0)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(
        config.ConfigError, match=r"preset: .*paper.*paper_warm.*quick.*smoke.*received 'fast'"
    ):
        config.preset("fast", "digits")
