"""What a run says that it will do is what it does, with amounts that follow from measured rates."""

import dataclasses
import math
import pathlib
import re

import numpy as np
import pytest
from absl import logging as absl_logging

from ddefense import config as config_lib
from ddefense import datasets, records
from ddefense.attack_catalog import ATTACKS, JSMA_ATTACKS
from ddefense.datasets import Split
from ddefense.experiments import planning
from ddefense.experiments.planning import Planned, Rates, Sweep
from ddefense.experiments.stages import StageRecord, Stages, place_of

RATES = Rates(train=1.0, forward=0.1, backward=0.01)
CONFIG = config_lib.Config(
    temperatures=(20.0, 1.0),
    epochs=3,
    warm_start_steps=4,
    batch_size=32,
    samples=2,
    gradient_samples=50,
    attacks=("jsma_f", "jsma_f_literal", "jsma_z"),
    max_features=112,
)


def names(config, dataset):
    return [stage.name for stage in planning.plan(config, dataset, RATES)]


def seconds(config, dataset):
    # Every attack takes a second more, to compile and to judge.
    return {
        stage.name: pytest.approx(stage.seconds - (stage.kind == "attack"))
        for stage in planning.plan(config, dataset, RATES)
    }


# --- which stages ---------------------------------------------------------------------------------

JSMA = ["jsma_f", "jsma_f_literal", "jsma_f_exact", "jsma_f_temperature", "jsma_z"]
SIGN = ["fgsm", "fgsm_temperature", "pgd_linf", "pgd_linf_temperature"]
BEFORE_TRANSFER = [*JSMA, *SIGN, "cw_l2", "cw_l0", "cw_linf"]


def on(name, *, first=False, temperature=1):
    """The stages of one network with every attack of a preset."""
    found = [f"measure_{name}", *(f"{attack}_on_{name}" for attack in BEFORE_TRANSFER)]
    if first:
        found += ["substitute", "transfer_cw_l2_from_substitute"]
    found += [f"transfer_cw_l2_on_{name}", f"labels_only_on_{name}", f"controls_on_{name}"]
    if temperature != 1:
        found.append(f"jsma_f_on_baseline_times_{temperature:g}")
    return found


@pytest.mark.parametrize("preset", ["paper", "paper_warm"])
@pytest.mark.parametrize("temperatures", [None, (5.0, 0.5)], ids=["with T = 1", "without"])
@pytest.mark.parametrize("defense", config_lib.DEFENSES)
def test_the_plan_has_every_stage_in_the_order_of_a_run(
    tiny_dataset, preset, temperatures, defense
):
    changes = {} if temperatures is None else {"temperatures": temperatures}
    config = config_lib.preset(preset, "digits", defense=defense, **changes)
    warm = preset == "paper_warm"
    networks = ["baseline"]
    expected = ["baseline", "samples", *on("baseline", first=True)]
    if warm:
        expected.append("warm_start")
    for temperature in temperatures or (1, 2, 5, 10, 20, 30, 40, 50, 100):
        tag = f"t{temperature:g}"
        # At T = 1 the literal protocol's initial network is the baseline.
        if warm or temperature != 1:
            expected.append(f"initial_{tag}")
        networks.append(f"distilled_{tag}")
        expected += [f"soft_labels_{tag}", networks[-1]]
        expected += on(networks[-1], temperature=temperature)
    if defense == "adversarial_training":
        networks.append("adversarially_trained")
        expected += ["adversarially_trained", *on("adversarially_trained")]
    # The verdict, which is drawn from all, goes into every export.
    expected += [f"export_{name}" for name in networks]
    assert names(config, tiny_dataset) == expected
    assert len(set(expected)) == len(expected)


def attack_stages(attacks, dataset):
    config = dataclasses.replace(CONFIG, temperatures=(20.0,), attacks=attacks)
    plan = planning.plan(config, dataset, RATES)
    return [s.name for s in plan if s.kind == "attack" or s.name == "substitute"]


