"""The verdict, from records made by hand: every branch, every limit from both sides."""

import dataclasses

import pytest

from ddefense import records
from ddefense.evidence import FARTHER_LIMIT
from ddefense.measurements import controls
from ddefense.measurements import verdict as verdict_of
from ddefense.reporting import claims
from tests.comparing import comparisons_of

CLASSES = 10


def dataset_of(num_test=10_000, classes=CLASSES):
    return records.DatasetRecord(
        name="digits",
        image_shape=(8, 8, 1),
        class_names=[str(c) for c in range(classes)],
        num_train=1_000,
        num_test=num_test,
        value_range=(0.0, 1.0),
    )


DATASET = dataset_of()


def training_of(temperature, stalled=False):
    return records.TrainingRecord(
        temperature=temperature,
        epochs=2,
        steps=938,
        warm_start_steps=0,
        loss=[2.0, 0.05],
        accuracy=[0.6, 0.98],
        stalled=stalled,
    )


def jsma(rate, attempts=900):
    return records.AttackRecord(
        norm="l0",
        targets="all",
        settings={"theta": 1.0, "max_features": 112},
        samples=attempts // 9,
        attempts=attempts,
        successes=round(rate * attempts),
        success_rate=rate,
        success_interval=(0.0, 1.0),
        started=0,
        success_rate_over_all=rate,
        mean_distance=None,
        distance_interval=None,
        median_distance=None,
    )


def norm_attack(rate, distance=None, *, targets="random", samples=20, average=None, norm="l2"):
    """By default one random target each, which is the average case."""
    if targets == "random":
        average = (rate, distance)
    attempts = 9 * samples if targets == "all" else samples
    return records.AttackRecord(
        norm=norm,
        settings={},
        targets=targets,
        samples=samples,
        attempts=attempts,
        successes=round(rate * attempts),
        success_rate=rate,
        success_interval=(0.0, 1.0),
        started=0,
        success_rate_over_all=rate,
        mean_distance=distance,
        distance_interval=None,
        median_distance=None,
        average=None
        if average is None
        else records.CaseRecord(
            success_rate=average[0], mean_distance=average[1], distance_interval=None
        ),
    )


def network_of(temperature, found=None, *, zero=0.0, accuracy=0.99, initial=0.99, stalled=False):
    """A network; without a temperature the undistilled one. `found` holds what attacked it."""
    t = 1.0 if temperature is None else temperature
    gradient = records.GradientRecord(
        temperature=1.0,
        samples=10_000,
        median_log10=-3.0,
        quantiles_log10=[-5.0, -4.0, -2.0, -1.0],
        histogram_edges_log10=[-3.0],
        histogram=[0.5, 0.5],
        float32_median_log10=None,
        float32_zero_samples=zero,
        float32_zero_entries=zero,
    )
    logits = records.LogitRecord(mean_abs=6.0, std_abs=6.0, median_top_two_gap=12.0)
    found = found or {}
    return records.NetworkRecord(
        name="baseline" if temperature is None else f"distilled_t{t:g}",
        defense="none" if temperature is None else "distillation",
        temperature=t,
        seed=0,
        test_accuracy=accuracy,
        confidence=0.98,
        training=training_of(t, stalled),
        logits=logits,
        gradients=records.GradientsRecord(deployed=gradient, training=gradient),
        attacks={k: v for k, v in found.items() if isinstance(v, records.AttackRecord)},
        initial=None
        if temperature is None
        else records.InitialRecord(
            temperature=t,
            test_accuracy=initial,
            agreement=0.98,
            training=training_of(t, stalled),
            logits=logits,
            soft_labels=records.SoftLabelRecord(
                mean_entropy=0.04, mean_largest=0.99, agreement_with_hard=0.995
            ),
        ),
    )


def zero_control(network):
    return controls.zero_gradients(network.name, network.gradients)


def scaled_control(network, undistilled=0.884, scaled=0.0122):
    return controls.scaled_logits(network.name, network.temperature, undistilled, scaled, 100)


def verdict(networks, controls, num_classes):
    return verdict_of(networks, comparisons_of(networks), controls, num_classes)


def compared(undistilled, distilled, *, temperature=100.0, zero=0.0):
    """The verdict on one distilled network, with the control for zero gradients."""
    network = network_of(temperature, distilled, zero=zero)
    return verdict([network_of(None, undistilled), network], [zero_control(network)], DATASET)


