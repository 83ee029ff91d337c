"""Results of schema 2, in which JSMA had records of its own, as those of schema 3."""

import json
from typing import Any


def upgraded(content: bytes) -> bytes:
    """The JSON of a record, with the records of attacks as this version writes them.

    Args:
        content: results, what `bin/attack` left, or a model card. Anything that is not of schema 2,
            or no JSON, is left as it is.
    """
    try:
        stored = json.loads(content)
    except (ValueError, RecursionError):
        return content
    if not isinstance(stored, dict) or stored.get("schema_version") != 2:
        return content
    try:
        found = _with_one_record(stored) | {"schema_version": 3}
        for name in {"measured", "undistilled"} & found.keys():
            found[name] = _with_one_record(found[name])
        if "networks" in found:
            found["networks"] = [_with_one_record(network) for network in found["networks"]]
    except (AttributeError, KeyError, TypeError):  # damaged, as the validation will say
        return content
    return json.dumps(found).encode()


def _with_one_record(network: Any) -> Any:
    """What was measured on a network, with one record for every attack."""
    if not isinstance(network, dict) or "attacks" not in network:
        return network
    network = dict(network)
    jsma, robustness = network["attacks"], network.pop("robustness", {})
    found = {name: _jsma(record, robustness.get(name)) for name, record in jsma.items()}
    return network | {"attacks": found | network.pop("norm_attacks", {})}


def _jsma(old: dict[str, Any], robustness: dict[str, Any] | None) -> dict[str, Any]:
    """The record of a reading of JSMA, under the names that all attacks have."""
    new = dict(old)
    del new["mean_distortion"]  # the mean distance as a share of the features
    return {
        "norm": "l0",
        "targets": "all",
        "settings": {name: new.pop(name) for name in ("theta", "max_features")},
        "mean_distance": new.pop("mean_features"),
        "distance_interval": new.pop("features_interval", None),
        "median_distance": None,
        "details": {name: new.pop(name) for name in ("steps", "no_admissible_pair", "zero_maps")},
        "robustness": robustness,
        **new,
    }