@pytest.mark.parametrize(
    ("attacks", "expected"),
    [
        (("jsma_z",), ["jsma_z_on_baseline", "jsma_z_on_distilled_t20"]),
        (
            ("jsma_f",),
            ["jsma_f_on_baseline", "jsma_f_on_distilled_t20", "jsma_f_on_baseline_times_20"],
        ),
        # JSMA first, then the others as they are listed; controls where there is PGD or FGSM.
        (
            ("cw_l2", "fgsm_targeted", "jsma_z"),
            [
                *("jsma_z_on_baseline", "cw_l2_on_baseline", "fgsm_targeted_on_baseline"),
                "controls_on_baseline",
                *("jsma_z_on_distilled_t20", "cw_l2_on_distilled_t20"),
                *("fgsm_targeted_on_distilled_t20", "controls_on_distilled_t20"),
            ],
        ),
        (
            ("transfer_cw_l2", "cw_l2"),
            [
                *("substitute", "transfer_cw_l2_from_substitute", "transfer_cw_l2_on_baseline"),
                "cw_l2_on_baseline",
                *("transfer_cw_l2_on_distilled_t20", "cw_l2_on_distilled_t20"),
            ],
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_only_what_the_attacks_need_is_planned(tiny_dataset, attacks, expected):
    assert attack_stages(attacks, tiny_dataset) == expected


def test_stages_can_be_had_before_rates_are_measured(tiny_dataset):
    plan = planning.plan(NORMS, tiny_dataset, Rates(train=0.0, forward=0.0, backward=0.0))
    assert [stage.name for stage in plan] == names(NORMS, tiny_dataset)
    assert {s.seconds for s in plan if s.kind not in ("attack", "export")} == {0.0}


# --- how long -------------------------------------------------------------------------------------


def test_amounts_follow_from_the_rates(tiny_dataset):
    """70 training images, 60 test images, ten classes; a rate of 1 is a second per image."""
    assert (len(tiny_dataset.train), len(tiny_dataset.test)) == (70, 60)
    # Forward, then the Jacobians of the logits and of the softmax at T = 1 and at T.
    amplitude_t1, amplitude_t20 = (50 * (0.1 + n * 10 * 0.01) for n in (2, 3))
    # Two samples, nine targets, 56 pairs and a last look.
    steps = 2 * 9 * 57
    attacks = {"jsma_f": 0.11, "jsma_f_literal": 0.12, "jsma_z": 0.12}
    expected = {
        "baseline": 3 * 70,
        "samples": 6,
        "measure_baseline": 6 + amplitude_t1,
        "warm_start": 4 * 32,
        "initial_t20": 3 * 70,
        "soft_labels_t20": 7,
        "distilled_t20": 3 * 70,
        # The initial network is measured too.
        "measure_distilled_t20": 12 + amplitude_t20,
        "jsma_f_on_baseline_times_20": steps * 0.11,
        "initial_t1": 3 * 70,
        "soft_labels_t1": 7,
        "distilled_t1": 3 * 70,
        "measure_distilled_t1": 12 + amplitude_t1,
    }
    for name in ("baseline", "distilled_t20", "distilled_t1"):
        expected |= {f"{attack}_on_{name}": steps * rate for attack, rate in attacks.items()}
        expected[f"export_{name}"] = 3
    assert expected == seconds(CONFIG, tiny_dataset)


NORMS = dataclasses.replace(
    CONFIG,
    temperatures=(20.0, 5.0),
    attacks=tuple(name for name in ATTACKS if name not in JSMA_ATTACKS),
    samples=6,
    pgd_steps=7,
    pgd_restarts=3,
    cw_samples=5,
    cw_all_targets_at=(20.0,),
    cw_steps=11,
    cw_search_steps=2,
    kappas=(0.0, 20.0, 40.0),
    costly_samples=4,
    labels_only_queries=13,
    defense="adversarial_training",
    adversarial_epochs=2,
    adversarial_steps=3,
)


def test_amounts_of_attacks_by_norm_follow_from_the_rates(tiny_dataset):
    """A step is a pass forward and one back, 0.11 s per image; nine wrong classes."""
    found = seconds(NORMS, tiny_dataset)
    on_any = {
        "fgsm": 6 * 0.11,
        "fgsm_temperature": 6 * 0.11,
        "fgsm_targeted": 6 * 9 * 0.11,
        "fgsm_temperature_targeted": 6 * 9 * 0.11,
        "pgd_linf": 6 * 7 * 0.11,
        "pgd_linf_temperature": 6 * 7 * 0.11,
        "pgd_linf_targeted": 6 * 9 * 7 * 0.11,
        "pgd_linf_temperature_targeted": 6 * 9 * 7 * 0.11,
        "cw_l0": 4 * 2 * 11 * 0.11,
        "cw_linf": 4 * 2 * 11 * 0.11,
        # Replayed at three kappas.
        "transfer_cw_l2": 5 * 3 * 0.1,
        "labels_only": 4 * 13 * 0.1,
        # One start, three, and one without a bound.
        "controls": (1 + 3 + 1) * 6 * 7 * 0.11,
    }
    networks = ["baseline", "distilled_t20", "distilled_t5", "adversarially_trained"]
    expected = {f"{a}_on_{name}": amount for name in networks for a, amount in on_any.items()}
    towards_one = 5 * 2 * 11 * 0.11
    expected |= {
        "cw_l2_on_baseline": 9 * towards_one,
        "cw_l2_on_distilled_t20": 9 * towards_one,
        "cw_l2_on_distilled_t5": towards_one,
        "cw_l2_on_adversarially_trained": towards_one,
        "substitute": 3 * 70,
        "transfer_cw_l2_from_substitute": 3 * towards_one,
        # Three more passes per training step.
        "adversarially_trained": 2 * 70 * (1 + 3 * 0.11),
    }
    assert {name: found[name] for name in expected} == expected


def test_one_random_class_everywhere_is_planned_where_no_temperature_is_named(tiny_dataset):
    found = seconds(dataclasses.replace(NORMS, cw_all_targets_at=()), tiny_dataset)
    for name in ("baseline", "distilled_t20", "distilled_t5", "adversarially_trained"):
        assert found[f"cw_l2_on_{name}"] == 5 * 2 * 11 * 0.11


def test_no_more_samples_are_planned_than_there_are(tiny_dataset):
    enough = dataclasses.replace(NORMS, cw_samples=6, costly_samples=6)
    more = dataclasses.replace(NORMS, cw_samples=60, costly_samples=60)
    expected = {n: s.expected for n, s in seconds(enough, tiny_dataset).items()}
    assert expected == seconds(more, tiny_dataset)


def test_no_more_gradients_are_planned_than_there_are_test_images(tiny_dataset):
    few, many = (
        seconds(dataclasses.replace(CONFIG, gradient_samples=n), tiny_dataset) for n in (60, 10_000)
    )
    assert {name: amount.expected for name, amount in few.items()} == many


def test_kinds_are_those_that_rates_are_corrected_by(tiny_dataset):
    kinds = {stage.name: stage.kind for stage in planning.plan(NORMS, tiny_dataset, RATES)}
    patterns = {
        "train": "baseline|warm_start|substitute|adversarially_trained|(initial|distilled)_t.*",
        "measure": "samples|measure_.*|soft_labels_.*",
        "attack": ".*_on_.*|transfer_cw_l2_from_substitute",
        "export": "export_.*",
    }
    for name, kind in kinds.items():
        assert re.fullmatch(patterns[kind], name)


@pytest.mark.slow
def test_rates_are_measured_and_positive(tiny_dataset):
    rates = planning.measure_rates(dataclasses.replace(CONFIG, batch_size=8), tiny_dataset)
    for rate in dataclasses.astuple(rates):
        assert 0 < rate < 10


@pytest.mark.slow
@pytest.mark.parametrize("num_images", [3, 70])
def test_rates_can_be_measured_on_fewer_images_than_a_batch(tiny_dataset, num_images):
    train = Split(tiny_dataset.train.images[:num_images], tiny_dataset.train.labels[:num_images])
    dataset = dataclasses.replace(tiny_dataset, train=train)
    config = dataclasses.replace(CONFIG, batch_size=128, attack_batch_size=64)
    assert planning.measure_rates(config, dataset).train > 0


def test_memory_grows_with_data_and_batch(tiny_dataset):
    more = dataclasses.replace(
        tiny_dataset, train=Split(np.zeros((700, 28, 28, 1), np.float32), np.zeros(700, np.int64))
    )
    least = planning.memory_bytes(CONFIG, tiny_dataset)
    assert least > 2**29
    # Three times 630 images of 28 x 28 float32.
    assert planning.memory_bytes(CONFIG, more) - least == 3 * 630 * 28 * 28 * 4
    batch = dataclasses.replace(CONFIG, batch_size=64)
    assert planning.memory_bytes(batch, tiny_dataset) - least > 32 * 4 * 26 * 26 * 32


# The peak is that of a run's last process; MNIST's trained nothing any more and is left out.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_the_committed_runs_took_what_would_have_been_planned_or_a_little_less(load_prepared, name):
    dataset = datasets.load(name) if name == "digits" else load_prepared(name)
    folder = pathlib.Path(__file__).parents[3] / "docs" / "results" / name
    results = records.load(records.Results, folder / "results.json")
    planned = planning.memory_bytes(results.config, dataset)
    assert 1.0 <= planned / results.environment["peak_memory_bytes"] <= 1.5


# --- what is left ---------------------------------------------------------------------------------


@pytest.fixture
def lines(caplog):
    """What was said since this was last called."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.INFO)

    def said():
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    yield said
    absl_logging.set_verbosity(before)


PLAN = [
    Planned("baseline", "train", 100.0),
    Planned("f_on_baseline", "attack", 60.0),
    Planned("z_on_baseline", "attack", 40.0),
    Planned("distilled_t5", "train", 200.0),
    Planned("export_distilled_t5", "export", 5.0),
]


def record(name, taken):
    return StageRecord(name=name, digest="0", starts=1, seconds=taken, finished=True)


def finish_for_good(directory, *stages):
    for name in stages:
        Stages(directory).run(name, {}, [], lambda directory: None)


def test_the_plan_is_announced_by_kind(tmp_path, lines):
    Sweep([(place_of(tmp_path), PLAN)]).announce(memory=3 * 2**30)
    head, *kinds, last = lines()
    assert head == "plan: 5 stages, 0 finished already"
    assert [" ".join(kind.split()) for kind in kinds] == [
        "train 2 stages, about 5 min 0 s",
        "attack 2 stages, at most 1 min 40 s",
        "export 1 stages, about 5 s",
    ]
    assert last.startswith("  in all about 6 min 45 s; memory about 3.0 GiB of ")


def test_a_run_that_needs_more_memory_than_there_is_is_warned_of(tmp_path, lines):
    sweep = Sweep([(place_of(tmp_path), PLAN)])
    for memory, warned in ((2**28, False), (2**60, True)):
        sweep.announce(memory=memory)
        assert ("more memory than this machine has" in lines()[-1]) == warned


def test_estimates_are_corrected_by_what_stages_of_their_kind_took(tmp_path, lines):
    sweep = Sweep([(place_of(tmp_path), PLAN)])
    # Twice as long as planned: 100 of attacks + 2 * 200 + 5.
    sweep.finish(place_of(tmp_path), record("baseline", 200.0))
    # A tenth: 4 + 400 + 5.
    sweep.finish(place_of(tmp_path), record("f_on_baseline", 6.0))
    # Now 15 for 100, which changes nothing of what is left.
    sweep.finish(place_of(tmp_path), record("z_on_baseline", 9.0))
    # 200 + 100 for 300.
    sweep.finish(place_of(tmp_path), record("distilled_t5", 100.0))
    sweep.finish(place_of(tmp_path), record("export_distilled_t5", 50.0))
    assert lines() == [
        "finished baseline in 3 min 20 s; 1 of 5 stages, about 8 min 25 s left",
        "finished f_on_baseline in 6 s; 2 of 5 stages, about 6 min 49 s left",
        "finished z_on_baseline in 9 s; 3 of 5 stages, about 6 min 45 s left",
        "finished distilled_t5 in 1 min 40 s; 4 of 5 stages, about 5 s left",
        "finished export_distilled_t5 in 50 s; 5 of 5 stages, about 0 s left",
    ]


def test_a_kind_is_corrected_by_the_sum_of_its_stages(tmp_path, lines):
    plan = [Planned(name, "train", 10.0 * i) for i, name in enumerate("abc", start=1)]
    sweep = Sweep([(place_of(tmp_path), plan)])
    sweep.finish(place_of(tmp_path), record("a", 30.0))
    sweep.finish(place_of(tmp_path), record("b", 15.0))
    # (30 + 15) / (10 + 20) of 30.
    assert lines()[-1].endswith("2 of 3 stages, about 45 s left")


def test_what_was_left_of_an_interrupted_stage_corrects_nothing(tmp_path, lines):
    sweep = Sweep([(place_of(tmp_path), PLAN)])
    sweep.finish(place_of(tmp_path), dataclasses.replace(record("baseline", 1.0), starts=2))
    assert lines() == ["finished baseline in 1 s; 1 of 5 stages, about 5 min 5 s left"]


def test_an_estimate_of_nothing_corrects_nothing(tmp_path, lines):
    sweep = Sweep([(place_of(tmp_path), [Planned("a", "train", 0.0), Planned("b", "train", 7.0)])])
    sweep.finish(place_of(tmp_path), record("a", 3.0))
    assert lines() == ["finished a in 3 s; 1 of 2 stages, about 7 s left"]


def test_finished_stages_are_neither_planned_nor_counted_again(tmp_path, lines):
    finish_for_good(tmp_path, "baseline", "f_on_baseline")
    lines()
    sweep = Sweep([(place_of(tmp_path), PLAN)])
    sweep.announce(memory=0)
    said = lines()
    assert said[0] == "plan: 5 stages, 2 finished already"
    assert "in all about 4 min 5 s" in said[-1]
    for name in ("baseline", "f_on_baseline"):
        # Their records are of an earlier process, and correct nothing.
        sweep.finish(place_of(tmp_path), record(name, 1e6))
    assert lines() == []
    sweep.finish(place_of(tmp_path), record("z_on_baseline", 40.0))
    assert lines() == ["finished z_on_baseline in 40 s; 3 of 5 stages, about 3 min 25 s left"]


def test_an_interrupted_stage_is_still_to_be_done(tmp_path, lines):
    with pytest.raises(records.RunError):
        Stages(tmp_path).run("baseline", {}, [], fails)
    lines()
    Sweep([(place_of(tmp_path), PLAN)]).announce(memory=0)
    assert lines()[0] == "plan: 5 stages, 0 finished already"


def fails(directory):
    raise records.RunError("no")


def test_seeds_are_counted_together_and_told_apart(tmp_path, lines):
    runs = [(place_of(tmp_path / f"seed_{seed}"), PLAN) for seed in (0, 1)]
    finish_for_good(tmp_path / "seed_1", "baseline")
    lines()
    sweep = Sweep(runs)
    sweep.announce(memory=0)
    said = lines()
    assert said[0] == "plan: 10 stages, 1 finished already"
    assert " ".join(said[1].split()) == "train 3 stages, about 8 min 20 s"
    sweep.finish(place_of(tmp_path / "seed_1"), record("baseline", 100.0))
    assert lines() == []
    sweep.finish(place_of(tmp_path / "seed_0"), record("baseline", 100.0))
    (line,) = lines()
    assert "; 2 of 10 stages, " in line


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (0.0, "0 s"),
        (0.6, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (11_220.0, "3 h 7 min"),
        (200 * 3600.0, "200 h 0 min"),
    ],
)
def test_durations(amount, said):
    assert planning.duration(amount) == said


@pytest.mark.parametrize("defense", config_lib.DEFENSES)
def test_estimates_are_finite_for_every_preset(tiny_dataset, defense):
    for preset in config_lib.PRESETS:
        for dataset in ("digits", "mnist", "cifar10"):
            config = config_lib.preset(preset, dataset, defense=defense)
            plan = planning.plan(config, tiny_dataset, RATES)
            assert all(0 < stage.seconds < math.inf for stage in plan)
