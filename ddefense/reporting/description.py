"""What was run, in words: the settings, and where they are not the paper's literal protocol."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ddefense import config as config_lib
from ddefense import markdown, records
from ddefense.attack_catalog import JSMA_ATTACKS, taking
from ddefense.reporting import lookup, published

_PROTOCOL: dict[str, Callable[[Any], str]] = {
    "temperatures": lambda values: ", ".join(f"{t:g}" for t in sorted(values)),
    "epochs": str,
    "warm_start_steps": str,
    "batch_size": str,
    "learning_rate": "{:g}".format,
    "momentum": "{:g}".format,
    "learning_rate_decay": "{:g}".format,
    "momentum_decay": "{:g}".format,
    "decay_epochs": str,
    "dropout": "{:g}".format,
    "samples": str,
    "theta": "{:g}".format,
    "max_features": str,
}
"""The settings that make the protocol, with their forms; others change how it is carried out."""

EFFORT = {
    field.name: attacks
    for field in dataclasses.fields(config_lib.Config)
    if field.name not in _PROTOCOL and (attacks := taking(field.name))
}
"""Settings of how hard attacks beyond the paper's try, with the attacks that each one concerns."""


def title(settings: config_lib.Config, seeds: str = "") -> str:
    """The heading of a report, and below it whether the run is reduced.

    Args:
        settings: of the run.
        seeds: which seeds, for the report of several.

    Returns:
        Markdown.
    """
    reduced = " (reduced)" if settings.reduced else ""
    what = markdown.text(f"{settings.dataset}: {settings.preset}")
    text = f"# Defensive distillation on {what}{reduced}{seeds}"
    if not settings.reduced:
        return text
    return (
        f"{text}\n\n**Reduced run**: fewer epochs, temperatures or samples than the paper's. "
        "Its numbers show that everything works; they do not reproduce the paper."
    )


def departures(settings: config_lib.Config) -> str:
    """Where a run leaves the literal protocol, its attacks, and float32; empty where nowhere."""
    literal = config_lib.preset("paper", settings.dataset)
    found = []
    for name, show in _PROTOCOL.items():
        ours, theirs = show(getattr(settings, name)), show(getattr(literal, name))
        if ours != theirs:
            found.append(f"{name.replace('_', ' ')} {ours} instead of {theirs}")
    sentences = []
    if found:
        sentences.append(
            f"**Not the literal protocol** (preset {markdown.code(settings.preset)}): "
            f"{'; '.join(found)}."
        )
    sentences += _less_effort(settings, literal)
    if settings.precision != "float32":
        sentences.append(
            "**Not trained in float32**: the hidden layers computed in "
            f"{markdown.text(settings.precision)} while training; everything else, measurements "
            "and attacks included, is float32."
        )
    return " ".join(sentences)


def _less_effort(settings: config_lib.Config, full: config_lib.Config) -> list[str]:
    found = []
    for name, attacks in EFFORT.items():
        ours, theirs = getattr(settings, name), getattr(full, name)
        if ours != theirs and any(attack in settings.attacks for attack in attacks):
            found.append(f"{name.replace('_', ' ')} {_listed(ours)} instead of {_listed(theirs)}")
    wanted = [name for name in full.attacks if name not in JSMA_ATTACKS]
    missing = [name for name in wanted if name not in settings.attacks]
    if missing:
        found.append(f"not run: {', '.join(missing)}")
    if not found:
        return []
    return [f"**Attacks beyond the paper's differ from preset `paper`**: {'; '.join(found)}."]


