"""Checks for masked gradients: each side of each limit, and what they say."""

import dataclasses

import pytest

from ddefense.measurements import controls
from ddefense.records import GradientRecord, GradientsRecord


def gradients_with(zero, samples=10_000):
    deployed = GradientRecord(
        temperature=1.0,
        samples=samples,
        median_log10=-3.0,
        quantiles_log10=[-5.0, -4.0, -2.0, -1.0],
        histogram_edges_log10=[-3.0],
        histogram=[0.5, 0.5],
        float32_median_log10=None,
        float32_zero_samples=zero,
        float32_zero_entries=0.5,
    )
    # At the training temperature nothing vanishes; that is not what an attacker sees.
    training = dataclasses.replace(deployed, temperature=100.0, float32_zero_samples=1 - zero)
    return GradientsRecord(deployed=deployed, training=training)


@pytest.mark.parametrize(
    ("zero", "passed"), [(0.0, True), (0.01, True), (0.0101, False), (0.989, False), (1.0, False)]
)
def test_zero_gradients(zero, passed):
    found = controls.zero_gradients("distilled_t100", gradients_with(zero))
    assert (found.name, found.network) == ("zero_gradients", "distilled_t100")
    assert (found.value, found.limit, found.samples) == (zero, 0.01, 10_000)
    assert found.passed is passed


@pytest.mark.parametrize(
    ("undistilled", "scaled", "limit", "passed"),
    [
        (0.884, 0.884, 0.784, True),
        (0.884, 0.784, 0.784, True),
        (0.884, 0.783, 0.784, False),
        (0.884, 0.012, 0.784, False),
        (1.0, 0.9, 0.9, True),
        (0.3, 0.2, 0.2, True),  # 0.3 - 0.1 is not quite 0.2
        (0.05, 0.0, 0.0, True),  # an attack that hardly works cannot fall by as much
    ],
)
def test_scaled_logits(undistilled, scaled, limit, passed):
    found = controls.scaled_logits("distilled_t100", 100.0, undistilled, scaled, 100)
    assert (found.name, found.network) == ("scaled_logits", "distilled_t100")
    assert (found.value, found.samples) == (scaled, 100)
    assert found.limit == pytest.approx(limit)
    assert found.passed is passed


@pytest.mark.parametrize(
    ("fgsm", "pgd", "passed"), [(0.5, 0.9, True), (0.5, 0.5, True), (0.5, 0.49, False)]
)
def test_iterative_beats_one_step(fgsm, pgd, passed):
    found = controls.iterative_beats_one_step("distilled_t20", fgsm, pgd, 100)
    assert (found.name, found.network) == ("iterative_beats_one_step", "distilled_t20")
    assert (found.value, found.limit, found.samples) == (pgd, fgsm, 100)
    assert found.passed is passed


@pytest.mark.parametrize(("rate", "passed"), [(1.0, True), (0.9999, False), (0.0, False)])
def test_unbounded_reaches_all(rate, passed):
    found = controls.unbounded_reaches_all("distilled_t20", rate, 100)
    assert (found.name, found.network) == ("unbounded_reaches_all", "distilled_t20")
    assert (found.value, found.limit, found.samples) == (rate, 1, 100)
    assert found.passed is passed


@pytest.mark.parametrize(
    ("one", "many", "passed"),
    [(0.9, 0.9, True), (0.9, 0.95, True), (0.1, 0.15, True), (0.9, 0.96, False)],
)
def test_random_restarts(one, many, passed):
    found = controls.random_restarts("baseline", one, many, 5, 100)
    assert (found.name, found.network) == ("random_restarts", "baseline")
    assert found.value == pytest.approx(many - one)
    assert (found.limit, found.samples) == (0.05, 100)
    assert found.passed is passed


def test_explanations_are_one_sentence_with_both_numbers():
    found = [
        controls.zero_gradients("n", gradients_with(0.98916)),
        controls.scaled_logits("n", 100.0, 0.884, 0.0122, 100),
        controls.iterative_beats_one_step("n", 0.5, 0.25, 1),
        controls.unbounded_reaches_all("n", 0.04, 100),
        controls.random_restarts("n", 0.8, 0.9, 5, 100),
    ]
    assert [control.explanation for control in found] == [
        "98.9 % of 10,000 test images have an all-zero float32 gradient; at most 1.0 % may.",
        "With the undistilled network's logits multiplied by 100, jsma_f succeeds in 1.2 % of its "
        "attempts on 100 images against 88.4 % without; at least 78.4 % is expected.",
        "pgd_linf reaches 25.0 % of 1 image; at least the 50.0 % of fgsm, one step to epsilon, is "
        "expected.",
        "pgd_linf without a bound reaches 4.0 % of 100 images; 100.0 % is expected.",
        "pgd_linf reaches 90.0 % of 100 images from 5 random starts and 80.0 % from one; at most "
        "5.0 % more is expected.",
    ]


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, "0.0 %"),
        (0.0004, "0.04 %"),
        (0.0005, "0.1 %"),
        (0.98916, "98.9 %"),
        (0.9998, "99.98 %"),  # not all of them
        (1.0, "100.0 %"),
    ],
)
def test_only_all_or_nothing_is_called_so(share, expected):
    assert controls.percent(share) == expected


@pytest.mark.parametrize("rate", [-0.1, 88.4, float("nan")])
def test_a_rate_that_is_no_share_is_named(rate):
    message = r"expected a share in \[0, 1\], received"
    with pytest.raises(ValueError, match=f"^scaled_rate: {message}"):
        controls.scaled_logits("n", 100.0, 0.5, rate, 100)
    with pytest.raises(ValueError, match=f"^fgsm_rate: {message}"):
        controls.iterative_beats_one_step("n", rate, 0.5, 100)
    with pytest.raises(ValueError, match=f"^rate: {message}"):
        controls.unbounded_reaches_all("n", rate, 100)
    with pytest.raises(ValueError, match=f"^many_rate: {message}"):
        controls.random_restarts("n", 0.5, rate, 5, 100)


def test_the_share_of_zero_gradients_alone_will_do():
    found = controls.zero_share("attacked", 0.25, 40)
    gradients = gradients_with(0.25, samples=40)
    assert found == controls.zero_gradients("attacked", gradients)
    with pytest.raises(ValueError, match="share: expected a share in"):
        controls.zero_share("attacked", 1.5, 40)
