"""The results that belong to a saved network, found without loading it."""

import dataclasses
import pathlib

from ddefense import files, records
from ddefense.settings import ConfigError

_RESULTS, _ATTACKS, _DISTILLATION = "results.json", "attack.json", "distillation.json"
_NETWORKS = "networks"
_DISTILLED = ("initial", "distilled")


@dataclasses.dataclass(frozen=True)
class KnownResults:
    """What a run of `bin/reproduce` or `bin/evaluate` found out about a network.

    Attributes:
        path: of its `results.json`.
        results: what it holds.
        name: of the network there.
        network: the file that the run left of that network, which a copy has to equal; it may be
            gone where the results hold the digest of the weights.
    """

    path: pathlib.Path
    results: records.Results
    name: str
    network: pathlib.Path

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.results.dataset.name

    @property
    def weights_sha256(self) -> str | None:
        """Of the network measured; None if it was not recorded."""
        return _record(self.results, self.name).weights_sha256


@dataclasses.dataclass(frozen=True)
class KnownAttacks:
    """What a run of `bin/attack` did to a network, which is known by the digest of its file.

    Attributes:
        path: of its `attack.json`.
        run: what it holds.
    """

    path: pathlib.Path
    run: records.AttackRun

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.run.dataset


@dataclasses.dataclass(frozen=True)
class KnownDistillation:
    """What a run of `bin/distill` found out about one of its two networks.

    Attributes:
        path: of its `distillation.json`.
        record: what it holds.
        name: `initial` or `distilled`.
    """

    path: pathlib.Path
    record: records.DistillationRecord
    name: str

    @property
    def dataset(self) -> str:
        """Name of the data."""
        return self.record.dataset.name

    @property
    def trained(self) -> records.TrainedRecord:
        """What is known of the network."""
        return self.record.initial if self.name == "initial" else self.record.distilled

    @property
    def weights_sha256(self) -> str:
        """Of the network."""
        return self.trained.weights_sha256


Known = KnownResults | KnownAttacks | KnownDistillation


def find(network: pathlib.Path, given: pathlib.Path | None = None) -> Known | None:
    """The results about a network.

    Args:
        network: the `.keras` file; results call it by the name of the file.
        given: the directory of a run, or its `results.json`, `attack.json` or
            `distillation.json`; by default the run directory that the file lies in, as
            `networks/<name>.keras`.

    Returns:
        The results; None if none were given, and there are none of this network beside it.

    Raises:
        ConfigError: if the given ones do not exist, or are not about this network.
        RunError: if they are damaged.
    """
    if given is None:
        folder = network.parent if network.parent.name else network.absolute().parent
        found = [folder.parent / name for name in (_RESULTS, _DISTILLATION)]
        path = next((path for path in found if path.is_file()), found[0])
        if folder.name != _NETWORKS or not path.is_file():
            return None
    else:
        path = _file(given)
    if path.name == _ATTACKS:
        return _attacks(network, path)
    if path.name == _DISTILLATION:
        return _distillation(network, path)
    results = records.load(records.Results, path)
    names = [record.name for record in results.networks]
    if network.stem not in names:
        if given is None:
            return None
        raise ConfigError(
            "results",
            f"expected results about {network.stem!r}, after the name of the network's "
            f"file; {path} is about {', '.join(names)}. Give the file the name it has there.",
        )
    original = path.parent / _NETWORKS / f"{network.stem}.keras"
    if _record(results, network.stem).weights_sha256 is None and not original.is_file():
        raise ConfigError(
            "results",
            f"expected the run's own network at {original}, to see whether the results "
            "are about these weights; there is none.",
        )
    return KnownResults(path, results, network.stem, original)


def _file(given: pathlib.Path) -> pathlib.Path:
    """The file with the results that a user names, by itself or by its directory."""
    names = (_RESULTS, _ATTACKS, _DISTILLATION)
    found = [given / name for name in names] if given.is_dir() else [given]
    path = next((path for path in found if path.is_file()), None)
    if path is None:
        raise ConfigError(
            "results",
            f"expected the directory of a run, with {_RESULTS}, {_ATTACKS} or "
            f"{_DISTILLATION}, or one of these files; received {str(given)!r}, but there is no "
            f"{found[0]}.",
        )
    return path


def _attacks(network: pathlib.Path, path: pathlib.Path) -> KnownAttacks:
    run = records.load(records.AttackRun, path)
    if files.sha256(network) != run.sha256:
        raise ConfigError(
            "results",
            f"expected attacks on {network}; {path} is about {run.network}, a file with "
            "another SHA-256. Give the results of this network, or none.",
        )
    return KnownAttacks(path, run)


def _distillation(network: pathlib.Path, path: pathlib.Path) -> KnownDistillation:
    if network.stem not in _DISTILLED:
        raise ConfigError(
            "results",
            f"expected results about {network.stem!r}, after the name of the network's "
            f"file; {path} is about {' and '.join(_DISTILLED)}. Give the file the name it has "
            "there.",
        )
    return KnownDistillation(path, records.load(records.DistillationRecord, path), network.stem)


def _record(results: records.Results, name: str) -> records.NetworkRecord:
    return next(network for network in results.networks if network.name == name)
