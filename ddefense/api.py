"""The library behind the commands: distil, evaluate, attack, export, report.

Its functions are names of `ddefense` itself: `ddefense.distill(...)`.
"""

import contextlib
import dataclasses
import difflib
import pathlib
import random
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import numpy.typing as npt

from ddefense import exporting, networks, records, reporting
from ddefense.attack_catalog import ATTACKS, TRANSFER
from ddefense.config import Config
from ddefense.datasets.sources import UserData, open_data
from ddefense.distill_config import DistillConfig
from ddefense.distillation import Pair
from ddefense.experiments import (
    adopting,
    attacking,
    distilling,
    environment,
    evaluating,
    keras_extras,
)
from ddefense.experiments.adversarial import Adversarial
from ddefense.experiments.keras_extras import Callbacks, KerasExtras
from ddefense.pipeline import workdir as run_directories
from ddefense.settings import ConfigError

Range = tuple[float, float]
Network: TypeAlias = keras.Model | str | pathlib.Path
"""A classifier, or the `.keras` file of one."""
Builder: TypeAlias = Callable[[], keras.Model]


@dataclasses.dataclass(frozen=True)
class _Job:
    """What a directory of `distill` is for: settings, and digests of what no setting names."""

    config: DistillConfig
    network: str
    student: str | None
    data: str
    validation_data: str | None
    optimizer: str | None
    metrics: list[str]
    callbacks: list[str]


# Flat, though long: what a caller can say stands in the signature.
def distill(  # noqa: PLR0913
    network: Network | Builder,
    data: Any,
    temperature: float | None = None,
    *,
    student: Network | Builder | None = None,
    value_range: Range = (0.0, 1.0),
    validation_data: Any = None,
    callbacks: Callbacks | keras.callbacks.Callback | None = None,
    metrics: Sequence[keras.metrics.Metric] | None = None,
    optimizer: str | keras.optimizers.Optimizer = "sgd",
    workdir: str | pathlib.Path | None = None,
    **settings: Any,
) -> Pair:
    """Trains a network at a temperature, and another one on its soft labels.

    The defence this makes is broken by adaptive attacks: `evaluate` the result before you rely on
    it.

    Args:
        network: any functional or sequential Keras classifier that ends in logits or in a softmax,
            of any image shape and at least two classes; a `.keras` file of one; or a function
            that builds one, whose weights then depend on the seed. It is left as it is: both
            trainings start from its weights.
        data: `(images, labels)`, a `tf.data.Dataset`, an image folder, an `.npz` file or the name
            of a dataset; see `datasets.sources.open_data`. All of it is trained on, but for what
            it has for testing itself.
        temperature: T > 0 of both trainings; 1, or none, with `method="extended"`.
        student: distilled into this network; by default into one like `network`.
        value_range: smallest and largest value of a feature, as the network takes it.
        validation_data: as `data`, with the same classes, to validate on after each epoch, in the
            place of `validation_share`.
        callbacks: of Keras, for both trainings; or a function from `initial` or `distilled` to
            those of each, as those that write to a path need it.
        metrics: of Keras, of the validation images, after each epoch.
        optimizer: `sgd` as in the paper, `adam`, or one of Keras, of which each training gets a
            copy.
        workdir: for checkpoints and soft labels: the same call resumes there. Of callbacks it
            knows the classes alone; with any but `TensorBoard` a training that is interrupted
            starts over.
        **settings: any further field of `DistillConfig`, such as `epochs=50`, `batch_size=128`,
            `seed=0`, `alpha=0.0`, `validation_share=0.1`, `early_stopping=3`,
            `class_weights="balanced"`, `precision="mixed_bfloat16"`; but for `threads`, which
            belong to the process. One seed gives the same networks on one machine and number of
            threads; on a GPU call `tf.config.experimental.enable_op_determinism()` before.

    Returns:
        Both networks at T = 1, as they are deployed, and how their trainings went.

    Raises:
        ConfigError: a ValueError, if the networks, the data or a setting are not what they should
            be or do not fit, before any training; the message begins with the name of the argument.
        RunError: if a training goes wrong, or the images are not the same in every pass.
    """
    _check_names("distill", DistillConfig, settings)
    config = _distill_config(temperature, optimizer, settings)
    if validation_data is not None and config.validation_share:
        raise ConfigError(
            "validation_share",
            f"expected 0 with validation_data; received {config.validation_share:g}.",
        )
    extras = KerasExtras(
        callbacks=keras_extras.callbacks(callbacks),
        metrics=keras_extras.metrics(metrics),
        optimizer=keras_extras.optimizer(optimizer),
    )
    source = _loaded("network", network, config.seed)
    target = None if student is None else _loaded("student", student, config.seed)
    found = _open(data, source, value_range, test_share=0.0)
    validation = None
    if validation_data is not None:
        validation = _open_validation(validation_data, source, value_range, found.class_names)
        extras = dataclasses.replace(extras, validation=validation.test)
    if workdir is None:
        return distilling.distill(source, found.train, config, student=target, extras=extras).pair
    where = pathlib.Path(workdir)
    job = _Job(
        config=config,
        network=adopting.sha256_of(source),
        student=None if target is None else adopting.sha256_of(target),
        data=found.digest,
        validation_data=None if validation is None else validation.digest,
        **keras_extras.described(extras),
    )
    run_directories.check(where, job)
    with run_directories.claimed(where, job):
        return distilling.distill(
            source, found.train, config, student=target, extras=extras, directory=where
        ).pair


