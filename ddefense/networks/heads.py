"""Views of one network's weights: its logits, or its probabilities at another temperature."""

import keras

from ddefense.layers import TemperatureSoftmax

LOGITS = "logits"
"""Name of the layer that gives the logits."""


def logits_of(network: keras.Model) -> keras.Model:
    """The network up to its logits, sharing its weights.

    Args:
        network: a functional or sequential model with one input and a layer named `logits`.

    Returns:
        A model images -> logits, shape [N, classes].

    Raises:
        ValueError: if it has no such layer, or not one input.
    """
    if not any(layer.name == LOGITS for layer in network.layers):
        raise ValueError(
            f"Expected a network with a layer named {LOGITS!r}; received layers "
            f"{[layer.name for layer in network.layers]}. Name the last layer before the softmax "
            "so, without an activation."
        )
    # A sequential model has no `input`, a subclassed one neither.
    inputs = getattr(network, "inputs", [])
    if len(inputs) != 1:
        raise ValueError(
            "Expected a functional or sequential network with one input, the images; received "
            f"{type(network).__name__} with {len(inputs) or 'no known'} inputs."
        )
    return keras.Model(inputs[0], network.get_layer(LOGITS).output, name=network.name)


def with_temperature(network: keras.Model, temperature: float) -> keras.Model:
    """The same weights under a softmax at another temperature.

    Args:
        network: a functional model with a layer named `logits`.
        temperature: T > 0; 1 is how a network is deployed.

    Returns:
        A model images -> probabilities at T that shares the network's weights.
    """
    softmax = TemperatureSoftmax(temperature, name="probabilities")
    return keras.Model(network.input, softmax(network.get_layer(LOGITS).output), name=network.name)


def with_scaled_logits(logits_network: keras.Model, factor: float) -> keras.Model:
    """The same logits times a factor: the same predictions from a sharper softmax.

    Args:
        logits_network: a model images -> logits; see `logits_of`.
        factor: > 0.

    Returns:
        A model images -> scaled logits that shares the network's weights.
    """
    scaled = keras.layers.Rescaling(factor, name="scaled_logits")(logits_network.output)
    return keras.Model(logits_network.input, scaled, name=logits_network.name)


def temperature_of(network: keras.Model) -> float:
    """The temperature of the network's softmax.

    Raises:
        ValueError: if the network does not end in a `TemperatureSoftmax`.
    """
    head = network.layers[-1]
    if not isinstance(head, TemperatureSoftmax):
        raise ValueError(
            f"Expected a network that ends in TemperatureSoftmax; received one that ends in "
            f"{type(head).__name__} ({head.name!r}). Build it with `networks.build` or "
            "`networks.with_temperature`."
        )
    return head.temperature
