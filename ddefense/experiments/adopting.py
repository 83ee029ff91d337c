"""Networks that the run did not train: checked, brought to images in [0, 1], and kept with it."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import keras
import numpy as np

from ddefense import attacks, datasets, files, networks, records
from ddefense.attacks import saved_model
from ddefense.datasets import splitting
from ddefense.datasets.checking import OUTLIER_HINT
from ddefense.datasets.sources import UserData
from ddefense.experiments import pair
from ddefense.experiments.pair import NETWORK, Trained
from ddefense.experiments.stages import Artefact, Stages, kept, reading
from ddefense.maths.ranges import to_unit
from ddefense.settings import ConfigError

_MODEL, _RECORD = "saved_model", "saved_model.json"
_UNIT = (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A SavedModel of any maker, to be attacked.

    Attributes:
        path: the folder with `saved_model.pb`.
        record: how it is run, from `attacks.saved_model.describe`.
    """

    path: pathlib.Path
    record: records.SavedModelRecord


Source: TypeAlias = pathlib.Path | keras.Model | SavedModel
"""Where a network comes from: a `.keras` file, the network itself, or a SavedModel."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network that has been checked, and can be kept in a run directory.

    Attributes:
        label: what messages and results call it: its path, or its name.
        sha256: stands for its architecture and weights.
        settings: what else determines how it is run, as for `Stages.run`.
        save: writes it to the directory of a stage.
        model: how it is run, if it is a SavedModel.
        network: the deployed network, if it is one of this process and of no file.
    """

    label: str
    sha256: str
    settings: dict[str, Any]
    save: Callable[[pathlib.Path], None]
    model: records.SavedModelRecord | None = None
    network: keras.Model | None = None


def dataset_of(data: UserData) -> datasets.Dataset:
    """A user's test images as a dataset; the training images are left out.

    Raises:
        ConfigError: if there are no test images.
        RunError: if a stream is no longer what it was.
    """
    if data.test is None or len(data.test) == 0:
        raise ConfigError(
            "data",
            f"expected test images, received none in {data.name}. Keep a share of the images "
            "for testing (test_share), or give a test set.",
        )
    test = splitting.in_memory(data.test)
    return datasets.Dataset(
        name=data.name,
        network="",
        train=datasets.Split(test.images[:0], test.labels[:0]),
        test=datasets.Split(test.images, test.labels),
        class_names=data.class_names,
        value_range=data.value_range,
    )


def in_unit_range(dataset: datasets.Dataset) -> datasets.Dataset:
    """The test images in [0, 1], whatever range the network takes; what attacks work on.

    Epsilon, theta and distances then mean the same for any range.
    """
    if dataset.value_range == _UNIT:
        return dataset
    images = to_unit(dataset.test.images, dataset.value_range).astype(np.float32)
    return dataclasses.replace(
        dataset,
        train=datasets.Split(images[:0], dataset.test.labels[:0]),
        test=datasets.Split(images, dataset.test.labels),
        value_range=_UNIT,
        standardized=False,
    )


def check_data(dataset: datasets.Dataset) -> None:
    """Refuses test images and labels that cannot be attacked, before any work.

    Raises:
        ConfigError: naming what was received and what was expected.
    """
    images, labels = dataset.test.images, dataset.test.labels
    low, high = dataset.value_range
    if len(images) == 0 or len(images) != len(labels):
        raise ConfigError(
            "data",
            f"expected test images, each with a label; received {len(images)} images and "
            f"{len(labels)} labels.",
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= dataset.num_classes))
    if len(wrong):
        raise ConfigError(
            "data",
            f"expected labels in 0..{dataset.num_classes - 1}; received "
            f"{int(labels[wrong[0]])} for test image {wrong[0]}.",
        )
    if not np.all((images >= low) & (images <= high)):  # false for NaN too
        raise ConfigError(
            "data",
            f"expected test images in the value range [{low:g}, {high:g}]; received values "
            f"from {images.min():g} to {images.max():g}.",
        )


