"""A server of TF Serving's predict API, for tests, around the runtime that TF Serving uses.

    python -P server.py NAME BASE

loads every version below BASE by TensorFlow's C++ runtime alone (`ddefense/serving/runtime.py`),
with `keras` and `ddefense` un-importable, replays its warm-up requests, and prints one line of JSON
with its ports: `{"grpc": ..., "rest": ...}`. It ends when its standard input does.

It answers gRPC (Predict, GetModelMetadata, GetModelStatus) and REST (predict in row and column
format, status, metadata), and checks what it is sent in the order, with the codes and in the words
of TF Serving's sources: `predict_util.cc`, `server_core.cc`, `basic_manager.cc`,
`get_model_status_impl.cc`, `json_tensor.cc`, `http_rest_api_handler.cc`, `http_server.cc`, and
TensorFlow's `saved_model/util.cc`.

It is not TF Serving: no batching, no polling for versions, no labels, no classify and regress,
and Python between the socket and the runtime, so its speed says nothing. `GET /modules` (what this
process has imported) is its own.
"""
# ruff: noqa: E402 (what must not be importable is ruled out before anything is imported)

import sys

for _name in ("keras", "ddefense"):
    sys.modules[_name] = None

import base64
import binascii
import concurrent.futures
import http.server
import importlib.util
import json
import math
import os
import pathlib
import re
import struct
import threading

import grpc
import numpy as np
from google.protobuf import json_format


def _load_runtime():
    path = pathlib.Path(__file__).resolve().parents[2] / "ddefense" / "serving" / "runtime.py"
    spec = importlib.util.spec_from_file_location("runtime", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.import_messages()
    return module


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
runtime = _load_runtime()

from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

StatusError = runtime.StatusError
INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, UNIMPLEMENTED, DATA_LOSS = 3, 5, 9, 12, 15
CODES = {code.value[0]: code for code in grpc.StatusCode}
HTTP = {1: 499, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501}
HTTP |= {14: 503, 16: 401}
DEFAULT_SIGNATURE = "serving_default"
MAX_WARM_UP_RECORDS = 1000
THREADS = 8


def invalid(message):
    return StatusError(INVALID_ARGUMENT, message)


class Models:
    """The versions of a model.

    Args:
        name: by which clients ask for the model.
        base: its directory; children with integer names are versions.

    Raises:
        StatusError: if a version does not load or a warm-up request fails.
    """

    def __init__(self, name, base):
        self.name = name
        self.versions = {}
        for child in base.iterdir():
            if child.name.isdecimal():
                version, model = int(child.name), runtime.SavedModel(child)
                warm_up(model, version, child / runtime.WARM_UP)
                self.versions[version] = model
        if not self.versions:
            raise StatusError(NOT_FOUND, f"No versions of servable {name} found under {base}")

    def find(self, spec):
        """The version that a request asks for, with its number."""
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        asked = f"Specific({spec.name}, {spec.version.value})" if choice else f"Latest({spec.name})"
        version = spec.version.value if choice else max(self.versions)
        if spec.name != self.name or version not in self.versions:
            raise StatusError(NOT_FOUND, f"Servable not found for request: {asked}")
        return version, self.versions[version]

    def predict(self, request):
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        version, model = self.find(request.model_spec)
        return predict(model, version, request)

    def metadata(self, request):
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        version, model = self.find(request.model_spec)
        found = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in model.signatures.items():
            found.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = version
        response.metadata["signature_def"].Pack(found)
        return response

    def status(self, request):
        spec = request.model_spec
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        versions = sorted(self.versions, reverse=True) if spec.name == self.name else []
        if spec.HasField("version"):
            version = spec.version.value
            if version not in versions:
                raise StatusError(
                    NOT_FOUND, f"Could not find version {version} of model {spec.name}"
                )
            versions = [version]
        if not versions:
            raise StatusError(NOT_FOUND, f"Could not find any versions of model {spec.name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in versions:
            response.model_version_status.add(
                version=version,
                state=get_model_status_pb2.ModelVersionStatus.AVAILABLE,
                status={"error_code": 0},
            )
        return response


def predict(model, version, request):
    """What `RunPredict` does."""
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if name not in model.signatures:
        raise StatusError(FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    signature = model.signatures[name]
    _check_inputs(signature, request)
    outputs = _outputs(signature, request.output_filter)
    try:
        answers = model.run_protos(name, dict(request.inputs), outputs)
    except StatusError as error:
        if error.message != "Unparseable tensor proto":
            raise
        raise invalid(f"tensor parsing error: {','.join(request.inputs)}") from None
    response = predict_pb2.PredictResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.version.value = version
    response.model_spec.signature_name = name
    for output, answer in answers.items():
        response.outputs[output].CopyFrom(tensor_of(answer))
    return response


def _check_inputs(signature, request):
    sent, expected = set(request.inputs), set(signature.inputs)

    def listed(names):
        return "{" + ",".join(sorted(names)) + "}"

    if len(sent) != len(expected):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(expected)} "
            f"len({listed(sent)}) != len({listed(expected)}). Sent extra: "
            f"{listed(sent - expected)}. Missing but required: {listed(expected - sent)}."
        )
    for alias in sorted(expected - sent):
        raise invalid(
            f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) not found "
            "in request and no default value provided. Inputs expected to be in the request "
            f"{listed(sent)}, or default input alias set: "
        )


