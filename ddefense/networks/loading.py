"""Loading of `.keras` files that anybody may have made.

Keras' safe mode alone is not relied on: it lets named functions pass in a `Lambda`, looks at no
other member of the archive, and is off for good once somebody has called
`keras.config.enable_unsafe_deserialization`. So the archive is read, as data, before Keras
deserialises anything.

Nor does Keras compare what a configuration asks for with the weights that are there before it
allocates it. So the network is made without values first, and its sizes are looked at.

Nor is Keras relied on to notice damage: it reads HDF5 within the archive in pieces, where `zipfile`
compares no checksum.
"""

import contextlib
import json
import math
import pathlib
import random
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from ddefense.files import odd_kind
from ddefense.networks import known_objects
from ddefense.settings import ConfigError

_SAVE = "save it as one (network.save('network.keras'))."
_UNKNOWN = f"Load it with Keras and {_SAVE}"
_OLDER = f"This is Keras' older format: if you trust it, load it with Keras and {_SAVE}"
_PICKLE = f"A pickle runs whatever code it holds: load the network where it was made and {_SAVE}"
_GRAPH = f"A SavedModel is a graph without layers: take the network that it was made of and {_SAVE}"
_WEIGHTS = f"Weights alone have no layers: load them into their network and {_SAVE}"
# By the ending of the name; the first that fits.
_HINTS = {
    ".keras": "Keras tells it by its suffix in small letters alone: rename it.",
    ".weights.h5": _WEIGHTS,
    ".h5": _OLDER,
    ".hdf5": _OLDER,
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
    ".joblib": _PICKLE,
    ".pb": _GRAPH,
    "": _UNKNOWN,
}

_CONFIG, _WEIGHTS_FILE = "config.json", "model.weights.h5"
_MAX_CONFIG_BYTES = 2**26
"""Largest configuration that is read: a small archive may unpack to more than the memory holds."""

_MAX_EXPANSION = 100
"""Times its own size that an archive may unpack to; Keras compresses nothing."""
_PLAUSIBLE_BYTES = 2**28
"""What any archive may unpack to, and any network may take."""
_MAX_RATIO = 2
"""Times the size of its archive, unpacked, that a network's weights may take: some are saved in
half of their width."""
_CHUNK_BYTES = 2**20

_LARGEST_NUMBER = np.dtype(np.complex128).itemsize

_NAMED = 8
"""Names in a message, at most."""
_MAX_CAUSE = 300
"""Characters of Keras' own message, which may hold a layer's whole configuration."""

# What Keras says where weights do not load.
_EXAMPLE = re.compile(r"(?s)Example error message for object .*?:\n\n(.*?)\n\nList of objects")

_PICKLED_NAMES = (".pkl", ".pickle", ".joblib", ".dill", ".pt", ".pth")
_PICKLE_START = re.compile(rb"\x80[\x02-\x05]")  # the opcode PROTO and the protocol
_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"

# Base64 of a marshalled code object of fewer than 16 arguments. Keras writes a lambda that is an
# activation without saying what it is.
_MARSHALLED = re.compile(r"[4Y]w[A-Za-z0-9+/]AAA")


def load(path: pathlib.Path, argument: str = "path") -> keras.Model:
    """Loads a network from a file that is not trusted: it runs no code of the file's.

    Only Keras' own layers, `TemperatureSoftmax`, and classes that this process has registered with
    Keras are made.

    Args:
        path: a `.keras` file.
        argument: that named it, for messages.

    Returns:
        The network, not compiled.

    Raises:
        ConfigError: if it is no such file or a damaged one, if it carries code (a `Lambda` layer, a
            Python lambda, a pickled object), or has a layer of a class that Keras does not know;
            one line says which and what to do.
    """
    _check_path(path, argument)
    try:
        with _whole(path) as archive:
            reason = _reason_to_refuse(archive)
            if reason is None:
                network = _not_compiled(path, archive)
    except Exception as error:  # what is wrong with a file makes Keras fail in any way
        raise ConfigError(
            argument,
            f"expected a .keras file that Keras can load, received {str(path)!r}: "
            f"{_cause(error)}. If it is damaged, copy it or save it again.",
        ) from error
    if reason is None and not isinstance(network, keras.Model):
        reason = f"it holds a {type(network).__name__} and no network"
    if reason is not None:
        raise ConfigError(
            argument, f"expected a .keras file of a network, received {str(path)!r}: {reason}."
        )
    return network