def test_the_usual_outcome():
    baseline = network_of(
        None,
        {
            "jsma_f": jsma(0.8844),
            "jsma_f_exact": jsma(0.8844),
            "jsma_f_temperature": jsma(0.8844),
            "cw_l2": norm_attack(1.0, 1.7, targets="all", average=(1.0, 1.8)),
            "labels_only": norm_attack(1.0, 1.5, targets="untargeted", samples=10),
        },
    )
    distilled = network_of(
        100.0,
        {
            "jsma_f": jsma(0.0),
            "jsma_f_exact": jsma(0.5),
            "jsma_f_temperature": jsma(0.8811),
            "cw_l2": norm_attack(1.0, 1.8, targets="all", average=(1.0, 1.926)),
            "labels_only": norm_attack(1.0, 1.65, targets="untargeted", samples=10),
        },
        zero=0.9892,
    )
    found = verdict(
        [baseline, distilled], [zero_control(distilled), scaled_control(distilled)], DATASET
    )
    assert found.masks_gradients is True
    assert found.stops_adaptive_attacker is False
    assert found.sentence == (
        "At T = 100 the paper's attack (jsma_f) reaches 0.0 % of 900 targets against 88.4 % "
        "undistilled, but 98.9 % of 10,000 test images have an all-zero float32 gradient and "
        "multiplying the logits of the undistilled network by 100 alone lowers its success there "
        "to 1.2 % (100 images): the gradients are masked. An attacker who uses the logits (cw_l2) "
        "still reaches 100.0 % of 180 targets against 100.0 % undistilled, at 1.07 times the mean "
        "L2 distance (1.93 against 1.80 over the random targets reached on both). The network is "
        "also reached by jsma_f_temperature (88.1 % of 900 targets against 88.4 %) and labels_only "
        "(100.0 % of 10 images against 100.0 %, at 1.10 times the distance). Defensive "
        "distillation does not stop an adaptive attacker."
    )


def test_an_outlier_class_is_another_defence():
    outliers = records.OutlierRecord(
        images=10, accuracy=1.0, false_detections=0.0, errors=0.0, accuracy_of_accepted=1.0
    )
    attacks = {"jsma_f": jsma(0.9), "cw_l2": norm_attack(1.0, 1.7)}
    refusing = dataclasses.replace(network_of(1.0, attacks), outliers=outliers)
    found = verdict([network_of(None, attacks), refusing], [zero_control(refusing)], DATASET)
    assert found.sentence.startswith("With an outlier class the paper's attack (jsma_f) reaches")
    assert found.sentence.endswith(
        " Extended defensive distillation does not stop an adaptive attacker."
    )


@pytest.mark.parametrize(
    ("undistilled", "distilled", "zero", "masks"),
    [
        (0.884, 0.784, 0.5, True),  # falls by just ten points
        (0.3, 0.2, 0.5, True),  # 0.3 - 0.1 is not quite 0.2
        (0.5, 0.45, 0.5, False),  # works in just half of the attempts
        (0.49, 0.45, 0.5, None),
        (0.09, 0.08, 1.0, None),  # hardly works, so that nothing follows
        (0.884, 0.785, 0.5, False),
        (0.884, 0.0, 0.011, True),
        (0.884, 0.0, 0.01, False),  # no control failed
        (0.884, 0.95, 0.5, False),
        (0.05, 0.0, 1.0, None),  # an attack that hardly works cannot fall
    ],
)
def test_masked_needs_a_fall_and_a_failed_control(undistilled, distilled, zero, masks):
    found = compared({"jsma_f": jsma(undistilled)}, {"jsma_f": jsma(distilled)}, zero=zero)
    assert found.masks_gradients is masks
    assert found.sentence.count("the gradients are masked") == (masks is True)


@pytest.mark.parametrize(
    ("control", "says"),
    [
        (
            controls.iterative_beats_one_step("distilled_t100", 0.5, 0.25, 20),
            "PGD reaches 25.0 % of 20 images, fewer than the 50.0 % of one step to epsilon",
        ),
        (
            controls.unbounded_reaches_all("distilled_t100", 0.05, 20),
            "PGD without a bound reaches only 5.0 % of 20 images",
        ),
    ],
)
def test_each_control_shows_masked_gradients(control, says):
    networks = [
        network_of(None, {"jsma_f": jsma(0.9)}),
        network_of(100.0, {"jsma_f": jsma(0.0)}),
    ]
    found = verdict(networks, [control], DATASET)
    assert found.masks_gradients is True
    assert f"undistilled, but {says}: the gradients are masked." in found.sentence


