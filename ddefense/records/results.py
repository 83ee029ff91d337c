"""Results as data: the schema of `results.json`, shared by experiments and reporting.

All rates, accuracies and distortions are fractions in [0, 1]; amplitudes are base-10 logarithms;
entropies are in nats; times are in seconds. `networks` holds only what the seed determines on one
machine; dates, times, memory and resume counts live in `environment` and `timings`.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import pydantic
from pydantic.dataclasses import dataclass

from ddefense import config as config_lib
from ddefense import files
from ddefense.attack_catalog import Norm, Targets
from ddefense.records.extended import OutlierRecord
from ddefense.records.upgrading import upgraded

SCHEMA_VERSION: Literal[3] = 3

T = TypeVar("T")

_STRICT = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunError(Exception):
    """A run that cannot go on; the message says why and what to do. Exit code 1."""


@dataclass(config=_STRICT, kw_only=True)
class DatasetRecord:
    """What was trained and attacked on.

    Attributes:
        name: dataset name.
        image_shape: (height, width, channels).
        class_names: one name per class.
        num_train: training images.
        num_test: test images.
        value_range: smallest and largest value a feature may take.
        standardized_range: smallest and largest value of a test image after the standardisation
            inside the network; null where there is none.
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: list[str]
    num_train: int
    num_test: int
    value_range: tuple[float, float]
    standardized_range: tuple[float, float] | None = None


@dataclass(config=_STRICT, kw_only=True)
class LayerRecord:
    """One row of the architecture table (the paper's Table I).

    Attributes:
        name: layer name.
        kind: layer class.
        detail: filters, kernel, units, activation or rate, as text.
        output_shape: without the batch dimension.
        parameters: trainable weights.
    """

    name: str
    kind: str
    detail: str
    output_shape: list[int]
    parameters: int


@dataclass(config=_STRICT, kw_only=True)
class TrainingRecord:
    """How one network's training went.

    Attributes:
        temperature: T of the softmax during training.
        epochs: passes over the training set.
        steps: optimizer steps, warm start not counted.
        warm_start_steps: steps at T = 1 on hard labels before.
        loss: mean cross-entropy of each epoch, in nats.
        accuracy: training accuracy of each epoch (dropout on), against the arg-max of the labels
            that were learnt from.
        stalled: true if the loss was within 1 % of ln(classes) at the end of training or after
            3,000 steps. Whether the network learnt is told by its accuracy.
    """

    temperature: float
    epochs: int
    steps: int
    warm_start_steps: int
    loss: list[float]
    accuracy: list[float]
    stalled: bool


@dataclass(config=_STRICT, kw_only=True)
class LogitRecord:
    """Scale of the logits on the test set.

    Attributes:
        mean_abs: mean of abs(z) over images and classes.
        std_abs: its standard deviation.
        median_top_two_gap: median difference between the two largest logits.
    """

    mean_abs: float
    std_abs: float
    median_top_two_gap: float


@dataclass(config=_STRICT, kw_only=True)
class SoftLabelRecord:
    """The soft labels that the distilled network learnt from.

    Attributes:
        mean_entropy: mean entropy in nats; ln(classes) is uniform, 0 is one-hot.
        mean_largest: mean of the largest probability.
        agreement_with_hard: share whose arg-max is the hard label.
    """

    mean_entropy: float
    mean_largest: float
    agreement_with_hard: float


@dataclass(config=_STRICT, kw_only=True)
class InitialRecord:
    """The initial network, trained on hard labels at T, from which a network was distilled.

    Attributes:
        temperature: T it was trained at.
        test_accuracy: on the whole test set.
        agreement: share of test images on which initial and distilled network predict the same.
        training: how its training went.
        logits: scale of its logits.
        soft_labels: what it handed on.
    """

    temperature: float
    test_accuracy: float
    agreement: float
    training: TrainingRecord
    logits: LogitRecord
    soft_labels: SoftLabelRecord


