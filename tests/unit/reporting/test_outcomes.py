import dataclasses

import pytest

from ddefense import attack_catalog
from ddefense.reporting import outcomes
from ddefense.reporting.outcomes import Outcome


def test_jsma_is_measured_in_features(results):
    found = outcomes.outcome(results.networks[2], "jsma_f")
    assert (found.percent, found.attempts) == (50, 900)
    assert (found.low, found.high) == pytest.approx((47, 53))
    assert (found.distance, found.distance_low, found.distance_high) == (35.3, 33.1, 37.7)
    assert found.show(1) == "50.0 [47.0, 53.0]\nat 35.3 [33.1, 37.7]\nn = 900"


def test_results_from_before_the_interval_was_measured_are_shown_without(results):
    network = results.networks[2]
    before = dataclasses.replace(network.attacks["jsma_f"], distance_interval=None)
    older = dataclasses.replace(network, attacks={"jsma_f": before})
    assert outcomes.outcome(older, "jsma_f").show(1) == "50.0 [47.0, 53.0]\nat 35.3\nn = 900"


def test_an_attack_measured_by_a_norm_has_both_intervals(full):
    found = outcomes.outcome(full.networks[-2], "cw_l2")
    expected = Outcome(100.0, 95.0, 100.0, 1.8, 1.62, 1.98, 180, 0, 100.0)
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(expected))
    assert found.show(1) == "100.0 [95.0, 100.0]\nat 1.80 [1.62, 1.98]\nn = 180"


def test_what_started_there_stands_beside_the_attempts(network):
    found = network(20.0, {"jsma_f": 0.5}).attacks["jsma_f"]
    started = dataclasses.replace(found, attempts=856, started=44, success_rate_over_all=0.17)
    attacked = dataclasses.replace(network(20.0, {}), attacks={"jsma_f": started})
    shown = outcomes.outcome(attacked, "jsma_f")
    assert (shown.attempts, shown.started, shown.over_all) == (856, 44, 17)
    assert shown.show(1).endswith("\nn = 856, 44 started")


def test_without_an_attempt_there_is_no_outcome(network):
    found = network(20.0, {"jsma_f": 0.5}).attacks["jsma_f"]
    nothing = dataclasses.replace(
        found, attempts=0, started=900, success_rate=None, success_interval=None
    )
    attacked = dataclasses.replace(network(20.0, {}), attacks={"jsma_f": nothing})
    assert outcomes.outcome(attacked, "jsma_f") is None


def test_without_a_success_there_is_no_distance(network, norm_attack):
    attacked = dataclasses.replace(network(20.0, {}), attacks={"cw_l2": norm_attack(0.0, 1.0)})
    found = outcomes.outcome(attacked, "cw_l2")
    assert found.show(1) == "0.0 [0.0, 5.0]\nn = 20"
    assert outcomes.outcome(attacked, "cw_l0") is None


def test_attacks_stand_in_the_order_of_the_configuration_and_unknown_ones_last(full, network):
    strange = dataclasses.replace(
        network(2.0, {}),
        attacks={
            **network(2.0, {"jsma_z": 0.5}).attacks,
            "a_new_one": full.networks[0].attacks["cw_l2"],
        },
    )
    found = outcomes.attacks_in([strange, *full.networks])
    assert found[-1] == "a_new_one"
    assert found[:-1] == [name for name in attack_catalog.ATTACKS if name in found]
    assert {"jsma_z", "fgsm", "transfer_cw_l2", "labels_only"} <= set(found)


def test_norms_and_labels_come_from_the_records(full):
    networks = full.networks
    assert [outcomes.norm(networks, a) for a in ("jsma_f", "fgsm", "cw_l2")] == ["L0", "Linf", "L2"]
    assert outcomes.label(networks, "transfer_cw_l2") == "transfer of C&W L2, kappa = 40"
    assert outcomes.label([], "transfer_cw_l2") == "transfer of C&W L2"
    assert outcomes.label(networks, "cw_l2") == "C&W L2"
    wrong = [a for a in outcomes.attacks_in(networks) if outcomes.any_wrong_class(networks, a)]
    assert wrong == ["fgsm", "pgd_linf", "pgd_linf_temperature", "transfer_cw_l2", "labels_only"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.00921, "0.00921"),
        (0.3, "0.300"),
        (1.756, "1.76"),
        (35.31, "35.3"),
        (112.4, "112"),
        (1234.5, "1234"),
    ],
)
def test_three_significant_digits(value, text):
    assert outcomes.significant(value) == text


def test_every_attack_has_a_label(full):
    assert all(outcomes.label(full.networks, a) != a for a in attack_catalog.ATTACKS)
