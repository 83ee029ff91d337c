"""The summary of several seeds, by hand."""

import dataclasses

import pytest

from ddefense.reporting import runs, summary


def test_seeds_are_joined(results_of, network):
    def at(seed, rate, accuracy):
        found = results_of([network(None, {"jsma_f": 0.9}), network(20.0, {"jsma_f": rate})])
        networks = [
            dataclasses.replace(one, test_accuracy=accuracy, seed=seed) for one in found.networks
        ]
        config = dataclasses.replace(found.config, seed=seed)
        return dataclasses.replace(found, networks=networks, config=config)

    found = runs.Runs({0: at(0, 0.02, 0.98), 4: at(4, 0.04, 0.96)})
    table = summary.of_seeds(found)
    assert "mean over seeds 0, 4" in table.title
    _, (label, accuracy, success) = table.rows
    assert label == "T = 20"
    assert accuracy.mean == pytest.approx(97.0)
    assert (success.mean, success.low, success.high) == pytest.approx((3.0, 2.0, 4.0))


def test_a_high_loss_of_accuracy_stands_before_every_rate(results_of, network):
    networks = [network(None, {"jsma_f": 0.9}), network(20.0, {"jsma_f": 0.1})]
    lost = dataclasses.replace(networks[1], test_accuracy=networks[0].test_accuracy - 0.051)
    run = results_of([networks[0], lost])
    for title in (summary.of_run(run).title, summary.of_seeds(runs.Runs({0: run})).title):
        assert title.startswith("T = 20: a loss of 5.1 points of accuracy. Success of attacks")
    few = dataclasses.replace(lost, test_accuracy=lost.test_accuracy + 0.002)
    assert summary.of_run(results_of([networks[0], few])).title.startswith("Success of attacks")


def test_of_attacks_that_tell_little_the_first_are_shown(results_of, network):
    rates = {"jsma_f_literal": 0.5, "jsma_z": 0.4}
    found = results_of([network(None, rates), network(20.0, rates)])
    keys = [column.key for column in summary.of_run(found).columns]
    assert keys == ["network", "accuracy_percent", "jsma_f_literal", "jsma_z"]