@dataclass(config=_STRICT, kw_only=True)
class GradientRecord:
    """Amplitude of adversarial gradients: per test image, the mean of abs(dF_i/dx_j).

    Attributes:
        temperature: T at which F = softmax(z / T) was evaluated.
        samples: test images measured.
        median_log10: median over images, computed in the log domain where nothing underflows.
        quantiles_log10: the 5, 25, 75 and 95 % quantiles, likewise.
        histogram_edges_log10: inner edges e_1 < ... < e_k; bin 0 lies below e_1.
        histogram: share of images in each of the k + 1 bins (the paper's Fig. 9).
        float32_median_log10: the median as float32 automatic differentiation sees it; null if 0.
        float32_zero_samples: share of images whose whole float32 Jacobian of F is exactly 0.
        float32_zero_entries: share of float32 Jacobian entries that are exactly 0.
    """

    temperature: float
    samples: int
    median_log10: float
    quantiles_log10: list[float]
    histogram_edges_log10: list[float]
    histogram: list[float]
    float32_median_log10: float | None
    float32_zero_samples: float
    float32_zero_entries: float


@dataclass(config=_STRICT, kw_only=True)
class GradientsRecord:
    """Gradient amplitude of one network.

    Attributes:
        deployed: at T = 1, what an attacker of the deployed network sees.
        training: at the training temperature, for the slides' 1/T claim.
    """

    deployed: GradientRecord
    training: GradientRecord


@dataclass(config=_STRICT, kw_only=True)
class SuccessRecord:
    """How often an attack reached what it aims at, judged outside the attack.

    An attempt that *starts* where it aims at, because the network errs on the unchanged image, is
    no success of the attack, and no failure: rates and distances leave it out.

    Attributes:
        samples: attacked images.
        attempts: attacked images or (sample, target) pairs that do not start where they aim at.
        started: those that do, left out of every rate and distance but `success_rate_over_all`.
        successes: attempts in which the T = 1 network gives the target, or without targets a wrong
            class, within the bounds and the attack's budget.
        success_rate: successes / attempts; null without an attempt.
        success_interval: 95 % bootstrap interval of it over samples; null without an attempt.
        success_rate_over_all: share of all attempts that end where they aim at, those that started
            there included; the paper does not say which of the two rates it gives.
    """

    samples: int
    attempts: int
    started: int
    successes: int
    success_rate: float | None
    success_interval: tuple[float, float] | None
    success_rate_over_all: float


@dataclass(config=_STRICT, kw_only=True)
class RobustnessRecord:
    """Mean minimal distortion under one attack, over the attempts of `SuccessRecord.attempts`.

    Attributes:
        capped: as the paper computes it: failures count at the budget, minimum over a sample's
            targets, mean over samples. Its ceiling is `cap`.
        uncapped: the mean over the samples with at least one success only; null without one.
        unreached: share of samples without any success.
        cap: the budget as a share of the features.
    """

    capped: float
    uncapped: float | None
    unreached: float
    cap: float


@dataclass(config=_STRICT, kw_only=True)
class CaseRecord:
    """One of the three cases in which Carlini & Wagner (2017) report targeted attacks.

    Attributes:
        success_rate: share of samples reached in this case, of those with an attempt that does
            not start in its target; in the worst case a sample counts where every such target was
            reached; null without such samples.
        mean_distance: mean over those samples; null without one.
        distance_interval: 95 % bootstrap interval of it over samples; null without one.
    """

    success_rate: float | None
    mean_distance: float | None
    distance_interval: tuple[float, float] | None