@pytest.mark.parametrize(
    "control",
    [
        controls.random_restarts("distilled_t100", 0.1, 0.9, 5, 100),  # concerns the attack
        controls.unbounded_reaches_all("distilled_t20", 0.0, 100),  # of another network
        controls.unbounded_reaches_all("baseline", 0.0, 100),
        controls.scaled_logits("distilled_t100", 100.0, 0.9, 0.0, 100),  # of the undistilled one
    ],
)
def test_controls_that_say_nothing_about_the_network(control):
    assert not control.passed
    networks = [
        network_of(None, {"jsma_f": jsma(0.9)}),
        network_of(100.0, {"jsma_f": jsma(0.0)}),
    ]
    found = verdict(networks, [control], DATASET)
    assert found.masks_gradients is None
    assert "no check for masked gradients was made" in found.sentence
    found = verdict(networks, [control, zero_control(networks[1])], DATASET)
    assert found.masks_gradients is False
    assert found.sentence.startswith(
        "At T = 100 the paper's attack (jsma_f) reaches 0.0 % of 900 targets against 90.0 % "
        "undistilled, and no check for masked gradients failed (zero_gradients). "
    )


def test_scaled_logits_explain_a_failed_control_alone():
    def networks_with(exact):
        return [
            network_of(None, {"jsma_f": jsma(0.9), "jsma_f_exact": jsma(0.9)}),
            network_of(100.0, {"jsma_f": jsma(0.0), "jsma_f_exact": jsma(exact)}),
        ]

    networks = networks_with(0.9)
    checks = [
        controls.scaled_logits("distilled_t100", 100.0, 0.9, 0.1, 1),
        controls.unbounded_reaches_all("distilled_t100", 0.05, 20),
    ]
    found = verdict(networks, checks, DATASET)
    assert found.masks_gradients is True
    assert (
        "undistilled, but PGD without a bound reaches only 5.0 % of 20 images and multiplying the "
        "logits of the undistilled network by 100 alone lowers its success there to 10.0 % "
        "(1 image): the gradients are masked."
    ) in found.sentence
    # Where no attack that undoes the scale succeeds, the reason is another.
    found = verdict(networks_with(0.0), checks, DATASET)
    assert found.masks_gradients is True
    assert "multiplying" not in found.sentence
    assert "None of them did." in found.sentence
    assert "None of them did." not in verdict(networks_with(0.1), checks, DATASET).sentence
    # One that passes explains nothing.
    passed = controls.scaled_logits("distilled_t100", 100.0, 0.9, 0.9, 1)
    failed = controls.unbounded_reaches_all("distilled_t100", 0.05, 20)
    found = verdict(networks, [passed, failed], DATASET)
    assert found.masks_gradients is True
    assert "multiplying" not in found.sentence


def test_a_control_that_the_undistilled_network_fails_too_does_not_count():
    networks = [
        network_of(None, {"jsma_f": jsma(0.9)}),
        network_of(100.0, {"jsma_f": jsma(0.0)}),
    ]
    both = [controls.unbounded_reaches_all(n.name, 0.05, 20) for n in networks]
    found = verdict(networks, both, DATASET)
    assert found.masks_gradients is None
    assert (
        "but no check for masked gradients was made that does not fail undistilled too "
        "(unbounded_reaches_all), so this run does not tell"
    ) in found.sentence
    passed = zero_control(networks[1])
    found = verdict(networks, [*both, passed], DATASET)
    assert found.masks_gradients is False
    assert (
        "no check for masked gradients failed (zero_gradients), apart from those that fail "
        "undistilled too (unbounded_reaches_all)."
    ) in found.sentence
    # Another one that the distilled network alone fails still counts.
    failed = controls.iterative_beats_one_step("distilled_t100", 0.5, 0.25, 20)
    found = verdict(networks, [*both, failed], DATASET)
    assert found.masks_gradients is True
    assert "without a bound" not in found.sentence


