import dataclasses

import pytest

from ddefense.reporting import lookup, published


def test_spearman_of_a_falling_sequence_is_minus_one():
    assert lookup.spearman([1, 2, 5, 10], [9, 8, 3, 1]) == pytest.approx(-1)


def test_spearman_gives_ties_their_mean_rank():
    # Ranks 1 2 3 4 against 4 3 1.5 1.5: sum of products of centred ranks -4.5, norms 5 and 4.5.
    assert lookup.spearman([1, 2, 3, 4], [9, 8, 3, 3]) == pytest.approx(-4.5 / (5 * 4.5) ** 0.5)


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [1.0]])
def test_spearman_of_a_constant_is_undefined(values):
    assert lookup.spearman(list(range(len(values))), values) is None


def test_a_network_that_waited_and_then_learnt_counts_as_learnt(results):
    training = dataclasses.replace(results.networks[0].training, stalled=True)
    assert lookup.learnt(results, training)  # its last loss is 0.05
    lost = dataclasses.replace(training, loss=[2.30, 2.29])  # ln 10 = 2.3026, 99 % are 2.2796
    assert not lookup.learnt(results, lost)


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