def _outputs(signature, wanted):
    for i, alias in enumerate(wanted):
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in "
                f"the set {{{','.join(sorted(signature.outputs))}}}."
            )
        if alias in wanted[:i]:
            raise invalid(f"duplicate output tensor alias: {alias}")
    return list(wanted) or list(signature.outputs)


def tensor_of(array):
    """A tensor with its values one by one, which is TF Serving's default."""
    sizes = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in array.shape]
    field, dtype = {
        "float32": ("float_val", types_pb2.DT_FLOAT),
        "int64": ("int64_val", types_pb2.DT_INT64),
        "object": ("string_val", types_pb2.DT_STRING),
    }[array.dtype.name]
    return tensor_pb2.TensorProto(
        dtype=dtype,
        tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=sizes),
        **{field: array.ravel().tolist()},
    )


def warm_up(model, version, path):
    """Replays a version's warm-up requests; any that fails is an error, as are damaged records."""
    for i, record in enumerate(records(path) if path.exists() else ()):
        try:
            log = prediction_log_pb2.PredictionLog.FromString(record)
        except Exception:  # protobuf's own, which differs between its implementations
            raise invalid(f"Failed to parse warmup record: {record!r} from {path}") from None
        if log.WhichOneof("log_type") != "predict_log":
            raise StatusError(UNIMPLEMENTED, f"Unsupported log_type for warmup: {log}")
        predict(model, version, log.predict_log.request)
        if i >= MAX_WARM_UP_RECORDS:
            raise invalid(
                f"Number of warmup records exceeds the maximum ({MAX_WARM_UP_RECORDS}) at {path}"
            )


def records(path):
    """The records of a TFRecord file, checked against their checksums."""
    data = path.read_bytes()
    start = 0
    while start < len(data):
        (length,) = struct.unpack("<Q", data[start : start + 8].ljust(8, b"\0"))
        end = start + 12 + length
        for first, last in ((start, start + 8), (start + 12, end)):
            stored = data[last : last + 4]
            if len(stored) < 4 or struct.unpack("<I", stored)[0] != _masked_crc(data[first:last]):
                raise StatusError(
                    DATA_LOSS,
                    f"corrupted record at {start}. Please verify your warmup data is in TFRecord "
                    "format.",
                )
        yield data[start + 12 : end]
        start = end + 4


def _crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _crc_table()