def test_nothing_masked_in_words():
    found = compared({"jsma_f": jsma(0.884)}, {"jsma_f": jsma(0.856)}, temperature=1.0)
    assert found.masks_gradients is False
    assert found.sentence == (
        "At T = 1 the paper's attack (jsma_f) reaches 85.6 % of 900 targets against 88.4 % "
        "undistilled: its success does not fall by 10 points, so masked gradients protect "
        "nothing here. No attack made to get round masked gradients was measured beside the "
        "undistilled network, so this run does not tell whether an adaptive attacker is stopped."
    )
    found = compared({"jsma_f": jsma(0.884)}, {"jsma_f": jsma(0.856)}, zero=0.35)
    assert found.masks_gradients is False
    assert (
        "protect nothing here, although 35.0 % of 10,000 test images have an all-zero"
        in found.sentence
    )
    found = compared({"jsma_f": jsma(0.884)}, {"jsma_f": jsma(0.1)})
    assert found.masks_gradients is False
    assert "no check for masked gradients failed (zero_gradients)." in found.sentence


def test_masking_is_not_told_without_the_papers_attack():
    attack = {"jsma_f": jsma(0.9)}
    for undistilled, distilled in ((attack, {}), ({}, attack), ({}, {})):
        found = compared(undistilled, distilled, zero=0.989)
        assert found.masks_gradients is None
        assert (
            "(jsma_f) was not measured beside the undistilled network, so this run does not tell "
            "whether the defence masks gradients, although 98.9 % of 10,000 test images"
        ) in found.sentence
    assert "although" not in compared({}, {}).sentence


@pytest.mark.parametrize(
    ("undistilled", "distilled", "stops"),
    [
        (1.0, 0.9, False),
        (1.0, 0.8999, True),
        (0.7, 0.63, False),  # 0.9 x 0.7 is not quite 0.63
        (0.5, 0.45, False),
        (0.5, 0.44, True),
        (0.49, 0.49, True),  # an attack this weak tells nothing
    ],
)
def test_limits_of_being_reached(undistilled, distilled, stops):
    found = compared(
        {"cw_l2": norm_attack(1.0), "jsma_f_exact": jsma(undistilled)},
        {"cw_l2": norm_attack(0.0), "jsma_f_exact": jsma(distilled)},
    )
    assert found.stops_adaptive_attacker is stops


@pytest.mark.parametrize(
    ("undistilled", "distilled", "stops"),
    [
        (1.0, 0.9, False),
        (1.0, 0.8999, True),
        (0.5, 0.45, None),  # at distances that do not compare
        (0.5, 0.44, True),
        (0.49, 0.49, None),  # an attack this weak tells nothing
        (0.49, 0.0, None),
        (1.0, 0.0, True),
    ],
)
def test_limits_of_the_decisive_attack(undistilled, distilled, stops):
    found = compared(
        {"cw_l2": norm_attack(undistilled, 2.0)}, {"cw_l2": norm_attack(distilled, 2.0)}
    )
    assert found.stops_adaptive_attacker is stops


@pytest.mark.parametrize(
    ("attack", "who", "record"),
    [
        ("jsma_f_exact", "computes the paper's attack in the log domain", jsma),
        ("jsma_f_temperature", "divides the logits by T", jsma),
        ("pgd_linf_temperature", "takes the gradient of the loss of logits / T", norm_attack),
    ],
)
def test_each_adaptive_attack_refutes_alone(attack, who, record):
    found = compared({attack: record(0.9)}, {attack: record(0.85)})
    assert found.stops_adaptive_attacker is False
    assert f"An attacker who {who} ({attack}) still reaches 85.0 % of" in found.sentence
    assert "undistilled. Defensive distillation does not stop" in found.sentence
    # Without cw_l2 a failure of it does not confirm the defence.
    found = compared({attack: record(0.9)}, {attack: record(0.1)})
    assert found.stops_adaptive_attacker is None