def digest_of(dataset: datasets.Dataset) -> str:
    """Stands for the test images and labels, which are all of a dataset that is attacked."""
    found = hashlib.sha256()
    for array in (dataset.test.images, dataset.test.labels):
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def prepare(
    flag: str, source: Source, dataset: datasets.Dataset, *, outlier_class: bool = False
) -> Subject:
    """Checks a network before any work, and brings it to images in [0, 1].

    Args:
        flag: what messages call it.
        source: a `.keras` file or a network, either of which may end in logits or in a softmax, or
            a SavedModel.
        dataset: to attack it on, in the range that the network takes.
        outlier_class: whether its last class is none of the dataset's, but for outliers.

    Returns:
        The network, deployed at T = 1.

    Raises:
        ConfigError: if it is no network, or none for this dataset.
    """
    if isinstance(source, SavedModel):
        return _saved_model(flag, source, dataset)
    if isinstance(source, pathlib.Path):
        try:
            network = networks.load(source)
        except ValueError as error:
            raise ConfigError(f"{flag}{str(error).removeprefix('path')}") from error
        label, digest = str(source), files.sha256(source)
    else:
        network, label, digest = source, source.name, ""
    prefix = f"{flag}: {label}: " if isinstance(source, pathlib.Path) else f"{flag}: "
    try:
        logits = networks.without_softmax(network)
        digest = digest or sha256_of(network)
    except (ValueError, TypeError, NotImplementedError) as error:  # if it cannot be saved
        raise ConfigError(f"{prefix}{error}") from error
    received = (logits.input_shape[1:], logits.output_shape[-1])
    _check_fits(flag, label, received, dataset, outlier_class=outlier_class)
    try:
        logits = of_unit_images(logits, dataset)
        attacks.classifier(logits)
        deployed = networks.with_temperature(logits, 1.0)
        held = not isinstance(source, pathlib.Path)
        if held:  # its maker may go on training it
            deployed = networks.trainable_copy(deployed, 1.0)
    except ValueError as error:
        raise ConfigError(f"{prefix}{error}") from error
    settings = {} if dataset.value_range == _UNIT else {"value_range": list(dataset.value_range)}
    save = functools.partial(_save, deployed)
    return Subject(label, digest, settings, save, network=deployed if held else None)


def adopt(
    stages: Stages,
    name: str,
    subject: Subject,
    *,
    temperature: float | None,
    data: str | None = None,
    defense: records.Defense = "none",
    stage: str | None = None,
) -> Trained:
    """Keeps a copy of a network in the run directory, as if it had been trained there.

    Args:
        stages: of the run.
        name: of the network in this run.
        subject: the network.
        temperature: T that it was trained at; None if it is not known. Then it has that of the
            deployed network, 1, which no attack looks at.
        data: digest of the data that it is attacked on, if the configuration does not name them.
        defense: how it is meant to resist.
        stage: name of the stage, if it is not that of the network.

    Returns:
        What measurements and attacks take.
    """
    settings = {"sha256": subject.sha256, "temperature": temperature, **subject.settings}
    if data is not None:
        settings["data"] = data
    artefact = stages.run(stage or name, settings, [], subject.save)
    if subject.network is not None:
        pair.held[artefact] = subject.network
    return Trained(name, 1.0 if temperature is None else temperature, artefact, defense)


# Every attack and measurement of a network starts from it, and its compiled functions stay with it.
@kept
def load_outputs(artefact: Artefact) -> keras.Model:
    """The network of a stage: images -> logits, or what a SavedModel gives; not to be changed."""
    record = load_record(artefact)
    if record is None:
        return pair.load_logits(artefact)
    with reading(artefact):
        signature = saved_model.load_signature(artefact.directory / _MODEL, record.signature)
    return saved_model.network_of(signature, record)


# Its compiled functions serve every attack that shares them.
@kept
def load_attacked(
    artefact: Artefact, bounds: tuple[float, float], num_classes: int, logit_scale: float
) -> tuple[keras.Model, attacks.Classifier]:
    """The network of a stage, which judges, and the same as attacks take it.

    Args:
        artefact: of the stage.
        bounds: smallest and largest value of a feature.
        num_classes: of the dataset; one more of the network is for outliers.
        logit_scale: by which to multiply its logits.
    """
    record, network = load_record(artefact), load_outputs(artefact)
    if logit_scale != 1.0:
        network = networks.with_scaled_logits(network, logit_scale)
    attacked = attacks.classifier(
        network,
        "logits" if record is None else record.outputs,
        bounds=bounds,
        outlier_class=num_classes if network.output_shape[-1] > num_classes else None,
    )
    return network, attacked


