"""A small record of a whole run, made by hand."""

import pytest

from ddefense import config, records


def make_training(temperature, **changes):
    fields = {
        "epochs": 2,
        "steps": 24,
        "warm_start_steps": 6,
        "loss": [1.5, 0.25],
        "accuracy": [0.5, 0.9375],
        "stalled": False,
    }
    return records.TrainingRecord(temperature=temperature, **(fields | changes))


def make_gradient(temperature, float32_median_log10):
    return records.GradientRecord(
        temperature=temperature,
        samples=100,
        median_log10=-12.5,
        quantiles_log10=[-40.0, -20.0, -5.0, -1.0],
        histogram_edges_log10=[-40.0, -3.0],
        histogram=[0.25, 0.5, 0.25],
        float32_median_log10=float32_median_log10,
        float32_zero_samples=0.25,
        float32_zero_entries=0.5,
    )


def make_attack(successes, robustness):
    return records.AttackRecord(
        norm="l0",
        targets="all",
        settings={"theta": 1.0, "max_features": 112},
        samples=2,
        attempts=18,
        successes=successes,
        success_rate=successes / 18,
        success_interval=(0.0, 1.0),
        started=0,
        success_rate_over_all=successes / 18,
        mean_distance=39.2 if successes else None,
        distance_interval=None,
        median_distance=None,
        details={"steps": 400, "no_admissible_pair": 3, "zero_maps": 2},
        robustness=robustness,
    )


def make_network(name, temperature, initial=None):
    logits = records.LogitRecord(mean_abs=5.75, std_abs=6.5, median_top_two_gap=10.125)
    return records.NetworkRecord(
        name=name,
        defense="none" if initial is None else "distillation",
        temperature=temperature,
        seed=0,
        test_accuracy=0.96875,
        confidence=0.9,
        training=make_training(temperature),
        logits=logits,
        gradients=records.GradientsRecord(
            deployed=make_gradient(1.0, None), training=make_gradient(temperature, -3.5)
        ),
        attacks={
            "jsma_f": make_attack(
                9,
                records.RobustnessRecord(capped=0.125, uncapped=0.05, unreached=0.5, cap=1 / 7),
            ),
            "jsma_z": make_attack(
                0,
                records.RobustnessRecord(capped=1 / 7, uncapped=None, unreached=1.0, cap=1 / 7),
            ),
        },
        initial=initial,
    )


@pytest.fixture
def results():
    initial = records.InitialRecord(
        temperature=20.0,
        test_accuracy=0.96,
        agreement=0.99,
        training=make_training(20.0, stalled=True),
        logits=records.LogitRecord(mean_abs=60.0, std_abs=65.0, median_top_two_gap=100.0),
        soft_labels=records.SoftLabelRecord(
            mean_entropy=0.1, mean_largest=0.98, agreement_with_hard=0.99
        ),
    )
    return records.Results(
        dataset=records.DatasetRecord(
            name="digits",
            image_shape=(28, 28, 1),
            class_names=[str(i) for i in range(10)],
            num_train=1437,
            num_test=360,
            value_range=(0.0, 1.0),
        ),
        config=config.preset("smoke", "digits"),
        environment={"python": "3.11", "cores": 2, "gpu": None, "dates": ["2016-05-23"]},
        timings={"baseline": 1.5, "attack": 0.1},
        architecture=[
            records.LayerRecord(
                name="logits", kind="Dense", detail="units 10", output_shape=[10], parameters=2010
            )
        ],
        sample_indices=[0, 3],
        networks=[
            make_network("baseline", 1.0),
            make_network("distilled_t100", 100.0, initial),
            make_network("distilled_t20", 20.0, initial),
        ],
        comparisons=[
            records.ComparisonRecord(
                attack="jsma_f",
                network="distilled_t100",
                reference="baseline",
                targets="targeted",
                samples=2,
                attempts=17,
                success_rate=0.5,
                reference_success_rate=0.5,
                mean_distance=None,
                reference_mean_distance=None,
                robustness=0.125,
                reference_robustness=0.125,
            )
        ],
        exports=[records.ExportRecord(network="baseline", path="baseline/1", max_difference=1e-7)],
    )