def test_cw_l2_refutes_alone_where_it_is_about_as_near():
    found = compared({"cw_l2": norm_attack(1.0, 2.0)}, {"cw_l2": norm_attack(0.95, 5.0)})
    assert found.stops_adaptive_attacker is False
    assert found.sentence.endswith(
        "An attacker who uses the logits (cw_l2) still reaches 95.0 % of 20 targets against "
        "100.0 % undistilled, at 2.50 times the mean L2 distance (5.00 against 2.00 over the "
        "random targets reached on both). Defensive distillation does not stop an adaptive "
        "attacker."
    )
    assert (
        compared(
            {"cw_l2": norm_attack(1.0, 2.0)}, {"cw_l2": norm_attack(0.95, 5.001)}
        ).stops_adaptive_attacker
        is None
    )


def test_an_attack_without_a_bound_refutes_nothing_far_away():
    near, far = {"cw_l2": norm_attack(1.0, 2.0)}, {"cw_l2": norm_attack(1.0, 40.0)}
    found = compared(near, far)
    assert found.stops_adaptive_attacker is None
    assert found.sentence.endswith(
        "Attacks made to get round masked gradients, each against its rate undistilled: cw_l2 "
        "(100.0 % of 20 targets against 100.0 %, at 20.00 times the distance). That does not tell "
        "whether an adaptive attacker is stopped: cw_l2 needs 20.00 times the distance, which "
        "makes it harder and proves no robustness."
    )
    # Another attack leads, and still refutes the defence.
    found = compared(near | {"jsma_f_exact": jsma(0.9)}, far | {"jsma_f_exact": jsma(0.9)})
    assert found.stops_adaptive_attacker is False
    assert found.sentence.endswith(
        "An attacker who computes the paper's attack in the log domain (jsma_f_exact) still "
        "reaches 90.0 % of 900 targets against 90.0 % undistilled. Only farther away is the "
        "network reached by cw_l2 (100.0 % of 20 targets against 100.0 %, at 20.00 times the "
        "distance). Defensive distillation does not stop an adaptive attacker."
    )
    # One that does not decide alone is named beside it.
    support = {"labels_only": norm_attack(1.0, 1.0, targets="untargeted")}
    found = compared(near | support, far | support)
    assert found.stops_adaptive_attacker is None
    assert found.sentence.endswith("robustness; the network is reached by labels_only.")


@pytest.mark.parametrize("attack", ["cw_l0", "cw_linf", "labels_only"])
def test_a_supporting_attack_far_away_does_not_confirm_the_defence(attack):
    near, far = (norm_attack(1.0, d, targets="untargeted") for d in (1.0, 3.0))
    found = compared(
        {"cw_l2": norm_attack(1.0), attack: near}, {"cw_l2": norm_attack(0.0), attack: far}
    )
    assert found.stops_adaptive_attacker is None
    assert f"{attack} needs 3.00 times the distance" in found.sentence
    assert "is reached by" not in found.sentence


@pytest.mark.parametrize(
    ("samples", "stops"), [((2, 2), None), ((19, 20), None), ((20, 19), None), ((20, 20), True)]
)
def test_few_samples_confirm_nothing(samples, stops):
    undistilled, distilled = samples
    found = compared(
        {"cw_l2": norm_attack(1.0, 2.0, samples=undistilled)},
        {"cw_l2": norm_attack(0.5, 2.0, samples=distilled)},
    )
    assert found.stops_adaptive_attacker is stops
    reason = f"too few samples to say ({min(samples)} for cw_l2, at least 20 are needed)."
    assert found.sentence.endswith(reason) == (stops is None)


def test_few_samples_refute_and_are_named():
    attack = {"cw_l2": norm_attack(1.0, 2.0, samples=5)}
    found = compared(attack, attack)
    assert found.stops_adaptive_attacker is False
    assert (
        "still reaches 100.0 % of 5 targets against 100.0 % undistilled, at 1.00 times the mean "
        "L2 distance (2.00 against 2.00 over the random targets reached on both), on few samples "
        "(5). "
    ) in found.sentence
    # 171 targets, but of 19 images.
    found = compared({"jsma_f_exact": jsma(0.9, 900)}, {"jsma_f_exact": jsma(0.9, 171)})
    assert found.stops_adaptive_attacker is False
    assert "undistilled, on few samples (19). " in found.sentence
    found = compared({"jsma_f_exact": jsma(0.9, 900)}, {"jsma_f_exact": jsma(0.9, 180)})
    assert "few samples" not in found.sentence


