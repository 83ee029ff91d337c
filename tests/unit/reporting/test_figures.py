import dataclasses

import numpy as np
import pytest
from matplotlib.colors import same_color

from ddefense import attack_catalog
from ddefense.reporting import figures
from ddefense.reporting.figures import (
    accuracy,
    adaptive,
    confidence,
    distance,
    gradients,
    robustness,
    sample_grid,
    style,
    success_rate,
)


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].lines}


def points(line):
    return list(line.get_xdata()), pytest.approx(list(line.get_ydata()))


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def at_level(figure, level):
    """The horizontal lines at a height."""
    found = (line for line in figure.axes[0].lines if len(line.get_ydata()) == 2)
    return [line for line in found if list(line.get_ydata()) == pytest.approx([level, level])]


def test_every_curve_names_its_axes_with_units(full, samples):
    for name, figure in figures.draw_all(full, samples).items():
        axes = figure.axes[0]
        assert axes.get_xlabel(), name
        assert axes.get_ylabel(), name
        assert axes.get_title(loc="left"), name
        assert figure.legends, name
        if name != "sample_grid":
            assert any(unit in axes.get_ylabel() for unit in ("%", "points", "L2"))
            assert "temperature T" in axes.get_xlabel()


def test_success_rate_plots_each_reading_the_paper_and_the_baseline(results):
    figure = success_rate.draw(results)
    drawn = lines(figure)
    assert points(drawn["JSMA-F"]) == ([1, 5, 20, 100], [92, 50, 2, 0.5])
    assert points(drawn["JSMA-F, exact (log domain)"]) == ([1, 5, 20, 100], [95, 95, 93, 91])
    assert points(drawn["paper"]) == (
        [1, 2, 5, 10, 20, 30, 40, 50, 100],
        [91, 82.23, 24.67, 6.78, 1.34, 1.44, 0.45, 1.45, 0.45],
    )
    assert at_level(figure, 96)  # jsma_f_exact, undistilled
    assert at_level(figure, 95.89)  # the paper, undistilled
    assert len(figure.axes[0].collections) == 5  # the interval bands
    assert figure.axes[0].get_xscale() == "log"
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["1", "5", "20", "100"]
    assert {"paper", "JSMA-F", "JSMA-Z", "undistilled"} <= set(legend(figure))


def test_success_rate_on_digits_labels_the_curve_as_mnist(results_of, network):
    run = results_of([network(None, {"jsma_z": 0.9}), network(20.0, {"jsma_z": 0.5})], "digits")
    figure = success_rate.draw(run)
    assert legend(figure) == ["paper (MNIST)", "JSMA-Z", "undistilled"]
    assert points(lines(figure)["JSMA-Z"]) == ([20], [50])
    low, high = figure.axes[0].get_xlim()
    assert low < 20 < high


def test_success_rate_keeps_a_network_that_did_not_learn_off_the_line(with_stalled):
    figure = success_rate.draw(with_stalled)
    assert points(lines(figure)["JSMA-F"]) == ([1, 5, 20], [92, 50, 2])
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    shown = [points(line) for line in crosses if len(line.get_xdata())]
    assert shown == [([100], [11])] * 5
    assert "did not learn" in legend(figure)


def test_accuracy_change_of_initial_and_distilled(results):
    drawn = lines(accuracy.draw(results))
    assert points(drawn["distilled"]) == ([1, 5, 20, 100], [0.1, 0.2, -0.2, -0.5])
    assert points(drawn["initial"]) == ([1, 5, 20, 100], [-0.1, 0.0, -0.4, -0.7])
    assert "undistilled (99.00 %)" in drawn


def test_accuracy_marks_networks_that_did_not_learn_without_squeezing_the_rest(with_stalled):
    figure = accuracy.draw(with_stalled)
    assert points(lines(figure)["distilled"]) == ([1, 5, 20], [0.1, 0.2, -0.2])
    assert figure.axes[0].get_ylim()[0] > -3
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "v"]
    shown = {line.get_color(): list(line.get_xdata()) for line in marks if len(line.get_xdata())}
    assert shown == {style.INITIAL: [100], style.DISTILLED: [100]}
    assert "did not learn (off the scale)" in legend(figure)