def evaluate(  # noqa: PLR0913
    network: Network,
    data: Any,
    *,
    attacks: Sequence[str] | None = None,
    samples: int | None = None,
    undistilled: Network | None = None,
    substitute: Network | None = None,
    temperature: float | None = None,
    outlier_class: bool = False,
    workdir: str | pathlib.Path | None = None,
    value_range: Range = (0.0, 1.0),
    **settings: Any,
) -> records.Results:
    """Measures and attacks a network at T = 1.

    Args:
        network: any functional or sequential Keras classifier that ends in logits or in a softmax,
            or a `.keras` file of one.
        data: as for `distill`. What it has for testing is used, else all of it; the first images
            that are classified rightly are attacked.
        attacks: names in `attack_catalog.ATTACKS`; by default those of the preset that need
            nothing which was not given.
        samples: images attacked, each towards every other class where the attack has targets.
        undistilled: a network to compare with, so that the verdict is about both.
        substitute: an undistilled network on which `transfer_cw_l2` makes its samples.
        temperature: T at which the network was distilled, for attacks on logits / T.
        outlier_class: whether the network's last class, one more than the data has, is for
            outliers, as `distill(..., method="extended")` makes it. Then no attack succeeds with
            an image that is given it, and `networks[-1].outliers` has the rates of recovery,
            detection and success.
        workdir: for the records, `results.json` and `samples.npz`, of which `report` draws a
            report: the same call resumes there. None keeps nothing on disk.
        value_range: smallest and largest value of a feature, as the networks take it. Attacks,
            epsilon, theta and distances are in units of [0, 1] whatever it is.
        **settings: `preset` (`quick`, `smoke` or `paper`) and further fields of `Config`, such as
            `epsilon=0.1`, `cw_samples=20`, `seed=0`.

    Returns:
        The record that the paper's runs leave as well: `networks[-1].attacks["jsma_f"]`,
        `controls`, `verdict` and so on.

    Raises:
        ConfigError: a ValueError, if a network, the data or a setting is not what it should be.
        RunError: if the run cannot go on; the message says why.
    """
    loaded = {
        flag: None if given is None else _loaded(flag, given)
        for flag, given in (
            ("network", network),
            ("undistilled", undistilled),
            ("substitute", substitute),
        )
    }
    found = _open(data, loaded["network"], value_range, test_share=1.0, outlier_class=outlier_class)
    dataset = adopting.dataset_of(found)
    changes = dict(settings)
    if attacks is not None:
        changes["attacks"] = tuple(attacks)
    if samples is not None:
        changes["samples"] = samples
    _check_names("evaluate", Config, changes, also=("preset",))
    config = evaluating.settings(
        dataset,
        temperature=temperature,
        substitute=substitute is not None,
        outlier_class=outlier_class,
        **changes,
    )
    keep = (
        tempfile.TemporaryDirectory(prefix="evaluate_")
        if workdir is None
        else contextlib.nullcontext(workdir)
    )
    with keep as folder:
        return evaluating.evaluate(
            loaded["network"],
            dataset,
            config,
            pathlib.Path(folder),
            undistilled=loaded["undistilled"],
            substitute=loaded["substitute"],
            temperature=temperature,
            outlier_class=outlier_class,
        )


