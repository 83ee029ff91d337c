"""A hostile server gets one line: it fills no memory, holds no client and steers no terminal."""

import concurrent.futures
import contextlib
import itertools
import json
import re
import signal
import socketserver
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from ddefense.serving import client

ROWS = client.Question("m", "serving_default", np.zeros((1, 4, 4, 1), np.float32))
LABELS = client.Question("m", "serving_labels", np.array([b"file"], object))
SOON = 10  # seconds: by far less than anything here would wait
MIB = 2**20
OK = b"HTTP/1.1 200 OK\r\n"
UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
EVIL = "\x1b]0;owned\x07\r\nforged  1.0000\x9b2J\u202e\u2028more"


class Server(socketserver.ThreadingTCPServer):
    """Sends every client what it has to say, and counts the bytes that were taken."""

    daemon_threads, block_on_close = True, False

    def __init__(self, parts, pause):
        super().__init__(("127.0.0.1", 0), Talk)
        self.parts, self.pause = parts, pause
        self.clients, self.sent = threading.Semaphore(0), 0

    @property
    def address(self):
        return f"127.0.0.1:{self.server_address[1]}"


class Talk(socketserver.BaseRequestHandler):
    def handle(self):
        self.server.clients.release()
        with contextlib.suppress(OSError):
            for part in self.server.parts():
                self.request.sendall(part)
                self.server.sent += len(part)
                time.sleep(self.server.pause)
            self.request.shutdown(1)
            while self.request.recv(MIB):  # or what was sent would be lost with the connection
                pass


@contextlib.contextmanager
def serving(*parts, forever=None, pause=0.0):
    """A server that says these parts, and then perhaps one again and again."""

    def say():
        endless = [] if forever is None else itertools.repeat(forever)
        return itertools.chain(parts, endless)

    with Server(say, pause) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def json_reply(body, status=b"200 OK"):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def refused(ask, server, question=ROWS, *, timeout=60, kind=client.RefusedError):
    """The message, which is one of a length that is read, and comes soon."""
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        ask(server, question, timeout=timeout)
    assert time.monotonic() - started < SOON
    message = str(caught.value)
    assert server in message
    assert len(message) < 1500
    return message


@pytest.mark.parametrize(
    "head", [OK, OK + b"Content-Length: 999999999999\r\n", b"HTTP/1.1 500 No\r\n"]
)
def test_an_endless_body_is_read_up_to_a_bound(head):
    with serving(head + b"\r\n", forever=b" " * 65536) as server:
        assert "more than 1.0625 MiB for 1 images" in refused(client.ask_rest, server.address)
        assert server.sent < 16 * MIB


def test_an_endless_body_in_chunks_is_read_up_to_a_bound():
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    with serving(head, forever=b"10000\r\n" + b" " * 65536 + b"\r\n") as server:
        assert "more than 1.0625 MiB" in refused(client.ask_rest, server.address)
        assert server.sent < 16 * MIB


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (OK + b"\r\n", b" "),
        (OK + b"X: ", b"a"),
        (b"", b"H"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK, b"X: a\r\n"),
    ],
)
def test_the_time_is_for_the_whole_request(head, part):
    with serving(head, forever=part, pause=0.04) as server:
        message = refused(client.ask_rest, server.address, timeout=0.5, kind=client.NoAnswerError)
    assert "did not answer within 0.5 s" in message


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"307 Other", b"308 Other"])
def test_a_redirect_is_named_and_not_followed(status):
    with serving(json_reply(b"{}")) as other:
        head = b"HTTP/1.1 %s\r\nLocation: http://%s/x\r\n\r\n" % (status, other.address.encode())
        with serving(head, forever=b" " * 65536) as server:
            message = refused(client.ask_rest, server.address)
            assert f"redirects to http://{other.address}/x (HTTP {status[:3].decode()})" in message
            assert server.sent < 16 * MIB
        assert not other.clients.acquire(blocking=False)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"[" * 200_000, "does not send"),
        (b'{"outputs":' + b"[" * 200_000, "does not send"),
        (b'{"outputs":' + b"[" * 100 + b"]" * 100 + b"}", "does not send"),
        (b'{"outputs": {"probabilities": [[NaN, 0]], "classes": [0]}}', "received NaN or infinity"),
        (b'{"outputs": {"probabilities": [[1e39, 0]], "classes": [0]}}', "NaN or infinity"),
        (b'{"outputs": {"probabilities": [[null]], "classes": [0]}}', "NaN or infinity"),
        (
            b'{"outputs": {"probabilities": [[%s]], "classes": [0]}}' % (b"9" * 9999),
            "does not send",
        ),
        (
            b'{"outputs": {"probabilities": [[1]], "classes": [0], "%s": 1}}' % (b"a" * 9999),
            "aaa...",
        ),
        (b"\xff\xfe\x00", "does not send"),
    ],
    ids=range(9),
)
def test_what_is_no_answer_by_rest_is_refused(body, named):
    with serving(json_reply(body)) as server:
        assert named in refused(client.ask_rest, server.address)


@pytest.mark.parametrize("label", [{"a": 1}, ["a"], 7, None, "a" * 100_000], ids=range(5))
def test_what_is_no_label_is_refused(label):
    with serving(json_reply({"outputs": {"probabilities": [[1]], "labels": [label]}})) as server:
        message = refused(client.ask_rest, server.address, LABELS)
    assert (
        "labels of at most 1000 characters" in message or "'labels': ('object', (1, 1))" in message
    )