@dataclass(config=_STRICT, kw_only=True)
class AttackRecord(SuccessRecord):
    """One attack on one network.

    Attributes:
        norm: of the distance: `l0` (features changed), `l2`, or `linf`, in units of the images.
        settings: what the attack was run with, under the names of its parameters.
        targets: `untargeted` (success is any wrong class), `random` (one wrong class per sample),
            or `all` wrong classes.
        mean_distance: over the successes; null without one.
        distance_interval: 95 % bootstrap interval of it over samples; null without a success, and
            in results of versions that did not measure it.
        median_distance: over the successes; null likewise.
        best: the easiest target of each sample; null unless all targets were attacked.
        average: one random target of each sample, the same for every network; null if untargeted.
        worst: the hardest target of each sample; null unless all targets were attacked.
        details: sums over all attempts of what else the attack tells. JSMA's are `steps` (feature
            pairs changed), `no_admissible_pair` (failures that stopped because no feature pair
            qualified) and `zero_maps` (those of them that stopped at an all-zero forward
            derivative).
        robustness: against an attack with a budget of features; null for the others, and where
            every attempt starts in its target.
    """

    norm: Norm
    settings: dict[str, int | float | str | bool]
    targets: Targets
    mean_distance: float | None
    distance_interval: tuple[float, float] | None
    median_distance: float | None
    best: CaseRecord | None = None
    average: CaseRecord | None = None
    worst: CaseRecord | None = None
    details: dict[str, int] = dataclasses.field(default_factory=dict)
    robustness: RobustnessRecord | None = None

    @property
    def max_features(self) -> int | None:
        """The budget of an attack that changes few features; None of the others."""
        found = self.settings.get("max_features")
        return None if found is None else int(found)


@dataclass(config=_STRICT, kw_only=True)
class TransferRecord:
    """Adversarial samples made on an undistilled substitute, replayed on one network.

    Attributes:
        kappa: confidence with which they were made, in the substitute's logits.
        samples: images, one random target each.
        started: those that the network gives a wrong class unchanged.
        crafted: share of all images that the substitute itself takes for the target.
        misclassified: share of the others that the network gives a wrong class; null if there are
            none.
        misclassified_interval: 95 % bootstrap interval of it; null likewise.
        reached: share of the others that the network gives the target; null likewise.
        mean_distance: mean L2 distance of the samples; null if none was crafted.
    """

    kappa: float
    samples: int
    started: int
    crafted: float
    misclassified: float | None
    misclassified_interval: tuple[float, float] | None
    reached: float | None
    mean_distance: float | None


@dataclass(config=_STRICT, kw_only=True)
class ComparisonRecord:
    """One attack on two networks, over the attempts that start where they aim at on neither.

    Only they compare: attempts that one network lacks may be its easy ones.

    Attributes:
        attack: name of the attack.
        network: name of the network.
        reference: name of the one it is compared with.
        targets: `untargeted` or `targeted`.
        samples: attacked images with such an attempt.
        attempts: how many there are.
        success_rate: of them on the network.
        reference_success_rate: of them on the other one.
        mean_distance: on the network, of those that succeed on both, of attacks measured by a norm
            only those at the sample's one random target; null without one.
        reference_mean_distance: the same on the other one.
        robustness: `RobustnessRecord.capped` of the network over these attempts; null unless JSMA.
        reference_robustness: the same of the other one.
    """

    attack: str
    network: str
    reference: str
    targets: Literal["untargeted", "targeted"]
    samples: int
    attempts: int
    success_rate: float
    reference_success_rate: float
    mean_distance: float | None
    reference_mean_distance: float | None
    robustness: float | None = None
    reference_robustness: float | None = None


@dataclass(config=_STRICT, kw_only=True)
class ControlRecord:
    """One check for masked gradients, in the spirit of AutoAttack's flags.

    Attributes:
        name: `zero_gradients` (share of test images whose whole float32 Jacobian is 0),
            `scaled_logits` (the undistilled network with its logits multiplied by T must not look
            robust too), `iterative_beats_one_step`, `unbounded_reaches_all` or `random_restarts`.
        network: name of the network checked.
        passed: false is a sign of masked gradients: attacks by gradient tell nothing.
        value: what was measured, a share.
        limit: what it was held against, a share.
        samples: images it was measured on.
        explanation: one sentence with both.
    """

    name: Literal[
        "zero_gradients",
        "scaled_logits",
        "iterative_beats_one_step",
        "unbounded_reaches_all",
        "random_restarts",
    ]
    network: str
    passed: bool
    value: float
    limit: float
    samples: int
    explanation: str


@dataclass(config=_STRICT, kw_only=True)
class VerdictRecord:
    """What the defence is worth, computed from the measurements of this run alone.

    Attributes:
        masks_gradients: whether success falls under an attack through the softmax, and the
            controls show why; null where the run measured too little to tell.
        stops_adaptive_attacker: whether an attacker who knows the defence is stopped; null where
            the run measured too little to tell.
        sentence: the verdict in words, with its numbers.
        accuracy_lost: by the distilled network that it is about, against the undistilled one;
            negative where that network is better; null without a verdict, and in results of
            versions that did not record it.
    """

    masks_gradients: bool | None
    stops_adaptive_attacker: bool | None
    sentence: str
    accuracy_lost: float | None = None


