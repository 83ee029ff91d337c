"""Several runs side by side as data, one value per run; how they are shown is for others to say.

Settings and what cannot be compared are in `comparability`, tables in `tables.comparison`.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from ddefense import records
from ddefense.attack_catalog import ATTACKS, JSMA_ATTACKS
from ddefense.reporting import claims as claims_lib
from ddefense.reporting import lookup, outcomes, runs, spread
from ddefense.reporting.answers import Holds

_RESULTS = "results.json"
_SEEK_NO_DISTANCE = tuple(
    name for name, spec in ATTACKS.items() if not spec.minimises and name not in JSMA_ATTACKS
)
"""Attacks whose distance is set beforehand, so that it says nothing about the network."""


class NoRunError(ValueError):
    """What was named is no run, or was named before; the message says which."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One column of a comparison: a run, or the seeds of one folder.

    Attributes:
        label: the end of its path that tells it from the others.
        path: as it was given.
        runs: the results by seed; of a run of one seed, that one.
    """

    label: str
    path: pathlib.Path
    runs: runs.Runs

    @property
    def results(self) -> list[records.Results]:
        """The results of each seed."""
        return list(self.runs.by_seed.values())

    def pairs(self, network: str) -> list[tuple[records.Results, records.NetworkRecord]]:
        """The results of each seed with the network of a label, where they have it."""
        return [
            (results, record)
            for results in self.results
            for record in results.networks
            if lookup.network_label(record) == network
        ]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs to be compared.

    Attributes:
        runs: at least one, in the order in which they were named.
        unfinished: seeds without results, of runs that are the seeds of one folder.
    """

    runs: tuple[ComparedRun, ...]
    unfinished: tuple[int, ...] = ()

    def networks(self) -> list[str]:
        """Labels of the networks of all runs: undistilled, by rising T, then all others."""
        places: dict[str, tuple[int, float]] = {}
        for run in self.runs:
            for results in run.results:
                for network in results.networks:
                    label = lookup.network_label(network)
                    place = (runs.ORDER.index(network.defense), network.temperature)
                    places[label] = min(place, places.get(label, place))
        return sorted(places, key=lambda label: (*places[label], label))

    def attacks(self) -> list[str]:
        """Attacks measured in any run, in the order of the catalogue."""
        return outcomes.attacks_in(self._records())

    def attack_label(self, attack: str) -> str:
        """The readable name of an attack, with kappa where that is the same in all runs."""
        labels = {outcomes.label([n], attack) for n in self._records() if attack in n.norm_attacks}
        return labels.pop() if len(labels) == 1 else lookup.attack_label(attack)

    def norm(self, attack: str) -> str:
        """The norm by which an attack is measured, as `L2`."""
        return outcomes.norm(self._records(), attack)

    def _records(self) -> list[records.NetworkRecord]:
        return [n for run in self.runs for results in run.results for n in results.networks]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one run says about one quantity.

    Attributes:
        value: of a run of one seed, what was measured; of several, the mean over the seeds at
            which the network learnt.
        low: of one seed, the lower end of the 95 % bootstrap interval over samples, None where the
            quantity has none; of several, the smallest value.
        high: the upper end, or the largest value.
        seeds: how many have a value.
        learnt: false if this network of a run of one seed did not learn.
    """

    value: float
    low: float | None = None
    high: float | None = None
    seeds: int = 1
    learnt: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """One quantity of one network in every run.

    Attributes:
        network: label of the network.
        name: what was measured: `accuracy`, `success`, `distance`, `robustness`,
            `gradient_amplitude` or `all_zero_jacobians`.
        attack: name of the attack that it belongs to; empty for none.
        unit: `percent`, `features`, `L2`, `L0`, `Linf` or `log10`.
        label: what tables call it, with the unit.
        show: turns a number of it into text.
        brief: whether it belongs into a brief comparison.
        values: one per run, in their order; None where it was not measured.
    """

    network: str
    name: str
    attack: str
    unit: str
    label: str
    show: Callable[[float], str]
    brief: bool
    values: tuple[Measured | None, ...]


@dataclasses.dataclass(frozen=True)
class RunAnswer:
    """What one run says about one claim.

    Attributes:
        yes: seeds at which the claim holds.
        at_a_loss: seeds at which it holds, but much accuracy was lost.
        no: seeds at which it does not.
        unknown: seeds that cannot tell.
        orientation: whether the claim was made on other data than the run's.
        words: of a run of one seed, the answer in words; of several, empty.
        ours: of a run of one seed, our value as text; of several, `-`.
        value: the number that was judged, over the seeds that could tell; None without one.
        note: of a run of one seed, what a reader must know beside it; of several, empty.
    """

    yes: int
    at_a_loss: int
    no: int
    unknown: int
    orientation: bool
    words: str
    ours: str
    value: Measured | None
    note: str

    @property
    def holds(self) -> Holds | Literal["differs"]:
        """The answer, where all seeds that can tell say the same."""
        said: dict[Holds, int] = {"yes": self.yes, "at a loss": self.at_a_loss, "no": self.no}
        told = [holds for holds, seeds in said.items() if seeds]
        if not told:
            return "inconclusive"
        return told[0] if len(told) == 1 else "differs"


@dataclasses.dataclass(frozen=True)
class ComparedClaim:
    """One claim and the answer of every run; None of a run for which it is not shown."""

    claim: claims_lib.Claim
    answers: tuple[RunAnswer | None, ...]


def load(paths: Sequence[pathlib.Path]) -> Comparison:
    """Reads runs.

    Args:
        paths: of each run its directory or its `results.json`; or a folder of runs that differ in
            nothing but the seed, `seed_<seed>`.

    Returns:
        The runs in this order.

    Raises:
        NoRunError: if there is no path, no results at one, or a run twice.
        RunError: if results are damaged or of another schema, or seeds of one folder do not belong
            together.
    """
    if not paths:
        raise NoRunError("expected one run or more, such as runs/digits_quick; received none.")
    found: dict[pathlib.Path, tuple[pathlib.Path, records.Results]] = {}
    loaded = []
    for path in paths:
        by_file = _files(path)
        read = _read(path, by_file)
        for file, results in zip(by_file, read.by_seed.values(), strict=True):
            for other_file, (other_path, other) in found.items():
                if file.resolve() == other_file or results == other:
                    raise NoRunError(
                        f"expected each run once; received {other_path} and {path}, which both "
                        f"hold the results of {file}."
                    )
            found[file.resolve()] = path, results
        loaded.append(read)
    labels = _labels(paths)
    return Comparison(
        tuple(
            ComparedRun(label=label, path=path, runs=read)
            for label, path, read in zip(labels, paths, loaded, strict=True)
        )
    )


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    """The results that a path stands for: one file, or one for each seed."""
    if path.is_file():
        return [path]
    if (path / _RESULTS).is_file():
        return [path / _RESULTS]
    seeds = runs.seeds_in(path)
    files = [path / f"seed_{seed}" / _RESULTS for seed in seeds]
    if not any(file.exists() for file in files):
        raise NoRunError(
            f"expected a run: a directory with {_RESULTS}, a folder of such directories named "
            f"seed_<seed>, or a {_RESULTS}; received {str(path)!r}, which "
            + ("has no results." if path.exists() else "does not exist.")
        )
    return [file for file in files if file.exists()]


def _read(path: pathlib.Path, files: list[pathlib.Path]) -> runs.Runs:
    if path.is_dir() and not (path / _RESULTS).is_file():
        return runs.load(path)
    results = records.load(records.Results, files[0])
    return runs.Runs({results.config.seed: results})


def _labels(paths: Sequence[pathlib.Path]) -> list[str]:
    """The shortest ends of paths, of equally many parts, that tell them apart."""
    parts = [_named(path) for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        labels = [_printable(pathlib.PurePath(*part[-length:])) for part in parts]
        if len(set(labels)) == len(labels):
            break
    return labels


def _printable(path: pathlib.PurePath) -> str:
    """A path as text; bytes that are no UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _named(path: pathlib.Path) -> tuple[str, ...]:
    """The parts of a path that name a run: `results.json` names none."""
    absolute = path.absolute().resolve()
    return (absolute.parent if absolute.name == _RESULTS else absolute).parts


