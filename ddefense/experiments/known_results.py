"""The results that belong to a saved network, found without loading it."""

import dataclasses
import pathlib

from ddefense import records
from ddefense.config import ConfigError

_RESULTS = "results.json"
_NETWORKS = "networks"


@dataclasses.dataclass(frozen=True)
class KnownResults:
    """What a run found out about a network.

    Attributes:
        path: of its `results.json`.
        results: what it holds.
        name: of the network there.
        network: the file that the run left of that network, which a copy has to equal.
    """

    path: pathlib.Path
    results: records.Results
    name: str
    network: pathlib.Path


def find(network: pathlib.Path, given: pathlib.Path | None = None) -> KnownResults | None:
    """The results about a network.

    Args:
        network: the `.keras` file; the results call it by the name of the file.
        given: a run directory or its `results.json`; by default the run directory that the file
            lies in, as `networks/<name>.keras`.

    Returns:
        The results; None if none were given, and there are none of this network beside it.

    Raises:
        ConfigError: if the given ones do not exist, or are not about this network.
        RunError: if they are damaged.
    """
    if given is None:
        folder = network.parent if network.parent.name else network.absolute().parent
        path = folder.parent / _RESULTS
        if folder.name != _NETWORKS or not path.is_file():
            return None
    else:
        path = given / _RESULTS if given.is_dir() else given
        if not path.is_file():
            raise ConfigError(
                f"results: expected a run directory or its {_RESULTS}; received {str(given)!r}, "
                f"but there is no {path}."
            )
    results = records.load(records.Results, path)
    names = [record.name for record in results.networks]
    if network.stem not in names:
        if given is None:
            return None
        raise ConfigError(
            f"results: expected results about {network.stem!r}, after the name of the network's "
            f"file; {path} is about {', '.join(names)}. Give the file the name it has there."
        )
    original = path.parent / _NETWORKS / f"{network.stem}.keras"
    if not original.is_file():
        raise ConfigError(
            f"results: expected the run's own network at {original}, to see whether the results "
            "are about these weights; there is none."
        )
    return KnownResults(path, results, network.stem, original)
