"""Runs that differ in nothing but the seed, and the spread of what was measured in them."""

import dataclasses
import pathlib
import re
from collections.abc import Callable
from typing import Any

from ddefense import config as config_lib
from ddefense import records
from ddefense.reporting import lookup, spread
from ddefense.reporting.spread import Spread

Measure = Callable[[records.Results, records.NetworkRecord], float | None]
"""What is looked up in a network of a run; None where it was not measured."""

ORDER = ("none", "distillation", "adversarial_training", "unknown")
"""In which networks are listed, by their defence; then by T. What no run trained is last."""
_DIRECTORY = re.compile(r"seed_(0|[1-9][0-9]*)")


@dataclasses.dataclass(frozen=True)
class Runs:
    """Runs that differ in nothing but the seed.

    Attributes:
        by_seed: the results of each seed, by rising seed; at least one.
        unfinished: seeds whose directory holds no results yet.
    """

    by_seed: dict[int, records.Results]
    unfinished: tuple[int, ...] = ()

    @property
    def first(self) -> records.Results:
        """The run of the smallest seed, for what all of them share."""
        return next(iter(self.by_seed.values()))

    def networks(self) -> dict[str, records.NetworkRecord]:
        """One network of each name, for what all seeds share, in the order of the results."""
        found: dict[str, records.NetworkRecord] = {}
        for results in self.by_seed.values():
            for network in results.networks:
                found.setdefault(network.name, network)
        ordered = sorted(found.values(), key=lambda n: (ORDER.index(n.defense), n.temperature))
        return {network.name: network for network in ordered}

    def attacks(self) -> list[str]:
        """Readings of JSMA measured at any seed, in the order of `ddefense.config`."""
        return lookup.attacks_in(dataclasses.replace(self.first, networks=self.all_networks()))

    def all_networks(self) -> list[records.NetworkRecord]:
        """Every network of every seed."""
        return [network for results in self.by_seed.values() for network in results.networks]

    def temperatures(self) -> list[float]:
        """Distillation temperatures, rising."""
        return [n.temperature for n in self.networks().values() if n.defense == "distillation"]

    def pairs(self, name: str) -> list[tuple[records.Results, records.NetworkRecord]]:
        """Each run with its network of that name, whether it learnt or not."""
        return [
            (results, network)
            for results in self.by_seed.values()
            for network in results.networks
            if network.name == name
        ]

    def learnt(self, name: str) -> list[tuple[records.Results, records.NetworkRecord]]:
        """Those of the pairs whose network learnt, and the one it was distilled from."""
        return [pair for pair in self.pairs(name) if lookup.usable(*pair)]

    def label(self, name: str) -> str:
        """The label of the network of a name, and at how many seeds it did not learn, if at any."""
        label = lookup.network_label(self.networks()[name])
        lost, seeds = len(self.pairs(name)) - len(self.learnt(name)), len(self.pairs(name))
        return f"{label} (did not learn at {lost} of {seeds} seeds)" if lost else label

    def spread(self, name: str, measure: Measure) -> Spread | None:
        """The spread of a measure over the seeds at which the network of that name learnt."""
        return spread.over(measure(*pair) for pair in self.learnt(name))


def seeds_in(directory: pathlib.Path) -> list[int]:
    """The seeds that have a directory `seed_<seed>`, rising, with or without results."""
    return sorted(
        int(match[1])
        for path in directory.glob("seed_*")
        if path.is_dir() and (match := _DIRECTORY.fullmatch(path.name))
    )


def load(directory: pathlib.Path) -> Runs:
    """Reads the results of every seed that has any.

    Args:
        directory: with one run directory per seed, `seed_<seed>`.

    Returns:
        The runs.

    Raises:
        RunError: if there is none, one cannot be read or is of another seed than its name says,
            or their configurations differ in more than the seed.
    """
    by_seed: dict[int, records.Results] = {}
    unfinished = []
    for seed in seeds_in(directory):
        path = directory / f"seed_{seed}" / "results.json"
        if path.exists():
            by_seed[seed] = records.load(records.Results, path)
            _check_seed(by_seed[seed], seed, path)
        else:
            unfinished.append(seed)
    if not by_seed:
        raise records.RunError(
            f"Expected the results of at least one seed at {directory}/seed_<seed>/results.json, "
            "but there are none. Run with --seeds and without --report_only first."
        )
    _check_alike({seed: results.config for seed, results in by_seed.items()}, directory)
    return Runs(by_seed, tuple(unfinished))


def _check_seed(results: records.Results, seed: int, path: pathlib.Path) -> None:
    if results.config.seed != seed:
        raise records.RunError(
            f"Expected {path} to be of seed {seed}, but its configuration says seed "
            f"{results.config.seed}. Move that directory away."
        )


def _check_alike(configs: dict[int, config_lib.Config], directory: pathlib.Path) -> None:
    """Raises a RunError that names the fields in which configurations differ, seed aside."""
    settings = {seed: _settings(config) for seed, config in configs.items()}
    first = next(iter(settings))
    differences = [
        f"{name} ({settings[first][name]!r} in seed_{first}, {other[name]!r} in seed_{seed})"
        for name in settings[first]
        for seed, other in settings.items()
        if other[name] != settings[first][name]
    ]
    if differences:
        raise records.RunError(
            f"Expected the runs in {directory} to differ in nothing but the seed, but they differ "
            f"in {', '.join(differences)}. Move the runs of other settings away."
        )


def _settings(config: config_lib.Config) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(config).items() if name != "seed"}
