"""Networks that were trained elsewhere, measured as those of a run are."""

import dataclasses
import pathlib
from typing import Any, TypeAlias

import keras
import numpy as np
import numpy.typing as npt
from absl import logging

from ddefense import config as config_lib
from ddefense import datasets, evidence, measurements, records
from ddefense.attack_catalog import (
    GRADIENT_FREE_ATTACKS,
    PROBABILITY_ATTACKS,
    TEMPERATURE_ATTACKS,
    TRANSFER,
)
from ddefense.config import Config
from ddefense.experiments import adopting, attacking, environment, measuring
from ddefense.experiments.adopting import SavedModel, Source, Subject
from ddefense.experiments.assessing import Assessor
from ddefense.experiments.dataset_record import dataset_record
from ddefense.experiments.pair import Trained, load_network
from ddefense.maths.ranges import from_unit
from ddefense.pipeline import workdir
from ddefense.pipeline.stages import Artefact, Stages
from ddefense.settings import ConfigError

Network: TypeAlias = pathlib.Path | keras.Model
LOW_ACCURACY = 0.5
"""Test accuracy below which the network is doubted, a share; or, of many classes, below five times
that of guessing."""


def settings(
    dataset: datasets.Dataset,
    *,
    preset: str = "quick",
    temperature: float | None = None,
    substitute: bool = False,
    outlier_class: bool = False,
    **changes: Any,
) -> Config:
    """The configuration of a preset for any dataset.

    Args:
        dataset: to evaluate on.
        preset: one of `config.PRESETS`; says how many samples and how much effort.
        temperature: that the network was trained at; without it attacks on logits / T are left
            out.
        substitute: whether there is one; without it `transfer_cw_l2` is left out.
        outlier_class: whether the network has one; with it the targeted PGD joins.
        **changes: fields that replace the preset's, `attacks` among them.

    Returns:
        The configuration, with no more samples and features than there are unless they are asked
        for.

    Raises:
        ConfigError: if the preset is unknown or a field is out of range.
    """
    found = config_lib.preset(preset, dataset.name, **changes)
    if "attacks" not in changes:
        names = tuple(
            name
            for name in found.attacks
            if (temperature is not None or name not in TEMPERATURE_ATTACKS)
            and (substitute or name != TRANSFER)
        )
        found = dataclasses.replace(found, attacks=names)
        if outlier_class:
            found = config_lib.past_outlier_class(found)
    return attacking.fitted(found, dataset, changes)


_CALLED = {"network": "The network", "undistilled": "The undistilled network"}