def load_own(path: pathlib.Path) -> keras.Model:
    """Loads a network from a `.keras` file of a run directory: trusted, but it may be damaged.

    Args:
        path: of the file.

    Returns:
        What was saved, not compiled.

    Raises:
        ValueError: if it cannot be loaded; the message, one line, names the file and the cause.
    """
    try:
        with _whole(path) as archive:
            _array_bytes(archive)
        return keras.models.load_model(path, compile=False)
    except Exception as error:
        raise ValueError(f"{path.name}: {_cause(error)}.") from error


def _not_compiled(path: pathlib.Path, archive: zipfile.ZipFile) -> Any:
    """What Keras makes of an archive that is fit for it.

    Keras would compile the networks in a network with whatever their configurations name.
    """
    config = json.loads(archive.read(_CONFIG)) | {"compile_config": None}
    bare = _without_compiling(config)
    if bare | {"compile_config": None} == config:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, path.name)
        with zipfile.ZipFile(copy, "w") as target:
            for name in set(archive.namelist()) - {_CONFIG}:
                with archive.open(name) as source, target.open(name, "w", force_zip64=True) as to:
                    shutil.copyfileobj(source, to)
            target.writestr(_CONFIG, json.dumps(bare))
        return keras.models.load_model(copy, compile=False, safe_mode=True)


