"""A SavedModel loaded and run as TF Serving does it: by TensorFlow's C++ runtime, without Python.

TF Serving loads a SavedModel with `LoadSavedModel` and answers requests with `Session::Run`. Both
are in the library of the TensorFlow wheel behind its C API, which this module calls by `ctypes`. It
imports neither TensorFlow nor Keras nor this package, so what runs here needs none of them. It is
meant for a process of its own:

    python -P runtime.py SAVED_MODEL INPUTS.npz ANSWERS.npz

replays the warm-up requests, then answers the arrays `<signature>/<input>/<n>` of the first file in
the second, as `<signature>/<output>/<n>`.
"""

import collections
import ctypes
import importlib.util
import os
import pathlib
import struct
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

WARM_UP = pathlib.Path("assets.extra", "tf_serving_warmup_requests")
"""Where TF Serving looks for warm-up requests, below the version directory."""

_FRAMEWORK = ("libtensorflow_framework.so.2", "libtensorflow_framework.2.dylib")
_RUNTIME = ("libtensorflow_cc.so.2", "libtensorflow_cc.2.dylib")
_FLOAT, _STRING = 1, 7


class StatusError(Exception):
    """An error that the runtime returned.

    Attributes:
        code: as in gRPC; 3 is INVALID_ARGUMENT.
        message: its text.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"status {code}: {message}")
        self.code = code
        self.message = message


def import_messages() -> None:
    """Makes TensorFlow's message classes importable without TensorFlow.

    They are plain protobuf modules below the folder `tensorflow`, whose `__init__` imports
    everything. A bare package with that folder stands in for it, unless TensorFlow is imported.
    """
    if "tensorflow" not in sys.modules:
        package = types.ModuleType("tensorflow")
        package.__path__ = [str(_folder())]
        # Or it would not be found again, by who looks for the library in its folder.
        package.__spec__ = importlib.util.find_spec("tensorflow")
        sys.modules["tensorflow"] = package


def _folder() -> pathlib.Path:
    found = importlib.util.find_spec("tensorflow")
    if found is None or not found.submodule_search_locations:
        raise ImportError("Expected TensorFlow to be installed, for its C++ runtime; it is not.")
    return pathlib.Path(found.submodule_search_locations[0])


class _Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("deallocator", ctypes.c_void_p),
    )


class _Library:
    """The functions of the C API that are used here, with their types."""

    def __init__(self) -> None:
        folder = _folder()
        framework = self._open(folder, _FRAMEWORK)
        runtime = self._open(folder, _RUNTIME)
        pointer, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
        number, long = ctypes.c_int, ctypes.c_int64

        def declare(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            return function

        self.new_status = declare(framework, "TF_NewStatus", pointer)
        self.delete_status = declare(framework, "TF_DeleteStatus", None, pointer)
        self.get_code = declare(framework, "TF_GetCode", number, pointer)
        self.message = declare(framework, "TF_Message", text, pointer)
        self.new_buffer = declare(framework, "TF_NewBuffer", pointer)
        self.new_buffer_from = declare(framework, "TF_NewBufferFromString", pointer, text, size)
        self.delete_buffer = declare(framework, "TF_DeleteBuffer", None, pointer)
        self.allocate_tensor = declare(
            framework, "TF_AllocateTensor", pointer, number, pointer, number, size
        )
        self.delete_tensor = declare(framework, "TF_DeleteTensor", None, pointer)
        self.tensor_type = declare(framework, "TF_TensorType", number, pointer)
        self.num_dims = declare(framework, "TF_NumDims", number, pointer)
        self.dim = declare(framework, "TF_Dim", long, pointer, number)
        self.tensor_data = declare(framework, "TF_TensorData", pointer, pointer)
        self.byte_size = declare(framework, "TF_TensorByteSize", size, pointer)
        self.tensor_from_proto = declare(
            runtime, "TF_TensorFromProto", None, pointer, pointer, pointer
        )
        self.string_data = declare(runtime, "TF_StringGetDataPointer", pointer, pointer)
        self.string_size = declare(runtime, "TF_StringGetSize", size, pointer)
        self.new_graph = declare(runtime, "TF_NewGraph", pointer)
        self.delete_graph = declare(runtime, "TF_DeleteGraph", None, pointer)
        self.operation = declare(runtime, "TF_GraphOperationByName", pointer, pointer, text)
        self.new_options = declare(runtime, "TF_NewSessionOptions", pointer)
        self.delete_options = declare(runtime, "TF_DeleteSessionOptions", None, pointer)
        self.load = declare(
            runtime,
            "TF_LoadSessionFromSavedModel",
            pointer,
            *(pointer, pointer, text, ctypes.POINTER(text), number, pointer, pointer, pointer),
        )
        self.run = declare(
            runtime,
            "TF_SessionRun",
            None,
            *(pointer, pointer, pointer, pointer, number, pointer, pointer, number),
            *(pointer, number, pointer, pointer),
        )
        self.close = declare(runtime, "TF_CloseSession", None, pointer, pointer)
        self.delete_session = declare(runtime, "TF_DeleteSession", None, pointer, pointer)

    @staticmethod
    def _open(folder: pathlib.Path, names: tuple[str, ...]) -> ctypes.CDLL:
        for name in names:
            if (folder / name).exists():
                return ctypes.CDLL(str(folder / name))
        raise ImportError(
            f"Expected TensorFlow's C++ runtime, {names[0]}, in {folder}, where the wheels for "
            "Linux and macOS have it; it is not there."
        )


class SavedModel:
    """A loaded SavedModel. Calls from several threads at once are fine.

    Args:
        directory: of the version, with `saved_model.pb` in it.

    Raises:
        StatusError: if the runtime does not load it.
        ImportError: if there is no runtime.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._library = library = _Library()
        # Must come after the library: it may stand in for TensorFlow.
        import_messages()
        from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
        from tensorflow.core.protobuf import meta_graph_pb2

        self._tensor, self._shape, self._types = tensor_pb2, tensor_shape_pb2, types_pb2
        self._graph = library.new_graph()
        options, meta = library.new_options(), library.new_buffer()
        tags = (ctypes.c_char_p * 1)(b"serve")
        try:
            with _Status(library) as status:
                path = os.fsencode(directory)
                self._session = library.load(
                    options, None, path, tags, 1, self._graph, meta, status
                )
            found = ctypes.cast(meta, ctypes.POINTER(_Buffer)).contents
            graph = meta_graph_pb2.MetaGraphDef.FromString(
                ctypes.string_at(found.data, found.length)
            )
        finally:
            library.delete_options(options)
            library.delete_buffer(meta)
        self.signatures: Mapping[str, Any] = {
            name: signature
            for name, signature in graph.signature_def.items()
            if not name.startswith("__")  # __saved_model_init_op
        }

    def run(
        self,
        signature: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        outputs: list[str] | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """Answers a batch.

        Args:
            signature: its name.
            inputs: one array for each input; an array of bytes objects for strings.
            outputs: names of the outputs wanted; all by default.

        Returns:
            The outputs by name; strings as an array of bytes objects.

        Raises:
            StatusError: if the runtime refuses the batch.
            KeyError: if there is no such signature, input or output.
        """
        protos = {name: self._proto(array) for name, array in inputs.items()}
        return self.run_protos(signature, protos, outputs)

    def run_protos(
        self, signature: str, inputs: Mapping[str, Any], outputs: list[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """The same for inputs that are `TensorProto` messages, as in requests."""
        known = self.signatures[signature]
        names = list(known.outputs) if outputs is None else outputs
        library = self._library
        feeds = [self._output(known.inputs, name) for name in inputs]
        fetches = [self._output(known.outputs, name) for name in names]
        answers = (ctypes.c_void_p * len(names))()
        tensors: list[int] = []
        try:
            for proto in inputs.values():
                tensors.append(library.allocate_tensor(_FLOAT, None, 0, 4))
                self._fill(tensors[-1], proto.SerializeToString())
            with _Status(library) as status:
                library.run(
                    *(self._session, None),
                    *((_Output * len(feeds))(*feeds), (ctypes.c_void_p * len(feeds))(*tensors)),
                    *(len(feeds), (_Output * len(fetches))(*fetches), answers, len(fetches)),
                    *(None, 0, None, status),
                )
            return {name: self._array(answer) for name, answer in zip(names, answers, strict=True)}
        finally:
            for tensor in [*tensors, *filter(None, answers)]:
                library.delete_tensor(tensor)

    def close(self) -> None:
        """Frees everything."""
        with _Status(self._library) as status:
            self._library.close(self._session, status)
        with _Status(self._library) as status:
            self._library.delete_session(self._session, status)
        self._library.delete_graph(self._graph)

    def _output(self, tensors: Mapping[str, Any], name: str) -> _Output:
        if name not in tensors:  # the map would make an empty entry of it
            raise KeyError(name)
        operation, index = tensors[name].name.split(":")
        return _Output(self._library.operation(self._graph, operation.encode()), int(index))

    def _proto(self, array: npt.NDArray[Any]) -> Any:
        dimensions = self._shape.TensorShapeProto
        shape = dimensions(dim=[dimensions.Dim(size=size) for size in array.shape])
        if array.dtype.kind in "OS":
            strings = [bytes(text) for text in array.ravel()]
            return self._tensor.TensorProto(dtype=_STRING, tensor_shape=shape, string_val=strings)
        kind = {"float32": "DT_FLOAT", "int64": "DT_INT64", "uint8": "DT_UINT8"}
        return self._tensor.TensorProto(
            dtype=self._types.DataType.Value(kind[array.dtype.name]),
            tensor_shape=shape,
            tensor_content=array.tobytes(),
        )

    def _fill(self, tensor: int, serialized: bytes) -> None:
        buffer = self._library.new_buffer_from(serialized, len(serialized))
        try:
            with _Status(self._library) as status:
                self._library.tensor_from_proto(buffer, tensor, status)
        finally:
            self._library.delete_buffer(buffer)

    def _array(self, tensor: int | None) -> npt.NDArray[Any]:
        library = self._library
        shape = [library.dim(tensor, i) for i in range(library.num_dims(tensor))]
        data, length = library.tensor_data(tensor), library.byte_size(tensor)
        kind = self._types.DataType.Name(library.tensor_type(tensor))
        if kind == "DT_STRING":
            count = int(np.prod(shape, dtype=np.int64))
            width = length // count if count else 0
            places = [data + i * width for i in range(count)]
            strings = np.empty(count, object)
            for i, place in enumerate(places):
                size = library.string_size(place)
                strings[i] = ctypes.string_at(library.string_data(place), size)
            return strings.reshape(shape)
        dtype = {"DT_FLOAT": np.float32, "DT_INT64": np.int64}[kind]
        return np.frombuffer(ctypes.string_at(data, length), dtype).reshape(shape)


class _Status:
    """A status to pass to a call; leaving the block raises what the call put there."""

    def __init__(self, library: _Library) -> None:
        self._library = library
        self._status = library.new_status()

    def __enter__(self) -> int:
        return self._status

    def __exit__(self, *exception: object) -> None:
        code = self._library.get_code(self._status)
        message = self._library.message(self._status).decode(errors="replace")
        self._library.delete_status(self._status)
        if code:
            raise StatusError(code, message)


def read_records(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The records of a TFRecord file: length, its checksum, data, its checksum."""
    data = pathlib.Path(path).read_bytes()
    start = 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        yield data[start + 12 : start + 12 + length]
        start += length + 16


def replay_warm_up(model: SavedModel, directory: str | os.PathLike[str]) -> dict[str, int]:
    """Sends a version's warm-up requests to it, as TF Serving does before it serves the version.

    Args:
        model: the loaded version.
        directory: of the version.

    Returns:
        Requests by signature; empty if the version has no warm-up requests.

    Raises:
        StatusError: if the model refuses one: TF Serving would not serve the version then.
    """
    path = pathlib.Path(directory) / WARM_UP
    if not path.exists():
        return {}
    from tensorflow_serving.apis import prediction_log_pb2

    counts: dict[str, int] = collections.Counter()
    for record in read_records(path):
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        signature = request.model_spec.signature_name
        model.run_protos(signature, dict(request.inputs))
        counts[signature] += 1
    return counts


def main() -> None:
    """Replays the warm-up requests and answers a file of arrays."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # A process that asks about a GPU takes all of its memory otherwise.
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    directory, source, answers = sys.argv[1:]
    model = SavedModel(directory)
    replay_warm_up(model, directory)
    found: dict[str, Any] = {}
    with np.load(source) as arrays:
        for key in arrays.files:
            signature, name, index = key.split("/")
            values = arrays[key]
            if values.dtype.kind == "S":
                values = values.astype(object)
            for output, array in model.run(signature, {name: values}).items():
                found[f"{signature}/{output}/{index}"] = (
                    array.astype(bytes) if array.dtype == object else array
                )
    np.savez(answers, **found)
    model.close()


if __name__ == "__main__":
    main()