# Flat, as the function of the library that calls it.
def evaluate(  # noqa: PLR0913
    network: Source,
    dataset: datasets.Dataset,
    config: Config,
    directory: pathlib.Path,
    *,
    undistilled: Network | None = None,
    substitute: Network | None = None,
    temperature: float | None = None,
    outlier_class: bool = False,
    command: str = "",
) -> records.Results:
    """Measures and attacks a network on the test images of a dataset; finished stages are skipped.

    Everything is measured and attacked at T = 1 on images in [0, 1], whatever range the network
    takes: epsilon, theta and distances are in these units. The first test images that the
    undistilled network gets right, or the network itself where there is no other, are attacked.

    The checks for masked gradients that need one network alone go with any attacks, but for
    `iterative_beats_one_step`, which compares `fgsm` and `pgd_linf`. A network through which no
    gradient can be taken is checked for none.

    Args:
        network: a `.keras` file or a network, of functional or sequential layers, that ends in
            logits or in a softmax; or a SavedModel, which is measured as far as it allows.
        dataset: whose test images to use, in the range that the network takes; the training images
            are not looked at.
        config: which attacks, with which settings; those that concern training are not used.
        directory: the run directory, made if needed; receives `results.json` and `samples.npz`.
        undistilled: a network to compare with: the verdict is about both.
        substitute: an undistilled network on which `transfer_cw_l2` makes its samples.
        temperature: T > 0 at which the network was distilled; None if it was not, or nobody knows.
        outlier_class: whether the network's last class, one more than the dataset has, is for
            outliers: the successor of 2017, whose temperature is 1. An image that is given it is
            refused, which is no success of any attack.
        command: recorded with the results.

    Returns:
        The results, as written to `results.json`.

    Raises:
        RunError: if the run cannot go on; the message says why.
        ConfigError: if a network or the configuration does not fit the dataset.
        StoppedError: if the run was asked to stop.
    """
    if outlier_class:
        temperature = _temperature_of_extended(temperature)
    if temperature is not None:
        config_lib.check_temperature(temperature)
    if undistilled is not None and temperature is None:
        raise ConfigError(
            "temperature",
            "expected the T at which the network was distilled, with an undistilled "
            "network to compare it with; received none.",
        )
    if outlier_class and isinstance(network, SavedModel):
        raise ConfigError("outlier_class", "expected with a Keras network; received a SavedModel.")
    _check_attacks(config, substitute=substitute is not None, temperature=temperature)
    attacking.check_installed(config)
    workdir.check(directory, config)
    adopting.check_data(dataset)
    attacking.check_fits(config, dataset)
    sources = {"undistilled": undistilled, "network": network, "substitute": substitute}
    subjects = {
        flag: adopting.prepare(
            flag, source, dataset, outlier_class=outlier_class and flag == "network"
        )
        for flag, source in sources.items()
        if source is not None
    }
    _check_model(config, subjects["network"].model)
    process = environment.Process(command)
    data, unit = adopting.digest_of(dataset), adopting.in_unit_range(dataset)
    with workdir.claimed(directory, config):
        stages = Stages(directory, made_by=environment.provenance)
        adopted = _adopt(stages, subjects, _names(network, undistilled), temperature, data)
        evaluated, baseline = adopted["network"], adopted.get("undistilled")
        measured = {
            flag: measuring.measure(stages, config, unit, each) for flag, each in adopted.items()
        }
        # Before the samples: a network of another dataset may not get enough images right.
        doubts = _warnings(subjects, measured, dataset)
        samples = attacking.choose_samples(stages, config, unit, baseline or evaluated)
        assessor = Assessor(
            stages,
            config,
            unit,
            baseline,
            samples,
            lambda: adopting.adopt(
                stages, "substitute", subjects["substitute"], temperature=1.0, data=data
            ),
            trained_here=False,
        )
        found = [assessor.assess(each, measured[flag]) for flag, each in adopted.items()]
        comparisons, controls = assessor.comparisons(found), assessor.controls(found)
        indices = attacking.load_samples(samples)
        described = dataset_record(dataset)
        results = records.Results(
            dataset=described,
            config=config,
            environment={
                **process.environment(stages.done),
                **{flag: subject.label for flag, subject in subjects.items()},
                **{f"{flag}_sha256": subject.sha256 for flag, subject in subjects.items()},
                "data_sha256": data,
                "warnings": doubts,
            },
            timings=process.timings(stages.done),
            architecture=[]
            if subjects["network"].model is not None
            else measurements.architecture(load_network(evaluated.network)),
            sample_indices=indices.tolist(),
            networks=found,
            comparisons=comparisons,
            exports=[],
            controls=controls,
            verdict=measurements.verdict(found, comparisons, controls, described),
        )
        workdir.leave(directory, results, _samples(dataset, indices, assessor))
    return results


def _check_attacks(config: Config, *, substitute: bool, temperature: float | None) -> None:
    """Refuses attacks that lack what they need, before any work.

    Raises:
        ConfigError: if samples are to be transferred without a substitute, or logits divided by a
            temperature that nobody said.
    """
    if not substitute and TRANSFER in config.attacks:
        raise ConfigError(
            "attacks",
            f"expected a substitute with {TRANSFER}, received none. Name an "
            "undistilled network, or leave that attack out.",
        )
    scaled = [name for name in config.attacks if name in TEMPERATURE_ATTACKS]
    if temperature is None and scaled:
        raise ConfigError(
            "attacks",
            f"expected a temperature with {', '.join(scaled)}, received none. Give the T "
            "that the network was trained at, or leave them out.",
        )


def impossible_on(
    model: records.SavedModelRecord, attacks: tuple[str, ...]
) -> tuple[tuple[str, ...], str]:
    """Which of the attacks cannot be run on a SavedModel, and why.

    Args:
        model: how it is run.
        attacks: names of attacks.

    Returns:
        Their names, none if all can be run, and the reason as the end of a sentence.
    """
    if model.no_gradients:
        possible = set(GRADIENT_FREE_ATTACKS)
        reason = f"without gradients ({model.no_gradients})"
    elif model.outputs == "probabilities":
        possible, reason = set(PROBABILITY_ATTACKS), "on probabilities: they need logits"
    else:
        return (), ""
    return tuple(name for name in attacks if name not in possible), reason