@dataclass(config=_STRICT, kw_only=True)
class SavedModelRecord:
    """How a SavedModel of any maker is run.

    Attributes:
        signature: that is called.
        input: of the signature, that takes the images.
        output: of the signature, that is attacked.
        outputs: what that is.
        image_shape: (height, width, channels) of the images.
        num_classes: outputs.
        value_range: smallest and largest value of a feature, as the model takes it.
        no_gradients: why no gradient can be taken through the model; empty where one can.
    """

    signature: str
    input: str
    output: str
    outputs: Literal["logits", "probabilities"]
    image_shape: tuple[int, int, int]
    num_classes: int
    value_range: tuple[float, float]
    no_gradients: str = ""


@dataclass(config=_STRICT, kw_only=True)
class NetworkRecord:
    """One deployed (T = 1) network and everything measured on it.

    Attributes:
        name: `baseline`, `distilled_t<T>` or `adversarially_trained`; of a network that was not
            trained by the run, that of its file.
        defense: `none`, `distillation` or `adversarial_training`; `unknown` of a network that was
            not trained by the run and of which nobody said.
        temperature: T it was trained at (1 unless distilled).
        seed: of its training; null where the run did not train it.
        test_accuracy: on the whole test set.
        confidence: mean over the test set of max_i F_i(x) if the prediction is right, else 0.
        training: how its training went; null where the run did not train it.
        logits: scale of its logits; null of a SavedModel that gives probabilities.
        gradients: amplitude of its adversarial gradients; null likewise, and without gradients.
        attacks: by name.
        transfer: by rising kappa.
        initial: the network it was distilled from; null unless distilled.
        weights_sha256: of its weights, of the bytes that `ModelCard.weights_sha256` names; null in
            results of versions that did not record it.
        outliers: what its outlier class does; null of a network without one.
        model: how the network is run; null unless it is a SavedModel.
    """

    name: str
    defense: Literal["none", "distillation", "adversarial_training", "unknown"]
    temperature: float
    seed: int | None
    test_accuracy: float
    confidence: float
    training: TrainingRecord | None
    logits: LogitRecord | None
    gradients: GradientsRecord | None
    attacks: dict[str, AttackRecord]
    transfer: list[TransferRecord] = dataclasses.field(default_factory=list)
    initial: InitialRecord | None = None
    weights_sha256: str | None = None
    outliers: OutlierRecord | None = None
    model: SavedModelRecord | None = None

    @property
    def scale(self) -> LogitRecord:
        """`logits` of a network that a run trained, which always has them."""
        return _measured(self.logits, "logits", self.name)

    @property
    def amplitude(self) -> GradientsRecord:
        """`gradients` of a network that a run trained, which always has them."""
        return _measured(self.gradients, "gradients", self.name)

    @property
    def readings(self) -> dict[str, AttackRecord]:
        """The attacks with a budget of features: the readings of JSMA."""
        return {name: a for name, a in self.attacks.items() if a.max_features is not None}

    @property
    def robustness(self) -> dict[str, RobustnessRecord]:
        """Against the attacks that have one."""
        found = {name: a.robustness for name, a in self.attacks.items()}
        return {name: record for name, record in found.items() if record is not None}

    @property
    def norm_attacks(self) -> dict[str, AttackRecord]:
        """The others."""
        return {name: a for name, a in self.attacks.items() if a.max_features is None}


@dataclass(config=_STRICT, kw_only=True)
class ExportRecord:
    """One exported SavedModel.

    Attributes:
        network: name of the network.
        path: directory of the version, as given by the user's --export_dir.
        max_difference: largest abs difference between the reloaded model's probabilities and the
            network's.
    """

    network: str
    path: str
    max_difference: float