@pytest.mark.parametrize(
    "parts",
    [
        (b"\0" * 9999,),
        (b"HTTP/1.1 200 OK\r\n\r\nhello",),
        (),
        (np.random.default_rng(0).bytes(9999),),
    ],
    ids=range(4),
)
@pytest.mark.parametrize("ask", [client.ask_grpc, client.ask_rest])
def test_garbage_is_no_answer(ask, parts):
    with serving(*parts) as server:
        message = refused(ask, server.address, timeout=2, kind=client.RunError)
    assert "\n" not in message


@pytest.mark.parametrize("pause", [0.0, 0.05])
def test_endless_garbage_is_no_answer_by_grpc(pause):
    with serving(forever=b"\0" * 512, pause=pause) as server:
        refused(client.ask_grpc, server.address, timeout=1, kind=client.NoAnswerError)


@contextlib.contextmanager
def grpc_serving(outputs):
    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):  # noqa: N802
            return predict_pb2.PredictResponse(outputs=outputs)

    running = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        running.stop(None).wait()


def shaped(values, shape, dtype=tf.float32):
    found = tf.make_tensor_proto(values, dtype)
    del found.tensor_shape.dim[:]
    for size in shape:
        found.tensor_shape.dim.add(size=size)
    return found


ROW, CLASS = shaped([0.5, 0.5], [1, 2]), shaped([1], [1], tf.int64)


@pytest.mark.parametrize(
    ("outputs", "named"),
    [
        (
            {"probabilities": shaped(np.zeros(2**20), [1, 2**20]), "classes": CLASS},
            "larger than max",
        ),
        (
            {"probabilities": shaped([0.5, 0.5], [-1, 2]), "classes": CLASS},
            "values of shape [-1, 2]",
        ),
        ({"probabilities": shaped([0.5], [2**62, 2**62]), "classes": CLASS}, "cannot be read"),
        ({"probabilities": shaped([0.5], [1] * 9999), "classes": CLASS}, "cannot be read"),
        ({"probabilities": shaped([np.nan, 0.5], [1, 2]), "classes": CLASS}, "NaN or infinity"),
        ({"probabilities": ROW, "classes": CLASS, "a" * 9999: CLASS}, "aaa..."),
    ],
    ids=range(6),
)
def test_what_is_no_answer_by_grpc_is_refused(outputs, named):
    with grpc_serving(outputs) as server:
        assert named in refused(client.ask_grpc, server)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("query")
    (folder / "a.png").write_bytes(b"for the server to judge")
    return folder


def command(server, *more, protocol="rest"):
    place = (f"--server={server}", f"--protocol={protocol}", "--model=m")
    return ("-m", "ddefense.cli.query", *place, "--images=a.png", *more)


def test_a_label_neither_steers_the_terminal_nor_forges_a_row(run_python, folder):
    answer = {"outputs": {"probabilities": [[0.25, 0.75]], "labels": [EVIL]}}
    with serving(json_reply(answer)) as server:
        table = run_python(*command(server.address), cwd=folder)
        document = run_python(*command(server.address, "--json"), cwd=folder)
    for found in (table, document):
        assert (found.returncode, found.stderr) == (0, "")
        assert not UNSAFE.search(found.stdout)
    _, row = table.stdout.splitlines()
    assert r"\u001b]0;owned\u0007\r\nforged  1.0000\u009b2J\u202e\u2028more" in row
    assert json.loads(document.stdout)["answers"][0]["label"] == EVIL


def test_neither_does_a_message(run_python, folder):
    with serving(json_reply({"error": EVIL.replace("\r\n", "")}, b"400 Bad")) as server:
        found = run_python(*command(server.address), cwd=folder)
    assert (found.returncode, found.stdout) == (1, "")
    assert not UNSAFE.search(found.stderr)
    assert len(found.stderr.splitlines()) == 1
    assert r"HTTP 400: \u001b]0;owned" in found.stderr


def test_a_batch_that_is_refused_though_every_image_is_not_has_its_message(run_python, folder):
    def replies():
        first = len(asked) == 0
        asked.append(None)
        good = {"outputs": {"probabilities": [[0.25, 0.75]], "labels": ["a"]}}
        return [json_reply({"error": "too many"}, b"400 Bad") if first else json_reply(good)]

    asked = []
    with serving() as server:
        server.parts = replies
        found = run_python(*command(server.address, "--images=a.png,a.png"), cwd=folder)
    assert (found.returncode, found.stderr) == (
        1,
        f"{server.address} refused: HTTP 400: too many\n",
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("protocol", ["rest", "grpc"])
@pytest.mark.usefixtures("interruptible")
def test_a_signal_ends_the_wait_for_a_server(start_python, folder, protocol, number):
    with serving(forever=b"", pause=0.1) as server:
        process = start_python(
            *command(server.address, "--timeout=100", protocol=protocol), cwd=folder
        )
        assert server.clients.acquire(timeout=60)
        time.sleep(0.2)
        assert_ends(process, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("interruptible")
def test_a_signal_ends_it_while_it_starts(start_python, folder, number):
    with serving() as server:
        process = start_python(*command(server.address), cwd=folder)
        while not catches(process.pid, signal.SIGTERM):
            time.sleep(0.001)
        assert_ends(process, number)
        assert not server.clients.acquire(blocking=False)


def catches(pid, number):
    """Whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^SigCgt:\s*(\w+)", status, re.M)[1], 16) >> (number - 1) & 1


def assert_ends(process, number):
    started = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - started < SOON
    assert (process.returncode, out, err) == (128 + number, "", "")
