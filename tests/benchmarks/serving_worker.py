"""One process of the serving benchmark: `serving_worker.py TASK SPEC.json RESULT.json`.

`prepare` exports the networks and writes the images, `throughput` runs a SavedModel beside the
`.keras` network; both import TensorFlow. `latency` and `load` use TensorFlow's C++ runtime alone,
as a server does.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import gc
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import measure
import numpy as np

RUNTIME = Path(__file__).resolve().parents[2] / "ddefense" / "serving" / "runtime.py"
DEFAULT = "serving_default"
# Different requests that a contestant gets in turn, the same for all.
REQUESTS = 8
# Untimed turns before the timed ones: so many, or this share of them.
WARM_UP_TURNS, WARM_UP_SHARE = 5, 0.1
# Images of each kind on which the models' answers are compared.
COMPARED = 64
XLA_LEVEL = 2
_FLOAT, _UINT8, _STRING = 1, 4, 7
_INVALID_ARGUMENT = 3

# Answers request i and returns the seconds spent in the runtime itself, if known.
Call = Callable[[int], float | None]


def main() -> None:
    """Runs one task."""
    task, spec, result = sys.argv[1:]
    tasks = {"prepare": prepare, "latency": latency, "throughput": throughput, "load": load}
    found = tasks[task](json.loads(Path(spec).read_text()))
    Path(result).write_text(json.dumps(found))


# What runs in a process with TensorFlow.


def prepare(spec: dict[str, Any]) -> dict[str, Any]:
    """Exports the networks and a frozen variant of the distilled one, and writes the images.

    Args:
        spec: `networks` (name to `.keras` file), `folder`, `dataset`, `data_dir`, `pool` (number of
            images of each kind).

    Returns:
        `models` (name to version directory and sizes), `kinds` of images, `skipped`.
    """
    import keras

    import ddefense.layers  # noqa: F401  registers the layers of a stored network
    from ddefense import exporting, networks

    folder, skipped = Path(spec["folder"]), {}
    deployed = {
        name: networks.with_temperature(keras.models.load_model(path, compile=False), 1.0)
        for name, path in spec["networks"].items()
    }
    shapes = {name: network.input_shape[1:] for name, network in deployed.items()}
    if len(set(shapes.values())) != 1:
        raise SystemExit(f"Expected networks for images of one shape; received {shapes}.")
    paths = {
        name: exporting.export_for_serving(network, folder / name).path
        for name, network in deployed.items()
    }
    try:
        paths["frozen"] = _freeze(paths["distilled"], folder / "frozen" / "1")
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        skipped["frozen"] = f"cannot be made: {error}"
    shape = next(iter(shapes.values()))
    kinds = _write_images(spec, shape, folder / "images.npz", skipped)
    models = {name: {"path": str(path), "bytes": _sizes(path)} for name, path in paths.items()}
    return {"models": models, "kinds": kinds, "shape": shape, "skipped": skipped}


def _freeze(source: Path, target: Path) -> Path:
    """Writes the default signature again with its variables made constants."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    loaded = tf.saved_model.load(str(source))
    shipped = loaded.signatures[DEFAULT]
    names = sorted(shipped.structured_outputs)
    frozen = convert_variables_to_constants_v2(shipped)
    spec = shipped.structured_input_signature[1]["images"]

    def serve(images: Any) -> dict[str, Any]:
        answers = tf.nest.flatten(frozen(images))
        return dict(zip(names, answers, strict=True))

    module = tf.Module()
    signature = tf.function(serve, input_signature=[spec]).get_concrete_function()
    tf.saved_model.save(module, str(target), signatures={DEFAULT: signature})
    return target


def _sizes(path: Path) -> dict[str, int]:
    files = [file for file in path.rglob("*") if file.is_file()]
    return {
        "saved_model.pb": (path / "saved_model.pb").stat().st_size,
        "variables": sum(f.stat().st_size for f in files if f.parent.name == "variables"),
        "total": sum(f.stat().st_size for f in files),
    }


