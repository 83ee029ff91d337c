"""A network as rows of the paper's Table I."""

import keras

from ddefense import networks
from ddefense.records import LayerRecord

_DETAILS = ("filters", "kernel_size", "pool_size", "units", "padding", "rate", "temperature")


def architecture(network: keras.Model) -> list[LayerRecord]:
    """Describes every layer.

    Args:
        network: a functional model.

    Returns:
        One record per layer, input included.
    """
    rows = []
    for layer in network.layers:
        with networks.saving_lambdas():
            settings = layer.get_config()
        details = [f"{k.replace('_', ' ')} {_text(settings[k])}" for k in _DETAILS if k in settings]
        activation = settings.get("activation", "linear")
        if activation != "linear":
            # A function of the user's own has more than a name.
            details.append(activation if isinstance(activation, str) else "own activation")
        rows.append(
            LayerRecord(
                name=layer.name,
                kind=type(layer).__name__,
                detail=", ".join(details),
                output_shape=[int(n) for n in layer.output.shape[1:]],
                parameters=layer.count_params(),
            )
        )
    return rows


def _text(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else f"{value}"
