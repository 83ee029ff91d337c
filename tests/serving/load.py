"""Clients that send a server many requests at once and check every answer.

    python -P load.py ADDRESS PID QUESTIONS.npz

reads `<signature>/<input>/<output>` -> values, `<signature>/batches` -> indices of those to send
together (-1 where a batch has fewer), `<signature>/expected` -> the answers to each batch and
`<signature>/named` -> its classes or labels, empty where the signature answers with neither. It
sends `WARM_UP` and then `MEASURED` requests from `CLIENTS` threads, each with a connection of its
own, and prints as JSON what came of them. It is a process of its own, so that clients and server
share no interpreter, and knows TensorFlow's messages only.
"""
# ruff: noqa: E402 (TensorFlow's messages are importable without TensorFlow only after a call)

import collections
import dataclasses
import importlib.util
import json
import os
import pathlib
import struct
import sys
import threading
import time
import zlib

import grpc
import numpy as np

_PATH = pathlib.Path(__file__).resolve().parents[2] / "ddefense" / "serving" / "runtime.py"
_SPEC = importlib.util.spec_from_file_location("runtime", _PATH)
runtime = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(runtime)
runtime.import_messages()

from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

NAME = "digits_distilled_t100"
VERSION = 2
CLIENTS = 16
WARM_UP, MEASURED = 2_000, 8_000
MALFORMED_EVERY = 20
TOLERANCE = 1e-6
TIMEOUT = 120
PAGE = os.sysconf("SC_PAGE_SIZE")
DTYPES = {"float32": types_pb2.DT_FLOAT, "uint8": types_pb2.DT_UINT8}


@dataclasses.dataclass(frozen=True)
class Question:
    """What to send a signature, in batches, and what it answers: scores, and classes or labels."""

    signature: str
    input: str
    output: str
    values: np.ndarray
    batches: np.ndarray
    expected: np.ndarray
    named: np.ndarray


def read(path):
    questions = {}
    with np.load(path, allow_pickle=True) as arrays:
        for key in arrays.files:
            signature, name, *output = key.split("/")
            if output:
                answers = (
                    arrays[f"{signature}/{part}"] for part in ("batches", "expected", "named")
                )
                questions[signature] = Question(signature, name, *output, arrays[key], *answers)
    return questions


def tensor(values):
    shape = tensor_shape_pb2.TensorShapeProto()
    for size in values.shape:
        shape.dim.add(size=size)
    if values.dtype == object:
        strings = values.tolist()
        return tensor_pb2.TensorProto(
            dtype=types_pb2.DT_STRING, tensor_shape=shape, string_val=strings
        )
    return tensor_pb2.TensorProto(
        dtype=DTYPES[values.dtype.name], tensor_shape=shape, tensor_content=values.tobytes()
    )


def request(signature, **inputs):
    made = predict_pb2.PredictRequest()
    made.model_spec.name = NAME
    made.model_spec.signature_name = signature
    for name, values in inputs.items():
        made.inputs[name].CopyFrom(tensor(values))
    return made


