"""The paper's experiment, stage by stage."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
from absl import logging

from ddefense import datasets, exporting, files, measurements, networks, records
from ddefense.config import Config
from ddefense.experiments import attacking, environment, planning, tensorboard
from ddefense.experiments.assessing import Assessor
from ddefense.experiments.dataset_record import dataset_record
from ddefense.experiments.pair import NetworkStages, Trained, load_network
from ddefense.pipeline import workdir
from ddefense.pipeline.executing import Executor, Here
from ddefense.pipeline.stages import Artefact, Place, Stages, finished, place_of
from ddefense.pipeline.storage import Storage

_EXPORT = "export.json"
# In which networks are listed.
_ORDER = ("none", "distillation", "adversarial_training")


@dataclasses.dataclass(frozen=True)
class Job:
    """Where and how runs are done.

    Attributes:
        export_dir: SavedModels go to `<export_dir>/<dataset>_<network>/<version>`, with several
            seeds to `<export_dir>/seed_<seed>/<dataset>_<network>/<version>`.
        data_dir: folder of prepared TFDS data.
        command: recorded with the results.
        executor: does the work.
        storage: where finished stages go, for other machines, beside the run directory.
        tensorboard: whether to write logs to `<run directory>/tensorboard`.
    """

    export_dir: pathlib.Path
    data_dir: pathlib.Path | None = None
    command: str = ""
    executor: Executor = dataclasses.field(default_factory=Here)
    storage: Storage | None = None
    tensorboard: bool = False


def run(config: Config, directory: pathlib.Path, job: Job) -> records.Results:
    """Trains, distills, measures, attacks and exports; finished stages are skipped.

    Args:
        config: what to do.
        directory: the run directory, made if needed; receives `results.json`, `samples.npz` and
            `networks/`.
        job: where and how.

    Returns:
        The results, as written to `results.json`.

    Raises:
        RunError: if the run cannot go on; the message says why.
        ConfigError: if the configuration does not fit the dataset.
        StoppedError: if the run was asked to stop.
    """
    workdir.check(directory, config)
    dataset = _load(config, job.data_dir)
    with workdir.claimed(directory, config):
        ours = _Run(config, directory, job.export_dir, _place(directory, job.storage))
        sweep = _plan([ours], dataset, job.executor)
        return _submit(ours, dataset, sweep, job)()


def run_seeds(
    configs: Sequence[Config], directory: pathlib.Path, job: Job
) -> list[records.Results]:
    """Repeats a run with several seeds.

    Args:
        configs: one per seed, alike but for the seed.
        directory: each run goes to `<directory>/seed_<seed>`.
        job: where and how.

    Returns:
        The results of each seed.

    Raises:
        RunError: if a run cannot go on; the message says why.
        ConfigError: if the configuration does not fit the dataset.
        StoppedError: if the run was asked to stop.
    """
    workdir.check_seeds(directory, configs)
    dataset = _load(configs[0], job.data_dir)
    runs = []
    for config in configs:
        own = workdir.seed_directory(directory, config.seed)
        storage = None if job.storage is None else job.storage.within(own.name)
        runs.append(_Run(config, own, job.export_dir / own.name, _place(own, storage)))
    with workdir.held(directory), contextlib.ExitStack() as claims:
        sweep = _plan(runs, dataset, job.executor)
        collects: list[Callable[[], records.Results]] = []
        results = []
        for ours in runs:
            logging.info("seed %d", ours.config.seed)
            claims.enter_context(workdir.claimed(ours.directory, ours.config))
            collects.append(_submit(ours, dataset, sweep, job))
            # Where several tasks are done at a time, those of the next seed should not wait.
            if job.executor.at_once <= 1:
                results.append(collects.pop()())
        return results + [collect() for collect in collects]


@dataclasses.dataclass(frozen=True)
class _Run:
    """One configuration with one seed, and where it goes."""

    config: Config
    directory: pathlib.Path
    export_dir: pathlib.Path
    place: Place


def _place(directory: pathlib.Path, storage: Storage | None) -> Place:
    return dataclasses.replace(place_of(directory), storage=storage)


def _load(config: Config, data_dir: pathlib.Path | None) -> datasets.Dataset:
    """The dataset, if the configuration fits it and everything for it is installed."""
    attacking.check_installed(config)
    dataset = datasets.load(config.dataset, data_dir=data_dir)
    attacking.check_fits(config, dataset)
    return dataset


def _plan(runs: Sequence[_Run], dataset: datasets.Dataset, executor: Executor) -> planning.Sweep:
    """Says what will be done, from a few timed steps if there is anything to do."""
    rates = planning.Rates(train=0.0, forward=0.0, backward=0.0)
    config = runs[0].config
    names = [stage.name for stage in planning.plan(config, dataset, rates)]
    if not all(finished(ours.place, name) for ours in runs for name in names):
        rates = planning.measure_rates(config, dataset)
    sweep = planning.Sweep(
        [(ours.place, planning.plan(ours.config, dataset, rates)) for ours in runs],
        executor.at_once,
    )
    sweep.announce(planning.memory_bytes(config, dataset))
    return sweep


def _submit(
    ours: _Run, dataset: datasets.Dataset, sweep: planning.Sweep, job: Job
) -> Callable[[], records.Results]:
    """Has all networks of a run made and attacked.

    Returns:
        A function that waits for that, does the rest and gives the results.
    """
    config, directory = ours.config, ours.directory
    process = environment.Process(job.command)
    stages = Stages(
        directory,
        made_by=environment.provenance,
        when_done=functools.partial(sweep.finish, ours.place),
        executor=job.executor,
        place=ours.place,
    )
    logs = tensorboard.Logs(
        directory / "tensorboard" if job.tensorboard else None, live=isinstance(job.executor, Here)
    )
    makers = NetworkStages(stages, config, dataset, logs.watch)
    baseline = makers.baseline()
    samples = attacking.choose_samples(stages, config, dataset, baseline)
    assessor = Assessor(stages, config, dataset, baseline, samples, makers.substitute)
    submitted: list[tuple[Trained, Callable[[], records.NetworkRecord]]] = []

    def submit(trained: Trained) -> None:
        for artefact in makers.trainings:
            if artefact.pending is None:
                logs.training(artefact)
        submitted.append((trained, assessor.submit(trained)))

    submit(baseline)
    warm_start = makers.warm_start()
    for temperature in config.temperatures:
        submit(makers.distilled(temperature, baseline, warm_start))
    if config.defense == "adversarial_training":
        submit(makers.adversarially_trained(baseline))

    def collect() -> records.Results:
        network_records = []
        for trained, assessed in submitted:
            network_records.append(assessed())
            _save_deployed(directory, trained, network_records[-1])
        for artefact in makers.trainings:
            logs.training(artefact)
        network_records.sort(key=lambda n: (_ORDER.index(n.defense), n.temperature))
        comparisons = assessor.comparisons(network_records)
        controls = assessor.controls(network_records)
        described_dataset, described = dataset_record(dataset), environment.describe()
        verdict = measurements.verdict(network_records, comparisons, controls, described_dataset)

        def export(trained: Trained) -> records.ExportRecord:
            network = _deployed(trained.network)
            findings = exporting.findings_of(
                trained.name,
                dataset=described_dataset,
                networks=network_records,
                comparisons=comparisons,
                controls=controls,
                environment=described,
            )
            card = _card(trained, network, described, findings)
            base = ours.export_dir / f"{dataset.name}_{trained.name}"
            return _export(stages, trained, network, card, base)

        exports = [export(trained) for trained, _ in submitted]
        indices = attacking.load_samples(samples)
        found = records.Samples(
            dataset.test.images[indices],
            dataset.test.labels[indices],
            indices,
            assessor.outcomes,
            assessor.probabilities,
            assessor.attempts,
        )
        results = records.Results(
            dataset=described_dataset,
            config=config,
            environment=process.environment(stages.done),
            timings=process.timings(stages.done),
            architecture=measurements.architecture(load_network(baseline.network)),
            sample_indices=indices.tolist(),
            networks=network_records,
            comparisons=comparisons,
            exports=exports,
            controls=controls,
            verdict=verdict,
        )
        workdir.leave(directory, results, found)
        logs.sweep(results)
        return results

    return collect


def _deployed(artefact: Artefact) -> keras.Model:
    return networks.with_temperature(load_network(artefact), 1.0)


def _save_deployed(
    directory: pathlib.Path, trained: Trained, record: records.NetworkRecord
) -> None:
    """Saves the deployed network, unless its weights are those of the file that is there."""
    path = directory / "networks" / f"{trained.name}.keras"
    try:
        saved = exporting.weights_of(networks.load(path))[1] if path.exists() else None
    except ValueError:
        saved = None
    if saved != record.weights_sha256:
        with files.atomic_file(path) as temporary:
            _deployed(trained.network).save(temporary)


def _card(
    trained: Trained,
    network: keras.Model,
    environment: dict[str, Any],
    findings: exporting.Findings,
) -> records.ModelCard:
    try:
        return exporting.card_of(
            network, name=trained.name, environment=environment, findings=findings
        )
    except ValueError as error:  # changed by somebody while the run was at work
        raise records.RunError(f"{trained.name}: {error} The same command measures it.") from error


def _export(
    stages: Stages,
    trained: Trained,
    network: keras.Model,
    card: records.ModelCard,
    base: pathlib.Path,
) -> records.ExportRecord:
    """Exports a network with its card below `base`, unless that was done and is still there."""
    stage = f"export_{trained.name}"
    stages.forget(stage, unless=lambda directory: _is_exported(directory, base, card))

    def work(partial: pathlib.Path) -> None:
        # A process that was killed right after the export has left a version and no stage.
        exported = exporting.adopt(network, base, card) or exporting.export_for_serving(
            network,
            base,
            class_names=tuple(card.class_names),
            value_range=card.value_range,
            notes=exporting.notes(card),
        )
        record = records.ExportRecord(
            network=trained.name,
            path=str(exported.path),
            max_difference=exported.max_difference,
        )
        records.dump(record, partial / _EXPORT)

    artefact = stages.run(stage, {}, [trained.network], work, kind="export")
    return records.load(records.ExportRecord, artefact.directory / _EXPORT)


def _is_exported(stage: pathlib.Path, base: pathlib.Path, card: records.ModelCard) -> bool:
    """Whether a stage's SavedModel is still there, below the directory asked for, with its card."""
    try:
        path = pathlib.Path(records.load(records.ExportRecord, stage / _EXPORT).path)
    except records.RunError:
        return False
    return path.parent == base and exporting.is_export_of(path, card)
