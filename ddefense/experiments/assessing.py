"""Everything that a run measures on its networks, and the controls that compare them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ddefense import measurements, records
from ddefense.attack_catalog import JSMA_ATTACKS, PAPER, SIGN_ATTACKS, TRANSFER
from ddefense.config import Config
from ddefense.datasets import Dataset
from ddefense.experiments import attacking, controlling, measuring, outliers, transferring
from ddefense.experiments.adopting import load_record
from ddefense.experiments.adversarial import Adversarial
from ddefense.experiments.pair import Trained, load_training
from ddefense.pipeline.stages import Artefact, Stages


@dataclasses.dataclass(frozen=True)
class Attacked:
    """What the attacks did to one network.

    Attributes:
        attacks: by name.
        outcomes: of attacks with a budget of features, by (network name, attack).
        attempts: of the others, likewise.
        transfer: by rising kappa.
        outliers: what the outlier class made of all of them; None of a network without one.
    """

    attacks: dict[str, records.AttackRecord] = dataclasses.field(default_factory=dict)
    outcomes: dict[tuple[str, str], records.AttackOutcome] = dataclasses.field(default_factory=dict)
    attempts: dict[tuple[str, str], records.Attempts] = dataclasses.field(default_factory=dict)
    transfer: list[records.TransferRecord] = dataclasses.field(default_factory=list)
    outliers: records.OutlierRecord | None = None


class NetworkAttacks:
    """Every attack of a configuration, on one network after the other, with the same samples.

    Args:
        stages: runs them.
        config: says which.
        dataset: attacked.
        samples: the stage that chose them.
        substitute: makes the network that samples are transferred from; called once, if at all.
    """

    def __init__(
        self,
        stages: Stages,
        config: Config,
        dataset: Dataset,
        samples: Artefact,
        substitute: Callable[[], Trained],
    ) -> None:
        """Runs nothing yet."""
        self._run = (stages, config, dataset)
        self._names, self._samples, self._substitute = config.attacks, samples, substitute
        self._crafted: transferring.Crafted | None = None

    def submit(self, trained: Trained) -> Callable[[], Attacked]:
        """Has one network attacked: JSMA first, because that is the paper.

        Returns:
            A function that waits for the attacks and gives what they did.
        """
        in_order = sorted(self._names, key=lambda name: name not in JSMA_ATTACKS)
        artefacts = {
            name: self._replay(trained)
            if name == TRANSFER
            else attacking.attack(*self._run, trained, self._samples, name)
            for name in in_order
        }
        return functools.partial(self._collect, trained, artefacts)

    def _collect(self, trained: Trained, artefacts: Mapping[str, Artefact]) -> Attacked:
        found = Attacked()
        for name in self._names:
            key, made = (trained.name, name), self._attempts(name, artefacts[name])
            if name == TRANSFER:
                transfer = transferring.load_transfer(artefacts[name])
                record = transfer.attack
                found.transfer.extend(transfer.by_kappa)
            else:
                record = attacking.load_attack(artefacts[name])
            found.attacks[name] = record
            if record.max_features is None:
                found.attempts[key] = _recorded(made)
            else:
                found.outcomes[key] = self._outcome(made)
        if outliers.outlier_class(trained.network, self._run[2]) is None:
            return found
        inputs = list(artefacts.values())
        if self._crafted is not None:
            inputs.append(self._crafted.artefact)
        attempts = {
            name: functools.partial(self._attempts, name, artefact)
            for name, artefact in artefacts.items()
        }
        measured = outliers.measure(*self._run, trained, attempts, inputs)
        return dataclasses.replace(found, outliers=outliers.load(measured))

    def _attempts(self, name: str, artefact: Artefact) -> Adversarial:
        """What an attack made."""
        transferred = name == TRANSFER
        load = transferring.load_attempts if transferred else attacking.load_attempts
        return load(artefact)

    def _outcome(self, made: Adversarial) -> records.AttackOutcome:
        originals = attacking.originals(self._run[2], self._samples)
        return records.AttackOutcome.from_images(
            originals[made.original],
            made.images,
            made.original,
            made.aims,
            start=made.start,
            end=made.predicted,
            success=made.success,
            probabilities=made.probabilities,
        )

    def _replay(self, trained: Trained) -> Artefact:
        if self._crafted is None:
            self._crafted = transferring.craft_on_substitute(
                *self._run, self._substitute(), self._samples
            )
        return transferring.transfer(*self._run, trained, self._crafted, self._samples)


def _recorded(made: Adversarial) -> records.Attempts:
    """The attempts without their images."""
    return records.Attempts(
        sample=made.original.astype(np.int32),
        target=made.aims.astype(np.int32),
        start=made.start.astype(np.int32),
        end=made.predicted.astype(np.int32),
        started=made.started,
        success=made.success,
        distance=made.distance,
        chosen=made.chosen,
    )


class Assessor:
    """Measures, attacks and checks the networks of one run.

    Args:
        stages: runs them.
        config: of the run; says which attacks.
        dataset: of the run.
        baseline: the undistilled network, which chose the samples; None where there is none.
        samples: the stage that holds them.
        substitute: makes the network that samples are transferred from.
        trained_here: whether the networks are those of training stages, rather than adopted.

    Attributes:
        outcomes: what JSMA did, by (network name, attack name).
        attempts: what attacks measured by a norm did, likewise.
        probabilities: what each network gives the attacked images unchanged, by its name.
    """

    def __init__(
        self,
        stages: Stages,
        config: Config,
        dataset: Dataset,
        baseline: Trained | None,
        samples: Artefact,
        substitute: Callable[[], Trained],
        trained_here: bool = True,
    ) -> None:
        """Runs nothing yet."""
        self._stages, self._config, self._dataset = stages, config, dataset
        self._baseline, self._samples = baseline, samples
        self._trained_here = trained_here
        self._attacks = NetworkAttacks(stages, config, dataset, samples, substitute)
        self._zero_gradients: dict[str, records.ControlRecord | None] = {}
        self._rates: dict[str, Artefact] = {}
        self._scaled: dict[str, Artefact] = {}
        self.outcomes: dict[tuple[str, str], records.AttackOutcome] = {}
        self.attempts: dict[tuple[str, str], records.Attempts] = {}
        self.probabilities: dict[str, npt.NDArray[np.float32]] = {}

    def assess(self, trained: Trained, measured: Artefact | None = None) -> records.NetworkRecord:
        """The record of one network; arguments as for `submit`."""
        return self.submit(trained, measured)()

    def submit(
        self, trained: Trained, measured: Artefact | None = None
    ) -> Callable[[], records.NetworkRecord]:
        """Has one network measured and attacked.

        Args:
            trained: the network.
            measured: the stage of `measuring.measure`, if it has run.

        Returns:
            A function that waits for that and gives the record of the network.
        """
        if measured is None:
            measured = measuring.measure(self._stages, self._config, self._dataset, trained)
        collect = self._attacks.submit(trained)
        self._submit_controls(trained)
        return functools.partial(self._collect, trained, measured, collect)

    def _collect(
        self, trained: Trained, artefact: Artefact, collect: Callable[[], Attacked]
    ) -> records.NetworkRecord:
        measured, attacked = measuring.load_measurements(artefact), collect()
        self._zero_gradients[trained.name] = measuring.zero_gradients(trained.name, measured)
        self.outcomes.update(attacked.outcomes)
        self.attempts.update(attacked.attempts)
        probabilities = measuring.load_probabilities(artefact)
        if probabilities is not None:
            indices = attacking.load_samples(self._samples)
            self.probabilities[trained.name] = probabilities[indices]
        return records.NetworkRecord(
            name=trained.name,
            defense=trained.defense,
            temperature=trained.temperature,
            seed=self._config.seed if self._trained_here else None,
            test_accuracy=measured.test_accuracy,
            confidence=measured.confidence,
            training=load_training(trained.network) if self._trained_here else None,
            logits=measured.logits,
            gradients=measured.gradients,
            attacks=attacked.attacks,
            transfer=attacked.transfer,
            initial=measured.initial,
            weights_sha256=measured.weights_sha256,
            model=None if self._trained_here else load_record(trained.network),
            outliers=attacked.outliers,
        )

    def _submit_controls(self, trained: Trained) -> None:
        run, asked = (self._stages, self._config, self._dataset), self._config.attacks
        if self._checks_by_gradient(trained):
            self._rates[trained.name] = controlling.attack(*run, trained, self._samples)
        # At T = 1 the logits are multiplied by one.
        if self._baseline and PAPER in asked and trained.temperature != 1.0:
            self._scaled[trained.name] = attacking.attack(
                *run, self._baseline, self._samples, PAPER, logit_scale=trained.temperature
            )

    def _checks_by_gradient(self, trained: Trained) -> bool:
        """Whether PGD is run to check a network: an adopted one whatever attacks were asked for."""
        if self._trained_here:
            return any(name in SIGN_ATTACKS for name in self._config.attacks)
        model = load_record(trained.network)
        return model is None or not model.no_gradients

    def comparisons(
        self, networks: Sequence[records.NetworkRecord]
    ) -> list[records.ComparisonRecord]:
        """Every network against the undistilled one, once all are assessed.

        The distilled ones are compared with each other under the paper's attack too.
        """
        num_features = int(np.prod(self._dataset.image_shape))
        return measurements.comparisons(
            networks, self.outcomes, self.attempts, self._config.max_features, num_features
        )

    def controls(self, networks: list[records.NetworkRecord]) -> list[records.ControlRecord]:
        """The controls of every network, once all are assessed."""
        rates = {name: controlling.load_rates(found) for name, found in self._rates.items()}
        scaled = {name: attacking.load_attack(found) for name, found in self._scaled.items()}
        compared = [n.attacks.get(PAPER) for n in networks if n.defense == "none"]
        return [
            control
            for network in networks
            for control in controlling.controls(
                network,
                self._zero_gradients[network.name],
                rates.get(network.name),
                compared[0] if compared else None,
                scaled.get(network.name),
            )
        ]
