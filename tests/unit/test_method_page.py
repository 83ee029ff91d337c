"""The page on the method: its numbers are committed ones, its figures and formulas can be made."""

import importlib.util
import math
import pathlib
import re

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from latex2mathml import converter

from ddefense import records

_DOCS = pathlib.Path(__file__).parents[2] / "docs"
_PAGE = (_DOCS / "method.md").read_text()
_TEXT = " ".join(_PAGE.split())


@pytest.fixture(scope="module")
def drawing():
    """The module that draws the figures of the page."""
    path = _DOCS / "method/draw_figures.py"
    spec = importlib.util.spec_from_file_location("draw_figures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def mnist():
    return records.load(records.Results, _DOCS / "results/mnist/results.json")


@pytest.fixture(scope="module")
def ours(mnist):
    """The undistilled network, and the distilled ones by rising temperature."""
    return [mnist.baseline(), *mnist.distilled()]


def _rows(header):
    """The cells of the table whose header begins so, without its first column."""
    lines = _PAGE[_PAGE.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in lines]


def _power(record):
    """The median amplitude as the page writes it."""
    return f"$10^{{{record.median_log10:.1f}}}$"


@pytest.mark.slow
def test_the_committed_figures_are_what_the_code_draws(tmp_path, drawing):
    written = drawing.write(tmp_path)
    assert {path.name for path in written} == {
        path.name for path in (_DOCS / "images").glob("method_*.svg")
    }
    for path in written:
        assert path.read_bytes() == (_DOCS / "images" / path.name).read_bytes(), path.name
        assert f"](images/{path.name})" in _PAGE


def test_the_example_is_the_softmax_of_its_logits(drawing):
    entropies, largest = {}, {}
    for temperature in (1, 20):
        outputs = scipy.special.softmax(np.array(drawing.LOGITS) / temperature)
        entropies[temperature], largest[temperature] = scipy.stats.entropy(outputs), outputs.max()
    assert (
        f"largest probability of {largest[1]:.3f} at T = 1 and of {largest[20]:.3f} at T = 20; the "
        f"entropy rises from {entropies[1]:.3f} to {entropies[20]:.3f} nats, of at most ln 5 = "
        f"{math.log(len(drawing.LOGITS)):.3f}"
    ) in _TEXT


def test_the_logits_are_those_of_the_committed_run(ours):
    expected = []
    for network in ours:
        mean, gap = network.logits.mean_abs, network.logits.median_top_two_gap
        soft = f"{network.initial.soft_labels.mean_entropy:.3f}" if network.initial else "-"
        scaled = (
            f"{mean / network.temperature:.2f}",
            f"{gap:.1f}",
            f"{gap / network.temperature:.1f}",
        )
        expected.append([f"{mean:.1f}", *scaled, soft, f"{100 * network.test_accuracy:.2f} %"])
    assert _rows("| network | mean abs(z) |") == expected
    first, last = (n.initial.soft_labels.mean_entropy for n in (ours[1], ours[-1]))
    assert (
        f"{first:.3f} nats at T = 1 and {last:.3f} at T = 100, of at most ln 10 = "
        f"{math.log(10):.3f}"
    ) in _TEXT
    assert f"the median gap at T = 100 is {ours[-1].logits.median_top_two_gap / 100:.1f}" in _TEXT


def test_training_starts_as_slowly_as_it_says(ours):
    assert "At T = 100 the loss stays at ln 10 for the first three epochs on MNIST" in _TEXT
    losses = ours[-1].initial.training.loss
    assert losses[:3] == pytest.approx([math.log(10)] * 3, rel=1e-3)
    assert losses[3] < 0.9 * math.log(10)


def test_the_gradients_and_attacks_are_those_of_the_committed_run(ours):
    expected = []
    for network in ours:
        deployed, attack = network.gradients.deployed, network.attacks["jsma_f"]
        assert attack.attempts == 900
        names = ("jsma_f", "jsma_f_exact", "jsma_f_temperature")
        expected.append(
            [
                _power(deployed),
                f"{100 * deployed.float32_zero_samples:.2f} %",
                f"{attack.details['zero_maps']} of {attack.attempts}",
                *(f"{100 * network.attacks[name].success_rate:.2f} %" for name in names),
            ]
        )
    assert _rows("| network | median amplitude") == expected
    first, last = ours[1].gradients, ours[-1].gradients
    assert (
        f"from {_power(first.deployed)} for the network distilled at T = 1 to "
        f"{_power(last.deployed)} for the one at T = 100. At its own temperature, T = "
        f"100, the latter has {_power(last.training)}: larger than the first"
    ) in _TEXT
    assert last.training.median_log10 > first.deployed.median_log10


def test_the_failures_are_explained_by_the_committed_run(mnist, ours):
    five, twenty, hundred = ours[2:]
    stopped = five.attacks["jsma_f"]
    failed = stopped.attempts - stopped.successes
    assert (
        f"{stopped.details['zero_maps']} of {failed} failures at T = 5 stopped at an all-zero map"
        in _TEXT
    )
    for network in (twenty, hundred):
        attack = network.attacks["jsma_f"]
        assert attack.details["zero_maps"] == attack.attempts - attack.successes
    literal = five.attacks["jsma_f_literal"]
    told = literal.details
    assert (
        f"`jsma_f_literal` reaches {100 * literal.success_rate:.2f} % at T = 5, and "
        f"{told['no_admissible_pair'] - told['zero_maps']} of its {literal.attempts} attempts"
    ) in _TEXT
    scaled = [100 * c.value for c in mnist.controls if c.name == "scaled_logits"]
    before = 100 * ours[0].attacks["jsma_f"].success_rate
    low, middle, high = sorted(scaled, reverse=True)
    assert f"from {before:.1f} % to {low:.1f}, {middle:.1f} and {high:.1f} %" in _TEXT
    for network, share in zip(ours[2:], (low, middle, high), strict=True):
        assert 100 * network.attacks["jsma_f"].success_rate == pytest.approx(share, abs=2)


def test_robustness_and_distances_are_those_of_the_committed_run(ours):
    undistilled, distilled = ours[0], ours[-1]
    for network in (undistilled, distilled):
        assert network.attacks["cw_l2"].successes == 180
    record = distilled.robustness["jsma_f"]
    assert record.capped == pytest.approx(record.cap)
    assert record.cap == pytest.approx(112 / 784)
    assert (
        f"at its ceiling, {100 * record.cap:.2f} %, against "
        f"{100 * undistilled.robustness['jsma_f'].capped:.2f} % undistilled"
    ) in _TEXT
    exact = 100 * distilled.robustness["jsma_f_exact"].capped
    assert f"under the same attack without rounding it is {exact:.2f} %" in _TEXT
    distances = [
        f"{n.attacks['cw_l2'].average.mean_distance:.2f}" for n in (undistilled, distilled)
    ]
    assert f"at a mean L2 distance of {' and '.join(distances)} (one random target" in _TEXT
    rates = {name: distilled.attacks[name].success_rate for name in distilled.norm_attacks}
    assert (
        f"PGD within 0.3 goes from {100 * rates['pgd_linf']:.0f} % to "
        f"{100 * rates['pgd_linf_temperature']:.0f} %"
    ) in _TEXT
    assert distilled.attacks["pgd_linf"].settings["epsilon"] == 0.3
    jsma = [100 * n.attacks["jsma_f_temperature"].success_rate for n in (distilled, undistilled)]
    assert f"`jsma_f_temperature` reaches {jsma[0]:.2f} %, undistilled {jsma[1]:.2f} %" in _TEXT
    exact_rate = 100 * distilled.attacks["jsma_f_exact"].success_rate
    assert f"nothing but the rounding removed: {exact_rate:.2f} % at T = 100" in _TEXT


@pytest.mark.parametrize(
    ("gap", "digits"), [("16.6", 24), ("87.3", 126), ("103.3", 149), ("104.0", 150)]
)
def test_the_gaps_are_powers_of_two(gap, digits):
    assert f"{digits * math.log(2):.1f}" == gap
    assert gap in _TEXT
    assert rf"${digits} \ln\, 2$" in _TEXT


def test_float32_ends_at_these_gaps(drawing):
    gaps = np.array([16.5, 16.8, 103.9, 104.1])
    predicted, target = drawing.own_derivatives(gaps, 1.0, np.float32).T
    assert list(predicted > 0) == [True, False, False, False]
    assert list(target > 0) == [True, True, True, False]
    assert np.all(drawing.own_derivatives(gaps, 1.0, np.float64)[:, 1] > 0)
    assert np.all(drawing.own_derivatives(gaps, 20.0, np.float32) > 0)


def test_tensorflow_ends_earlier_on_a_cpu():
    with tf.device("CPU"), tf.GradientTape() as tape:
        logits = tf.constant([[gap, 0.0] for gap in (86.0, 88.0)])
        tape.watch(logits)
        target = tf.nn.softmax(logits)[:, 1]
    gradient = np.abs(tape.gradient(target, logits).numpy())
    assert list(gradient.max(axis=1) > 0) == [True, False]


@pytest.mark.parametrize("page", ["method.md", "glossary.md"])
def test_every_formula_becomes_mathml(page):
    text = (_DOCS / page).read_text()
    formulas = re.findall(r"\$\$(.+?)\$\$", text, re.S)
    formulas += re.findall(r"(?<!\$)\$([^$]+)\$(?!\$)", text)
    assert formulas
    for formula in formulas:
        # What it does not know it leaves as it is written.
        assert "\\" not in converter.convert(formula), formula
