"""Which classes and functions a configuration of a `.keras` file may name.

A name is resolved as Keras resolves it, and what it stands for is judged: a class or a function has
more than one name, and most of Keras' public functions are no part of any network.
"""

import enum
import types
from typing import Any

import keras

# Nothing is compiled: no metric, optimizer or schedule is made, and a metric may take any memory.
_CLASSES = (
    keras.Operation,  # layers, networks and operations between them
    keras.DTypePolicy,
    keras.constraints.Constraint,
    keras.initializers.Initializer,
    keras.losses.Loss,
    keras.quantizers.QuantizationConfig,
    keras.quantizers.Quantizer,
    keras.random.SeedGenerator,
    keras.regularizers.Regularizer,
)
# Made of code, of files outside the archive, or of whatever their configuration names.
_CODE_LAYERS = (
    keras.layers.Lambda,
    keras.layers.TFSMLayer,
    keras.layers.TorchModuleWrapper,
    keras.layers.JaxLayer,
    keras.layers.FlaxLayer,
)
_CODE_NAMES = {layer.__name__ for layer in _CODE_LAYERS}

# Where Keras looks for a function of which it has saved the name alone.
_NAMESPACES = (
    keras.activations,
    keras.constraints,
    keras.initializers,
    keras.losses,
    keras.metrics,
    keras.optimizers,
    keras.regularizers,
)
# They make objects of configurations, or the other way round.
_CONVERTERS = ("get", "serialize", "deserialize")
_FUNCTIONS = {
    id(value)
    for namespace in (*_NAMESPACES, keras.ops)
    for name, value in vars(namespace).items()
    if isinstance(value, types.FunctionType) and name not in _CONVERTERS
}

# Values, which have no module.
_VALUES = (
    "__bytes__",
    "__ellipsis__",
    "__keras_tensor__",
    "__numpy__",
    "__slice__",
    "__tensor__",
)


class Kind(enum.Enum):
    """What a part of a configuration stands for."""

    KNOWN = enum.auto()
    UNKNOWN = enum.auto()
    CODE = enum.auto()


def kind_of(part: dict[str, Any]) -> Kind:
    """Judges what Keras would make of a part of a configuration, and makes nothing of it.

    Args:
        part: has `class_name` and `config`.

    Returns:
        Whether it is a part of a network that Keras or this process knows, and brings no code.
    """
    name, module = part["class_name"], part.get("module")
    if name in _VALUES:
        return Kind.KNOWN
    if name == "__lambda__" or name in _CODE_NAMES:
        return Kind.CODE
    # Without a module Keras looks the name up among all that its older format might mean.
    if not isinstance(name, str) or "module" not in part:
        return Kind.UNKNOWN
    if name == "function":
        return _kind_of_function(part["config"], module)
    registered = part.get("registered_name", name)
    if keras.saving.get_registered_object(registered) is not None:
        return Kind.KNOWN
    found = _public(module, name)
    if isinstance(found, types.FunctionType):
        return _kind_of_function(name, module)
    if not isinstance(found, type) or not issubclass(found, _CLASSES):
        return Kind.UNKNOWN
    return Kind.CODE if issubclass(found, _CODE_LAYERS) else Kind.KNOWN


def is_of_user(part: dict[str, Any]) -> bool:
    """Whether a part is of a class that this process registered, but for this package's own."""
    found = keras.saving.get_registered_object(part.get("registered_name", part["class_name"]))
    return found is not None and not found.__module__.startswith("ddefense.")


def _kind_of_function(name: Any, module: Any) -> Kind:
    if not isinstance(name, str):
        return Kind.UNKNOWN
    if keras.saving.get_registered_object(name) is not None:
        return Kind.KNOWN
    if module == "builtins":
        # Registered functions went without their package up to Keras 3.6.
        if any(key.endswith(f">{name}") for key in keras.saving.get_custom_objects()):
            return Kind.KNOWN
        found = [_public(namespace.__name__, name) for namespace in _NAMESPACES]
    else:
        found = [_public(module, name)]
    there = [each for each in found if each is not None]
    return Kind.KNOWN if there and all(id(each) in _FUNCTIONS for each in there) else Kind.UNKNOWN


def _public(module: Any, name: str) -> Any:
    """What a name in Keras stands for, if anything; dots in it lead into modules."""
    root, *names = f"{module}.{name}".split(".")
    found: Any = keras if root == keras.__name__ else None
    for each in names:
        # Nothing is imported: neither modules that are not yet there nor any through a stand-in.
        found = vars(found).get(each) if isinstance(found, types.ModuleType) else None
    return found