def measures(comparison: Comparison) -> list[Measure]:
    """Everything that is compared of the networks; a row that no run has is left out.

    Args:
        comparison: of the runs.

    Returns:
        Of each network its accuracy, every attack's success, distance and robustness, and its
        gradients. The distance of Carlini and Wagner's attacks is that at one random wrong class
        per image, which every run has; an attack with a given epsilon has none.
    """
    quantities = list(_quantities(comparison))
    rows = [
        quantity.of(network, comparison.runs)
        for network in comparison.networks()
        for quantity in quantities
    ]
    return [row for row in rows if any(value is not None for value in row.values)]


_Value = Callable[[records.NetworkRecord], Measured | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Quantity:
    """A `Measure` without network and values, and how its value is found."""

    name: str
    unit: str
    label: str
    value: _Value
    show: Callable[[float], str]
    attack: str = ""
    brief: bool = False

    def of(self, network: str, compared: Sequence[ComparedRun]) -> Measure:
        return Measure(
            network=network,
            name=self.name,
            attack=self.attack,
            unit=self.unit,
            label=self.label,
            show=self.show,
            brief=self.brief,
            values=tuple(_measured(run, network, self.value) for run in compared),
        )


def _of_gradients(
    network: records.NetworkRecord, value: Callable[[records.GradientRecord], float]
) -> Measured | None:
    return None if network.gradients is None else Measured(value(network.gradients.deployed))


_ONE_DIGIT, _TWO_DIGITS = "{:.1f}".format, "{:.2f}".format
_ACCURACY = _Quantity(
    name="accuracy",
    unit="percent",
    label="accuracy %",
    value=lambda n: Measured(100 * n.test_accuracy),
    show=_TWO_DIGITS,
    brief=True,
)
_AMPLITUDE = _Quantity(
    name="gradient_amplitude",
    unit="log10",
    label="gradient amplitude, log10",
    value=lambda n: _of_gradients(n, lambda deployed: deployed.median_log10),
    show=_TWO_DIGITS,
)
_ZERO = _Quantity(
    name="all_zero_jacobians",
    unit="percent",
    label="all-zero float32 Jacobians %",
    value=lambda n: _of_gradients(n, lambda deployed: 100 * deployed.float32_zero_samples),
    show=_ONE_DIGIT,
    brief=True,
)


def _quantities(comparison: Comparison) -> Iterator[_Quantity]:
    """What is compared of every network."""
    yield _ACCURACY
    attacks = comparison.attacks()
    telling = outcomes.telling(attacks)
    for attack in attacks:
        label = comparison.attack_label(attack)
        of_jsma = attack in JSMA_ATTACKS
        yield _Quantity(
            name="success",
            unit="percent",
            label=f"{label} %",
            value=_success(attack),
            show=_ONE_DIGIT,
            attack=attack,
            brief=attack in telling,
        )
        if attack not in _SEEK_NO_DISTANCE:
            unit = "features" if of_jsma else comparison.norm(attack)
            yield _Quantity(
                name="distance",
                unit=unit,
                label=f"{label}, mean {unit}",
                value=_distance(attack),
                show=outcomes.significant,
                attack=attack,
                # What JSMA changes is bounded, so that success says it; what C&W needs is not.
                brief=attack in telling and not of_jsma,
            )
        yield _Quantity(
            name="robustness",
            unit="percent",
            label=f"{label}, robustness %",
            value=_robustness(attack),
            show=_TWO_DIGITS,
            attack=attack,
        )
    yield _AMPLITUDE
    yield _ZERO


def _measured(run: ComparedRun, network: str, value: _Value) -> Measured | None:
    """The value of one seed with its own interval, or mean, smallest and largest of several."""
    pairs = run.pairs(network)
    if len(run.runs.by_seed) == 1:
        if not pairs:
            return None
        found = value(pairs[0][1])
        return found and dataclasses.replace(found, learnt=lookup.usable(*pairs[0]))
    learnt = [value(record) for results, record in pairs if lookup.usable(results, record)]
    return _spread([found.value for found in learnt if found is not None])


def _spread(values: Sequence[float]) -> Measured | None:
    found = spread.over(values)
    return None if found is None else Measured(found.mean, found.low, found.high, found.seeds)


def _success(attack: str) -> _Value:
    def value(network: records.NetworkRecord) -> Measured | None:
        found = outcomes.outcome(network, attack)
        return None if found is None else Measured(found.percent, found.low, found.high)

    return value


def _distance(attack: str) -> _Value:
    def value(network: records.NetworkRecord) -> Measured | None:
        record = network.attacks.get(attack)
        if record is None:
            return None
        # JSMA aims at every wrong class on every network; C&W may aim at one on some.
        if record.average is not None and record.max_features is None:
            return _with_interval(record.average.mean_distance, record.average.distance_interval)
        return _with_interval(record.mean_distance, record.distance_interval)

    return value


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> Measured | None:
    return None if value is None else Measured(value, *(interval or (None, None)))


def _robustness(attack: str) -> _Value:
    def value(network: records.NetworkRecord) -> Measured | None:
        found = network.robustness.get(attack)
        return None if found is None else Measured(100 * found.capped)

    return value


def claims(comparison: Comparison) -> list[ComparedClaim]:
    """Every claim that is shown for one of the runs; an evaluation, which trains nothing, has none.

    Args:
        comparison: of the runs.

    Returns:
        The claims in their order, each with one answer per run.
    """
    by_run = [
        [
            {answer.claim.id: answer for answer in claims_lib.answers(results)}
            for results in run.results
            if not results.is_evaluation
        ]
        for run in comparison.runs
    ]
    found = []
    for claim in claims_lib.CLAIMS:
        answers = tuple(
            _answer([answers[claim.id] for answers in by_seed if claim.id in answers])
            for by_seed in by_run
        )
        if any(answer is not None for answer in answers):
            found.append(ComparedClaim(claim, answers))
    return found


def verdicts(comparison: Comparison) -> dict[str, str]:
    """The verdict of each run in words, by its label, and of several seeds each by its own."""
    found = {}
    for run in comparison.runs:
        for seed, results in run.runs.by_seed.items():
            if results.verdict is not None:
                several = len(run.runs.by_seed) > 1
                name = f"{run.label}, seed {seed}" if several else run.label
                found[name] = results.verdict.sentence
    return found


def _answer(answers: Sequence[claims_lib.Answered]) -> RunAnswer | None:
    """The answers of the seeds of one run as one."""
    if not answers:
        return None
    first, alone = answers[0], len(answers) == 1
    said = [answer.answer.holds for answer in answers]
    judged = [a.answer for a in answers if a.answer.holds != "inconclusive"]
    values = [verdict.value for verdict in judged if verdict.value is not None]
    value = Measured(values[0]) if alone and values else _spread(values)
    return RunAnswer(
        yes=said.count("yes"),
        at_a_loss=said.count("at a loss"),
        no=said.count("no"),
        unknown=said.count("inconclusive"),
        orientation=first.orientation,
        words=claims_lib.answer_in_words(first.answer) if alone else "",
        ours=first.answer.ours if alone else "-",
        value=value,
        note=first.answer.note if alone else "",
    )
