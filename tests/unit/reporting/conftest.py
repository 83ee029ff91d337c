"""Small records made by hand: every number that a test expects can be followed from here."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ddefense import attack_catalog, config, records
from tests.comparing import comparisons_of

CLASSES = 10
ATTEMPTS = 900
CAP = 112 / 784
# Success rates of the run that most tests use, per attack: undistilled first, then by T.
RATES: dict[str, dict[float | None, float]] = {
    "jsma_f": {None: 0.95, 1.0: 0.92, 5.0: 0.50, 20.0: 0.02, 100.0: 0.005},
    "jsma_f_literal": {None: 0.94, 1.0: 0.90, 5.0: 0.24, 20.0: 0.01, 100.0: 0.0},
    "jsma_f_exact": {None: 0.96, 1.0: 0.95, 5.0: 0.95, 20.0: 0.93, 100.0: 0.91},
    "jsma_f_temperature": {None: 0.95, 1.0: 0.93, 5.0: 0.96, 20.0: 0.97, 100.0: 0.965},
    "jsma_z": {None: 0.90, 1.0: 0.85, 5.0: 0.70, 20.0: 0.55, 100.0: 0.50},
}
EDGES = [-40.0, -35.0, -30.0, -25.0, -20.0, -15.0, -10.0, -5.0, -3.0]


def make_training(
    temperature: float, *, stalled: bool = False, last: float | None = None
) -> records.TrainingRecord:
    loss = math.log(CLASSES) if stalled else 0.05
    return records.TrainingRecord(
        temperature=temperature,
        epochs=2,
        steps=938,
        warm_start_steps=469,
        loss=[2.0, loss if last is None else last],
        accuracy=[0.6, 0.1 if stalled else 0.98],
        stalled=stalled,
    )


def make_attack(
    rate: float,
    zero_maps: int = 0,
    theta: float = 1.0,
    robustness: records.RobustnessRecord | None = None,
) -> records.AttackRecord:
    successes = round(ATTEMPTS * rate)
    return records.AttackRecord(
        norm="l0",
        targets="all",
        settings={"theta": theta, "max_features": 112},
        samples=100,
        attempts=ATTEMPTS,
        successes=successes,
        success_rate=rate,
        success_interval=(max(0.0, rate - 0.03), min(1.0, rate + 0.03)),
        started=0,
        success_rate_over_all=rate,
        mean_distance=35.3 if successes else None,
        distance_interval=(33.1, 37.7) if successes else None,
        median_distance=None,
        details={"steps": 16000, "no_admissible_pair": zero_maps, "zero_maps": zero_maps},
        robustness=robustness,
    )


def make_gradient(median: float, zero: float, temperature: float) -> records.GradientRecord:
    place = int(np.searchsorted(EDGES, median))
    histogram = [0.0] * (len(EDGES) + 1)
    for step, share in ((-1, 0.2), (0, 0.5), (1, 0.2), (2, 0.1)):
        histogram[min(max(place + step, 0), len(EDGES))] += share
    return records.GradientRecord(
        temperature=temperature,
        samples=1000,
        median_log10=median,
        quantiles_log10=[median - 4, median - 1, median + 1, median + 2],
        histogram_edges_log10=EDGES,
        histogram=histogram,
        float32_median_log10=None if zero > 0.5 else median,
        float32_zero_samples=zero,
        float32_zero_entries=zero,
    )


def make_network(
    temperature: float | None,
    rates: dict[str, float],
    *,
    accuracy: float = 0.99,
    confidence: float = 0.98,
    logits: float = 6.0,
    median: float = -3.5,
    zero: float = 0.0,
    capped: float = 0.015,
    stalled: bool = False,
    stalled_initial: bool = False,
    theta: float = 1.0,
) -> records.NetworkRecord:
    """A network; without a temperature the baseline.

    With `stalled_initial` only the network it was distilled from did not learn.
    """
    lost_initial = stalled or stalled_initial
    t = 1.0 if temperature is None else temperature
    logit_record = records.LogitRecord(
        mean_abs=logits, std_abs=logits * 1.1, median_top_two_gap=logits * 2
    )
    initial = records.InitialRecord(
        temperature=t,
        test_accuracy=0.1 if lost_initial else accuracy - 0.002,
        agreement=0.985,
        training=make_training(t, stalled=lost_initial),
        logits=logit_record,
        soft_labels=records.SoftLabelRecord(
            mean_entropy=0.04, mean_largest=0.99, agreement_with_hard=0.995
        ),
    )
    return records.NetworkRecord(
        name="baseline" if temperature is None else f"distilled_t{t:g}",
        defense="none" if temperature is None else "distillation",
        temperature=t,
        seed=0,
        test_accuracy=0.1 if stalled else accuracy,
        confidence=confidence,
        training=make_training(t, stalled=stalled),
        logits=logit_record,
        gradients=records.GradientsRecord(
            deployed=make_gradient(median, zero, 1.0),
            training=make_gradient(-3.5 - math.log10(t), 0.0, t),
        ),
        attacks={
            attack: make_attack(
                rate,
                zero_maps=round(800 * zero) if rate < 0.5 else 0,
                theta=1.0 if attack == "jsma_f_theta_1" else theta,
                robustness=records.RobustnessRecord(
                    capped=capped if attack == "jsma_f" else 0.016,
                    uncapped=0.015 if rate else None,
                    unreached=0.0 if rate > 0.2 else 0.95,
                    cap=CAP,
                ),
            )
            for attack, rate in rates.items()
        },
        initial=None if temperature is None else initial,
    )


def make_yardstick(**fields: Any) -> records.NetworkRecord:
    """The adversarially trained network: T = 1, no initial network."""
    rates = {"jsma_f": 0.30, "jsma_f_exact": 0.32}
    network = make_network(None, rates, **({"accuracy": 0.97, "capped": 0.09} | fields))
    return dataclasses.replace(
        network, name="adversarially_trained", defense="adversarial_training"
    )


def make_norm_attack(
    rate: float,
    distance: float,
    *,
    norm: Any = "l2",
    targets: Any = "random",
    samples: int = 20,
    **settings: Any,
) -> records.AttackRecord:
    """Best, average and worst case are 0.8, 1 and 1.5 times the distance; the interval 10 %."""
    attempts = samples * 9 if targets == "all" else samples
    successes = round(attempts * rate)
    mean = distance if successes else None
    cases = {
        name: records.CaseRecord(
            success_rate=rate,
            mean_distance=factor * distance if successes else None,
            distance_interval=(0.9 * factor * distance, 1.1 * factor * distance)
            if successes
            else None,
        )
        for name, factor in (("best", 0.8), ("average", 1.0), ("worst", 1.5))
    }
    if targets != "all":
        cases = {"average": cases["average"]} if targets == "random" else {}
    return records.AttackRecord(
        norm=norm,
        settings=settings,
        targets=targets,
        samples=samples,
        attempts=attempts,
        successes=successes,
        success_rate=rate,
        success_interval=(max(0.0, rate - 0.05), min(1.0, rate + 0.05)),
        started=0,
        success_rate_over_all=rate,
        mean_distance=mean,
        distance_interval=None if mean is None else (0.9 * distance, 1.1 * distance),
        median_distance=None if mean is None else 0.95 * distance,
        **cases,
    )


def make_transfer(
    kappa: float, misclassified: float, crafted: float = 0.95
) -> records.TransferRecord:
    return records.TransferRecord(
        kappa=kappa,
        samples=20,
        started=0,
        crafted=crafted,
        misclassified=misclassified,
        misclassified_interval=(max(0.0, misclassified - 0.1), min(1.0, misclassified + 0.05)),
        reached=misclassified / 2,
        mean_distance=1.5 + kappa / 40,
    )


# Rates of the attacks measured by a norm, undistilled first, then by T; and mean L2 of cw_l2.
NORM_RATES: dict[str, dict[float | None, float]] = {
    "fgsm": {None: 0.70, 1.0: 0.60, 5.0: 0.30, 20.0: 0.10, 100.0: 0.05},
    "pgd_linf": {None: 1.0, 1.0: 0.98, 5.0: 0.50, 20.0: 0.12, 100.0: 0.06},
    "pgd_linf_temperature": {None: 1.0, 1.0: 1.0, 5.0: 1.0, 20.0: 0.99, 100.0: 0.98},
    "cw_l2": {None: 1.0, 1.0: 1.0, 5.0: 1.0, 20.0: 1.0, 100.0: 1.0},
    "transfer_cw_l2": {None: 1.0, 1.0: 0.95, 5.0: 0.95, 20.0: 0.90, 100.0: 0.95},
    "labels_only": {None: 1.0, 1.0: 1.0, 5.0: 1.0, 20.0: 1.0, 100.0: 1.0},
}
DISTANCES: dict[float | None, float] = {None: 1.6, 1.0: 1.7, 5.0: 1.9, 20.0: 2.0, 100.0: 1.8}


def with_norm_attacks(
    network: records.NetworkRecord, key: float | None, rates: dict[str, float] | None = None
) -> records.NetworkRecord:
    """The network with every attack measured by a norm; `key` is its T, None if undistilled."""
    rates = {attack: by_t[key] for attack, by_t in NORM_RATES.items()} if rates is None else rates
    every = key in (None, 20.0, 100.0)
    found = {}
    for attack, rate in rates.items():
        if attack in attack_catalog.SIGN_ATTACKS:
            found[attack] = make_norm_attack(
                rate, 0.3, norm="linf", targets="untargeted", samples=100, epsilon=0.3
            )
        elif attack == "cw_l2":
            found[attack] = make_norm_attack(
                rate, DISTANCES[key], targets="all" if every else "random", kappa=0.0, steps=1000
            )
        elif attack == "transfer_cw_l2":
            found[attack] = make_norm_attack(rate, 2.5, targets="untargeted", kappa=40.0)
        else:
            found[attack] = make_norm_attack(rate, 2.2, targets="untargeted", samples=10)
    replayed = [
        make_transfer(kappa, found["transfer_cw_l2"].success_rate * share)
        for kappa, share in ((0.0, 0.2), (40.0, 1.0))
        if "transfer_cw_l2" in found
    ]
    return dataclasses.replace(network, attacks=network.attacks | found, transfer=replayed)


def make_full_results() -> records.Results:
    """The typical run with every attack, an adversarially trained network, controls, a verdict."""
    networks = [
        with_norm_attacks(n, None if n.defense == "none" else n.temperature)
        for n in typical_networks()
    ]
    rates = {"fgsm": 0.05, "pgd_linf": 0.08, "cw_l2": 1.0, "labels_only": 1.0}
    results = make_results([*networks, with_norm_attacks(make_yardstick(), None, rates)])
    return dataclasses.replace(
        results,
        timings={
            "baseline": 60.0,
            **{f"initial_t{t:g}": 60.0 for t in (1, 5, 20, 100)},
            **{f"soft_labels_t{t:g}": 1.0 for t in (1, 5, 20, 100)},
            **{f"distilled_t{t:g}": 59.0 for t in (1, 5, 20, 100)},
            "warm_start": 30.0,
            "adversarially_trained": 540.0,
        },
        controls=[
            records.ControlRecord(
                name="zero_gradients",
                network=name,
                passed=passed,
                value=value,
                limit=0.01,
                samples=1000,
                explanation=f"{100 * value:.1f} % of 1,000 test images; at most 1.0 % may.",
            )
            for name, passed, value in (("baseline", True, 0.0), ("distilled_t100", False, 0.85))
        ],
        verdict=records.VerdictRecord(
            masks_gradients=True,
            stops_adaptive_attacker=False,
            sentence="At T = 100 the gradients are masked. An adaptive attacker is not stopped.",
        ),
    )


def make_results(
    networks: list[records.NetworkRecord],
    dataset: str = "mnist",
    shape: tuple[int, int, int] = (28, 28, 1),
    **settings: Any,
) -> records.Results:
    distilled = (n.temperature for n in networks if n.defense == "distillation")
    temperatures = tuple(distilled) or (1.0,)
    attacks = tuple(a for a in attack_catalog.ATTACKS if any(a in n.attacks for n in networks))
    fields = {
        "epochs": 2,
        "samples": 10,
        "warm_start_steps": 469,
        "attacks": attacks or attack_catalog.JSMA_ATTACKS,
        "theta": config.frozen_theta(dataset),
        "preset": "quick",
        "temperatures": temperatures,
    } | settings
    return records.Results(
        dataset=records.DatasetRecord(
            name=dataset,
            image_shape=shape,
            class_names=[str(c) for c in range(CLASSES)],
            num_train=60000,
            num_test=10000,
            value_range=(0.0, 1.0),
        ),
        config=config.Config(dataset=dataset, **fields),
        environment={
            "ddefense": "0.1.0",
            "python": "3.11.9",
            "cpu": "Some CPU | 2 cores",
            "threads": 2,
            "devices": ["CPU:0"],
            "command": "ddefense --dataset=mnist",
        },
        timings={"baseline": 65.0, "distilled_t1": 130.5},
        architecture=[
            records.LayerRecord(
                name="conv1",
                kind="Conv2D",
                detail="32 filters, 3x3, relu",
                output_shape=[26, 26, 32],
                parameters=320,
            ),
            records.LayerRecord(
                name="logits",
                kind="Dense",
                detail="10 units",
                output_shape=[10],
                parameters=2010,
            ),
        ],
        sample_indices=list(range(10)),
        networks=networks,
        comparisons=comparisons_of(networks),
        exports=[
            records.ExportRecord(
                network="distilled_t20", path="exported_models/distilled_t20/1", max_difference=0.0
            )
        ],
    )


def make_samples(shape: tuple[int, int, int] = (28, 28, 1)) -> records.Samples:
    """One sample per class; target t of sample s is reached unless s + t is a multiple of 5."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    images = np.zeros((CLASSES, *shape), np.float32)
    for c in range(CLASSES):
        angle = c * np.pi / CLASSES
        bar = (rows - shape[0] / 2) * np.cos(angle) + (columns - shape[1] / 2) * np.sin(angle)
        images[c] = (np.abs(bar) < 2)[..., None]
    sample, target = np.array([(s, t) for s in range(CLASSES) for t in range(CLASSES) if s != t]).T
    adversarial = images[sample].copy()
    for image in adversarial:
        chosen = rng.choice(image.size, size=24, replace=False)
        image.reshape(-1)[chosen] = 1.0
    outcome = records.AttackOutcome.from_images(
        images[sample],
        adversarial,
        sample,
        target,
        start=sample,
        end=np.where((sample + target) % 5, target, sample),
        success=(sample + target) % 5 != 0,
    )
    return records.Samples(
        images=images,
        labels=np.arange(CLASSES),
        test_indices=np.arange(CLASSES),
        outcomes={("baseline", "jsma_f"): outcome},
    )