def _without_compiling(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of a configuration that says nothing about training, however deep."""

    def bare(part: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in part.items() if key != "compile_config"}

    copy: dict[str, Any] = json.loads(json.dumps(config), object_hook=bare)
    return copy


@contextlib.contextmanager
def _whole(path: pathlib.Path) -> Iterator[zipfile.ZipFile]:
    """Yields an archive, each member of which has been read and has the checksum that it should."""
    with zipfile.ZipFile(path) as archive:
        # No more is ever unpacked of a member than it declares.
        size = sum(info.file_size for info in archive.infolist())
        if size > max(_PLAUSIBLE_BYTES, _MAX_EXPANSION * path.stat().st_size):
            raise ValueError(f"it unpacks to {size} bytes, more than any network of its size")
        for info in archive.infolist():
            with archive.open(info) as member:
                while member.read(_CHUNK_BYTES):
                    pass
        yield archive


def _cause(error: Exception) -> str:
    """What went wrong, in one line; Keras puts it behind whole configurations and objects."""
    text = str(error).split("Exception encountered: ")[-1]
    if example := _EXAMPLE.search(text):
        text = example[1]
    lines = text.strip().splitlines() or [type(error).__name__]
    if isinstance(error, zipfile.BadZipFile):
        lines[0] = f"it is damaged, or another kind of file: {lines[0]}"
    return lines[0][:_MAX_CAUSE].rstrip(".")


def _check_path(path: pathlib.Path, argument: str) -> None:
    """Refuses what its name or kind gives away."""
    expected = f"expected a .keras file, received {str(path)!r}"
    if path.is_dir():
        graphs = [*path.glob("saved_model.pb"), *path.glob("*/saved_model.pb")]
        raise ConfigError(argument, f"{expected}, a folder. {_GRAPH if graphs else _UNKNOWN}")
    if kind := odd_kind(path):
        raise ConfigError(argument, f"{expected}, {kind}. {_UNKNOWN}")
    if not path.is_file():
        raise ConfigError(argument, f"{expected}: there is no such file.")
    if path.suffix != ".keras":
        hint = next(hint for end, hint in _HINTS.items() if path.name.lower().endswith(end))
        raise ConfigError(argument, f"{expected}. {hint}")


def _reason_to_refuse(archive: zipfile.ZipFile) -> str | None:
    """Why the archive must not be deserialised; None if nothing is wrong with it."""
    if pickled := [repr(name) for name in _pickled_members(archive)]:
        return (
            "it carries pickled objects, which run whatever code they hold: "
            f"{_few(pickled)}. Save the network again without them, its weights as HDF5"
        )
    size = archive.getinfo(_CONFIG).file_size
    if size > _MAX_CONFIG_BYTES:
        return f"its {_CONFIG} takes {size} bytes, more than the {_MAX_CONFIG_BYTES} of any network"
    config = json.loads(archive.read(_CONFIG))
    if not isinstance(config, dict) or "class_name" not in config:
        return f"its {_CONFIG} describes no network"
    if code := _code(config):
        return (
            f"it carries code, or loads it from elsewhere, in {_listed(code)}. Put Keras' own "
            "layers and functions in the place of Lambda layers and lambdas, and save it again"
        )
    config = _without_compiling(config)
    if unknown := _unknown(config):
        return (
            f"Keras knows no such part of a network: {_listed(unknown)}. Only Keras' own layers, "
            "ddefense's TemperatureSoftmax and what this process has registered can be loaded: "
            "build the network of these and save it again"
        )
    if constant := _calls_without_inputs(config):
        return f"it computes something at once, of no image, in {_few(constant)}"
    if outside := _vocabulary_files(config):
        return (
            f"it takes a vocabulary from a file outside of the archive, in {_few(outside)}. Give "
            "the layer the words themselves, and save it again"
        )
    if texts := _arrays_of_texts(config):
        return f"it holds an array of no numbers, in {_few(texts)}"
    return _reason_of_sizes(archive, config)


def _reason_of_sizes(archive: zipfile.ZipFile, config: dict[str, Any]) -> str | None:
    """Why a network is larger than the archive that it would be loaded from; None if it is not."""
    held = sum(info.file_size for info in archive.infolist())
    limit = max(_PLAUSIBLE_BYTES, _MAX_RATIO * held)
    stored = _array_bytes(archive)
    if stored > limit:
        return f"its {_WEIGHTS_FILE} declares arrays of {stored} bytes and holds {held} at most"
    asked = _weight_bytes(config)
    if asked > limit:
        return (
            f"its {_CONFIG} asks for weights of {asked} bytes ({asked / 2**30:.1f} GiB), and the "
            f"whole archive holds {held}"
        )
    return None


def _array_bytes(archive: zipfile.ZipFile) -> int:
    """Bytes that the arrays of the weights declare; a file may declare more than it holds."""
    found: list[int] = []
    if _WEIGHTS_FILE not in archive.namelist():
        return 0

    def add(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found.append(item.nbytes)

    try:
        with archive.open(_WEIGHTS_FILE) as member, h5py.File(member) as file:
            file.visititems(add)
    except Exception as error:  # h5py raises what it likes
        raise ValueError(f"its {_WEIGHTS_FILE} is damaged: {_cause(error)}") from error
    return sum(found)


def _weight_bytes(config: dict[str, Any]) -> int:
    """Bytes of the variables that a network would have, and of what is computed while it is made.

    Nothing of that size is allocated.

    Registered classes may need values to be made; networks of such are taken as they are, if they
    cannot be made without.
    """
    drawn = random.getstate()  # of which Keras seeds what it makes
    try:
        # The graph is for what Keras would compute at once, some of it of variables without values.
        with (graph := tf.Graph()).as_default(), keras.StatelessScope(initialize_variables=False):
            network = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
    except Exception:
        if any(known_objects.is_of_user(part) for _, part in _objects(config)):
            return 0
        raise
    finally:
        random.setstate(drawn)
    variables = getattr(network, "variables", [])  # or it is no network
    computed = [
        tensor
        for operation in graph.get_operations()
        for tensor in operation.outputs
        if tensor.shape.is_fully_defined()
    ]
    return sum(
        math.prod(each.shape) * tf.as_dtype(each.dtype).size for each in [*variables, *computed]
    )


def _listed(found: Mapping[str, str]) -> str:
    return _few([f"{where} ({what})" for where, what in found.items()])


def _few(names: list[str]) -> str:
    more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join(names[:_NAMED] + more)


def _pickled_members(archive: zipfile.ZipFile, within: str = "") -> Iterator[str]:
    """Names of members that are pickles or hold some; also those of an archive in the archive."""
    for info in archive.infolist():
        name = within + info.filename
        with archive.open(info) as member:
            start = member.read(len(_NPY))
            member.seek(0)
            if name.lower().endswith(_PICKLED_NAMES) or _PICKLE_START.match(start):
                yield name
            if start == _NPY and _holds_objects(member):
                yield name
            if start.startswith(_ZIP) and not within:
                with zipfile.ZipFile(member) as inner:
                    yield from _pickled_members(inner, f"{name}/")


def _holds_objects(member: IO[bytes]) -> bool:
    """Whether a NumPy file has elements that are pickled."""
    version = np.lib.format.read_magic(member)
    # Version 3 differs from 2 in the encoding of names alone.
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    return bool(read(member)[2].hasobject)


def _code(config: Any) -> dict[str, str]:
    """Where a configuration has code, and what: layers that are made of it, or a Python lambda."""
    found: dict[str, str] = {}
    for owner, part in _parts(config, "the network"):
        if isinstance(part, str) and _MARSHALLED.match(part):
            found.setdefault(owner, "a lambda")
        elif _is_object(part) and known_objects.kind_of(part) is known_objects.Kind.CODE:
            name = part["class_name"]
            found.setdefault(owner, "a lambda" if name == "__lambda__" else name)
    return found


def _unknown(config: Any) -> dict[str, str]:
    """Objects whose class, or functions that, neither Keras nor this process knows, by name."""
    found: dict[str, str] = {}
    for owner, part in _objects(config):
        if known_objects.kind_of(part) is known_objects.Kind.UNKNOWN:
            name = part["config"] if part["class_name"] == "function" else part["class_name"]
            found[owner] = repr(name) if "module" in part else f"{name!r} without its module"
    return found


def _calls_without_inputs(config: Any) -> list[str]:
    """Layers that are called on constants: Keras does it while it loads, and never saves that."""
    return [
        owner
        for owner, part in _parts(config, "the network")
        if isinstance(part, dict) and isinstance(part.get("inbound_nodes"), list)
        for node in part["inbound_nodes"]
        if isinstance(node, dict) and not _has_input([node.get("args"), node.get("kwargs")])
    ]


def _has_input(part: Any) -> bool:
    """Whether there is an output of another layer where Keras looks for one."""
    if _is_object(part):
        return bool(part["class_name"] == "__keras_tensor__")
    children = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return any(map(_has_input, children))


def _vocabulary_files(config: Any) -> list[str]:
    """Layers of Keras that would read a file of any path; it opens them unless in safe mode."""
    return [
        owner
        for owner, part in _objects(config)
        if isinstance(part["config"], dict)
        and isinstance(part["config"].get("vocabulary"), str)
        and not known_objects.is_of_user(part)
    ]


def _arrays_of_texts(config: Any) -> list[str]:
    """Layers with arrays whose elements take more than any number, perhaps more than the memory."""
    return [
        owner
        for owner, part in _objects(config)
        if part["class_name"] == "__numpy__"
        and np.dtype(part["config"]["dtype"]).itemsize > _LARGEST_NUMBER
    ]


def _objects(config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a configuration describes objects by, with the layer that each belongs to."""
    return ((owner, part) for owner, part in _parts(config, "the network") if _is_object(part))


def _is_object(part: Any) -> bool:
    return isinstance(part, dict) and {"class_name", "config"} <= part.keys()


def _parts(part: Any, owner: str) -> Iterator[tuple[str, Any]]:
    """Everything in a configuration, with the name of the layer that it belongs to."""
    children: dict[Any, Any] = {}
    if isinstance(part, list):
        children = dict(enumerate(part))
    elif isinstance(part, dict):
        config = part.get("config")
        if "class_name" in part and isinstance(config, dict) and "name" in config:
            owner = repr(config["name"])
        children = part
    yield owner, part
    for key, child in children.items():
        compiled = f"the compile_config of {owner}"
        yield from _parts(child, compiled if key == "compile_config" else owner)