def attack(
    network: Network,
    data: Any,
    name: str = "jsma_f",
    *,
    targets: npt.NDArray[np.integer] | None = None,
    temperature: float = 1.0,
    outlier_class: bool = False,
    value_range: Range = (0.0, 1.0),
    **settings: Any,
) -> Adversarial:
    """Makes adversarial images of a network at T = 1, and says which of them succeed.

    Args:
        network: as for `evaluate`.
        data: as for `evaluate`; every test image is attacked, or every image if there are none.
        name: one of `attack_catalog.ATTACKS`, but for `transfer_cw_l2`.
        targets: the class to reach for each image, shape [N]; by default every wrong class (JSMA
            and attacks called `_targeted`), a random one (Carlini and Wagner's), or any.
        temperature: T > 0 at which the network was distilled, for attacks on logits / T.
        outlier_class: as for `evaluate`.
        value_range: smallest and largest value of a feature, as the network takes it.
        **settings: fields of `Config` in units of images in [0, 1], such as `epsilon=0.1`,
            `theta=1.0`, `max_features=112`, `cw_steps=1000`, `seed=0`.

    Returns:
        The adversarial images with what they were made from, and whether they succeed.

    Raises:
        ConfigError: a ValueError, if the network, the data or a setting is not what it should be.
    """
    _check_names("attack", Config, settings)
    names = [known for known in ATTACKS if known != TRANSFER]
    if name not in names:
        raise ConfigError("name", f"expected one of {names}; received {name!r}.")
    loaded = _loaded("network", network)
    found = _open(data, loaded, value_range, test_share=1.0, outlier_class=outlier_class)
    dataset = adopting.dataset_of(found)
    config = evaluating.settings(dataset, preset="paper", **settings, attacks=(name,))
    return attacking.craft(
        loaded,
        dataset,
        name,
        config,
        targets=targets,
        temperature=temperature,
        outlier_class=outlier_class,
    )


def export(
    network: Network,
    directory: str | pathlib.Path,
    *,
    class_names: Sequence[str] | None = None,
    value_range: Range = (0.0, 1.0),
    expose_logits: bool = False,
    results: records.Results | None = None,
) -> pathlib.Path:
    """Exports a network at T = 1 as the next version of a model that TF Serving loads.

    Args:
        network: as for `evaluate`, of images of a fixed shape.
        directory: the model's, such as `exported_models/my_model`; versions are numbered in it.
        class_names: one per class; by default those of the results, else the classes' indices.
        value_range: smallest and largest value of a feature, as the network takes it; clients send
            [0, 1] or bytes.
        expose_logits: adds a signature that gives logits. They help an attacker.
        results: of `evaluate` on this network, for the model card.

    Returns:
        The directory of the new version.

    Raises:
        ConfigError: a ValueError, if the network cannot be exported so, or the results are of
            another one.
        RunError: if it cannot be written, or the reloaded model disagrees with the network.
    """
    deployed, base = networks.deployed(_loaded("network", network)), pathlib.Path(directory)
    findings = None if results is None else _findings(results, deployed)
    try:
        card = exporting.card_of(
            deployed,
            name=base.name if results is None else results.networks[-1].name,
            environment=environment.describe(),
            findings=findings,
            class_names=class_names,
            value_range=value_range,
            expose_logits=expose_logits,
        )
        exported = exporting.export_for_serving(
            deployed,
            base,
            class_names=tuple(card.class_names),
            value_range=value_range,
            expose_logits=expose_logits,
            notes=exporting.notes(card),
        )
    except ValueError as error:
        raise ConfigError("network", f"{error}") from error
    return exported.path