def load_record(artefact: Artefact) -> records.SavedModelRecord | None:
    """How the network of a stage is run, if it is a SavedModel."""
    path = artefact.directory / _RECORD
    if not path.exists():
        return None
    with reading(artefact):
        return records.load(records.SavedModelRecord, path)


def _check_fits(
    flag: str,
    label: str,
    received: tuple[tuple[int | None, ...], int],
    dataset: datasets.Dataset,
    *,
    outlier_class: bool = False,
) -> None:
    shape, classes = received
    expected = dataset.num_classes + outlier_class
    fits = len(shape) == 3 and all(
        size in (None, ours) for size, ours in zip(shape, dataset.image_shape, strict=True)
    )
    if not fits or classes != expected:
        one_more = " with the outlier class" if outlier_class else ""
        hint = f" {OUTLIER_HINT}" if classes == dataset.num_classes + 1 else ""
        raise ConfigError(
            flag,
            f"expected a network for {dataset.name}, images of shape "
            f"{dataset.image_shape} and {expected} classes{one_more}; received one for {shape} "
            f"and {classes} at {label}.{hint}",
        )


def of_unit_images(logits: keras.Model, dataset: datasets.Dataset) -> keras.Model:
    """The network behind a layer that brings images in [0, 1] to its range, if it takes others."""
    if dataset.value_range == _UNIT and logits.input_shape[1:] == dataset.image_shape:
        return logits
    low, high = dataset.value_range
    name = networks.unused_name("unit_images", logits)
    images = keras.Input(dataset.image_shape, name=name)
    name = networks.unused_name("from_unit", logits)
    inside = keras.layers.Rescaling(high - low, low, dtype="float32", name=name)(images)
    # Not the network as one layer: its own layers are called once more, and stay a flat list.
    return keras.Model(images, logits.call(inside), name=logits.name)


def _save(network: keras.Model, directory: pathlib.Path) -> None:
    with networks.saving_lambdas():
        network.save(directory / NETWORK)


def _saved_model(flag: str, source: SavedModel, dataset: datasets.Dataset) -> Subject:
    record, path = source.record, source.path
    _check_fits(flag, str(path), (record.image_shape, record.num_classes), dataset)

    def save(directory: pathlib.Path) -> None:
        copy = directory / _MODEL
        shutil.rmtree(copy, ignore_errors=True)  # of a process that was killed
        shutil.copytree(path, copy)
        records.dump(record, directory / _RECORD)

    settings = {"saved_model": record}
    return Subject(str(path), files.folder_sha256(path), settings, save, record)


def sha256_of(network: keras.Model) -> str:
    """Of the architecture and the weights of a network; the names of its layers do not count.

    Keras numbers layers without a name through the process, so that they are called differently
    each time the network is built.
    """
    with networks.saving_lambdas():
        config = json.loads(network.to_json()) | {"compile_config": None}
    names = {name: f"layer {i}" for i, name in enumerate(dict.fromkeys(_layer_names(config)))}
    found = hashlib.sha256(json.dumps(_renamed(config, names), sort_keys=True).encode())
    for weight in network.get_weights():
        found.update(f"{weight.dtype} {weight.shape}".encode())
        found.update(weight.tobytes())
    return found.hexdigest()


def _layer_names(part: Any) -> Iterator[str]:
    """Names of the layers in a network's configuration, in their order."""
    if isinstance(part, dict):
        config = part.get("config")
        if isinstance(config, dict) and "name" in config and part["class_name"] != "DTypePolicy":
            yield config["name"]
    for child in part.values() if isinstance(part, dict) else part:
        if isinstance(child, dict | list):
            yield from _layer_names(child)


def _renamed(part: Any, names: dict[str, str]) -> Any:
    if isinstance(part, dict):
        return {key: _renamed(child, names) for key, child in part.items()}
    if isinstance(part, list):
        return [_renamed(child, names) for child in part]
    return names.get(part, part) if isinstance(part, str) else part