def test_an_attack_on_one_network_alone_is_no_comparison():
    attack = {"cw_l2": norm_attack(1.0), "jsma_f_exact": jsma(1.0)}
    for undistilled, distilled in ((attack, {}), ({}, attack)):
        found = compared(undistilled, distilled)
        assert found.stops_adaptive_attacker is None
        assert "No attack made to get round masked gradients was measured" in found.sentence


def test_attacks_that_fail_prove_no_robustness():
    found = compared(
        {"cw_l2": norm_attack(1.0, 1.8), "jsma_f_exact": jsma(0.9)},
        {"cw_l2": norm_attack(0.1, 0.2), "jsma_f_exact": jsma(0.2)},
    )
    assert found.stops_adaptive_attacker is True
    assert found.sentence.endswith(
        "Attacks made to get round masked gradients, each against its rate undistilled: cw_l2 "
        "(10.0 % of 20 targets against 100.0 %) and jsma_f_exact (20.0 % of "
        "900 targets against 90.0 %). None succeeds 90 % as often as undistilled, but that the "
        "attacks measured here fail proves no robustness."
    )


def test_too_little_to_confirm_in_words():
    exact = {"jsma_f_exact": jsma(0.9)}
    found = compared(exact, {"jsma_f_exact": jsma(0.2)})
    assert found.sentence.endswith(
        "jsma_f_exact (20.0 % of 900 targets against 90.0 %). That does not tell whether an "
        "adaptive attacker is stopped: cw_l2 was not measured."
    )
    found = compared({"cw_l2": norm_attack(0.4)}, {"cw_l2": norm_attack(0.4)})
    assert found.sentence.endswith(": cw_l2 succeeds too rarely on the undistilled network.")


@pytest.mark.parametrize("attack", ["cw_l0", "cw_linf", "labels_only", "transfer_cw_l2"])
def test_supporting_attacks_do_not_decide_alone(attack):
    support = {attack: norm_attack(1.0, 1.0, targets="untargeted")}
    found = compared(support, support)
    assert found.stops_adaptive_attacker is None
    assert f"{attack} (100.0 % of 20 images against 100.0 %" in found.sentence
    # Nor may the defence be confirmed against them.
    found = compared({"cw_l2": norm_attack(1.0)} | support, {"cw_l2": norm_attack(0.0)} | support)
    assert found.stops_adaptive_attacker is None
    assert f"the network is reached by {attack}, though not by cw_l2" in found.sentence
    near = {"cw_l2": norm_attack(1.0, 1.0)}
    found = compared(near | support, near | support)
    assert found.stops_adaptive_attacker is False
    assert f"The network is also reached by {attack} (" in found.sentence


def test_one_target_on_one_network_and_all_on_the_other_meet_at_the_random_one():
    found = compared(
        {"cw_l2": norm_attack(1.0, 1.0, targets="all", average=(0.95, 2.0))},
        {"cw_l2": norm_attack(0.9, 3.0)},
    )
    # The mean over all targets, 1.0, is not used.
    assert found.stops_adaptive_attacker is False
    assert (
        "(cw_l2) still reaches 90.0 % of 20 targets against 95.0 % undistilled, at 1.50 times the "
        "mean L2 distance (3.00 against 2.00 over the random targets reached on both)."
    ) in found.sentence


def test_targeted_and_untargeted_attacks_are_not_compared():
    found = compared(
        {"cw_l2": norm_attack(1.0, 1.0, targets="untargeted")}, {"cw_l2": norm_attack(1.0, 1.0)}
    )
    assert found.stops_adaptive_attacker is None
    assert "No attack made to get round masked gradients was measured" in found.sentence


@pytest.mark.parametrize(
    ("undistilled", "distilled"),
    [
        (norm_attack(1.0, None), norm_attack(1.0, 2.0)),
        (norm_attack(1.0, 0.0), norm_attack(1.0, 2.0)),
        # Means over different pairs: the weaker network's hard ones are missing.
        (norm_attack(0.89, 1.0), norm_attack(0.89, 2.0)),
        (norm_attack(0.9, 1.0), norm_attack(0.89, 2.0)),
    ],
)
def test_no_ratio_without_two_distances_of_the_same_pairs(undistilled, distilled):
    found = compared({"cw_l2": undistilled}, {"cw_l2": distilled})
    assert found.stops_adaptive_attacker is None
    assert "times the" not in found.sentence
    assert found.sentence.endswith("is stopped: the distances of cw_l2 do not compare.")
    found = compared(
        {"cw_l2": undistilled, "jsma_f_exact": jsma(0.9)},
        {"cw_l2": distilled, "jsma_f_exact": jsma(0.9)},
    )
    assert found.stops_adaptive_attacker is False
    assert "At distances that do not compare the network is reached by cw_l2 (" in found.sentence
    assert "times the" not in found.sentence