def _write_images(
    spec: dict[str, Any], shape: Sequence[int], path: Path, skipped: dict[str, str]
) -> list[str]:
    """Writes as many images of every kind; returns the kinds that clients send, real ones first.

    Those are written as float32, as uint8 and as PNG files of the same values. The other kinds are
    float32 only, for a look at slow values.
    """
    import tensorflow as tf

    count, generator = spec["pool"], np.random.default_rng(0)
    kinds = {}
    real = _real_images(spec, shape, skipped)
    if real is not None:
        pixels = np.rint(real * 255).astype(np.uint8)
        kinds[spec["dataset"]] = np.take(pixels, range(count), axis=0, mode="wrap")
    kinds["random"] = generator.integers(0, 256, (count, *shape), np.uint8)
    arrays = {}
    for kind, pixels in kinds.items():
        arrays[f"uint8/{kind}"] = pixels
        arrays[f"float/{kind}"] = pixels.astype(np.float32) / np.float32(255)
        if shape[-1] in (1, 3):
            arrays[f"png/{kind}"] = np.array([tf.io.encode_png(p).numpy() for p in pixels])
    arrays["float/only 0 and 1"] = generator.integers(0, 2, (count, *shape)).astype(np.float32)
    # Below the smallest normal float32, 1.2e-38.
    arrays["float/subnormal"] = (1e-39 * generator.random((count, *shape))).astype(np.float32)
    np.savez(path, **arrays)
    return list(kinds)


def _real_images(spec: dict[str, Any], shape: Sequence[int], skipped: dict[str, str]) -> Any:
    from ddefense import datasets, records

    name = f"{spec['dataset']} images"
    data_dir = spec["data_dir"] and Path(spec["data_dir"])
    try:
        data = datasets.load(spec["dataset"], data_dir=data_dir)
    except (records.RunError, ImportError) as error:
        skipped[name] = f"cannot be loaded: {error}"
        return None
    if tuple(data.image_shape) != tuple(shape):
        skipped[name] = f"they are {data.image_shape}, the networks take {tuple(shape)}"
        return None
    return data.test.images


def throughput(spec: dict[str, Any]) -> dict[str, Any]:
    """A SavedModel and its `.keras` network in turn, both from NumPy arrays to NumPy arrays.

    Args:
        spec: `network` (a `.keras` file), `model` (its version directory), `images` (file), `kind`,
            `batch`, `calls`.
    """
    import keras
    import tensorflow as tf  # before the runtime: the other order is not safe

    import ddefense.layers  # noqa: F401
    from ddefense import networks

    network = networks.with_temperature(keras.models.load_model(spec["network"], compile=False), 1)
    served = _runtime().SavedModel(spec["model"])
    with np.load(spec["images"]) as stored:
        batches = _batches(stored[f"float/{spec['kind']}"], spec["batch"])

    @tf.function(input_signature=[tf.TensorSpec([None, *network.input_shape[1:]], tf.float32)])
    def function(images: Any) -> Any:
        return network(images, training=False)

    def by_keras(i: int) -> None:
        function(tf.constant(batches[i % REQUESTS])).numpy()

    def by_saved_model(i: int) -> None:
        served.run(DEFAULT, {"images": batches[i % REQUESTS]})

    images = np.concatenate(batches)
    expected = function(tf.constant(images)).numpy()
    found = served.run(DEFAULT, {"images": images})["probabilities"]
    calls: dict[str, Call] = {".keras": by_keras, "SavedModel": by_saved_model}
    return {
        "contestants": take_turns(calls, spec["calls"], spec["shift"]),
        "max_difference": float(np.abs(expected - found).max()),
    }


# What runs in a process without TensorFlow's Python package.


