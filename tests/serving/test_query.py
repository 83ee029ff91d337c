"""`bin/query` against a server, and against an exported model without one."""

import concurrent.futures
import contextlib
import http.server
import json
import os
import re
import socket
import subprocess
import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from ddefense.exporting import signatures
from ddefense.serving import client

pytestmark = pytest.mark.slow

NAME = "digits_distilled_t100"
RUN = 1

FORKS = """
import json, os, sys
from ddefense.cli import query
import ddefense.datasets.digits
for name in ("tensorflow", "grpc"):
    assert name not in sys.modules
import requests  # what every fork would import anew, and may be imported before it
from ddefense import datasets
from ddefense.serving import runtime
datasets.load("digits")
runtime.import_messages()
from tensorflow_serving.apis import predict_pb2
for line in open(sys.argv[1]):
    child = os.fork()
    if not child:
        for handle, name in ((1, "out"), (2, "err")):
            path = f"{sys.argv[2]}/{name}"
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), handle)
        sys.argv = ["bin/query", *json.loads(line)]
        try:
            query.run()
        except SystemExit as done:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(done.code or 0)  # at once: to free what it has from its parent takes longer
        os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = (open(f"{sys.argv[2]}/{name}").read() for name in ("out", "err"))
    print(json.dumps([status, *said]), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits):
    """Where the commands run: a PNG, a JPEG in colour and another size, and no image."""
    folder = tmp_path_factory.mktemp("query")
    grey = np.rint(digits.test.images[:2] * 255).astype(np.uint8)
    (folder / "grey.png").write_bytes(tf.io.encode_png(grey[0]).numpy())
    large = tf.image.grayscale_to_rgb(tf.image.resize(grey[1], (90, 70)))
    (folder / "colour.jpg").write_bytes(tf.io.encode_jpeg(tf.cast(large, tf.uint8)).numpy())
    (folder / "text.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def query(start_python, folder, tmp_path_factory):
    """Runs the command; in a fork, because starting Python takes longer than most answers."""
    scratch = tmp_path_factory.mktemp("out")
    pipe = scratch / "requests"
    os.mkfifo(pipe)
    with (
        start_python("-c", FORKS, pipe, scratch, cwd=folder) as forking,
        # For reading too: it opens even if the Python at the other end never gets that far.
        os.fdopen(os.open(pipe, os.O_RDWR), "w") as requests,
    ):

        def run(*arguments):
            print(json.dumps(arguments), file=requests, flush=True)
            answer = forking.stdout.readline()
            assert answer, forking.stderr.read()
            found = subprocess.CompletedProcess(arguments, *json.loads(answer))
            assert "Traceback" not in found.stderr
            return found

        yield run


@pytest.fixture(scope="module", params=["grpc", "rest", "saved_model"])
def place(request, server, exported):
    """Flags that say whom to ask, by each of the three ways."""
    if request.param == "saved_model":
        return (f"--saved_model={exported.base}",)
    port = server.grpc_port if request.param == "grpc" else server.rest_port
    return (f"--server=127.0.0.1:{port}", f"--protocol={request.param}", f"--model={NAME}")


def table(found):
    """The cells of what was printed, by row."""
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    lines = found.stdout.splitlines()
    starts = [match.start() for match in re.finditer(r"(?<=  )\S|^\S", lines[0])]
    ends = [*starts[1:], None]
    return [
        [line[start:end].strip() for start, end in zip(starts, ends, strict=True)] for line in lines
    ]


def assert_refused(found, *named):
    assert found.returncode == RUN
    assert found.stdout == ""
    (line,) = found.stderr.splitlines()
    for part in named:
        assert part in line


def test_files_get_their_labels(run_python, folder, place, class_names, digits):
    command = (*place, "--images=grey.png,colour.jpg", "--top=2")
    head, *rows = table(run_python("-m", "ddefense.cli.query", *command, cwd=folder))
    assert head == ["image", "label", "probability", "next, by index"]
    truths = digits.test.labels[:2]
    assert [row[:2] for row in rows] == [
        ["grey.png", class_names[truths[0]]],
        ["colour.jpg", class_names[truths[1]]],
    ]
    for row in rows:
        assert 0.5 < float(row[2]) <= 1
        assert re.fullmatch(r"\d 0\.\d{4}", row[3])


def test_json_has_the_network_s_own_probabilities(query, place, ask_network, folder, digits):
    found = query(*place, "--images=grey.png", "--version=1", "--json")
    assert (found.returncode, found.stderr) == (0, "")
    answer = json.loads(found.stdout)
    assert (answer["version"], answer["signature"]) == (1, "serving_labels")
    (row,) = answer["answers"]
    seen = tf.io.decode_png((folder / "grey.png").read_bytes()).numpy() / np.float32(255)
    expected = ask_network(seen[None], version=1)
    np.testing.assert_allclose([row["probabilities"]], expected, rtol=0, atol=1e-6)
    assert row["image"] == "grey.png"
    assert row["class"] == expected.argmax() == digits.test.labels[0]
    assert row["probability"] == max(row["probabilities"])


@pytest.mark.parametrize(
    ("signature", "kind"),
    [("serving_default", "probability"), ("serving_uint8", "probability"), ("logits", "logit")],
)
def test_images_of_a_dataset_come_with_their_class(
    query, place, ask_network, digits, signature, kind
):
    command = ("--dataset=digits", "--samples=4", f"--signature={signature}", "--top=1")
    head, *rows = table(query(*place, *command))
    assert head == ["image", "true class", "class", kind, "next"]
    assert [row[0] for row in rows] == [f"digits {i}" for i in range(4)]
    assert [int(row[1]) for row in rows] == digits.test.labels[:4].tolist()
    output = "logits" if signature == "logits" else "probabilities"
    expected = ask_network(digits.test.images[:4], output=output)
    assert [int(row[2]) for row in rows] == expected.argmax(axis=1).tolist()
    found = [float(row[3]) for row in rows]
    # Bytes stand for slightly other images than the dataset's.
    tolerance = 0.01 if signature == "serving_uint8" else 1e-4 * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found, expected.max(axis=1), rtol=0, atol=tolerance)


def test_a_file_that_is_no_image_is_named(query, place):
    said = "image_bytes: expected the bytes of a PNG or JPEG file; received 8 bytes that are neith"
    assert_refused(query(*place, "--images=grey.png,text.png,colour.jpg"), "text.png: ", said)
    alone = query(*place, "--images=text.png")
    assert_refused(alone, said)
    assert "\n\t" not in alone.stderr  # where in the graph it happened


def test_a_version_that_is_not_there_is_refused(query, place):
    found = query(*place, "--images=grey.png", "--version=9")
    assert_refused(found, "9")
    assert "not found" in found.stderr or "has no version 9; it has 1, 2." in found.stderr


def test_a_model_that_is_not_there_is_refused(query, server):
    for protocol, port, code in (
        ("grpc", server.grpc_port, "NOT_FOUND"),
        ("rest", server.rest_port, "HTTP 404"),
    ):
        place = (f"--server=localhost:{port}", f"--protocol={protocol}", "--model=other")
        said = f"localhost:{port} refused: {code}: Servable not found for request: Latest(other)"
        assert_refused(query(*place, "--images=grey.png,colour.jpg"), said)


def test_the_wrong_port_of_a_server_is_explained(query, server):
    for protocol, port in (("gRPC", server.rest_port), ("REST", server.grpc_port)):
        place = (f"--server=localhost:{port}", f"--protocol={protocol.lower()}", "--model=any")
        found = query(*place, "--images=grey.png")
        assert_refused(found, f"localhost:{port}", f"{protocol} port?")


def test_one_version_answers_without_a_server(query, exported):
    place = f"--saved_model={exported.base / '1'}"
    found = query(place, "--images=grey.png", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["version"] == 1
    refused = query(place, "--dataset=digits", "--signature=logits")
    assert_refused(refused, "has no signature logits; it has serving_default, serving_encoded")


def test_a_version_that_does_not_load_is_refused(query, folder):
    (folder / "damaged" / "1").mkdir(parents=True)
    (folder / "damaged" / "1" / "saved_model.pb").write_bytes(b"no graph")
    assert_refused(query("--saved_model=damaged", "--images=grey.png"), "damaged/1 does not load: ")


HINT = "Was the model exported by bin/export?"
PROBABILITIES = np.full(10, 0.05, np.float32)
PROBABILITIES[[2, 5]] = 0.3


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    """Exports a model whose signature `serving_default` answers with these values per image."""

    def saved(dtype=tf.float32, **values):
        module = tf.Module()

        @tf.function(input_signature=[tf.TensorSpec((None, 28, 28, 1), dtype, name="images")])
        def answer(images):
            count = tf.shape(images)[0]
            return {
                name: tf.repeat(tf.constant(value)[None], count, axis=0)
                for name, value in values.items()
            }

        base = tmp_path_factory.mktemp("foreign")
        tf.saved_model.save(module, str(base / "1"), signatures={"serving_default": answer})
        return base

    return saved


def test_a_model_that_bin_export_did_not_write_is_refused(query, make_tiny_network, tmp_path):
    # Keras calls the input after itself.
    make_tiny_network().export(tmp_path / "1", verbose=False)
    place = f"--saved_model={tmp_path}"
    found = query(place, "--dataset=digits")
    assert_refused(
        found,
        f"Expected serving_default of {tmp_path / '1'} to take images float32 and to give classes "
        "int64, probabilities float32; it takes ",
        "and gives output_0 float32. " + HINT,
    )
    assert_refused(query(place, "--images=grey.png"), "has no signature serving_labels; it has")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"classes": np.int32(5)}, "gives classes int32, probabilities float32"),
        ({}, "gives probabilities float32."),
        ({"classes": np.int64(5), "dtype": tf.int32}, "it takes images int32 and gives"),
        # The right names and types, but no such class.
        ({"classes": np.int64(10)}, "received {'"),
    ],
    ids=str,
)
def test_a_saved_model_with_other_inputs_or_outputs_is_refused(query, save, settings, named):
    base = save(**{"probabilities": PROBABILITIES} | settings)
    assert_refused(query(f"--saved_model={base}", "--dataset=digits"), named, HINT)


def test_the_class_is_the_model_s_own_also_in_a_tie(query, save):
    place = f"--saved_model={save(probabilities=PROBABILITIES, classes=np.int64(5))}"
    _, row = table(query(place, "--dataset=digits", "--samples=1"))
    assert row == ["digits 0", "0", "5", "0.3000", "2 0.3000, 0 0.0500"]
    answer = json.loads(query(place, "--dataset=digits", "--samples=1", "--json").stdout)
    (found,) = answer["answers"]
    assert (found["class"], found["probability"]) == (5, 0.3)


@contextlib.contextmanager
def grpc_server(outputs):
    """Answers every request with these outputs, as a server of some other model may."""

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):  # noqa: N802
            return predict_pb2.PredictResponse(model_spec=request.model_spec, outputs=outputs)

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@contextlib.contextmanager
def rest_server(body):
    """Answers every request with this JSON."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