def test_gradients_stack_the_histogram_and_mark_float32_zeros(results):
    figure = gradients.draw(results)
    axes = figure.axes[0]
    heights = np.array([[bar.get_height() for bar in stack] for stack in axes.containers])
    expected = [n.gradients.deployed.histogram for n in results.networks]
    np.testing.assert_allclose(heights.T, 100 * np.array(expected))
    tops = [bar.get_y() + bar.get_height() for bar in axes.containers[-1]]
    assert tops == pytest.approx([100] * 5)
    zero = axes.collections[0].get_segments()
    assert [list(segment[:, 1]) for segment in zero] == [pytest.approx([30, 30]), [85, 85]]
    assert [segment[:, 0].mean() for segment in zero] == pytest.approx([3, 4])
    labels = [t.get_text() for t in axes.get_xticklabels()]
    assert labels == ["un-\ndistilled", "1", "5", "20", "100"]
    assert legend(figure)[-1].startswith("above") or legend(figure)[0].startswith("above")


def test_gradient_bins_are_named_from_their_edges():
    assert gradients.bin_labels([-5.0, -3.0]) == [
        "below $10^{-5}$",
        "$10^{-5}$ to $10^{-3}$",
        "above $10^{-3}$",
    ]
    assert gradients.bin_labels([]) == ["all"]


def test_gradients_name_networks_that_did_not_learn(with_stalled):
    labels = gradients.draw(with_stalled).axes[0].get_xticklabels()
    assert labels[-1].get_text() == "100\ndid not\nlearn"


def test_robustness_capped_uncapped_and_ceiling(results):
    figure = robustness.draw(results)
    drawn = lines(figure)
    assert points(drawn["JSMA-F, capped"]) == ([1, 5, 20, 100], [1.5, 1.5, 12, 14])
    assert points(drawn["JSMA-F, reached samples only"]) == ([1, 5, 20, 100], [1.5] * 4)
    assert at_level(figure, 100 * 112 / 784)
    assert at_level(figure, 1.5)  # undistilled
    assert figure.axes[0].texts[0].get_text() == "ceiling: the budget, 14.29 % of the features"


def test_robustness_leaves_out_what_no_sample_reached(results_of, network):
    run = results_of([network(None, {"jsma_f": 0.9}), network(9.0, {"jsma_f": 0.0})])
    drawn = lines(robustness.draw(run))
    assert points(drawn["JSMA-F, capped"]) == ([9], [1.5])
    assert points(drawn["JSMA-F, reached samples only"]) == ([], [])


def test_confidence(results):
    figure = confidence.draw(results)
    drawn = lines(figure)
    assert points(drawn["confidence, distilled"])[1] == [98.1, 98.4, 98.6, 98.45]
    assert list(drawn["confidence, undistilled"].get_ydata()) == [98, 98]
    assert "paper (unverified)" not in drawn


def test_confidence_shows_the_papers_unverified_values_on_cifar10(results_of, network):
    figure = confidence.draw(results_of([network(None, {}), network(5.0, {})], "cifar10"))
    assert points(lines(figure)["paper (unverified)"]) == (
        [1, 10, 20, 40],
        [71.85, 71.99, 78.05, 80.77],
    )


def test_sample_grid_frames_successes_and_crosses_failures(results, samples):
    figure = sample_grid.draw(results, samples)
    axes = figure.axes[0]
    reached = [p for p in axes.patches if same_color(p.get_edgecolor(), style.GOOD)]
    outcome = samples.outcomes["baseline", "jsma_f"]
    assert len(axes.patches) == len(outcome.success) == 90
    assert len(reached) == outcome.success.sum() == 72
    crosses = [line for line in axes.lines if same_color(line.get_color(), style.BAD)]
    assert len(crosses) == 18
    assert len(axes.images) == 10 + 90
    labels = [t.get_text() for t in axes.get_xticklabels()]
    assert labels == ["original", *"0123456789"]
    assert legend(figure) == ["target reached", "not reached"]
    assert axes.get_title(loc="left") == "JSMA-F on the undistilled network"


def test_sample_grid_shows_the_images_themselves(results, samples):
    axes = sample_grid.draw(results, samples).axes[0]
    first, second = axes.images[0].get_array(), axes.images[1].get_array()
    np.testing.assert_allclose(first[..., 0], samples.images[0, ..., 0])
    np.testing.assert_allclose(second[..., 1], samples.adversarial("baseline", "jsma_f", 0)[..., 0])


def test_sample_grid_without_attacked_samples_shows_the_originals(results, samples):
    axes = sample_grid.draw(results, samples, network="distilled_t20").axes[0]
    assert len(axes.images) == 10
    assert not axes.patches


def test_drawing_leaves_the_users_settings_alone(results):
    import matplotlib

    before = dict(matplotlib.rcParams)
    success_rate.draw(results)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "digits"])
def test_every_figure_draws_without_distilled_networks_and_attacks(
    results_of, network, samples, dataset
):
    run = results_of([network(None, {})], dataset=dataset)
    for figure in figures.draw_all(run, samples).values():
        assert style.save(figure, "png").startswith(b"\x89PNG")