def test_untargeted_attacks_compare_their_means():
    found = compared(
        {"cw_l2": norm_attack(1.0, 1.0, targets="untargeted")},
        {"cw_l2": norm_attack(1.0, 1.234, targets="untargeted")},
    )
    assert (
        "at 1.23 times the mean L2 distance (1.23 against 1.00 over the images reached on both)."
        in found.sentence
    )


def test_rates_and_distances_are_of_the_attempts_that_start_there_on_neither():
    # By its own records the attack reaches 95 % of 900 on both; what compares is 10 attempts.
    networks = [
        network_of(None, {"cw_l2": norm_attack(0.95, 1.0)}),
        network_of(100.0, {"cw_l2": norm_attack(0.95, 2.0)}),
    ]
    found = verdict_of(
        networks,
        [
            dataclasses.replace(
                comparisons_of(networks)[0],
                attempts=10,
                success_rate=0.9,
                reference_success_rate=1.0,
                mean_distance=3.0,
                reference_mean_distance=2.5,
            )
        ],
        [],
        DATASET,
    )
    assert "still reaches 90.0 % of 10 targets against 100.0 % undistilled" in found.sentence
    assert "at 1.20 times the mean L2 distance (3.00 against 2.50" in found.sentence
    assert verdict_of(networks, [], [], DATASET).stops_adaptive_attacker is None


def run_of(*networks):
    return verdict(list(networks), [zero_control(n) for n in networks], DATASET)


def test_the_limit_of_the_distance_is_that_of_the_claim():
    claim = next(claim for claim in claims.CLAIMS if claim.id == "C17")
    assert f"to {FARTHER_LIMIT:g} times the mean L2" in claim.acceptance


MEASURED = {"jsma_f": jsma(0.9), "cw_l2": norm_attack(1.0, 2.0)}


def test_the_highest_temperature_is_judged_in_whatever_order():
    networks = [network_of(t, MEASURED) for t in (100.0, None, 5.0, 20.0)]
    networks.append(
        dataclasses.replace(
            network_of(500.0, MEASURED), defense="adversarial_training", temperature=1.0
        )
    )
    found = run_of(*networks)
    assert found.sentence.startswith("At T = 100 ")
    assert "left out" not in found.sentence
    assert run_of(*reversed(networks)) == found


@pytest.mark.parametrize(
    ("lost", "why"),
    [
        ({"accuracy": 0.12}, "12.0 % of the test images right, initial network 99.0 %"),
        ({"accuracy": 0.48}, "48.0 % of the test images right, initial network 99.0 %"),
        ({"initial": 0.1}, "99.0 % of the test images right, initial network 10.0 %"),
    ],
)
@pytest.mark.parametrize("temperature", [100.0, 5.0])
def test_networks_that_did_not_learn_are_left_out_and_named(lost, why, temperature):
    found = run_of(
        network_of(None, MEASURED),
        network_of(20.0, MEASURED),
        network_of(temperature, MEASURED, **lost),
    )
    assert found.sentence.startswith("At T = 20 ")
    assert found.sentence.endswith(f" T = {temperature:g} is left out: it did not learn ({why}).")
    alone = run_of(network_of(None, MEASURED), network_of(temperature, MEASURED, **lost))
    assert alone.masks_gradients is alone.stops_adaptive_attacker is alone.accuracy_lost is None
    assert alone.sentence == (
        f"There is no verdict: no distilled network learnt (T = {temperature:g}: {why})."
    )


def test_a_yardstick_that_did_not_learn_is_named():
    lost = dataclasses.replace(
        network_of(1.0, MEASURED, accuracy=0.1), defense="adversarial_training", initial=None
    )
    found = run_of(network_of(None, MEASURED), network_of(20.0, MEASURED), lost)
    assert found.sentence.endswith(
        " The adversarially trained network is left out: it did not learn (10.0 % of the test "
        "images right)."
    )