BLANK = client.Question("other", "serving_default", np.zeros((1, 28, 28, 1), np.float32))
ROW = tf.make_tensor_proto(PROBABILITIES[None])
CLASS = tf.make_tensor_proto([5], tf.int64)
CUT_OFF = tf.make_tensor_proto(PROBABILITIES[None])
CUT_OFF.tensor_content = CUT_OFF.tensor_content[:-3]
TOO_FEW = tf.make_tensor_proto(np.float32([[0.5]]))
TOO_FEW.tensor_shape.dim[1].size = 10


@pytest.mark.parametrize(
    ("outputs", "named"),
    [
        (
            {"probabilities": ROW, "classes": tf.make_tensor_proto([5], tf.int32)},
            "sent what cannot be read: values of type int32.",
        ),
        ({"probabilities": tf.make_tensor_proto([[0.5]], tf.float64)}, "values of type float64."),
        ({"probabilities": CUT_OFF, "classes": CLASS}, "sent what cannot be read: "),
        ({"probabilities": TOO_FEW, "classes": CLASS}, "sent what cannot be read: "),
        ({"output_0": ROW}, "received {'output_0': ('float32', (1, 10))}."),
        ({"probabilities": CLASS, "classes": ROW}, "'classes': ('float32', (1, 10))"),
        ({"probabilities": tf.make_tensor_proto(1.0), "classes": CLASS}, "('float32', ())"),
        ({"probabilities": ROW, "classes": tf.make_tensor_proto([10], tf.int64)}, "received {'"),
        ({"probabilities": ROW, "classes": tf.make_tensor_proto([-1], tf.int64)}, "received {'"),
        ({"probabilities": ROW, "classes": tf.make_tensor_proto([[5]], tf.int64)}, "(1, 1)"),
        ({"probabilities": ROW, "classes": CLASS, "more": CLASS}, "'more': ('int64', (1,))"),
        ({}, "received {}."),
    ],
)
def test_an_answer_by_grpc_of_another_kind_is_refused(outputs, named):
    with grpc_server(outputs) as port, pytest.raises(client.RefusedError) as caught:
        client.ask_grpc(f"localhost:{port}", BLANK, timeout=60)
    for part in (f"localhost:{port}", named, HINT):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ('{"outputs": [[0.5, 0.5]]}', "received {'probabilities': ('float32', (1, 2))}"),
        ('{"outputs": {"probabilities": 1.0, "classes": 0}}', "'classes': ('int64', ())"),
        ('{"outputs": {"probabilities": [[0.5, 0.5]], "classes": [2]}}', "received {'"),
        ('{"outputs": {"output_0": [[0.5]], "output_1": [1]}}', "'output_1': ('float32', (1,))"),
        ('{"outputs": {"probabilities": [["a"]], "classes": [0]}}', ""),
        ('{"outputs": {"probabilities": [[0.5]], "classes": [1e999]}}', ""),
        ('{"outputs": {"probabilities": [[0.5], [0.1, 0.2]], "classes": [0]}}', ""),
        ('{"outputs": {"probabilities": [[0.5]], "classes": [99999999999999999999]}}', ""),
        ('{"predictions": [0.5]}', ""),
        ("[0.5]", ""),
    ],
)
def test_an_answer_by_rest_of_another_kind_is_refused(body, named):
    with rest_server(body) as port, pytest.raises(client.RefusedError) as caught:
        client.ask_rest(f"localhost:{port}", BLANK, timeout=60)
    said = (named, HINT) if named else ("sent what TF Serving's REST API does not send",)
    for part in (f"localhost:{port}", *said):
        assert part in str(caught.value)