@dataclass(config=_STRICT, kw_only=True)
class Results:
    """The whole of `results.json`.

    Attributes:
        schema_version: of this record.
        dataset: what was trained and attacked on.
        config: the settings, with `reduced`.
        environment: versions, device, dates; free-form.
        timings: seconds of each stage that ran.
        architecture: the network's layers.
        sample_indices: positions in the test set of the attacked images.
        networks: the baseline first, then by temperature, an adversarially trained one last; of an
            evaluation the undistilled one, if there is one, and the one that was evaluated.
        exports: SavedModels written.
        controls: checks for masked gradients.
        verdict: what the defence is worth; null in results of versions without it.
        comparisons: of every network with the undistilled one, by attack, and of the distilled
            ones with those of lower temperatures under the paper's attack.
    """

    dataset: DatasetRecord
    config: config_lib.Config
    environment: dict[str, Any]
    timings: dict[str, float]
    architecture: list[LayerRecord]
    sample_indices: list[int]
    networks: list[NetworkRecord]
    exports: list[ExportRecord]
    comparisons: list[ComparisonRecord]
    controls: list[ControlRecord] = dataclasses.field(default_factory=list)
    verdict: VerdictRecord | None = None
    schema_version: Literal[3] = SCHEMA_VERSION

    @property
    def is_evaluation(self) -> bool:
        """Whether the networks were brought along, rather than trained by the run."""
        return all(network.training is None for network in self.networks)

    def baseline(self) -> NetworkRecord:
        """The undistilled network, which every run that trains has."""
        return next(n for n in self.networks if n.defense == "none")

    def yardstick(self) -> NetworkRecord | None:
        """The adversarially trained network, if the run has one."""
        return next((n for n in self.networks if n.defense == "adversarial_training"), None)

    def comparison(
        self, attack: str, network: NetworkRecord, reference: NetworkRecord
    ) -> ComparisonRecord | None:
        """What an attack did to two networks; None unless it ran on both."""
        found = comparison_of(self.comparisons, attack, network.name, reference.name)
        both = all(attack in n.attacks for n in (network, reference))
        return found if both else None

    def distilled(self) -> list[NetworkRecord]:
        """The distilled networks by rising temperature."""
        found = [n for n in self.networks if n.defense == "distillation"]
        return sorted(found, key=lambda n: n.temperature)


def _measured(found: T | None, what: str, network: str) -> T:
    if found is None:
        raise RunError(f"Expected the {what} of {network!r} in the results; they are null.")
    return found


def comparison_of(
    comparisons: Sequence[ComparisonRecord], attack: str, network: str, reference: str
) -> ComparisonRecord | None:
    """What an attack did to two networks, by their names; None if nothing compares."""
    wanted = (attack, network, reference)
    return next(
        (c for c in comparisons if (c.attack, c.network, c.reference) == wanted),
        None,
    )


def schema() -> dict[str, Any]:
    """The JSON schema of `results.json`, committed as `docs/results.schema.json`."""
    return pydantic.TypeAdapter(Results).json_schema(mode="serialization")


def dump(record: Any, path: pathlib.Path) -> None:
    """Writes any record of this module as indented JSON, atomically."""
    adapter = pydantic.TypeAdapter(type(record))
    with files.atomic_file(path) as temporary:
        temporary.write_bytes(adapter.dump_json(record, indent=1) + b"\n")


def load(kind: type[T], path: pathlib.Path) -> T:
    """Reads a record back.

    Args:
        kind: the record's class.
        path: a file written by `dump`.

    Returns:
        The record.

    Raises:
        RunError: if the file is missing or is not such a record.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_json(upgraded(path.read_bytes()))
    except OSError as error:
        raise RunError(f"Expected results at {path}, but {error.strerror}.") from error
    except pydantic.ValidationError as error:
        # That it is of another version explains whatever else is missing.
        first = min(error.errors(), key=lambda e: e["loc"][-1:] != ("schema_version",))
        where = ".".join(str(part) for part in first["loc"]) or "the file itself"
        raise RunError(
            f"Expected {path} to be a {kind.__name__} record of schema {SCHEMA_VERSION}, but "
            f"{where}: {first['msg']}. The file is damaged or of another version: move it away "
            "and run again (finished stages are kept)."
        ) from error