def typical_networks() -> list[records.NetworkRecord]:
    """Undistilled and T = 1, 5, 20, 100 with the signs of masking."""
    details: dict[float | None, dict[str, float]] = {
        None: {},
        1.0: {"accuracy": 0.991, "confidence": 0.981},
        5.0: {"accuracy": 0.992, "confidence": 0.984, "logits": 30.0, "median": -9.0},
        20.0: {
            "accuracy": 0.988,
            "confidence": 0.986,
            "logits": 110.0,
            "median": -22.0,
            "zero": 0.30,
            "capped": 0.120,
        },
        100.0: {
            "accuracy": 0.985,
            "confidence": 0.9845,
            "logits": 480.0,
            "median": -45.0,
            "zero": 0.85,
            "capped": 0.140,
        },
    }
    return [
        make_network(t, {attack: by_t[t] for attack, by_t in RATES.items()}, **fields)
        for t, fields in details.items()
    ]


def make_cifar10(*, stalled_initial: bool = False, **settings: Any) -> records.Results:
    """A reduced run on CIFAR-10: undistilled and T = 1, 10, 100, all attacks."""
    theta = config.frozen_theta("cifar10")
    rates: dict[float | None, dict[str, float]] = {
        None: {"jsma_f": 0.86, "jsma_f_theta_1": 0.95, "jsma_f_exact": 0.87},
        1.0: {"jsma_f": 0.90, "jsma_f_theta_1": 0.97, "jsma_f_exact": 0.91},
        10.0: {"jsma_f": 0.45, "jsma_f_theta_1": 0.55, "jsma_f_exact": 0.89},
        100.0: {"jsma_f": 0.06, "jsma_f_theta_1": 0.08, "jsma_f_exact": 0.85},
    }
    details: dict[float | None, dict[str, Any]] = {
        None: {"accuracy": 0.80, "confidence": 0.72, "capped": 0.005},
        1.0: {"accuracy": 0.805, "confidence": 0.72, "capped": 0.005},
        10.0: {"accuracy": 0.80, "confidence": 0.76, "capped": 0.016, "median": -9.0},
        100.0: {
            "accuracy": 0.79,
            "confidence": 0.78,
            "capped": 0.032,
            "median": -40.0,
            "zero": 0.8,
            "logits": 400.0,
            "stalled_initial": stalled_initial,
        },
    }
    networks = [make_network(t, rates[t], theta=theta, **details[t]) for t in rates]
    fields = {
        "preset": "paper",
        "epochs": 50,
        "warm_start_steps": 0,
        "samples": 100,
        "learning_rate": 0.01,
        "momentum": 0.9,
        "learning_rate_decay": 0.95,
        "momentum_decay": 0.5,
    } | settings
    results = make_results(networks, "cifar10", (32, 32, 3), **fields)
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    dataset = dataclasses.replace(
        results.dataset,
        class_names=names,
        num_train=50000,
        standardized_range=(-2.2069, 2.6254),
    )
    return dataclasses.replace(results, dataset=dataset)