@pytest.mark.slow
def test_cifar10_in_colour_with_names_of_classes(cifar10, samples_of):
    samples = samples_of((32, 32, 3))
    samples.images[0, ..., 0] = 0.75
    axes = sample_grid.draw(cifar10(), samples).axes[0]
    shown = axes.images[0].get_array()
    assert shown.shape == (32, 32, 3)
    np.testing.assert_allclose(shown, samples.images[0])
    assert [t.get_text() for t in axes.get_xticklabels()][:2] == ["original", "airplane"]
    assert [t.get_text() for t in axes.get_yticklabels()][-1] == "truck"
    for figure in figures.draw_all(cifar10(), samples).values():
        assert style.save(figure, "png").startswith(b"\x89PNG")


def test_both_thetas_are_drawn(cifar10):
    drawn = lines(success_rate.draw(cifar10()))
    assert points(drawn["JSMA-F"]) == ([1, 10, 100], [90, 45, 6])
    assert points(drawn["JSMA-F, theta = 1"]) == ([1, 10, 100], [97, 55, 8])
    assert points(drawn["paper"])[1] == [92.78, 87.67, 67, 47.56, 18.23, 13.23, 9.34, 6.23, 5.11]
    colors = [style.attack(name)[0] for name in (*attack_catalog.JSMA_ATTACKS, "another")]
    assert len(set(colors)) == len(colors)
    assert "JSMA-F, theta = 1, capped" in lines(robustness.draw(cifar10()))


def test_a_stalled_initial_network_is_drawn_as_not_learnt(cifar10):
    run = cifar10(stalled_initial=True)
    assert points(lines(success_rate.draw(run))["JSMA-F"]) == ([1, 10], [90, 45])
    assert points(lines(robustness.draw(run))["JSMA-F, capped"])[0] == [1, 10]
    assert points(lines(confidence.draw(run))["confidence, distilled"])[0] == [1, 10]
    drawn = lines(accuracy.draw(run))
    assert points(drawn["initial"])[0] == points(drawn["distilled"])[0] == [1, 10]
    labels = gradients.draw(run).axes[0].get_xticklabels()
    assert labels[-1].get_text() == "100\ndid not\nlearn"


def segments(figure):
    """(x, lower end, upper end) of every interval bar."""
    return [
        (bar[0, 0], *bar[:, 1])
        for collection in figure.axes[0].collections
        for bar in collection.get_segments()
    ]


def test_adaptive_draws_two_groups_and_what_was_not_distilled_beside_them(full):
    figure = adaptive.draw(full)
    drawn = lines(figure)
    assert list(drawn["JSMA-F"].get_ydata()) == pytest.approx([92, 50, 2, 0.5])
    assert list(drawn["C&W L2"].get_ydata()) == pytest.approx([100] * 4)
    assert list(drawn["transfer of C&W L2, kappa = 40"].get_ydata()) == pytest.approx(
        [95, 95, 90, 95]
    )
    naive = {"JSMA-F", "FGSM", "PGD"}
    assert {name for name, line in drawn.items() if line.get_linestyle() == "--"} == naive
    assert legend(figure) == [
        "JSMA-F",
        "FGSM",
        "PGD",
        "JSMA-F, exact (log domain)",
        "JSMA-F, logits / T",
        "PGD, logits / T",
        "C&W L2",
        "transfer of C&W L2, kappa = 40",
        "labels only",
    ]
    ticks = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert ticks == ["un-\ndistilled", "1", "5", "20", "100", "adver-\nsarially\ntrained"]
    # At T = 20 the attacks stand side by side in the order of the legend, within their place.
    at_20 = [drawn[name].get_xdata()[2] for name in legend(figure)]
    assert at_20 == sorted(at_20)
    assert all(2.7 < place < 3.3 for place in at_20)
    marks = [
        (round(x), y)
        for line in figure.axes[0].lines
        if same_color(line.get_color(), style.attack("jsma_f")[0])
        and line.get_linestyle() == "None"
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]
    assert marks == [(0, pytest.approx(95)), (5, pytest.approx(30))]
    # Nine attacks on five networks; jsma_f, jsma_f_exact and four others on the yardstick.
    assert len(segments(figure)) == 9 * 5 + 6
    shown = [bar[1:] for bar in segments(figure)]
    assert (pytest.approx(89), pytest.approx(95)) in shown  # jsma_f at T = 1