def flat_png(side):
    """A grey PNG file of one colour, side by side pixels."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (side + 1)), 9)
    parts = (b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def malformed(questions):
    """One request of every kind that must be refused."""
    floats = questions["serving_default"].values[:2]
    integers = questions["serving_uint8"].values[:2]
    files = questions["serving_labels"].values[:2]
    nan = floats.copy()
    nan[1, 0, 0] = np.nan
    cut_off = np.array([files[0], files[1][: len(files[1]) // 2]], object)
    unknown_output = request("serving_default", images=floats)
    unknown_output.output_filter.append("scores")
    wrong_size = request("serving_default", images=floats)
    wrong_size.inputs["images"].tensor_content += b"0"
    return [
        request("serving_default", images=floats + 1),
        request("serving_default", images=nan),
        request("serving_default", images=floats[:0]),
        request("serving_default", images=floats[:, 1:]),
        request("serving_default", images=integers),
        request("serving_default", image=floats),
        request("serving_default"),
        unknown_output,
        wrong_size,
        request("serving_uint8", images=floats),
        request("serving_uint8", images=integers[..., 0]),
        request("serving_encoded", image_bytes=cut_off),
        request("serving_labels", image_bytes=np.array([b"no image"], object)),
        request("serving_labels", image_bytes=files[:0]),
        # 65 kB each that would take a gigabyte.
        request("serving_labels", image_bytes=np.array([flat_png(8192)] * 2, object)),
    ]


class Client(threading.Thread):
    """Sends requests, one after another, and counts what comes back."""

    def __init__(self, address, questions, bad, numbers):
        super().__init__()
        self._address, self._questions, self._bad = address, list(questions.values()), bad
        self._numbers = numbers
        self.found = collections.Counter()

    def run(self):
        random = np.random.default_rng(self._numbers.start)
        # Or all clients of a process share one connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self._address, options) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for number in self._numbers:
                if number % MALFORMED_EVERY == 0:
                    kind = number // MALFORMED_EVERY % len(self._bad)
                    self.found[f"bad {_send_bad(stub, self._bad[kind])}"] += 1
                    self.found[f"kind {kind}"] += 1
                else:
                    question = self._questions[random.integers(len(self._questions))]
                    batch = random.integers(len(question.batches))
                    self.found[f"good {_send_good(stub, question, batch)}"] += 1


def _send_bad(stub, bad):
    try:
        stub.Predict(bad, timeout=TIMEOUT)
    except grpc.RpcError as error:
        return error.code().name
    return "answered"


def _send_good(stub, question, batch):
    chosen = question.batches[batch]
    chosen = chosen[chosen >= 0]
    asked = request(question.signature, **{question.input: question.values[chosen]})
    try:
        response = stub.Predict(asked, timeout=TIMEOUT)
    except grpc.RpcError as error:
        return error.code().name
    return "right" if _is_right(response, question, batch, len(chosen)) else "wrong"


def _is_right(response, question, batch, rows):
    """Whether the version, the scores and the classes or labels are the expected ones."""
    spec, outputs = response.model_spec, dict(response.outputs)
    if (spec.name, spec.version.value, spec.signature_name) != (NAME, VERSION, question.signature):
        return False
    if question.output not in outputs:
        return False
    answer = outputs.pop(question.output)
    found = np.array(answer.float_val, np.float32)
    if answer.tensor_content:
        found = np.frombuffer(answer.tensor_content, np.float32)
    expected = question.expected[batch][:rows]
    scale = max(1.0, float(np.abs(expected).max())) if question.output == "logits" else 1.0
    if _shape(answer) != expected.shape or found.size != expected.size:
        return False
    if not np.abs(found.reshape(expected.shape) - expected).max() <= TOLERANCE * scale:
        return False
    return _names(outputs, rows) == _expected_names(question, batch, rows)


def _names(outputs, rows):
    """Classes or labels by the name of the output, of all outputs that are no scores."""
    found = {}
    for name, answer in outputs.items():
        values = [*answer.int64_val, *answer.string_val]
        if answer.tensor_content:
            values = np.frombuffer(answer.tensor_content, np.int64).tolist()
        found[name] = values if _shape(answer) == (rows,) else None
    return found


def _expected_names(question, batch, rows):
    if not question.named.size:
        return {}
    name = "labels" if question.named.dtype == object else "classes"
    return {name: question.named[batch][:rows].tolist()}


def _shape(tensor):
    return tuple(dim.size for dim in tensor.tensor_shape.dim)


def memory(pid):
    """Resident memory of a process, in bytes."""
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def send(address, questions, numbers):
    """Sends requests from all clients at once; what came of them, by kind."""
    bad = malformed(questions)
    share = len(numbers) // CLIENTS
    clients = [
        Client(address, questions, bad, numbers[i * share : (i + 1) * share])
        for i in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return sum((client.found for client in clients), collections.Counter())


def main():
    address, pid, path = sys.argv[1:]
    questions = read(path)
    before = time.monotonic()
    found = send(address, questions, range(WARM_UP))
    resident = [memory(pid)]
    found += send(address, questions, range(WARM_UP, WARM_UP + MEASURED))
    resident.append(memory(pid))
    seconds = time.monotonic() - before
    print(json.dumps({"found": found, "resident": resident, "seconds": seconds}))  # noqa: T201


if __name__ == "__main__":
    main()