@pytest.fixture
def silent():
    """The port of a server that never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.parametrize(("protocol", "said"), [("grpc", "gRPC"), ("rest", "REST")])
def test_a_server_that_is_not_there_is_reported_at_once(query, silent, protocol, said):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # but does not listen
        port = closed.getsockname()[1]
        place = (f"--server=localhost:{port}", f"--protocol={protocol}", f"--model={NAME}")
        found = query(*place, "--images=grey.png")
    assert_refused(
        found,
        f"No server answers {said} at localhost:{port}: Connection refused. Is it running",
        "docs/serving.md says how to start a server",
        "--saved_model",
    )
    place = (f"--server=127.0.0.1:{silent}", f"--protocol={protocol}", f"--model={NAME}")
    started = time.monotonic()
    found = query(*place, "--images=grey.png", "--timeout=0.5")
    assert_refused(found, f"127.0.0.1:{silent} did not answer within 0.5 s; see --timeout.")
    assert time.monotonic() - started < 30


def test_the_client_knows_the_signatures_that_are_exported(server):
    names = {getattr(signatures, name) for name in ("DEFAULT", "UINT8", "ENCODED", "LABELS")}
    assert set(client.SIGNATURES) == {*names, signatures.LOGITS}
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = NAME
    found = get_model_metadata_pb2.SignatureDefMap()
    server.stub.GetModelMetadata(request, timeout=60).metadata["signature_def"].Unpack(found)
    for name, known in client.SIGNATURES.items():
        signature = found.signature_def[name]
        ((input_name, info),) = signature.inputs.items()
        dtype = tf.as_dtype(info.dtype).as_numpy_dtype
        assert (input_name, np.dtype(dtype).name) == (known.input, known.dtype)
        assert set(signature.outputs) == set(known.outputs)


def test_answers_of_the_three_ways_are_the_same(server, exported, questions):
    for name in client.SIGNATURES:
        asked = questions[name]
        question = client.Question(NAME, name, asked.values[:3], version=2)
        answers = [
            client.ask_grpc(f"127.0.0.1:{server.grpc_port}", question, timeout=60),
            client.ask_rest(f"127.0.0.1:{server.rest_port}", question, timeout=60),
        ]
        for answer in answers:
            assert answer.version == 2
            scores = answer.outputs[asked.output]
            scale = max(1.0, float(np.abs(scores).max())) if name == "logits" else 1.0
            expected = asked.expected(slice(3))
            np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6 * scale)
        one, other = (answer.outputs for answer in answers)
        assert set(one) == set(other)
        for output, values in one.items():
            np.testing.assert_array_equal(values, other[output])
            assert values.dtype == other[output].dtype
