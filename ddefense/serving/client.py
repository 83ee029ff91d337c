"""Asking an exported network: a server by gRPC or REST, or TensorFlow's C++ runtime without one.

What is asked and answered is the same in all three. Nothing here imports TensorFlow, which would
take longer than any answer. Connections are neither encrypted nor authenticated: TLS is left to a
proxy before the server.

Nothing that a server sends is trusted: what is read of it has a bound in bytes and in time, and is
checked before it is returned.
"""

import base64
import dataclasses
import http.client
import ipaddress
import json
import pathlib
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ddefense import files, interruption
from ddefense.records import RunError
from ddefense.serving import runtime
from ddefense.serving.versions import GRAPH, versions

Outputs = dict[str, npt.NDArray[Any]]
"""Arrays by name: float32 scores, int64 classes, labels as an object array of str."""

_HELP = "docs/serving.md says how to start a server; bin/query --saved_model needs none."
_NO_TF_SERVING = "what TF Serving's REST API does not send; is it the port of that API?"
_OURS = "Was the model exported by bin/export?"

_MIB = 2**20
# A number in JSON, with the indentation of TF Serving, takes up to 32 bytes: one image may have
# 34,000 classes, each of many images 2,000. More bytes than these take long to decode.
_FIRST_IMAGE, _EACH_IMAGE, _ALL_IMAGES = _MIB, _MIB // 16, 16 * _MIB
_LONGEST_LABEL = 1000
_LONGEST_MESSAGE = 1000


@dataclasses.dataclass(frozen=True)
class Signature:
    """What a signature of our exports takes and gives.

    Attributes:
        input: name of its only input.
        dtype: of the input; object for files as bytes.
        outputs: names of its outputs, the scores of the classes first.
    """

    input: str
    dtype: str
    outputs: tuple[str, ...]


SIGNATURES: Mapping[str, Signature] = {
    "serving_default": Signature("images", "float32", ("probabilities", "classes")),
    "serving_uint8": Signature("images", "uint8", ("probabilities", "classes")),
    "serving_encoded": Signature("image_bytes", "object", ("probabilities", "classes")),
    "serving_labels": Signature("image_bytes", "object", ("probabilities", "labels")),
    "logits": Signature("images", "float32", ("logits",)),
}
"""The signatures by name."""