@pytest.fixture
def cifar10() -> Callable[..., records.Results]:
    return make_cifar10


@pytest.fixture
def network() -> Callable[..., records.NetworkRecord]:
    return make_network


@pytest.fixture
def results_of() -> Callable[..., records.Results]:
    return make_results


@pytest.fixture
def results() -> records.Results:
    return make_results(typical_networks())


@pytest.fixture
def full() -> records.Results:
    return make_full_results()


@pytest.fixture
def yardstick() -> Callable[..., records.NetworkRecord]:
    return make_yardstick


@pytest.fixture
def norm_attack() -> Callable[..., records.AttackRecord]:
    return make_norm_attack


@pytest.fixture
def transferred() -> Callable[..., records.TransferRecord]:
    return make_transfer


@pytest.fixture
def with_stalled(results: records.Results) -> records.Results:
    """The same run, but T = 100 did not learn."""
    lost = make_network(100.0, {a: 0.11 for a in RATES}, stalled=True, confidence=0.01)
    return dataclasses.replace(results, networks=[*results.networks[:-1], lost])


@pytest.fixture
def samples() -> records.Samples:
    return make_samples()


@pytest.fixture
def samples_of() -> Callable[..., records.Samples]:
    return make_samples


@pytest.fixture
def seeds() -> Callable[..., dict[int, records.Results]]:
    """(seed, its rates of jsma_f undistilled, at T = 1 and 100, accuracy, further) -> results."""

    def make(*found: tuple[int, tuple[float, float, float], float, dict[str, Any]]):
        runs = {}
        for seed, (undistilled, low, high), accuracy, further in found:
            settings = dict(further)
            stalled = settings.pop("stalled_initial", False)
            networks = [
                make_network(None, {"jsma_f": undistilled}, accuracy=accuracy),
                make_network(1.0, {"jsma_f": low}, accuracy=accuracy),
                make_network(
                    100.0,
                    {"jsma_f": high, "jsma_f_exact": 0.9},
                    accuracy=accuracy - 0.01,
                    capped=0.12 + seed / 1000,
                    median=-40.0 - seed,
                    logits=400.0 + 10 * seed,
                    stalled_initial=stalled,
                ),
            ]
            runs[seed] = make_results(networks, **({"seed": seed} | settings))
        return runs

    return make
