"""Results of schema 2, in which JSMA had records of its own, as those of schema 3."""

from typing import Any


def upgraded(stored: Any) -> Any:
    """What is stored, with the records of attacks as this version writes them.

    Args:
        stored: a file's JSON: results, what `bin/attack` left, or a model card; anything else is
            left as it is.
    """
    if not isinstance(stored, dict) or stored.get("schema_version") != 2:
        return stored
    found = _with_one_record(stored)
    for name in ("measured", "undistilled"):
        if isinstance(found.get(name), dict):
            found[name] = _with_one_record(found[name])
    if isinstance(found.get("networks"), list):
        found["networks"] = [_with_one_record(network) for network in found["networks"]]
    return found | {"schema_version": 3}


def _with_one_record(network: Any) -> Any:
    if not isinstance(network, dict) or not isinstance(network.get("attacks"), dict):
        return network
    network = dict(network)
    robustness = network.pop("robustness", {})
    jsma = {
        name: _jsma(record) | {"robustness": robustness.get(name)}
        for name, record in network["attacks"].items()
    }
    return network | {"attacks": jsma | network.pop("norm_attacks", {})}


def _jsma(old: dict[str, Any]) -> dict[str, Any]:
    """A reading of JSMA, by the names that all attacks have."""
    new = dict(old)
    new.pop("mean_distortion", None)  # the mean distance as a share of the features
    return new | {
        "norm": "l0",
        "targets": "all",
        "settings": {name: new.pop(name) for name in ("theta", "max_features") if name in new},
        "mean_distance": new.pop("mean_features", None),
        "distance_interval": new.pop("features_interval", None),
        "median_distance": None,
        "details": {
            name: new.pop(name)
            for name in ("steps", "no_admissible_pair", "zero_maps")
            if name in new
        },
    }
