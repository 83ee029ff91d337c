"""Views of one network's weights: its logits, or its probabilities at another temperature."""

import contextlib
import functools
import itertools
import re
import types
import warnings
from collections.abc import Collection, Iterator
from typing import Any

import keras

from ddefense.layers import TemperatureSoftmax

LOGITS = "logits"
"""Name of the layer that gives the logits."""

# As `unused_name` numbers it where a hidden layer has the name.
_NAMED_LOGITS = re.compile(rf"{LOGITS}(_\d+)?")

_DENSE = (keras.layers.Dense, keras.layers.EinsumDense)
_STANDARDIZING = (keras.layers.Normalization, keras.layers.Rescaling)


def logits_of(network: keras.Model) -> keras.Model:
    """The network up to its layer of that name, sharing its weights.

    Of a network that ends in a `TemperatureSoftmax` they are what goes into it, whatever its layers
    are called. `without_softmax` finds the logits of any other network that has no such layer.

    Args:
        network: a functional or sequential model with one input.

    Returns:
        A model images -> logits, shape [N, classes].

    Raises:
        ValueError: if it has no such layer, or not one input.
    """
    images, logits = _images(network), _known_logits(network)
    if logits is None:
        raise ValueError(
            f"Expected a network with a layer named {LOGITS!r}; received layers "
            f"{[layer.name for layer in network.layers]}. Name the last layer before the softmax "
            "so, without an activation, or use `networks.without_softmax`."
        )
    return keras.Model(images, logits, name=network.name)


def with_temperature(network: keras.Model, temperature: float) -> keras.Model:
    """The same weights under a softmax at another temperature.

    Args:
        network: a functional model that ends in its logits or in a `TemperatureSoftmax`, or has a
            layer named `logits`.
        temperature: T > 0; 1 is how a network is deployed.

    Returns:
        A model images -> probabilities at T that shares the network's weights.
    """
    body = logits_of(network)
    softmax = TemperatureSoftmax(temperature, name=unused_name("probabilities", body))
    return keras.Model(body.inputs[0], softmax(body.outputs[0]), name=network.name)


def unused_name(name: str, network: keras.Model) -> str:
    """A name for a layer that is added to a network: this one, or with a number behind it.

    What the layers of a user's network are called is the user's own business.
    """
    # Operations that are no layers have names too; a sequential network does not list them.
    functional = keras.Model(network.inputs, network.outputs)
    taken = {operation.name for operation in functional.operations}
    numbered = (f"{name}_{number}" for number in itertools.count(1))
    return next(free for free in itertools.chain([name], numbered) if free not in taken)


def _known_logits(network: keras.Model) -> Any:
    """The logits by what the network ends in, or by the name of a layer; None if neither tells."""
    output = network.outputs[0]
    last, call = _call_of(output)
    if isinstance(last, TemperatureSoftmax):
        return call.keras_tensors[0]
    if _NAMED_LOGITS.fullmatch(last.name) and _is_linear(last):
        return output
    named = [layer.output for layer in network.layers if layer.name == LOGITS]
    return named[0] if named else None


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
        A model images -> logits whose last layer is named `logits`, with a number behind it if a
        hidden layer has that name. It shares the network's
        weights, but for those of a last layer with a softmax as its activation: that one is built
        again without, of the same precision, with a copy of the weights.

    Raises:
        ValueError: if the network is none of these; the message says why.
    """
    images = _images(network)
    logits = _logits(_probabilities_or_logits(network), network)
    found = keras.Model(images, logits, name=network.name)
    last, _ = _call_of(logits)
    if last.name == LOGITS and last in found.layers and not isinstance(last, keras.Model):
        return found
    named = keras.layers.Activation("linear", dtype="float32", name=unused_name(LOGITS, found))
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
    exact = {_call_of(logits.outputs[0])[0].name, layer_of_logits(logits).name}
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
    if precision is None:
        return clone_layer(layer)
    kept = layer.name in exact or isinstance(layer, _STANDARDIZING)
    return clone_layer(layer, dtype="float32" if kept else precision)


def clone_layer(layer: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
    """A layer like another one, with weights of its own.

    Functions are those of the other layer, lambdas among them, which Keras would refuse to make of
    a configuration: they come from this process and from no file.

    Args:
        layer: to be copied; it may have no weights yet.
        **changes: of its configuration.

    Raises:
        ValueError: if Keras cannot make it again.
    """
    with saving_lambdas():
        config = layer.get_config() | changes
    for key in config.keys() - changes.keys():
        # A `Lambda` hides one of them.
        own = getattr(layer, "_output_shape" if key == "output_shape" else key, None)
        if isinstance(own, types.FunctionType):
            config[key] = own
    if type(layer) is keras.layers.Lambda:
        return keras.layers.Lambda(**config | {"arguments": layer.arguments})
    try:
        return type(layer).from_config(config)
    except (TypeError, ValueError) as error:
        if "lambda" not in str(error):
            raise
        raise ValueError(
            f"Expected layers that can be copied; received {_described(layer)} with a Python "
            "lambda in a layer within it. Write a function with a name, and decorate it with "
            "keras.saving.register_keras_serializable()."
        ) from error


@contextlib.contextmanager
def saving_lambdas() -> Iterator[None]:
    """Keeps Keras from warning of lambdas, which come from this process, when it describes them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
        yield


def with_scaled_logits(logits_network: keras.Model, factor: float) -> keras.Model:
    """The same logits times a factor: the same predictions from a sharper softmax.

    Args:
        logits_network: a model images -> logits; see `logits_of`.
        factor: > 0.

    Returns:
        A model images -> scaled logits that shares the network's weights.
    """
    scaled = keras.layers.Rescaling(factor, name=unused_name("scaled_logits", logits_network))(
        logits_network.output
    )
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


def _logits(output: Any, network: keras.Model) -> Any:
    """The symbolic logits of which an output of shape [N, classes] of a network was made."""
    last, call = _call_of(output)
    if isinstance(last, keras.Model):
        return without_softmax(last)(*call.args, **call.kwargs)
    if _is_softmax(last):
        return _softmax_input(last, call)
    if type(last) in _DENSE and last.activation is keras.activations.softmax:
        free = last.name if last.name == LOGITS else unused_name(LOGITS, network)
        linear = clone_layer(last, activation="linear", name=free)
        logits = linear(*call.args, **call.kwargs)
        linear.set_weights(last.get_weights())
        return logits
    is_linear = _is_linear(last)
    if is_linear and (last.name == LOGITS or type(last) in _DENSE):
        return output
    if is_linear and type(last) is keras.layers.Activation:  # a change of precision
        return _logits(call.keras_tensors[0], network)
    raise ValueError(
        "Expected a network that ends in a softmax, or in logits: a Dense layer without an "
        f"activation, or a layer named {LOGITS!r}; received one that ends in {_described(last)}."
    )


def _is_linear(operation: Any) -> bool:
    return getattr(operation, "activation", None) in (None, keras.activations.linear)


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
