"""Draws the figures of docs/method.md: three of pure maths, two of committed results.

    python docs/method/draw_figures.py docs/images

Nothing is random but for a fixed seed, so the same versions draw the same bytes.
"""

import argparse
import functools
import pathlib
from collections.abc import Callable

import numpy as np
import scipy.special
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddefense import files, records
from ddefense.maths import gradients, saliency
from ddefense.reporting import published
from ddefense.reporting.figures import style

_styled = functools.partial(style.styled, formulas=True)

RESULTS = pathlib.Path(__file__).parents[1] / "results"
RUNS = ("mnist", "digits")
LOGITS = (10.0, 7.0, 3.0, 0.0, -2.0)
"""The example of the page."""

_SUM_ROUNDS = 24 * np.log(2)
"""Gap of two logits from which 1 + exp(-gap) is 1 in float32, which has 24 binary digits."""
_SMALLEST_NORMAL = 126 * np.log(2)
"""Gap at which exp(-gap) is 2^-126; TensorFlow makes 0 of what is smaller."""
_UNDERFLOWS = 150 * np.log(2)
"""Gap from which exp(-gap) rounds to 0, even with the subnormal numbers, down to 2^-149."""
_ZERO = -57.0
"""Where zeros are drawn on an axis of powers of ten."""

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7A5C2E")


@_styled
def softmax() -> Figure:
    """The softmax of one vector of logits, and its entropy, against the temperature."""
    figure = style.figure(3.4)
    left, right = figure.subplots(1, 2)
    temperatures = np.geomspace(0.5, 100, 81)
    outputs = scipy.special.softmax(np.array(LOGITS) / temperatures[:, None], axis=1)
    for index, (logit, color) in enumerate(zip(LOGITS, _COLORS, strict=True), start=1):
        label = f"$z_{index}$ = {logit:g}"
        left.plot(temperatures, outputs[:, index - 1], color=color, label=label)
    left.legend()
    left.set_ylim(0, 1)
    left.set_ylabel("$F_i$")
    left.set_title("Softmax at temperature T")
    right.plot(temperatures, scipy.stats.entropy(outputs, axis=1), color=style.INK)
    right.axhline(np.log(len(LOGITS)), color=style.PAPER, linestyle="--", linewidth=1.2)
    right.annotate(
        f"ln {len(LOGITS)}: all classes alike", (0.55, np.log(len(LOGITS)) - 0.09), fontsize=8.5
    )
    right.set_ylim(0, 1.7)
    right.set_ylabel("entropy, nats")
    right.set_title("Entropy of F")
    for axes in (left, right):
        style.temperature_axis(axes, [0.5, 1, 5, 20, 100])
        axes.set_xlabel("temperature T (log scale)")
    return figure


@_styled
def derivative() -> Figure:
    """The derivative of the softmax of two logits against their gap, in float64 and float32."""
    figure = style.figure(4.6)
    axes = figure.subplots()
    # No gap of the grid lies where rounding could differ between machines.
    gaps = np.arange(0.05, 125, 0.25)
    curves = (
        ("T = 1, predicted class's $F_c$, float32", np.float32, 0, 1.0, "#D55E00", "-"),
        ("T = 1, target's $F_t$, float64", np.float64, 1, 1.0, style.PAPER, "--"),
        ("T = 1, target's $F_t$, float32", np.float32, 1, 1.0, "#0072B2", "-"),
        ("T = 20, target's $F_t$, float32", np.float32, 1, 20.0, "#009E73", "-"),
    )
    for label, dtype, output, temperature, color, line in curves:
        found = own_derivatives(gaps, temperature, dtype)[:, output]
        powers = np.full(len(gaps), _ZERO)
        # Rounded, because the last binary digits of float32's exp differ between processors.
        powers[found != 0] = np.round(np.log10(found[found != 0].astype(np.float64)), 3)
        axes.plot(gaps, powers, color=color, linestyle=line, label=label)
    for gap, text in (
        (_SUM_ROUNDS, "$1 + e^{-gap}$\nrounds to 1"),
        (_SMALLEST_NORMAL, "smallest\nnormal\nnumber"),
        (_UNDERFLOWS, "$e^{-gap}$\nrounds to 0"),
    ):
        axes.axvline(gap, color=style.PAPER, linewidth=0.9, linestyle=":")
        axes.annotate(f"{gap:.1f}:\n{text}", (gap + 0.8, -21), fontsize=8.5, va="top")
    axes.set_xlim(0, 125)
    axes.set_ylim(_ZERO - 2, 1)
    ticks = range(0, -51, -10)
    axes.set_yticks([*ticks, _ZERO], [*(f"$10^{{{power}}}$" for power in ticks), "exactly 0"])
    axes.set_xlabel("gap between the logits of predicted class and target")
    axes.set_ylabel("derivative of $F_i$ by its own logit $z_i$")
    axes.set_title("Where the derivative of the softmax vanishes")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def own_derivatives(gaps: np.ndarray, temperature: float, dtype: type[np.floating]) -> np.ndarray:
    """dF_i / dz_i of two logits, `gap` and 0, in the arithmetic of a type.

    Args:
        gaps: of the two logits, shape [N].
        temperature: T > 0.
        dtype: of the computation.

    Returns:
        The derivatives of the predicted class and of the other one, shape [N, 2].
    """
    logits = np.stack([gaps, np.zeros_like(gaps)], axis=1).astype(dtype)
    unit = np.broadcast_to(np.eye(2, dtype=dtype), (len(gaps), 2, 2))
    jacobian = gradients.softmax_jacobian(logits, unit, temperature)
    return np.diagonal(jacobian, axis1=1, axis2=2)


