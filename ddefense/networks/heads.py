"""Views of one network's weights: its logits, or its probabilities at another temperature."""

import functools
from collections.abc import Collection
from typing import Any

import keras

from ddefense.layers import TemperatureSoftmax

LOGITS = "logits"
"""Name of the layer that gives the logits."""

_DENSE = (keras.layers.Dense, keras.layers.EinsumDense)
_STANDARDIZING = (keras.layers.Normalization, keras.layers.Rescaling)


def logits_of(network: keras.Model) -> keras.Model:
    """The network up to its layer of that name, sharing its weights.

    `without_softmax` finds the logits of a network that has no such layer.

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
            "so, without an activation, or use `networks.without_softmax`."
        )
    return keras.Model(_images(network), network.get_layer(LOGITS).output, name=network.name)


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


def without_softmax(network: keras.Model) -> keras.Model:
    """The network up to its logits, whatever its softmax is and whatever its layers are called.

    The logits are what goes into a softmax that the network ends in: a layer of its own
    (`TemperatureSoftmax` at any T, `Softmax`, `Activation("softmax")`, `keras.ops.softmax`) or the
    activation of a last layer. Without a softmax they are the output, if the last layer is named
    `logits` or is a `Dense` without an activation. A network that ends in another network ends in
    what that one does.

    Args:
        network: a functional or sequential model, images -> probabilities or logits, shape
            [N, classes >= 2]; it is left as it is.

    Returns:
        A model images -> logits whose last layer is named `logits`. It shares the network's
        weights, but for those of a last layer with a softmax as its activation: that one is built
        again without, of the same precision, with a copy of the weights.

    Raises:
        ValueError: if the network is none of these; the message says why.
    """
    images = _images(network)
    logits = _logits(_probabilities_or_logits(network))
    found = keras.Model(images, logits, name=network.name)
    last, _ = _call_of(logits)
    if last.name == LOGITS and last in found.layers and not isinstance(last, keras.Model):
        return found
    if any(layer.name == LOGITS for layer in found.layers):
        raise ValueError(
            f"Expected the logits, which go into the softmax, from the layer named {LOGITS!r}; "
            f"received a network in which they come from {_described(last)}. Give that layer the "
            "name, or none."
        )
    named = keras.layers.Activation("linear", dtype="float32", name=LOGITS)
    return keras.Model(images, named(logits), name=network.name)


def deployed(network: keras.Model) -> keras.Model:
    """The network as it is deployed: its logits under a softmax at T = 1.

    Args:
        network: see `without_softmax`.

    Returns:
        A model images -> float32 probabilities at T = 1, whose last two layers are `logits` and
        `TemperatureSoftmax`; it has the network's weights as `without_softmax` has.

    Raises:
        ValueError: if the network's logits cannot be told; the message says why.
    """
    return with_temperature(without_softmax(network), 1.0)


def trainable_copy(
    network: keras.Model, temperature: float, precision: str | None = None
) -> keras.Model:
    """A network of the same architecture and weights to be trained at a temperature.

    Args:
        network: see `without_softmax`; it is left as it is, and shares no variable with the copy.
        temperature: T > 0 of the copy's softmax.
        precision: Keras dtype policy of the copy's layers; those that standardise its input, and
            the one that computes its logits, are float32 whatever it is. None keeps every layer's
            own.

    Returns:
        A model images -> float32 probabilities at T with a layer named `logits`.

    Raises:
        ValueError: if the network's logits cannot be told; the message says why.
    """
    logits = without_softmax(network)
    exact = {LOGITS, layer_of_logits(logits).name}
    copy = keras.models.clone_model(
        logits,
        clone_function=functools.partial(_in_precision, precision=precision, exact=exact),
        recursive=True,
    )
    copy.set_weights(logits.get_weights())
    for layer in copy._flatten_layers():
        # What it standardises with is computed from its weights once, not whenever they are set.
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    return with_temperature(copy, temperature)


def layer_of_logits(logits_network: keras.Model) -> keras.layers.Layer:
    """The layer that computes the logits, in whatever network within the network.

    Args:
        logits_network: from `without_softmax`.
    """
    tensor: Any = logits_network.outputs[0]
    while True:
        layer, index, _ = tensor._keras_history
        if isinstance(layer, keras.Model):
            tensor = layer.outputs[0]
        elif type(layer) is keras.layers.Activation:  # linear: a name, or a change of precision
            tensor = layer._inbound_nodes[index].input_tensors[0]
        else:
            return layer


def _in_precision(
    layer: keras.layers.Layer, precision: str | None, exact: Collection[str]
) -> keras.layers.Layer:
    config = layer.get_config()
    if precision is not None:
        kept = layer.name in exact or isinstance(layer, _STANDARDIZING)
        config["dtype"] = "float32" if kept else precision
    return type(layer).from_config(config)


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


def _images(network: keras.Model) -> Any:
    """The symbolic input of a network that has one."""
    # A sequential model has no `input`, a subclassed one neither.
    inputs = getattr(network, "inputs", [])
    if len(inputs) != 1:
        raise ValueError(
            "Expected a functional or sequential network with one input, the images; received "
            f"{type(network).__name__} with {len(inputs) or 'no known'} inputs."
        )
    return inputs[0]


def _probabilities_or_logits(network: keras.Model) -> Any:
    """The symbolic output of a classifier whose layers are all that it computes."""
    functional = type(keras.Model(network.inputs, network.outputs))
    if type(network).call not in (functional.call, keras.Sequential.call):
        raise ValueError(
            f"Expected a functional or sequential network; received {type(network).__name__}, a "
            "class with a `call` of its own."
        )
    if len(network.outputs) != 1:
        raise ValueError(
            "Expected a network with one output, probabilities or logits; received one with "
            f"{len(network.outputs)}."
        )
    shape = network.outputs[0].shape
    if len(shape) != 2 or shape[1] is None or shape[1] < 2:
        raise ValueError(
            "Expected a network with outputs of shape [N, classes >= 2]; received one with outputs "
            f"of shape {shape}."
        )
    return network.outputs[0]


def _logits(output: Any) -> Any:
    """The symbolic logits of which an output of shape [N, classes] was made."""
    last, call = _call_of(output)
    if isinstance(last, keras.Model):
        return without_softmax(last)(*call.args, **call.kwargs)
    if _is_softmax(last):
        return _softmax_input(last, call)
    if type(last) in _DENSE and last.activation is keras.activations.softmax:
        settings = last.get_config() | {"activation": "linear", "name": LOGITS}
        linear = type(last).from_config(settings)
        logits = linear(*call.args, **call.kwargs)
        linear.set_weights(last.get_weights())
        return logits
    is_linear = getattr(last, "activation", None) in (None, keras.activations.linear)
    if is_linear and (last.name == LOGITS or type(last) in _DENSE):
        return output
    if is_linear and type(last) is keras.layers.Activation:  # a change of precision
        return _logits(call.keras_tensors[0])
    raise ValueError(
        "Expected a network that ends in a softmax, or in logits: a Dense layer without an "
        f"activation, or a layer named {LOGITS!r}; received one that ends in {_described(last)}."
    )


def _softmax_input(softmax: Any, call: Any) -> Any:
    axis = getattr(softmax, "axis", -1)
    if axis not in (-1, 1, [-1], [1], (-1,), (1,)):
        raise ValueError(
            "Expected a softmax over the classes, axis -1; received a network that ends in "
            f"{_described(softmax)} over axis {axis}."
        )
    if len(call.keras_tensors) != 1:
        raise ValueError(
            "Expected a softmax of the logits alone; received a network that ends in "
            f"{_described(softmax)} of {len(call.keras_tensors)} tensors."
        )
    before, _ = _call_of(call.keras_tensors[0])
    if _is_softmax(before) or getattr(before, "activation", None) is keras.activations.softmax:
        raise ValueError(
            f"Expected one softmax; received a network that ends in two, {_described(before)} and "
            f"{_described(softmax)}. Train it with one: the first leaves no logits to the second."
        )
    return call.keras_tensors[0]


def _is_softmax(operation: Any) -> bool:
    """Whether it is a softmax and nothing more; `keras.ops.softmax` makes no layer."""
    return (
        isinstance(operation, TemperatureSoftmax)
        or type(operation).__name__ == "Softmax"
        or (
            type(operation) is keras.layers.Activation
            and operation.activation is keras.activations.softmax
        )
    )


def _call_of(tensor: Any) -> tuple[Any, Any]:
    """The layer (or other operation) that made a symbolic tensor, and the arguments it was given.

    Keras has no public name for these. A layer's `input` is no help: it is ambiguous if the layer
    is used twice, and that of a network in a network is the inner one's own.
    """
    operation, index, _ = tensor._keras_history
    return operation, operation._inbound_nodes[index].arguments


def _described(operation: Any) -> str:
    activation = getattr(operation, "activation", None)
    name = getattr(activation, "__name__", None)
    ending = f", activation {name}" if name else ""
    return f"{type(operation).__name__} ({operation.name!r}{ending})"
