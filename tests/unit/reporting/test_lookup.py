import dataclasses

import pytest

from ddefense import records
from ddefense.reporting import lookup, published


def test_spearman_of_a_falling_sequence_is_minus_one():
    assert lookup.spearman([1, 2, 5, 10], [9, 8, 3, 1]) == pytest.approx(-1)


def test_spearman_gives_ties_their_mean_rank():
    # Ranks 1 2 3 4 against 4 3 1.5 1.5: sum of products of centred ranks -4.5, norms 5 and 4.5.
    assert lookup.spearman([1, 2, 3, 4], [9, 8, 3, 3]) == pytest.approx(-4.5 / (5 * 4.5) ** 0.5)


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [1.0]])
def test_spearman_of_a_constant_is_undefined(values):
    assert lookup.spearman(list(range(len(values))), values) is None


def test_accuracy_tells_whether_a_network_learnt_and_the_training_loss_does_not(results, network):
    baseline = results.networks[0]
    stalled = dataclasses.replace(baseline.training, stalled=True, loss=[2.30, 2.3026])
    late = dataclasses.replace(baseline, training=stalled)
    assert lookup.usable(results, late)
    assert not lookup.usable(results, dataclasses.replace(baseline, test_accuracy=0.1))
    # Of 10,000 images 49 % are up to 50.0 %, and half of 99 % is 49.5 %; 48 % are up to 49.0 %.
    assert lookup.usable(results, network(20.0, {}, accuracy=0.49))
    assert not lookup.usable(results, network(20.0, {}, accuracy=0.48))
    assert not lookup.usable(results, network(20.0, {}, stalled_initial=True))


def test_the_largest_loss_of_several_networks(results):
    baseline, *distilled = results.networks
    assert lookup.lost(results, *distilled) == pytest.approx(0.005)  # 98.5 of 99.0 %
    assert lookup.lost(results, distilled[0]) == pytest.approx(-0.001)
    assert lookup.lost(results, baseline) is None


@pytest.mark.parametrize(
    ("stops", "lost", "text"),
    [
        (True, 0.124, "yes, at a loss of 12.4 points of accuracy"),
        (True, 0.05, "yes"),
        (True, None, "yes"),  # results of before
        (False, 0.124, "no"),
        (None, 0.124, "inconclusive"),
    ],
)
def test_an_attacker_is_stopped_at_a_loss(stops, lost, text):
    verdict = records.VerdictRecord(
        masks_gradients=None, stops_adaptive_attacker=stops, sentence="", accuracy_lost=lost
    )
    assert lookup.stops(verdict) == text
    assert lookup.bought(verdict) is ("loss" in text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (42, "42 s"), (725, "12 min 5 s"), (11220, "3 h 7 min")]
)
def test_duration(seconds, text):
    assert lookup.duration(seconds) == text


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_published_percentages_are_counts_out_of_900(dataset):
    table = published.SUCCESS[dataset]
    assert list(table.percent) == list(table.successes) == [1, 2, 5, 10, 20, 30, 40, 50, 100]
    for temperature, percent in table.percent.items():
        assert percent == pytest.approx(100 * table.successes[temperature] / 900, abs=0.01)
    assert table.undistilled == pytest.approx(100 * table.undistilled_successes / 900, abs=0.01)


def test_numbers_from_memory_say_that_they_are_unverified():
    assert "unverified" in str(published.TRAINING["mnist"]["momentum"])
    assert "unverified" not in str(published.TRAINING["mnist"]["epochs"])
    assert [s for s in published.Source if not s.verified] == [published.Source.MEMORY]
    assert all(not value.source.verified for value in published.CONFIDENCE.values())


def test_remembered_robustness_gives_the_published_gain():
    for dataset, (before, after) in published.ROBUSTNESS.items():
        gain = 100 * (after.value / before.value - 1)
        assert gain == pytest.approx(published.ROBUSTNESS_GAIN[dataset].value, abs=1)


def test_pearson_by_hand():
    # Centred -1.5 -0.5 0.5 1.5 against -1 0 0 1: products sum to 3, norms are 5 and 2.
    assert lookup.pearson([1, 2, 3, 4], [1, 2, 2, 3]) == pytest.approx(3 / 10**0.5)
    assert lookup.pearson([1, 2, 3], [5, 3, 1]) == pytest.approx(-1)
    assert lookup.pearson([1, 1, 1], [1, 2, 3]) is None
    assert lookup.pearson([1, 2, 3], [2, 2, 2]) is None


def test_networks_are_called_by_what_they_are(full):
    labels = [lookup.network_label(n) for n in full.networks]
    assert labels == ["undistilled", "T = 1", "T = 5", "T = 20", "T = 100", "adversarially trained"]


def test_a_check_names_what_it_measured(full):
    check = full.controls[1]
    assert lookup.checked(full, check) == "T = 100"
    assert lookup.checked(full, dataclasses.replace(check, network="elsewhere")) == "elsewhere"
    scaled = dataclasses.replace(check, name="scaled_logits")
    assert lookup.checked(full, scaled) == "undistilled, logits times 100"


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_published_distances_grow_from_best_to_worst_and_little_by_distillation(dataset):
    for attack, (undistilled, distilled) in published.CARLINI_WAGNER[dataset].items():
        for cases in (undistilled, distilled):
            assert cases.best.value < cases.average.value < cases.worst.value
        if (dataset, attack) != ("cifar10", "cw_linf"):
            assert 1 < distilled.best.value / undistilled.best.value < 2.5
    assert str(published.CARLINI_WAGNER["mnist"]["cw_l2"][0].worst) == "2.6 (unverified)"


def test_the_paper_has_no_adversarially_trained_network():
    assert published.success_percent("mnist", "none", 1.0) == 95.89
    assert published.success_percent("mnist", "distillation", 1.0) == 91.0
    assert published.success_percent("mnist", "distillation", 3.0) is None
    assert published.success_percent("mnist", "adversarial_training", 1.0) is None