@dataclasses.dataclass(frozen=True)
class Question:
    """Images for a signature of a model.

    Attributes:
        model: its name on the server.
        signature: one of `SIGNATURES`.
        images: of the signature's dtype: shape [N, H, W, C], in [0, 1] or 0-255, or [N] files.
        version: of the model; the server's newest by default.
    """

    model: str
    signature: str
    images: npt.NDArray[Any]
    version: int | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        outputs: as the signature has them, one row per image.
        version: that answered; None where REST does not say.
    """

    outputs: Outputs
    version: int | None


class NoAnswerError(RunError):
    """A server that cannot be reached, or does not answer in time."""


class RefusedError(RunError):
    """A question that was refused, or an answer that cannot be used; the message is one line."""


def ask_grpc(server: str, question: Question, *, timeout: float) -> Answer:
    """Asks a server by gRPC.

    Args:
        server: host:port.
        question: the images.
        timeout: seconds until the answer must be there.

    Raises:
        NoAnswerError: if there is no answer in time.
        RefusedError: if the server refuses the question.
    """
    runtime.import_messages()
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = question.model
    request.model_spec.signature_name = question.signature
    if question.version is not None:
        request.model_spec.version.value = question.version
    request.inputs[SIGNATURES[question.signature].input].CopyFrom(_proto(question.images))
    options = [
        ("grpc.max_receive_message_length", _limit(question)),
        ("grpc.enable_http_proxy", int(not _is_here(server))),
    ]
    with grpc.insecure_channel(server, options) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            response = stub.Predict(request, timeout=timeout)
        except grpc.RpcError as error:
            code, details = error.code(), _one_line(error.details() or "")
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise _late(server, timeout) from None
            if code == grpc.StatusCode.UNAVAILABLE:
                cause = details.rpartition("Failed to connect to remote host: ")[2]
                raise _unreachable(server, "gRPC", cause) from None
            raise RefusedError(f"{server} refused: {code.name}: {details}") from None
    try:
        found = {name: _array(proto) for name, proto in response.outputs.items()}
    except (ValueError, OverflowError) as error:
        what = _one_line(str(error))
        raise RefusedError(f"{server} sent what cannot be read: {what}. {_OURS}") from None
    return Answer(_checked(server, question, found), response.model_spec.version.value)


def ask_rest(server: str, question: Question, *, timeout: float) -> Answer:
    """Asks a server by its REST API, in column format.

    Args:
        server: host:port.
        question: the images.
        timeout: seconds until the answer must be there.

    Raises:
        NoAnswerError: if there is no answer in time.
        RefusedError: if the server refuses the question, or sends what is no answer.
    """
    path = f"/v1/models/{urllib.parse.quote(question.model, safe='')}"
    if question.version is not None:
        path += f"/versions/{question.version}"
    body = {
        "signature_name": question.signature,
        "inputs": {SIGNATURES[question.signature].input: _json(question.images)},
    }
    limit = _limit(question)
    # Without the handlers that decode, raise, or follow a redirect to who knows where.
    opener = urllib.request.OpenerDirector()
    opener.add_handler(urllib.request.ProxyHandler({} if _is_here(server) else None))
    opener.add_handler(urllib.request.HTTPHandler())

    def post() -> tuple[int, str | None, bytes]:
        request = urllib.request.Request(
            f"http://{server}{path}:predict",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with opener.open(request, timeout=timeout) as reply:
            return reply.status, reply.headers["Location"], reply.read(limit + 1)

    try:
        status, location, content = interruption.within(timeout, post)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise _late(server, timeout) from None
        raise _unreachable(server, "REST", _cause(reason)) from None
    if 300 <= status < 400:
        raise RefusedError(
            f"{server} redirects to {_one_line(str(location))} (HTTP {status}), which is not "
            "followed. Ask that server with --server, if you trust it."
        )
    if len(content) > limit:
        raise RefusedError(
            f"{server} sent more than {limit / _MIB:g} MiB for {len(question.images)} images: "
            f"{_NO_TF_SERVING} For many images of many classes, ask for fewer at a time."
        )
    return Answer(
        _checked(server, question, _outputs(server, question, status, content)), question.version
    )


def ask_saved_model(directory: pathlib.Path, question: Question) -> Answer:
    """Asks an exported model without a server: what TF Serving calls is called here.

    Args:
        directory: of the model, of which the newest version answers or the one asked for; or of
            one version.
        question: the images. The model's name is of no account.

    Raises:
        NoAnswerError: if there is no such version, or nothing to run it with.
        RefusedError: if the version refuses the question.
    """
    version = find_version(directory, question.version)
    try:
        model = runtime.SavedModel(version)
    except ImportError as error:
        raise NoAnswerError(str(error)) from None
    except runtime.StatusError as error:
        raise NoAnswerError(f"{version} does not load: {_one_line(error.message)}") from None
    try:
        if question.signature not in model.signatures:
            raise RefusedError(
                f"{version} has no signature {question.signature}; it has "
                f"{', '.join(sorted(model.signatures))}."
            )
        _expect_ours(f"{question.signature} of {version}", question, model.signatures)
        inputs = {SIGNATURES[question.signature].input: question.images}
        found = {
            name: _decoded(array) for name, array in model.run(question.signature, inputs).items()
        }
    except runtime.StatusError as error:
        raise RefusedError(f"{version} refused: {_one_line(error.message)}") from None
    finally:
        model.close()
    number = int(version.name) if version.name.isdecimal() else None
    return Answer(_checked(str(version), question, found), number)


def find_version(directory: pathlib.Path, version: int | None = None) -> pathlib.Path:
    """A version of a model.

    Args:
        directory: of the model, or of one version.
        version: its number; by default the newest.

    Raises:
        NoAnswerError: if there is none.
    """
    if version is None and (directory / GRAPH).is_file():
        return directory
    found = {int(child.name): child for child in versions(directory)}
    if not found:
        raise NoAnswerError(
            f"Expected {directory} to be an exported model, a directory with a version such as "
            f"1/{GRAPH}, or such a version; it is neither."
        )
    if version is not None and version not in found:
        raise NoAnswerError(
            f"{directory} has no version {version}; it has {', '.join(map(str, found))}."
        )
    return found[max(found) if version is None else version]


def _limit(question: Question) -> int:
    """Bytes of the longest answer that is read."""
    return min(_FIRST_IMAGE + _EACH_IMAGE * len(question.images), _ALL_IMAGES)


def _is_here(server: str) -> bool:
    """Whether a server is on this machine, which no proxy can reach for us."""
    host = server.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _proto(images: npt.NDArray[Any]) -> Any:
    from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2

    shape = tensor_shape_pb2.TensorShapeProto()
    for size in images.shape:
        shape.dim.add(size=size)
    if images.dtype == object:
        return tensor_pb2.TensorProto(
            dtype=types_pb2.DT_STRING, tensor_shape=shape, string_val=images.ravel().tolist()
        )
    dtypes = {"float32": types_pb2.DT_FLOAT, "uint8": types_pb2.DT_UINT8}
    return tensor_pb2.TensorProto(
        dtype=dtypes[images.dtype.name], tensor_shape=shape, tensor_content=images.tobytes()
    )


def _array(proto: Any) -> npt.NDArray[Any]:
    from tensorflow.core.framework import types_pb2

    shape = [dim.size for dim in proto.tensor_shape.dim]
    if min(shape, default=0) < 0:  # which NumPy would fill in
        raise ValueError(f"values of shape {shape}")
    if proto.dtype == types_pb2.DT_STRING:
        return _decoded(np.array(list(proto.string_val), object).reshape(shape))
    dtype: type[np.generic]
    if proto.dtype == types_pb2.DT_FLOAT:
        dtype, values = np.float32, proto.float_val
    elif proto.dtype == types_pb2.DT_INT64:
        dtype, values = np.int64, proto.int64_val
    else:
        raise ValueError(f"values of type {_type_name(proto.dtype)}")
    # A server may send either form.
    if proto.tensor_content:
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    return np.array(values, dtype).reshape(shape)


def _type_name(dtype: int) -> str:
    """As NumPy says it, such as float32 for DT_FLOAT, where it has a word for it."""
    from tensorflow.core.framework import types_pb2

    if dtype not in types_pb2.DataType.values():  # newer than these messages
        return f"number {dtype}"
    name = types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()
    return {"float": "float32", "double": "float64", "half": "float16"}.get(name, name)


def _expect_ours(where: str, question: Question, signatures: Mapping[str, Any]) -> None:
    """Refuses a signature that only has the name of one of ours."""
    signature, known = signatures[question.signature], SIGNATURES[question.signature]
    types = {"object": "string"}
    expected = (
        {known.input: types.get(known.dtype, known.dtype)},
        {name: types.get(_dtype(name), _dtype(name)) for name in known.outputs},
    )
    # What is no single tensor, such as a sparse one, has no name.
    found = tuple(
        {name: _type_name(info.dtype) if info.name else "no tensor" for name, info in part.items()}
        for part in (signature.inputs, signature.outputs)
    )
    if found != expected:
        raise RefusedError(
            f"Expected {where} to take {_listed(expected[0])} and to give {_listed(expected[1])}; "
            f"it takes {_listed(found[0])} and gives {_listed(found[1])}. {_OURS}"
        )


def _listed(types: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {types[name]}" for name in sorted(types)) or "nothing"


def _dtype(output: str) -> str:
    return {"classes": "int64", "labels": "object"}.get(output, "float32")


def _decoded(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype != object:
        return array
    texts = np.empty(array.shape, object)
    texts.ravel()[:] = [text.decode(errors="replace") for text in array.ravel()]
    return texts


def _json(images: npt.NDArray[Any]) -> list[Any]:
    if images.dtype == object:
        return [{"b64": base64.b64encode(file).decode()} for file in images]
    return list(images.tolist())


def _outputs(server: str, question: Question, status: int, content: bytes) -> Outputs:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if status != 200:
        said = body.get("error") if isinstance(body, dict) else None
        what = _one_line(str(said)) if said else _NO_TF_SERVING
        raise RefusedError(f"{server} refused: HTTP {status}: {what}")
    expected = SIGNATURES[question.signature].outputs
    try:
        found = body["outputs"]
        # A single output comes without its name.
        columns = found if isinstance(found, dict) else {expected[0]: found}
        with np.errstate(over="ignore"):  # infinity is refused below
            return {name: np.array(column, _dtype(name)) for name, column in columns.items()}
    except (KeyError, TypeError, ValueError, OverflowError):
        raise RefusedError(f"{server} sent {_NO_TF_SERVING}") from None


def _checked(server: str, question: Question, found: Outputs) -> Outputs:
    expected = SIGNATURES[question.signature].outputs
    rows = len(question.images)
    if not _fits(found, expected, rows):
        shapes = {name: (array.dtype.name, array.shape) for name, array in found.items()}
        raise RefusedError(
            f"Expected {', '.join(expected)} for {rows} images from {question.signature} of "
            f"{server}; received {_one_line(str(shapes))}. {_OURS}"
        )
    if not np.isfinite(found[expected[0]]).all():
        raise RefusedError(
            f"Expected finite {expected[0]} from {question.signature} of {server}; received NaN or "
            f"infinity. {_OURS}"
        )
    if not all(
        isinstance(label, str) and len(label) <= _LONGEST_LABEL for label in found.get("labels", ())
    ):
        raise RefusedError(
            f"Expected labels of at most {_LONGEST_LABEL} characters from {question.signature} of "
            f"{server}; received something else. {_OURS}"
        )
    return found


def _fits(found: Outputs, expected: tuple[str, ...], rows: int) -> bool:
    """Whether there are scores of every class for every image, and one class or label."""
    if {name: array.dtype for name, array in found.items()} != {
        name: np.dtype(_dtype(name)) for name in expected
    }:
        return False
    scores, *rest = (found[name] for name in expected)
    if scores.ndim != 2 or len(scores) != rows or not scores.shape[1]:
        return False
    classes = found.get("classes", np.zeros(rows, np.int64))
    return all(array.shape == (rows,) for array in rest) and bool(
        ((classes >= 0) & (classes < scores.shape[1])).all()
    )


def _late(server: str, timeout: float) -> NoAnswerError:
    return NoAnswerError(f"{server} did not answer within {timeout:g} s; see --timeout.")


def _unreachable(server: str, protocol: str, details: str) -> NoAnswerError:
    return NoAnswerError(
        f"No server answers {protocol} at {server}: {details}. Is it running, and is that its "
        f"{protocol} port? {_HELP}"
    )


def _cause(error: object) -> str:
    """What the operating system says, or that HTTP is not what comes back."""
    if isinstance(error, http.client.HTTPException):
        return "what comes back is no HTTP"
    return _one_line(getattr(error, "strerror", None) or str(error))


def _one_line(message: str) -> str:
    """What the graph or the server says, no longer than anyone reads."""
    found = files.one_line(message)
    return found if len(found) <= _LONGEST_MESSAGE else f"{found[:_LONGEST_MESSAGE]}..."