def test_adaptive_crosses_a_network_that_did_not_learn(full):
    lost = dataclasses.replace(full.networks[-2], test_accuracy=0.1)
    figure = adaptive.draw(dataclasses.replace(full, networks=[*full.networks[:-2], lost]))
    assert list(lines(figure)["JSMA-F"].get_ydata()) == pytest.approx([92, 50, 2])
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    shown = [round(x) for line in crosses for x in line.get_xdata()]
    assert shown == [4] * 9
    assert "did not learn" in legend(figure)


def test_adaptive_needs_more_than_jsma(results, full):
    assert not adaptive.measured(results)
    assert adaptive.measured(full)
    assert figures.names(full) - figures.names(results) == {"adaptive", "distance"}


def test_distance_by_temperature_with_its_correlation(full):
    figure = distance.draw(full)
    drawn = lines(figure)
    assert points(drawn["C&W L2, one random target per image"]) == (
        [1, 5, 20, 100],
        [1.7, 1.9, 2.0, 1.8],
    )
    assert at_level(figure, 1.6)
    assert "undistilled (1.60)" in legend(figure)
    assert "adversarially trained (1.60)" in legend(figure)
    assert segments(figure) == [
        (t, pytest.approx(0.9 * mean), pytest.approx(1.1 * mean))
        for t, mean in ((1, 1.7), (5, 1.9), (20, 2.0), (100, 1.8))
    ]
    t = np.array([1, 5, 20, 100.0])
    rho = np.corrcoef(t, [1.7, 1.9, 2.0, 1.8])[0, 1]
    text = figure.axes[0].texts[0].get_text()
    assert text == f"Pearson's rho of T with the distance: {rho:+.2f} over 4 temperatures"
    assert figure.axes[0].get_ylim()[0] == 0


def test_distance_leaves_out_networks_that_did_not_learn(full):
    lost = dataclasses.replace(full.networks[-2], test_accuracy=0.1)
    figure = distance.draw(dataclasses.replace(full, networks=[*full.networks[:-2], lost]))
    assert points(lines(figure)["C&W L2, one random target per image"])[0] == [1, 5, 20]
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "v"]
    assert [list(line.get_xdata()) for line in marks if len(line.get_xdata())] == [[100]]


def test_distance_at_one_temperature_without_an_undistilled_one(results_of, network, norm_attack):
    attacked = dataclasses.replace(network(20.0, {}), attacks={"cw_l2": norm_attack(1.0, 2.0)})
    run = results_of([network(None, {}), attacked])
    assert distance.measured(run)
    figure = distance.draw(run)
    assert legend(figure) == ["C&W L2, one random target per image"]
    assert figure.axes[0].texts[0].get_text().startswith("No correlation")
    assert legend(adaptive.draw(run)) == ["C&W L2"]
    assert not distance.measured(results_of([network(None, {}), network(20.0, {})]))


@pytest.mark.parametrize("module", [accuracy, confidence, robustness, success_rate])
def test_an_adversarially_trained_network_is_on_no_curve_over_t(full, module):
    without = dataclasses.replace(full, networks=full.networks[:-1])
    both = [
        [(line.get_label(), list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines]
        for ax in (module.draw(run).axes[0] for run in (full, without))
    ]
    assert both[0] == both[1]


def test_gradients_show_the_adversarially_trained_network_last(full):
    labels = gradients.draw(full).axes[0].get_xticklabels()
    assert [t.get_text() for t in labels][-2:] == ["100", "adver-\nsarially\ntrained"]


def test_sample_grid_names_the_adversarially_trained_network(full, samples):
    outcomes = {("adversarially_trained", "jsma_f"): samples.outcomes["baseline", "jsma_f"]}
    samples = dataclasses.replace(samples, outcomes=outcomes)
    axes = sample_grid.draw(full, samples, network="adversarially_trained").axes[0]
    assert axes.get_title(loc="left") == "JSMA-F on the adversarially trained network"


def test_every_attack_has_a_colour_of_its_own():
    shown = (*adaptive.NAIVE, *adaptive.ADAPTIVE)
    assert len({style.attack(name)[0] for name in shown}) == len(shown)
    assert len({style.attack(name)[1] for name in adaptive.ADAPTIVE}) == len(adaptive.ADAPTIVE)


@pytest.mark.slow
def test_a_dollar_in_a_name_is_no_formula(full, samples):
    name = "a$\\frac$b"
    network = dataclasses.replace(full.networks[1], name=name, training=None, initial=None)
    dataset = dataclasses.replace(
        full.dataset, name=name, class_names=[f"{name}{c}" for c in full.dataset.class_names]
    )
    run = dataclasses.replace(full, dataset=dataset, networks=[full.networks[0], network])
    for figure in figures.draw_all(run, samples).values():
        assert figures.style.save(figure, "svg")