def _listed(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{number:g}" for number in value) or "none"
    return f"{value:g}"


def rows(*runs: records.Results) -> dict[str, str]:
    """The settings of a run, or of runs that differ in nothing but the seed, as text by name."""
    first = runs[0]
    settings, dataset = first.config, first.dataset
    warm = f"{settings.warm_start_steps} steps at T = 1 on hard labels"
    attempts = {a.attempts for run in runs for n in run.networks for a in n.readings.values()}
    seconds = sum(
        seconds for run in runs for stage, seconds in run.timings.items() if stage != "this_process"
    )
    text = {
        "dataset": f"{dataset.name}, {' x '.join(map(str, dataset.image_shape))}, "
        f"{dataset.num_train} training and {dataset.num_test} test images",
        "test values after standardisation": _standardized(dataset),
        "preset": settings.preset + (" (reduced)" if settings.reduced else ""),
        "temperatures T": ", ".join(f"{t:g}" for t in sorted(settings.temperatures)),
        "epochs": f"{settings.epochs}",
        "warm start": warm if settings.warm_start_steps else "none (the literal protocol)",
        "learning rate": f"{settings.learning_rate:g}, decay: "
        f"{decay(settings, settings.learning_rate_decay)}",
        "momentum": f"{settings.momentum:g}, decay: {decay(settings, settings.momentum_decay)}",
        "precision": precision(settings),
        "compiled with XLA": compiled(settings),
        "CPU threads per operation": threads(settings),
        "devices per training": devices(settings),
        "seed" if len(runs) == 1 else "seeds": ", ".join(f"{run.config.seed}" for run in runs),
        "attacked samples": f"{len(first.sample_indices)}, each towards "
        f"{len(dataset.class_names) - 1} other classes"
        + (", misclassified ones among them" if settings.misclassified else ""),
        "attempts per network and attack": ", ".join(map(str, sorted(attempts))) or "-",
        "attempts per network and attack by norm": attempts_by_norm(runs),
        "budget": f"{settings.max_features} features, {theta(first)}",
        "time of the stages that ran": lookup.duration(seconds),
    }
    return {name: value for name, value in text.items() if value}


def attempts_by_norm(runs: Sequence[records.Results]) -> str:
    """Counts of attempts of the attacks measured by a norm; empty without any."""
    found = [a.attempts for run in runs for n in run.networks for a in n.norm_attacks.values()]
    return ", ".join(map(str, sorted(set(found))))


def decay(settings: config_lib.Config, factor: float) -> str:
    """What happens to a rate of training every few epochs."""
    if factor == 1:
        return "none"
    text = f"x {factor:g} every {settings.decay_epochs} epochs"
    if settings.epochs <= settings.decay_epochs:
        text += f" (never in {settings.epochs} epochs)"
    return text


def precision(settings: config_lib.Config) -> str:
    """The precision of training."""
    if settings.precision == "float32":
        return "float32"
    return f"hidden layers trained in {settings.precision}, everything else float32"


def compiled(settings: config_lib.Config) -> str:
    """Whether training steps were compiled with XLA."""
    return "training steps" if settings.jit_compile else "no"


def threads(settings: config_lib.Config) -> str:
    """CPU threads per operation."""
    return f"{settings.threads}" if settings.threads else "one per core"


def devices(settings: config_lib.Config) -> str:
    """Devices that each training was split over; empty for one."""
    return f"{settings.devices}" if settings.devices > 1 else ""


def _standardized(dataset: records.DatasetRecord) -> str:
    """The range of the test values that the network's layers see, beside the paper's."""
    known = published.STANDARDIZED_RANGE.get(dataset.name)
    theirs = "" if known is None else f"(paper: {_range(*(v.value for v in known))}, S1)"
    if dataset.standardized_range is not None:
        return f"{_range(*dataset.standardized_range)} {theirs}".rstrip()
    return f"none {theirs}" if theirs else ""


def _range(low: float, high: float) -> str:
    return f"[{low:.2f}, {high:.2f}]"


def theta(results: records.Results) -> str:
    """The theta of the run, and that of attacks which took another."""
    theta = results.config.theta
    taken = {name: a.settings["theta"] for n in results.networks for name, a in n.readings.items()}
    others = [f"{name}: {taken[name]:g}" for name in sorted(taken) if taken[name] != theta]
    return f"theta = {theta:g}" + (f" ({', '.join(others)})" if others else "")