@_styled
def pairs() -> Figure:
    """Which pair JSMA takes of 24 features, from logits and from probabilities."""
    figure = style.figure(3.6)
    # With this seed the two pairs differ, and one feature of the first does not qualify alone.
    alpha, beta = np.random.default_rng(84).normal(size=(2, 1, 24))
    domain = np.ones_like(alpha, np.bool_)
    drawings = (
        ("From logits", alpha, beta, saliency.best_pair(alpha, beta, domain, 1)),
        (
            "From probabilities",
            alpha,
            -alpha,
            saliency.best_pair_of_probabilities(alpha, domain, 1),
        ),
    )
    for axes, (title, a, b, best) in zip(figure.subplots(1, 2), drawings, strict=True):
        chosen = best.features[0]
        axes.plot(a[0], -b[0], ".", color=style.PAPER, label="feature")
        axes.plot(a[0, chosen], -b[0, chosen], "o", color=style.BAD, label="the best pair")
        axes.axhline(0, color=style.PAPER, linewidth=0.8)
        axes.axvline(0, color=style.PAPER, linewidth=0.8)
        axes.set_xlabel(r"$\alpha_p$: raises the target")
        axes.set_ylabel(r"$-\beta_p$: lowers the others")
        axes.set_title(title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@_styled
def logits() -> Figure:
    """Measured: how large the logits of distilled networks are, and how many Jacobians are 0."""
    figure = style.figure(3.6)
    left, right = figure.subplots(1, 2)
    for results, color in _results():
        name = published.dataset_name(results.dataset.name)
        networks = results.distilled()
        temperatures = [network.temperature for network in networks]
        undistilled = results.baseline().logits.mean_abs
        left.plot(
            temperatures,
            [network.logits.mean_abs for network in networks],
            "o-",
            color=color,
            label=name,
        )
        left.plot(temperatures, [undistilled * t for t in temperatures], "--", color=color, lw=1.0)
        right.plot(
            temperatures,
            [100 * network.gradients.deployed.float32_zero_samples for network in networks],
            "o-",
            color=color,
        )
        _temperatures(left, right, temperatures=temperatures)
    left.plot([], [], "--", color=style.INK, lw=1.0, label="T times the undistilled network's")
    left.set_yscale("log")
    left.set_ylabel("mean abs(z) over test images and classes")
    left.set_title("Logits")
    right.set_ylim(0, 102)
    right.set_ylabel("share of test images, %")
    right.set_title("float32 Jacobian exactly 0 at T = 1")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@_styled
def amplitude() -> Figure:
    """Measured: amplitude of the gradients of F at T = 1, as deployed, and at the training T."""
    figure = style.figure(3.9)
    axes = figure.subplots()
    for results, color in _results():
        name = published.dataset_name(results.dataset.name)
        networks = results.distilled()
        temperatures = [network.temperature for network in networks]
        measured = (
            ("at the T of training", "s--", [n.gradients.training for n in networks]),
            ("at T = 1, as deployed", "o-", [n.gradients.deployed for n in networks]),
        )
        for label, line, found in measured:
            powers = [record.median_log10 for record in found]
            axes.plot(temperatures, powers, line, color=color, label=f"{name}, {label}")
        _temperatures(axes, temperatures=temperatures)
    smallest = np.log10(2.0) * -149
    axes.axhline(smallest, color=style.INK, linewidth=1.0, linestyle=":")
    axes.annotate("smallest float32 > 0", (1.0, smallest - 6), fontsize=8.5, va="top")
    ticks = range(0, -501, -100)
    axes.set_yticks(ticks, [f"$10^{{{power}}}$" for power in ticks])
    axes.set_ylabel("median of mean |dF/dx|")
    axes.set_title("Amplitude of the gradients of distilled networks")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "softmax": softmax,
    "derivative": derivative,
    "pairs": pairs,
    "logits": logits,
    "amplitude": amplitude,
}
"""Each is written as `method_<name>.svg`."""


def _results() -> list[tuple[records.Results, str]]:
    loaded = [records.load(records.Results, RESULTS / run / "results.json") for run in RUNS]
    return list(zip(loaded, _COLORS, strict=False))


def _temperatures(*all_axes: Axes, temperatures: list[float]) -> None:
    for axes in all_axes:
        style.temperature_axis(axes, temperatures)


def write(directory: pathlib.Path) -> list[pathlib.Path]:
    """Draws every figure.

    Args:
        directory: where to; it is made.

    Returns:
        The files written.
    """
    written = []
    for name, draw in FIGURES.items():
        path = directory / f"method_{name}.svg"
        with files.atomic_file(path) as temporary:
            temporary.write_bytes(style.save(draw(), "svg", formulas=True))
        written.append(path)
    return written


def main() -> None:
    """Draws into the directory of the command line."""
    parser = argparse.ArgumentParser(description="Draws the figures of docs/method.md.")
    parser.add_argument("directory", type=pathlib.Path)
    write(parser.parse_args().directory)


if __name__ == "__main__":
    main()
