"""The paper's experiment, stage by stage."""

import functools
import pathlib
from collections.abc import Sequence

import keras
from absl import logging

from ddefense import datasets, exporting, files, measurements, networks, records
from ddefense.config import Config
from ddefense.experiments import attacking, environment, planning, workdir
from ddefense.experiments.assessing import Assessor
from ddefense.experiments.dataset_record import dataset_record
from ddefense.experiments.pair import NetworkStages, Trained, load_network
from ddefense.experiments.stages import Artefact, Stages, finished

_EXPORT = "export.json"
# In which networks are listed.
_ORDER = ("none", "distillation", "adversarial_training")


def run(
    config: Config,
    directory: pathlib.Path,
    *,
    export_dir: pathlib.Path,
    data_dir: pathlib.Path | None = None,
    command: str = "",
) -> records.Results:
    """Trains, distills, measures, attacks and exports; finished stages are skipped.

    Args:
        config: what to do.
        directory: the run directory, made if needed; receives `results.json`, `samples.npz` and
            `networks/`.
        export_dir: SavedModels go to `<export_dir>/<dataset>_<network>/<version>`.
        data_dir: folder of prepared TFDS data.
        command: recorded with the results.

    Returns:
        The results, as written to `results.json`.

    Raises:
        RunError: if the run cannot go on; the message says why.
        ConfigError: if the configuration does not fit the dataset.
        StoppedError: if the run was asked to stop.
    """
    workdir.check(directory, config)
    dataset = _load(config, data_dir)
    with workdir.claimed(directory, config):
        sweep = _plan([(directory, config)], dataset)
        return _run(config, directory, dataset, sweep, export_dir, command)


def run_seeds(
    configs: Sequence[Config],
    directory: pathlib.Path,
    *,
    export_dir: pathlib.Path,
    data_dir: pathlib.Path | None = None,
    command: str = "",
) -> list[records.Results]:
    """Repeats a run with several seeds.

    Args:
        configs: one per seed, alike but for the seed.
        directory: each run goes to `<directory>/seed_<seed>`.
        export_dir: SavedModels go to `<export_dir>/seed_<seed>/<dataset>_<network>/<version>`.
        data_dir: folder of prepared TFDS data.
        command: recorded with the results.

    Returns:
        The results of each seed.

    Raises:
        RunError: if a run cannot go on; the message says why.
        ConfigError: if the configuration does not fit the dataset.
        StoppedError: if the run was asked to stop.
    """
    workdir.check_seeds(directory, configs)
    dataset = _load(configs[0], data_dir)
    runs = [(workdir.seed_directory(directory, config.seed), config) for config in configs]
    with workdir.held(directory):
        sweep = _plan(runs, dataset)
        results = []
        for own_directory, config in runs:
            logging.info("seed %d", config.seed)
            with workdir.claimed(own_directory, config):
                exports = export_dir / own_directory.name
                results.append(_run(config, own_directory, dataset, sweep, exports, command))
        return results


def _load(config: Config, data_dir: pathlib.Path | None) -> datasets.Dataset:
    """The dataset, if the configuration fits it and everything for it is installed."""
    attacking.check_installed(config)
    dataset = datasets.load(config.dataset, data_dir=data_dir)
    attacking.check_fits(config, dataset)
    return dataset


def _plan(runs: Sequence[tuple[pathlib.Path, Config]], dataset: datasets.Dataset) -> planning.Sweep:
    """Says what will be done, from a few timed steps if there is anything to do."""
    rates = planning.Rates(train=0.0, forward=0.0, backward=0.0)
    config = runs[0][1]
    names = [stage.name for stage in planning.plan(config, dataset, rates)]
    if not all(finished(directory, name) for directory, _ in runs for name in names):
        rates = planning.measure_rates(config, dataset)
    sweep = planning.Sweep(
        [(directory, planning.plan(config, dataset, rates)) for directory, config in runs]
    )
    sweep.announce(planning.memory_bytes(config, dataset))
    return sweep


def _run(
    config: Config,
    directory: pathlib.Path,
    dataset: datasets.Dataset,
    sweep: planning.Sweep,
    export_dir: pathlib.Path,
    command: str,
) -> records.Results:
    process = environment.Process(command)
    stages = Stages(
        directory,
        made_by=environment.provenance(),
        when_done=functools.partial(sweep.finish, directory),
    )
    makers = NetworkStages(stages, config, dataset)
    baseline = makers.baseline()
    samples = attacking.choose_samples(stages, config, dataset, baseline)
    assessor = Assessor(stages, config, dataset, baseline, samples, makers.substitute)
    deployed: list[Trained] = []

    def assess(trained: Trained) -> records.NetworkRecord:
        deployed.append(trained)
        record = assessor.assess(trained)
        _save_deployed(directory, trained)
        return record

    network_records = [assess(baseline)]
    warm_start = makers.warm_start()
    for temperature in config.temperatures:
        network_records.append(assess(makers.distilled(temperature, baseline, warm_start)))
    if config.defense == "adversarial_training":
        network_records.append(assess(makers.adversarially_trained(baseline)))
    network_records.sort(key=lambda n: (_ORDER.index(n.defense), n.temperature))
    controls = assessor.controls(network_records)
    verdict = measurements.verdict(network_records, controls, dataset.num_classes)
    described_dataset, described = dataset_record(dataset), environment.describe()

    def export(trained: Trained) -> records.ExportRecord:
        network = _deployed(trained.network)
        findings = exporting.findings_of(
            trained.name,
            dataset=described_dataset,
            networks=network_records,
            controls=controls,
            environment=described,
        )
        card = exporting.card_of(
            network, name=trained.name, environment=described, findings=findings
        )
        return _export(
            stages, trained, network, card, export_dir / f"{dataset.name}_{trained.name}"
        )

    exports = [export(trained) for trained in deployed]

    indices = attacking.load_samples(samples)
    records.Samples(
        dataset.test.images[indices], dataset.test.labels[indices], indices, assessor.outcomes
    ).save(directory / "samples.npz")
    results = records.Results(
        dataset=described_dataset,
        config=config,
        environment=process.environment(stages.done),
        timings=process.timings(stages.done),
        architecture=measurements.architecture(load_network(baseline.network)),
        sample_indices=indices.tolist(),
        networks=network_records,
        exports=exports,
        controls=controls,
        verdict=verdict,
    )
    records.dump(results, directory / "results.json")
    return results


def _deployed(artefact: Artefact) -> keras.Model:
    return networks.with_temperature(load_network(artefact), 1.0)


def _save_deployed(directory: pathlib.Path, trained: Trained) -> None:
    path = directory / "networks" / f"{trained.name}.keras"
    if not path.exists():
        with files.atomic_file(path) as temporary:
            _deployed(trained.network).save(temporary)


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

    artefact = stages.run(stage, {}, [trained.network], work)
    return records.load(records.ExportRecord, artefact.directory / _EXPORT)


def _is_exported(stage: pathlib.Path, base: pathlib.Path, card: records.ModelCard) -> bool:
    """Whether a stage's SavedModel is still there, below the directory asked for, with its card."""
    try:
        path = pathlib.Path(records.load(records.ExportRecord, stage / _EXPORT).path)
    except records.RunError:
        return False
    return path.parent == base and exporting.is_export_of(path, card)