def test_a_training_that_stalled_decides_nothing():
    networks = [network_of(t, MEASURED, stalled=True) for t in (None, 100.0)]
    assert run_of(*networks).sentence.startswith("At T = 100 the paper's attack")


def test_the_loss_of_accuracy_comes_first():
    """45 % on 360 images may be 50.2 %, above half of 95 %."""
    networks = [
        network_of(None, MEASURED, accuracy=0.95),
        network_of(100.0, MEASURED, accuracy=0.45, initial=0.45),
    ]
    found = verdict(networks, [], dataset_of(360))
    assert found.sentence.startswith(
        "At T = 100, at a loss of 50.0 points of accuracy (45.0 % against 95.0 % undistilled), the "
        "paper's attack (jsma_f) reaches "
    )
    assert found.accuracy_lost == pytest.approx(0.5)
    assert found.stops_adaptive_attacker is False
    # The same on more images is below half beyond doubt.
    assert "no distilled network learnt" in verdict(networks, [], dataset_of(10_000)).sentence


def test_a_gain_of_accuracy_is_no_loss():
    found = run_of(network_of(None, MEASURED, accuracy=0.98), network_of(100.0, MEASURED))
    assert found.sentence.startswith("At T = 100 the paper's attack")
    assert found.accuracy_lost == pytest.approx(-0.01)


def test_guessing_depends_on_the_classes():
    networks = [network_of(t, MEASURED, accuracy=0.51, initial=0.51) for t in (None, 100.0)]
    assert verdict(networks, [], dataset_of(1_000)).stops_adaptive_attacker is False
    of_two = verdict(networks, [], dataset_of(1_000, classes=2))  # from 47.9 %
    assert "the undistilled network (51.0 % of the test images right) did" in of_two.sentence


def brought(network, name):
    return dataclasses.replace(network, name=name, training=None, initial=None)


def test_networks_of_an_evaluation_are_told_by_their_accuracy_too():
    mine = brought(network_of(100.0, MEASURED, accuracy=0.12), "mine")
    found = verdict([mine], [], dataset_of(360))
    assert found.sentence == (
        "There is no verdict: the run has no undistilled network to compare with, and mine (12.0 % "
        "of the test images right) did not learn."
    )
    plain = brought(network_of(None, MEASURED, accuracy=0.95), "plain")
    found = verdict([plain, mine], [], dataset_of(360))
    assert found.sentence == (
        "There is no verdict: no distilled network learnt (mine: 12.0 % of the test images right)."
    )


def test_the_temperature_with_what_is_needed_is_judged():
    found = run_of(
        network_of(None, MEASURED),
        network_of(20.0, MEASURED),
        network_of(100.0, {"jsma_f": jsma(0.0)}, zero=1.0),
    )
    assert found.sentence.startswith("At T = 20 ")
    assert found.sentence.endswith(" T = 100 is left out: too little was measured on it.")


def test_a_measured_temperature_is_not_passed_over_because_it_is_inconclusive():
    # At T = 100 only jsma_f_exact answers, and does not refute; cw_l2 is too weak to tell.
    weak, strong = norm_attack(0.4), jsma(0.9)
    undistilled = {"jsma_f": jsma(0.9), "cw_l2": weak, "jsma_f_exact": strong}
    found = run_of(
        network_of(None, undistilled),
        network_of(20.0, undistilled),
        network_of(100.0, {"jsma_f": jsma(0.0), "cw_l2": weak, "jsma_f_exact": jsma(0.1)}),
    )
    assert found.sentence.startswith("At T = 100 ")
    assert found.stops_adaptive_attacker is None


@pytest.mark.parametrize(
    ("networks", "reason"),
    [
        ([], "the run has no undistilled network to compare with"),
        ([network_of(100.0, MEASURED)], "the run has no undistilled network to compare with"),
        ([network_of(None, MEASURED)], "the run has no distilled network"),
        (
            [network_of(None, MEASURED, accuracy=0.1), network_of(1.0, MEASURED)],
            "the undistilled network (10.0 % of the test images right) did not learn",
        ),
    ],
)
def test_without_both_networks_there_is_no_verdict(networks, reason):
    found = run_of(*networks)
    assert found.masks_gradients is found.stops_adaptive_attacker is None
    assert found.sentence == f"There is no verdict: {reason}."