def _masked_crc(data):
    """CRC-32C, rotated and shifted as TFRecord files hold it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class Services(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """The gRPC services; what they lack is UNIMPLEMENTED."""

    def __init__(self, models):
        self._models = models

    def Predict(self, request, context):  # noqa: N802
        return self._answer(self._models.predict, request, context)

    def GetModelMetadata(self, request, context):  # noqa: N802
        return self._answer(self._models.metadata, request, context)

    def GetModelStatus(self, request, context):  # noqa: N802
        return self._answer(self._models.status, request, context)

    def _answer(self, method, request, context):
        try:
            return method(request)
        except StatusError as error:
            context.abort(CODES[error.code], error.message)


class Rest(http.server.BaseHTTPRequestHandler):
    """The REST API; the server has the models as `models`."""

    protocol_version = "HTTP/1.1"
    # Headers and body in one packet: two wait for each other on a kept connection.
    wbufsize = -1
    _PREDICT = re.compile(r"(?i)/v1/models/([^/:]+)(?:/versions/(\d+))?:(classify|regress|predict)")
    _STATUS = re.compile(r"(?i)/v1/models(?:/([^/:]+))?(?:/versions/(\d+))?(?:/(metadata))?")

    def do_GET(self):
        if self.path == "/modules":
            found = sorted(name for name, module in sys.modules.items() if module is not None)
            self._send(200, json.dumps(found))
            return
        self._answer(lambda: self._get(self._STATUS.fullmatch(self.path)))

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(lambda: self._post(self._PREDICT.fullmatch(self.path), body))

    def log_message(self, *_):
        pass

    def _get(self, match):
        if not match:
            raise invalid(f"Malformed request: GET {self.path}")
        name, version, metadata = match.groups()
        if not name:
            raise invalid("Missing model name in request.")
        if metadata:
            request = get_model_metadata_pb2.GetModelMetadataRequest()
            request.metadata_field.append("signature_def")
        else:
            request = get_model_status_pb2.GetModelStatusRequest()
        _fill_spec(request.model_spec, name, version)
        if not metadata:
            return _printed(self.server.models.status(request))
        response = self.server.models.metadata(request)
        found = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)
        spec, signatures = _printed(response.model_spec), _printed(found)
        return f'{{\n"model_spec":{spec},\n"metadata": {{"signature_def": {signatures}}}\n}}\n'

    def _post(self, match, body):
        if not match:
            raise invalid(f"Malformed request: POST {self.path}")
        name, version, method = match.groups()
        if method.lower() != "predict":
            raise StatusError(UNIMPLEMENTED, f"{method} is left out of this server")
        request = predict_pb2.PredictRequest()
        _fill_spec(request.model_spec, name, version)
        row = fill_request(self.server.models, request, body)
        outputs = self.server.models.predict(request).outputs
        return json.dumps(rows_of(outputs) if row else columns_of(outputs), indent=4)

    def _answer(self, method):
        if not self.path.lower().startswith("/v1/"):
            self._send(404, "")
            return
        try:
            code, text = 200, method()
        except StatusError as error:
            code, text = HTTP.get(error.code, 500), json.dumps({"error": error.message}, indent=4)
        self._send(code, text)

    def _send(self, code, text):
        data = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _fill_spec(spec, name, version):
    spec.name = name
    if version:
        if int(version) >= 2**63:
            raise invalid(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(version)


def _printed(message):
    return json_format.MessageToJson(
        message, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
    )


def fill_request(models, request, body):
    """Fills a predict request from JSON; whether it is in row format."""
    document = _parsed(body)
    if "signature_name" in document:
        if not isinstance(document["signature_name"], str):
            raise invalid(
                f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key "
                "must be a string value."
            )
        request.model_spec.signature_name = document["signature_name"]
    _, model = models.find(request.model_spec)
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if name not in model.signatures:
        raise invalid(f'Serving signature name: "{name}" not found in signature def')
    expected = model.signatures[name].inputs
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {_shown(document)} Not formatted correctly expecting only one of "
            "'inputs' or 'instances' keys to exist "
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise invalid(
                f"JSON Value: {_shown(document)} Excepting 'instances' to be an list/array"
            )
        if not instances:
            raise invalid(f"JSON Value: {_shown(document)} No values in 'instances' array")
        _fill_from_rows(instances, expected, request.inputs)
        return True
    if "inputs" in document:
        _fill_from_columns(document["inputs"], expected, request.inputs)
        return False
    raise invalid("Missing 'inputs' or 'instances' key")


def _parsed(body):
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except json.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {error.msg} at offset: {error.pos}") from None
    except UnicodeDecodeError as error:
        raise invalid(f"JSON Parse error: {error.reason} at offset: {error.start}") from None
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_shown(document)} Is not object")
    return document


def _fill_from_rows(instances, expected, inputs):
    if not isinstance(instances[0], dict) and len(expected) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    named = _is_object(instances[0])
    shapes = {}
    for i, element in enumerate(instances):
        if named != _is_object(element):
            found = "object but got list" if named else "value/list but got object"
            raise invalid(f"Expecting {found} at item {i} of input list")
        items = element if named else {next(iter(expected)): element}
        for name, item in items.items():
            try:
                _add_instance(item, name, expected, shapes, inputs)
            except StatusError as error:
                key = f" key: {name}" if named else ""
                raise invalid(
                    f"Failed to process element: {i}{key} of 'instances' list. Error: "
                    f"INVALID_ARGUMENT: {error.message}"
                ) from None
        if set(items) != set(expected):
            raise invalid(
                f"Failed to process element: {i} of 'instances' list. JSON object: "
                f"{_shown(element)} keys must be equal to: {','.join(sorted(expected))}"
            )
    for name, shape in shapes.items():
        _set_shape(inputs[name], [len(instances), *shape])


def _add_instance(item, name, expected, shapes, inputs):
    if name not in expected:
        raise invalid(f"JSON object: does not have named input: {name}")
    shape = _shape_of(item)
    tensor = inputs[name]
    tensor.dtype = expected[name].dtype
    _fill_tensor(item, 0, shape, tensor)
    first = shapes.setdefault(name, shape)
    if math.prod(first) != math.prod(shape):
        raise invalid(f"Expecting tensor size: {math.prod(first)} but got: {math.prod(shape)}")
    if first != shape:
        raise invalid(f"Expecting shape {_listed(first)} but got: {_listed(shape)}")


def _fill_from_columns(value, expected, inputs):
    if not _is_object(value):
        if len(expected) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        value = {next(iter(expected)): value}
    for name, info in expected.items():
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        shape = _shape_of(value[name])
        tensor = inputs[name]
        tensor.dtype = info.dtype
        _set_shape(tensor, shape)
        _fill_tensor(value[name], 0, shape, tensor)


def _fill_tensor(value, level, shape, tensor):
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {_shown(value)} found at incorrect level: {level + 1} in the JSON "
                f"DOM. Expected at level: {len(shape)}"
            )
        _add_value(value, tensor)
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: "
            f"{shape[level]}"
        )
    for part in value:
        _fill_tensor(part, level + 1, shape, tensor)


def _add_value(value, tensor):
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if tensor.dtype == types_pb2.DT_FLOAT and number:
        limit = 2**24 - 1 if isinstance(value, int) else float(np.finfo(np.float32).max)
        if abs(value) > limit and not math.isinf(value):
            raise invalid(
                f"Cannot convert JSON value: {_shown(value)} to float without loss of precision."
            )
        tensor.float_val.append(value)
    elif tensor.dtype == types_pb2.DT_UINT8 and isinstance(value, int) and number:
        tensor.int_val.append(value)
    elif tensor.dtype == types_pb2.DT_STRING and isinstance(value, str):
        tensor.string_val.append(value.encode())
    elif tensor.dtype == types_pb2.DT_STRING and isinstance(value, dict):
        tensor.string_val.append(_from_base64(value))
    else:
        kinds = {dict: "Object", str: "String", type(None): "Null", bool: str(value)}
        kind = kinds.get(type(value), "Number")
        dtype = types_pb2.DataType.Name(tensor.dtype).removeprefix("DT_").lower()
        raise invalid(f"JSON Value: {_shown(value)} Type: {kind} is not of expected type: {dtype}")


def _from_base64(value):
    if not _is_base64(value):
        raise invalid(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except binascii.Error:
        raise invalid("Unable to base64 decode") from None


def _is_base64(value):
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def _is_object(value):
    return isinstance(value, dict) and not _is_base64(value)


def _shape_of(value):
    if not isinstance(value, list):
        return []
    return [len(value), *(_shape_of(value[0]) if value else [])]


def _set_shape(tensor, shape):
    tensor.tensor_shape.Clear()
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)


def _listed(shape):
    return f"[{','.join(map(str, shape))}]"


def _shown(value):
    return json.dumps(value, indent=4)


def rows_of(outputs):
    """The answer to a request in row format; a single output goes without its name."""
    columns = {name: _values_of(name, tensor) for name, tensor in outputs.items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if len(columns) == 1:
        rows = [value for row in rows for value in row.values()]
    return {"predictions": rows}


def columns_of(outputs):
    """The answer to a request in column format; a single output goes without its name."""
    columns = {name: _values_of(name, tensor) for name, tensor in outputs.items()}
    return {"outputs": next(iter(columns.values())) if len(columns) == 1 else columns}


def _values_of(name, tensor):
    if tensor.dtype == types_pb2.DT_FLOAT:
        # The shortest decimal that is this float32, not all digits of the double that it equals.
        values = [float(str(np.float32(value))) for value in tensor.float_val]
    elif tensor.dtype == types_pb2.DT_STRING and name.endswith("_bytes"):
        values = [{"b64": base64.b64encode(value).decode()} for value in tensor.string_val]
    elif tensor.dtype == types_pb2.DT_STRING:
        values = [value.decode() for value in tensor.string_val]
    else:
        values = list(tensor.int64_val)
    flat = np.empty(len(values), object)
    flat[:] = values
    return flat.reshape([dim.size for dim in tensor.tensor_shape.dim]).tolist()


def main():
    name, base = sys.argv[1:]
    try:
        models = Models(name, pathlib.Path(base))
    except StatusError as error:
        sys.exit(f"{CODES[error.code].name}: {error.message}")
    pool = concurrent.futures.ThreadPoolExecutor(THREADS)
    server = grpc.server(pool, options=[("grpc.max_receive_message_length", -1)])
    services = Services(models)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(services, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(services, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    rest = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rest)
    rest.daemon_threads = True
    rest.models = models
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    print(json.dumps({"grpc": port, "rest": rest.server_port}), flush=True)  # noqa: T201
    sys.stdin.read()
    server.stop(None).wait()


if __name__ == "__main__":
    main()
