"""What the runs of a comparison are, where their settings differ, what may not be compared."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ddefense import config as config_lib
from ddefense import records
from ddefense.attack_catalog import ATTACKS, taking
from ddefense.reporting import lookup
from ddefense.reporting.comparison import ComparedRun, Comparison

ABSENT = "-"
"""What stands where a run has no such thing."""

_IN_HEADER = ("dataset", "preset", "epochs", "samples", "seed", "reduced")
"""Settings that `about` shows of every run."""
_TRAINING = (
    "temperatures",
    "warm_start_steps",
    "batch_size",
    "learning_rate",
    "momentum",
    "learning_rate_decay",
    "momentum_decay",
    "decay_epochs",
    "dropout",
    "defense",
    "precision",
    "jit_compile",
    "devices",
)
"""Settings that mean nothing for an evaluation, which trains nothing."""
_EFFORT = {
    field.name: attacks
    for field in dataclasses.fields(config_lib.Config)
    if field.name not in _IN_HEADER and (attacks := taking(field.name))
}
"""Settings of how hard attacks try, with the attacks that each one concerns."""
_OF_CONTROLS = ("pgd_restarts",)
"""Those of them that change a check for masked gradients alone, and no attack."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of runs that do not stand in `about`, as text.

    Attributes:
        differing: name -> one value per run; `-` where it means nothing for a run.
        shared: name -> the value of all runs for which it means something.
    """

    differing: Mapping[str, tuple[str, ...]]
    shared: Mapping[str, str]


def about(comparison: Comparison) -> dict[str, tuple[str, ...]]:
    """What each run is: name -> one text per run."""
    rows: dict[str, Callable[[records.Results], str]] = {
        "dataset": lambda r: r.dataset.name,
        "test images": lambda r: f"{r.dataset.num_test:,}",
        "preset": lambda r: r.config.preset + (" (reduced)" if r.config.reduced else ""),
        "epochs": lambda r: ABSENT if r.is_evaluation else f"{r.config.epochs}",
        "seeds": lambda r: f"{r.config.seed}",
        "attacked images": lambda r: f"{len(r.sample_indices)}",
        "version": _version,
        "device": _device,
        "date": lambda r: str(r.environment.get("started") or ABSENT).partition("T")[0],
        "masks gradients": _masks,
        "stops an adaptive attacker": lambda r: lookup.stops(r.verdict),
    }
    return {
        name: tuple(", ".join(dict.fromkeys(map(text, run.results))) for run in comparison.runs)
        for name, text in rows.items()
    }


def _version(results: records.Results) -> str:
    known = results.environment
    commit = f" ({known['commit']})" if known.get("commit") else ""
    return f"{known.get('ddefense') or ABSENT}{commit}"


def _device(results: records.Results) -> str:
    known = results.environment
    gpus = known.get("gpus")
    if isinstance(gpus, list) and gpus:
        return ", ".join(map(str, gpus))
    cores = f", {known['cores']} cores" if known.get("cores") else ""
    return f"{known.get('cpu') or ABSENT}{cores}"


def _masks(results: records.Results) -> str:
    return lookup.told(None if results.verdict is None else results.verdict.masks_gradients)


def settings(comparison: Comparison) -> Settings:
    """The settings in which runs differ, and those that all share.

    Args:
        comparison: of the runs.

    Returns:
        Both. Of attacks, a run that differs shows those that not every run ran.
    """
    configs = [run.runs.first.config for run in comparison.runs]
    everywhere = [name for name in ATTACKS if all(name in c.attacks for c in configs)]
    differing: dict[str, tuple[str, ...]] = {}
    shared: dict[str, str] = {}
    for field in dataclasses.fields(config_lib.Config):
        name = field.name
        if name in _IN_HEADER:
            continue
        values = tuple(_setting(run, name) for run in comparison.runs)
        concerned = {value for value in values if value != ABSENT}
        if len(concerned) <= 1:
            shared.update((name, value) for value in concerned)
        elif name == "attacks":
            differing["attacks that not all ran"] = tuple(
                ", ".join(a for a in c.attacks if a not in everywhere) or ABSENT for c in configs
            )
        else:
            differing[name] = values
    return Settings(differing, shared)


def _setting(run: ComparedRun, name: str) -> str:
    """A setting as text; `-` where it means nothing for the run."""
    results = run.runs.first
    settings = results.config
    adversarial = name.startswith("adversarial_")
    if (
        (results.is_evaluation and (adversarial or name in _TRAINING))
        or (adversarial and settings.defense != "adversarial_training")
        or not _concerns(settings, name)
    ):
        return ABSENT
    return _text(name, getattr(settings, name))


def _concerns(settings: config_lib.Config, name: str) -> bool:
    """Whether a setting concerns one of the attacks that were run, or no attack at all."""
    return any(attack in settings.attacks for attack in _EFFORT.get(name, settings.attacks))


def _text(name: str, value: Any) -> str:
    if name == "attacks":
        return ", ".join(attack for attack in ATTACKS if attack in value)
    if isinstance(value, tuple):  # of temperatures, in whose order nothing lies, or rising kappas
        return ", ".join(f"{number:g}" for number in sorted(value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def warnings(comparison: Comparison) -> list[str]:
    """Where numbers of these runs may not be compared, and what of a run is left out.

    Args:
        comparison: of the runs.

    Returns:
        One sentence or two for each reason, which name what differs; none where nothing does.
    """
    other_data = _data(comparison)
    found = [
        other_data,
        _budget(comparison),
        "" if other_data else _samples(comparison),
        _lost(comparison),
        _unfinished(comparison),
    ]
    return [sentence for sentence in found if sentence]


def _data(comparison: Comparison) -> str:
    """That the test sets are not the same."""
    texts, digests, identities = [], set(), set()
    # A user's network brings its own range of values; its evaluation puts all into one.
    ranges = {_range(run) for run in comparison.runs} - {""}
    names = {tuple(run.runs.first.dataset.class_names) for run in comparison.runs}
    for run in comparison.runs:
        results = run.runs.first
        data = results.dataset
        shape = " x ".join(map(str, data.image_shape))
        digest = results.environment.get("data_sha256")
        texts.append(
            f"{run.label} has {data.name} ({data.num_test:,} test images of {shape}"
            + (_range(run) if len(ranges) > 1 else "")
            + (f", classes {', '.join(data.class_names)}" if len(names) > 1 else "")
            + (f", sha256 {str(digest)[:12]})" if digest else ")")
        )
        identities.add((data.name, data.num_test, data.image_shape))
        digests.update([str(digest)] if digest else [])
    if all(len(found) < 2 for found in (identities, digests, ranges, names)):
        return ""
    return (
        f"Other data: {'; '.join(texts)}. Their numbers are of different problems; compare what "
        "each run shows, not one number with another."
    )


def _range(run: ComparedRun) -> str:
    """The range of values as text; empty for an evaluation."""
    results = run.runs.first
    low, high = results.dataset.value_range
    return "" if results.is_evaluation else f", values in [{low:g}, {high:g}]"


def _budget(comparison: Comparison) -> str:
    """That attacks tried harder in one run than in another, or at other targets."""
    differing: list[str] = []
    affected: set[str] = set()
    for name, attacks in _EFFORT.items():
        if name in _OF_CONTROLS:
            continue
        several = [attack for attack in attacks if _count(comparison, attack) > 1]
        values = {
            _setting(run, name)
            for run in comparison.runs
            if any(attack in run.runs.first.config.attacks for attack in several)
        }
        if len(values) > 1:
            differing.append(name)
            affected.update(several)
    if not differing:
        return ""
    names = [lookup.attack_label(name) for name in ATTACKS if name in affected]
    return (
        f"Other budgets: {', '.join(differing)} {'differs' if len(differing) == 1 else 'differ'}. "
        f"Success and distance of these attacks cannot be compared: {'; '.join(names)}."
    )


def _count(comparison: Comparison, attack: str) -> int:
    """How many runs ran an attack: with one there is nothing to compare."""
    return sum(attack in run.runs.first.config.attacks for run in comparison.runs)


def _samples(comparison: Comparison) -> str:
    """That other test images were attacked, though the test set is the same."""
    attacked = {
        run.label: {tuple(results.sample_indices) for results in run.results}
        for run in comparison.runs
    }
    if len(set(map(frozenset, attacked.values()))) < 2:
        return ""
    every = [set(indices) for found in attacked.values() for indices in found]
    counts = ", ".join(
        f"{' or '.join(str(n) for n in sorted({len(indices) for indices in found}))} in {label}"
        for label, found in attacked.items()
    )
    return (
        f"Other attacked images: {counts}; {len(set.intersection(*every))} of them are the same in "
        "every run. Part of any difference is that of the images."
    )


def _lost(comparison: Comparison) -> str:
    """Which networks did not learn."""
    found = []
    for run in comparison.runs:
        several = len(run.runs.by_seed) > 1
        for seed, results in run.runs.by_seed.items():
            names = [
                lookup.network_label(network)
                for network in results.networks
                if not lookup.usable(results, network)
            ]
            if names:
                where = f"{run.label}, seed {seed}" if several else run.label
                found.append(f"{', '.join(names)} in {where}")
    if not found:
        return ""
    return (
        f"Did not learn: {'; '.join(found)}. Such a network says nothing about the defence; means "
        "over seeds leave it out."
    )


def _unfinished(comparison: Comparison) -> str:
    """Which seeds have no results yet."""
    found = [
        f"seed {', '.join(map(str, run.runs.unfinished))} of {run.label}"
        for run in comparison.runs
        if run.runs.unfinished
    ]
    if comparison.unfinished:
        found.append(f"seed {', '.join(map(str, comparison.unfinished))}")
    return f"Not finished, and not counted: {'; '.join(found)}." if found else ""