def latency(spec: dict[str, Any]) -> dict[str, Any]:
    """Calls of loaded models in turn.

    Args:
        spec: `models` (name, path and whether for XLA, in the order of loading), `images` (file),
            `contests` (each with its name, batch, calls and contestants), `reference` (the model
            that the others' answers are compared with; none: they are not), `shift`.

    Returns:
        `contests` by name, each with figures by contestant; `checks` by model: difference of its
        answers from those of the reference, and whether it refuses NaN.
    """
    runtime = _runtime()
    models = {}
    for model in spec["models"]:
        with _autoclustering(runtime) if model["xla"] else contextlib.nullcontext():
            models[model["name"]] = runtime.SavedModel(model["path"])
    seconds = {name: _time_session(model) for name, model in models.items()}
    with np.load(spec["images"]) as stored:
        pools = {key: stored[key] for key in stored.files}
    contests = {}
    for contest in spec["contests"]:
        calls = {
            one["label"]: _caller(
                models[one["model"]],
                seconds[one["model"]],
                one["signature"],
                _batches(pools[one["images"]], contest["batch"]),
            )
            for one in contest["contestants"]
        }
        contests[contest["name"]] = take_turns(calls, contest["calls"], spec["shift"])
    checks = {}
    if spec["reference"]:
        kinds = [pool for key, pool in pools.items() if key.startswith("float/")]
        images = np.concatenate([pool[:COMPARED] for pool in kinds])
        expected = models[spec["reference"]].run(DEFAULT, {"images": images})["probabilities"]
        for name, model in models.items():
            found = model.run(DEFAULT, {"images": images})["probabilities"]
            checks[name] = {
                "max_difference": float(np.abs(found - expected).max()),
                "refuses_nan": _refuses(runtime, model, np.full_like(images[:1], np.nan)),
            }
    if "keras" in sys.modules:
        raise AssertionError("Python's TensorFlow was imported in the server's place")
    return {"contests": contests, "checks": checks}


def load(spec: dict[str, Any]) -> dict[str, Any]:
    """Loads a version and answers one image, as a server does when it starts.

    Args:
        spec: `model` (version directory), `images` (file), `kind`, `warm_up` (whether its warm-up
            requests are replayed first).
    """
    runtime = _runtime()
    runtime._Library()  # a server has the library in its own binary
    with np.load(spec["images"]) as stored:
        image = stored[f"float/{spec['kind']}"][:1]
    from tensorflow.core.framework import tensor_pb2  # noqa: F401  likewise

    before = measure.resident_mib()
    clock = time.perf_counter
    started = clock()
    model = runtime.SavedModel(spec["model"])
    loaded = clock()
    replayed = runtime.replay_warm_up(model, spec["model"]) if spec["warm_up"] else {}
    warm = clock()
    model.run(DEFAULT, {"images": image})
    first = clock()
    model.run(DEFAULT, {"images": image})
    second = clock()
    after = measure.resident_mib()
    return {
        "load_seconds": loaded - started,
        "warm_up_seconds": warm - loaded,
        "warm_up_requests": sum(replayed.values()),
        "first_answer_ms": 1000 * (first - warm),
        "second_answer_ms": 1000 * (second - first),
        "ready_seconds": first - started,
        "rss_mib": None if before is None or after is None else after - before,
    }


def _runtime() -> Any:
    """The package's runtime module, imported from its file: nothing else of the package."""
    if "ddefense_runtime" in sys.modules:
        return sys.modules["ddefense_runtime"]
    spec = importlib.util.spec_from_file_location("ddefense_runtime", RUNTIME)
    if spec is None or spec.loader is None:
        raise AssertionError(f"cannot import {RUNTIME}")
    runtime = importlib.util.module_from_spec(spec)
    sys.modules["ddefense_runtime"] = runtime
    spec.loader.exec_module(runtime)
    runtime.import_messages()
    return runtime


@contextlib.contextmanager
def _autoclustering(runtime: Any) -> Any:
    """Models loaded here run in sessions that compile clusters of the graph with XLA.

    The process needs `--tf_xla_cpu_global_jit` in `TF_XLA_FLAGS`, without which XLA leaves the CPU
    out. Sessions of other models in the process stay as they are, so that both can take turns.
    """
    plain = runtime._Library

    class Configured(plain):
        def __init__(self) -> None:
            super().__init__()
            library = self._open(runtime._folder(), runtime._RUNTIME)
            set_config, new_options = library.TF_SetConfig, self.new_options
            set_config.restype = None
            set_config.argtypes = (
                *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p),
            )

            def configured() -> Any:
                from tensorflow.core.protobuf import config_pb2

                config = config_pb2.ConfigProto()
                config.graph_options.optimizer_options.global_jit_level = XLA_LEVEL
                serialized, options = config.SerializeToString(), new_options()
                with runtime._Status(self) as status:
                    set_config(options, serialized, len(serialized), status)
                return options

            self.new_options = configured

    runtime._Library = Configured
    try:
        yield
    finally:
        runtime._Library = plain