def _check_model(config: Config, model: records.SavedModelRecord | None) -> None:
    if model is None:
        return
    names, reason = impossible_on(model, config.attacks)
    if names:
        raise ConfigError(
            "attacks",
            f"expected attacks that this model allows; received {', '.join(names)}, "
            f"which cannot be run {reason}. Leave them out"
            + (
                ", or name an output that is logits (logits_output)."
                if model.outputs == "probabilities" and not model.no_gradients
                else "."
            ),
        )


def warnings(
    test_accuracy: float,
    dataset: datasets.Dataset,
    *,
    undistilled: float | None,
    name: str,
) -> list[str]:
    """What makes the numbers doubtful; logged as well.

    Args:
        test_accuracy: of a network, a share.
        dataset: that it was measured on.
        undistilled: accuracy of the undistilled network; None without one.
        name: what the sentences call the network.

    Returns:
        Sentences: that the network did not learn (`evidence.learnt`), or that its accuracy is low.
    """
    learnt = evidence.learnt(
        [test_accuracy],
        images=len(dataset.test),
        classes=dataset.num_classes,
        undistilled=undistilled,
    )
    if learnt and test_accuracy >= min(LOW_ACCURACY, 5 / dataset.num_classes):
        return []
    low, high = dataset.value_range
    problem = (
        "attacks on it say little" if learnt else "it did not learn, so attacks on it say nothing"
    )
    warning = (
        f"{name} gets only {100 * test_accuracy:.2f} % of the test images of "
        f"{dataset.name} right: {problem}. Was it trained on another dataset? Does "
        f"it expect images in another range than [{low:g}, {high:g}]?"
    )
    logging.warning("%s", warning)
    return [warning]


def _temperature_of_extended(temperature: float | None) -> float:
    if temperature not in (None, 1.0):
        raise ConfigError(
            "temperature",
            "expected 1, or none, with outlier_class: extended distillation is at "
            f"T = 1; received {temperature:g}.",
        )
    return 1.0


def _names(network: Source, undistilled: Network | None) -> dict[str, str]:
    """What the results call the networks: as their files are, if that tells them apart."""
    sources = {"undistilled": undistilled, "network": network}
    names = {flag: _name(source) or flag for flag, source in sources.items() if source is not None}
    return names if len(set(names.values())) == len(names) else {flag: flag for flag in names}


def _name(source: Source) -> str:
    """Of its file, or of its model's folder, of which it may be a version; empty without one."""
    if isinstance(source, pathlib.Path):
        return source.stem
    if not isinstance(source, SavedModel):
        return ""
    path = source.path.resolve()
    return path.parent.name if path.name.isdigit() else path.name


def _warnings(
    subjects: dict[str, Subject], measured: dict[str, Artefact], dataset: datasets.Dataset
) -> list[str]:
    """What makes the numbers of the networks doubtful, from their accuracy."""
    accuracies = {
        flag: measuring.load_measurements(artefact).test_accuracy
        for flag, artefact in measured.items()
    }
    return [
        warning
        for flag, accuracy in accuracies.items()
        for warning in warnings(
            accuracy,
            dataset,
            undistilled=accuracies.get("undistilled"),
            name=f"{_CALLED[flag]} ({subjects[flag].label})",
        )
    ]


def _adopt(
    stages: Stages,
    subjects: dict[str, Subject],
    names: dict[str, str],
    temperature: float | None,
    data: str,
) -> dict[str, Trained]:
    """Keeps the networks that are evaluated in the run directory, the undistilled one first."""
    known: records.Defense = "unknown" if temperature is None else "distillation"
    return {
        flag: adopting.adopt(
            stages,
            name,
            subjects[flag],
            temperature=temperature if flag == "network" else 1.0,
            data=data,
            defense=known if flag == "network" else "none",
            stage=f"adopt_{flag}",
        )
        for flag, name in names.items()
    }


def _samples(
    dataset: datasets.Dataset,
    indices: npt.NDArray[np.int64],
    assessor: Assessor,
) -> records.Samples:
    """The attacked images and outcomes, back in the range of the dataset."""

    def in_range(outcome: records.AttackOutcome) -> records.AttackOutcome:
        values = from_unit(outcome.values, dataset.value_range)
        return dataclasses.replace(outcome, values=values.astype(np.float32))

    return records.Samples(
        dataset.test.images[indices],
        dataset.test.labels[indices],
        indices,
        {key: in_range(outcome) for key, outcome in assessor.outcomes.items()},
        assessor.probabilities,
        assessor.attempts,
    )