def report(workdir: str | pathlib.Path) -> pathlib.Path:
    """Draws figures, tables and a report of the results in a directory; needs no TensorFlow.

    Args:
        workdir: of `evaluate`, or of a run of `bin/reproduce`.

    Returns:
        The report, in Markdown.

    Raises:
        RunError: if the results are missing or damaged.
    """
    return reporting.render(pathlib.Path(workdir))[-1]


def _loaded(flag: str, given: Network | Builder, seed: int = 0) -> keras.Model:
    """The network, whatever form it was given in.

    Keras draws the seeds of layers without one from Python's generator, which is put back.
    """
    if isinstance(given, str | pathlib.Path):
        found: Any = networks.load(pathlib.Path(given), flag)
    elif callable(given) and not isinstance(given, keras.Model):
        state = random.getstate()
        random.seed(seed)
        try:
            found = given()
        finally:
            random.setstate(state)
    else:
        found = given
    if not isinstance(found, keras.Model):
        raise ConfigError(
            flag,
            f"expected a Keras network, a .keras file or a function that builds one; "
            f"received {type(found).__name__}.",
        )
    try:
        networks.without_softmax(found)
    except ValueError as error:
        raise ConfigError(flag, f"{error}") from error
    return found


def _distill_config(
    temperature: float | None,
    optimizer: str | keras.optimizers.Optimizer,
    settings: dict[str, Any],
) -> DistillConfig:
    if temperature is None:
        if settings.get("method") != "extended":
            raise ConfigError(
                "temperature", "expected T of both trainings, such as 20; received none."
            )
        temperature = 1.0
    if isinstance(optimizer, str):
        return DistillConfig(temperature=temperature, optimizer=optimizer, **settings)
    for name in ("learning_rate", "momentum"):
        if name in settings:
            raise ConfigError(
                name,
                f"expected none beside an optimizer of your own, which has its own; "
                f"received {settings[name]!r}.",
            )
    return DistillConfig(temperature=temperature, **settings)


def _open_validation(
    data: Any, network: keras.Model, value_range: Range, class_names: tuple[str, ...]
) -> UserData:
    try:
        return _open(data, network, value_range, test_share=1.0, class_names=class_names)
    except ConfigError as error:
        reason = error.reason if error.argument == "data" else f"{error}"
        raise ConfigError("validation_data", reason) from error


def _open(
    data: Any,
    network: keras.Model,
    value_range: Range,
    *,
    test_share: float,
    outlier_class: bool = False,
    class_names: tuple[str, ...] | None = None,
) -> UserData:
    """The data, of the shape and the classes of a network, but for one that is for outliers."""
    height, width, channels = (*network.input_shape[1:], None, None, None)[:3]
    shape = None if None in (height, width, channels) else (height, width, channels)
    return open_data(
        data,
        image_shape=shape,
        value_range=value_range,
        num_classes=network.output_shape[-1] - outlier_class,
        class_names=class_names,
        test_share=test_share,
    )


def _check_names(
    function: str, kind: type, settings: dict[str, Any], also: tuple[str, ...] = ()
) -> None:
    """Refuses a misspelt setting as Python refuses a misspelt argument."""
    names = [field.name for field in dataclasses.fields(kind) if field.name != "reduced"]
    if "threads" in settings:
        raise ConfigError(
            "threads",
            "expected none, because they belong to the whole process; received "
            f"{settings['threads']!r}. Set them before TensorFlow computes anything: "
            "tf.config.threading.set_intra_op_parallelism_threads.",
        )
    for name in settings:
        if name not in (*names, *also):
            close = difflib.get_close_matches(name, [*names, *also], n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}.{hint}")


def _findings(results: records.Results, deployed: keras.Model) -> exporting.Findings:
    """What the results say of the network, if they are about it."""
    measured = results.networks[-1]
    if exporting.weights_of(deployed)[1] != measured.weights_sha256:
        raise ConfigError(
            "results",
            f"expected results about this network; received some about {measured.name!r}, "
            "a network with other weights.",
        )
    return exporting.findings_in(results, measured.name)
