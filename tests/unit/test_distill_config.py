"""Settings of a distillation: every field is checked, and the message names it."""

import dataclasses
import json
import math

import numpy as np
import pytest
from ddefense.settings import ConfigError

from ddefense import records
from ddefense.distill_config import DistillConfig, DistillJob

REFUSED = [
    ("temperature", (0, -1.0, math.inf, math.nan, "20", True, 1e39, 1e-46), "a finite number > 0"),
    ("alpha", (-0.1, 1.1, math.nan), r"a number in \[0, 1\]"),
    ("momentum", (-0.1, 1.0), r"a number in \[0, 1\)"),
    ("validation_share", (-0.1, 1.0), r"a number in \[0, 1\)"),
    ("learning_rate_decay", (0.0, 1.1), r"a number in \(0, 1\]"),
    ("momentum_decay", (0.0, 1.1), r"a number in \(0, 1\]"),
    ("outlier_alpha", (0.0, 1.1), r"a number in \(0, 1\]"),
    ("uncertainty_of", ("classes", None), r"one of \['logits', 'probabilities'\]"),
    ("learning_rate", (0.0, -1.0, math.inf, 1e39), "a finite number > 0"),
    ("epochs", (0, 1.5, True), "an integer >= 1"),
    ("epochs", (2**31, 10**21), "an integer <= 2147483647"),
    ("batch_size", (0,), "an integer >= 1"),
    ("decay_epochs", (0,), "an integer >= 1"),
    ("dropout_passes", (1,), "an integer >= 2"),
    ("seed", (-1, 0.5), "an integer >= 0"),
    ("threads", (-1,), "an integer >= 0"),
    ("devices", (0, 1.5), "an integer >= 1"),
    ("devices", (129,), r"at most 128, the images of a batch \(batch_size\)"),
    ("method", ("hinton",), r"one of \['defensive', 'extended'\]"),
    ("optimizer", ("lion",), r"one of \['sgd', 'adam'\]"),
    ("precision", ("float16",), r"one of \[None, 'float32', 'mixed_bfloat16'\]"),
    ("class_weights", ("even", {0: -1.0}, {"0": 1.0}, {0: 0.0}, [1.0]), "'balanced' or finite"),
]


def build(**changes):
    return DistillConfig(**{"temperature": 20.0} | changes)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [(name, value, expected) for name, values, expected in REFUSED for value in values],
)
def test_a_value_out_of_range_is_refused_by_name(name, value, expected):
    with pytest.raises(ConfigError, match=f"^{name}: expected {expected}.*; received"):
        build(**{name: value})


def test_every_field_is_checked_here():
    checked = {name for name, _, _ in REFUSED}
    fields = {field.name for field in dataclasses.fields(DistillConfig)}
    # What is true or false needs no range; early stopping has tests of its own.
    assert fields - checked == {"scale_by_temperature_squared", "jit_compile", "early_stopping"}


def test_the_ends_of_the_ranges_are_allowed():
    build(alpha=1, momentum=0, validation_share=0, outlier_alpha=1, learning_rate_decay=1)
    build(alpha=0, class_weights={0: 0.0, 1: 2}, seed=0)
    build(class_weights="balanced", precision="mixed_bfloat16")


def test_numbers_of_numpy_are_numbers():
    found = build(
        epochs=np.int64(3), class_weights={np.int64(1): np.float32(0.5)}, alpha=np.float64(1)
    )
    assert found == build(epochs=3, class_weights={1: 0.5}, alpha=1.0)
    assert type(found.epochs) is int
    json.dumps(found.fields())
    with pytest.raises(ConfigError, match="epochs: expected an integer"):
        build(epochs=np.float64(3))


def test_early_stopping_has_its_range():
    build(early_stopping=3, validation_share=0.1)
    with pytest.raises(ConfigError, match=r"early_stopping: expected an integer >= 1; received 0"):
        build(early_stopping=0, validation_share=0.1)


def test_the_successor_has_one_temperature_and_no_mixture():
    build(method="extended", temperature=1.0)
    with pytest.raises(ConfigError, match="temperature: expected 1 with method extended"):
        build(method="extended")
    with pytest.raises(ConfigError, match="alpha: expected 0 with method extended"):
        build(method="extended", temperature=1.0, alpha=0.5)


@pytest.mark.parametrize(
    ("changes", "rate"),
    [({}, 0.1), ({"optimizer": "adam"}, 0.001), ({"optimizer": "adam", "learning_rate": 2}, 2)],
)
def test_the_learning_rate_depends_on_the_optimizer(changes, rate):
    assert build(**changes).rate == rate


@pytest.mark.parametrize("name", ["learning_rate_decay", "momentum_decay"])
def test_decays_are_of_sgd(name):
    build(**{name: 0.5})
    with pytest.raises(ConfigError, match=f"{name}: expected 1 with optimizer adam; received 0.5"):
        build(**{name: 0.5, "optimizer": "adam"})


def test_a_job_is_stored_and_read_back(tmp_path):
    job = DistillJob(
        network="my.keras",
        student=None,
        data="photos",
        image_shape=(32, 48, 3),
        value_range=(0.0, 255.0),
        class_names=("cat", "dog"),
        test_share=0.2,
        config=build(class_weights={0: 1.0, 1: 3.5}),
    )
    records.dump(job, tmp_path / "config.json")
    assert records.load(DistillJob, tmp_path / "config.json") == job
    assert json.loads(json.dumps(job.fields()))["config"]["class_weights"] == {"0": 1.0, "1": 3.5}


def test_a_stored_job_with_an_unknown_field_is_refused(tmp_path):
    path = tmp_path / "config.json"
    records.dump(build(), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beta": 1}))
    with pytest.raises(records.RunError):
        records.load(DistillConfig, path)