def _time_session(model: Any) -> collections.deque[float]:
    """Returns where the seconds of the model's newest `Session::Run` will be found."""
    run, seconds = model._library.run, collections.deque([0.0], maxlen=1)
    clock = time.perf_counter

    def timed(*arguments: Any) -> None:
        started = clock()
        run(*arguments)
        seconds.append(clock() - started)

    model._library.run = timed
    return seconds


def _caller(
    model: Any, seconds: collections.deque[float], signature: str, batches: list[Any]
) -> Call:
    """Sends messages, made beforehand as a server gets them, and takes arrays back."""
    (name,) = model.signatures[signature].inputs
    requests = [{name: _message(batch)} for batch in batches]

    def call(i: int) -> float:
        model.run_protos(signature, requests[i % REQUESTS])
        return seconds[0]

    return call


def _message(array: Any) -> Any:
    from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2

    sizes = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in array.shape]
    shape = tensor_shape_pb2.TensorShapeProto(dim=sizes)
    if array.dtype.kind == "S":
        texts = [bytes(text) for text in array]
        return tensor_pb2.TensorProto(dtype=_STRING, tensor_shape=shape, string_val=texts)
    dtype = {np.dtype(np.float32): _FLOAT, np.dtype(np.uint8): _UINT8}[array.dtype]
    return tensor_pb2.TensorProto(
        dtype=dtype, tensor_shape=shape, tensor_content=np.ascontiguousarray(array).tobytes()
    )


def _refuses(runtime: Any, model: Any, images: Any) -> bool:
    try:
        model.run(DEFAULT, {"images": images})
    except runtime.StatusError as error:
        return bool(error.code == _INVALID_ARGUMENT)
    return False


# What both have in common.


def _batches(pool: Any, size: int) -> list[Any]:
    starts = (len(pool) * i // REQUESTS for i in range(REQUESTS))
    return [np.take(pool, range(s, s + size), axis=0, mode="wrap") for s in starts]


def take_turns(calls: Mapping[str, Call], turns: int, shift: int) -> dict[str, dict[str, Any]]:
    """Times calls one by one, each contestant once a turn.

    With two contestants the order is A B, B A and so on. With more, each comes equally often in
    every place, and every order is followed by its reverse.

    Args:
        calls: one for each contestant, by label.
        turns: timed calls of each.
        shift: where the orders start.

    Returns:
        Figures of each contestant: milliseconds of a call and of the runtime's part of it (median,
        p90, p99), of the first call, CPU milliseconds of a call, and the seconds of all calls.
    """
    orders = _orders(list(calls), shift)
    wall: dict[str, list[float]] = {label: [] for label in calls}
    session: dict[str, list[float | None]] = {label: [] for label in calls}
    cpu = dict.fromkeys(calls, 0.0)
    first = {}
    clock, cpu_clock = time.perf_counter, time.process_time
    for label in orders[0]:
        started = clock()
        calls[label](0)
        first[label] = 1000 * (clock() - started)
    for turn in range(max(WARM_UP_TURNS, round(WARM_UP_SHARE * turns))):
        for label in orders[turn % len(orders)]:
            calls[label](turn)
    load_average = measure.load_average()
    gc.collect()
    gc.disable()
    try:
        for turn in range(turns):
            for label in orders[turn % len(orders)]:
                call = calls[label]
                cpu_started, started = cpu_clock(), clock()
                inside = call(turn)
                wall[label].append(clock() - started)
                cpu[label] += cpu_clock() - cpu_started
                session[label].append(inside)
    finally:
        gc.enable()
    return {
        label: {
            "call_ms": _spread(wall[label]),
            "session_ms": None if None in session[label] else _spread(session[label]),
            "cpu_ms": 1000 * cpu[label] / turns,
            "cpu_seconds": cpu[label],
            "wall_seconds": sum(wall[label]),
            "first_call_ms": first[label],
            "calls": turns,
            "load_average": load_average,
        }
        for label in calls
    }


def _orders(labels: list[str], shift: int) -> list[list[str]]:
    orders = []
    for i in range(len(labels)):
        start = (i + shift) % len(labels)
        order = labels[start:] + labels[:start]
        orders += [order, order[::-1]]
    return orders


def _spread(seconds: Sequence[Any]) -> dict[str, float]:
    median, p90, p99 = np.percentile(1000 * np.array(seconds), (50, 90, 99))
    return {"median": float(median), "p90": float(p90), "p99": float(p99)}


if __name__ == "__main__":
    main()
