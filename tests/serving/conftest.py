"""Two exported versions of a model, and servers of them: ours for tests, and the real one."""

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

SERVER = Path(__file__).resolve().parent / "server.py"
NETWORKS = Path(__file__).resolve().parents[2] / "docs" / "results" / "digits" / "networks"
NAME = "digits_distilled_t100"
CLASS_NAMES = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")
REAL = "tensorflow_model_server"
POOL = 128


@dataclasses.dataclass(frozen=True)
class Exported:
    """A model's directory with two versions, and the networks that they hold."""

    base: Path
    networks: dict

    def warm_up(self, version):
        return self.base / str(version) / "assets.extra" / "tf_serving_warmup_requests"


@dataclasses.dataclass(frozen=True)
class Question:
    """What to send a signature, image by image, and what its network answers."""

    signature: str
    input: str
    values: np.ndarray
    output: str
    seen: np.ndarray
    ask: Callable

    def expected(self, chosen):
        """The network's own answers to these images, as one batch.

        Rounding depends on the batch size, and this network's logits are large: a probability
        between 0 and 1 may differ by 2e-5.
        """
        return self.ask(self.seen[chosen], output=self.output)


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that runs."""

    kind: str
    grpc_port: int
    rest_port: int
    pid: int
    stub: prediction_service_pb2_grpc.PredictionServiceStub

    def predict(self, signature, inputs, *, name=NAME, version=None, outputs=()):
        """Sends a request of arrays (or tensors as they are); the response."""
        request = predict_pb2.PredictRequest(output_filter=outputs)
        request.model_spec.name = name
        request.model_spec.signature_name = signature
        if version is not None:
            request.model_spec.version.value = version
        for key, value in inputs.items():
            request.inputs[key].CopyFrom(tensor(value))
        return self.stub.Predict(request, timeout=60)

    def post(self, body, *, name=NAME, version=None):
        """Sends JSON to the REST API; the response."""
        path = f"{name}:predict" if version is None else f"{name}/versions/{version}:predict"
        data = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return requests.post(self.url(path), data=data, timeout=60)

    def get(self, path=NAME):
        return requests.get(self.url(path), timeout=60)

    def url(self, path):
        return f"http://127.0.0.1:{self.rest_port}/v1/models/{path}"


def tensor(value):
    """A tensor of an array; of a list of bytes, a tensor of strings."""
    if isinstance(value, np.ndarray):
        return tf.make_tensor_proto(value)
    if isinstance(value, list):
        return tf.make_tensor_proto(value, tf.string, [len(value)])
    return value


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Version 1 is undistilled, 2 distilled at T = 100 and with logits."""
    import keras

    from ddefense import networks
    from ddefense.exporting import export_for_serving

    base = tmp_path_factory.mktemp("serving") / NAME
    found = {}
    for version, (file, logits) in enumerate((("baseline", False), ("distilled_t100", True)), 1):
        saved = keras.models.load_model(NETWORKS / f"{file}.keras", compile=False)
        found[version] = networks.with_temperature(saved, 1.0)
        export_for_serving(found[version], base, class_names=CLASS_NAMES, expose_logits=logits)
    return Exported(base, found)


@pytest.fixture(scope="session")
def class_names():
    return CLASS_NAMES


@pytest.fixture(scope="session")
def ask_network(exported):
    """A version's answers to images in [0, 1]: probabilities, or logits."""
    from ddefense import networks

    # Made once: another model over the same layers is traced anew.
    answering = {
        (version, output): made
        for version, network in exported.networks.items()
        for output, made in (
            ("probabilities", network),
            ("logits", networks.logits_of(network)),
        )
    }

    def ask(images, *, version=2, output="probabilities"):
        return networks.predict(answering[version, output], np.asarray(images, np.float32))

    return ask


@pytest.fixture(scope="session")
def questions(digits, ask_network):
    """By signature. Every other image is a mean of two, on which the network is less certain."""
    images = digits.test.images[:POOL].copy()
    images[1::2] = (images[0::2] + images[1::2]) / 2
    pixels = np.rint(images * 255).astype(np.uint8)
    encoded = np.array([tf.io.encode_png(image).numpy() for image in pixels], object)
    assert (ask_network(images).max(axis=1) < 0.9).any(), "no answer that rounding could change"
    integers = pixels / np.float32(255)
    asked = (
        Question("serving_default", "images", images, "probabilities", images, ask_network),
        Question("serving_uint8", "images", pixels, "probabilities", integers, ask_network),
        Question("serving_encoded", "image_bytes", encoded, "probabilities", integers, ask_network),
        Question("serving_labels", "image_bytes", encoded, "probabilities", integers, ask_network),
        Question("logits", "images", images, "logits", images, ask_network),
    )
    return {question.signature: question for question in asked}


def start_test_server(base, stderr=subprocess.PIPE):
    """Starts the test server; it ends with its standard input, so never outlives the tests."""
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.Popen(
        [sys.executable, "-P", str(SERVER), NAME, str(base)],
        env=environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


@contextlib.contextmanager
def _test_server(base):
    # Not a pipe, which is full some day and then stops the server.
    with tempfile.TemporaryFile("w+") as said, start_test_server(base, said) as process:
        line = process.stdout.readline()
        if not line:
            said.seek(0)
            pytest.fail(said.read())
        yield process.pid, *json.loads(line).values()
        process.stdin.close()


def _free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _config(base):
    """That the real server is to serve every version; by default it serves the newest."""
    config = model_server_config_pb2.ModelServerConfig()
    model = config.model_config_list.config.add(
        name=NAME, base_path=str(base), model_platform="tensorflow"
    )
    model.model_version_policy.all.SetInParent()
    return text_format.MessageToString(config)


@contextlib.contextmanager
def _real_server(base, folder):
    binary = os.environ.get("TF_SERVING_BIN") or shutil.which(REAL)
    if not binary:
        pytest.skip(f"{REAL} is not on the PATH, and TF_SERVING_BIN is not set")
    ports = _free_port(), _free_port()
    config, log = folder / "models.config", folder / "log"
    config.write_text(_config(base))
    command = [binary, f"--port={ports[0]}", f"--rest_api_port={ports[1]}"]
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*command, f"--model_config_file={config}"], stdout=said, stderr=said
        )
    try:
        deadline = time.monotonic() + 120
        while not _available(ports[1]):
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.2)
        yield process.pid, *ports
    finally:
        process.kill()
        process.wait()


def _available(port):
    try:
        status = requests.get(f"http://127.0.0.1:{port}/v1/models/{NAME}", timeout=5).json()
    except (requests.RequestException, ValueError):
        return False
    versions = status.get("model_version_status", [])
    return len(versions) == 2 and all(version["state"] == "AVAILABLE" for version in versions)


@pytest.fixture(scope="session", params=["test_server", REAL])
def server(request, exported, tmp_path_factory):
    """Each of the two servers, with both versions."""
    if request.param == REAL:
        running = _real_server(exported.base, tmp_path_factory.mktemp("real"))
    else:
        running = _test_server(exported.base)
    with (
        running as (pid, grpc_port, rest_port),
        grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        yield Server(request.param, grpc_port, rest_port, pid, stub)


@pytest.fixture
def refuse_to_start(exported, tmp_path):
    """What the test server says when it refuses a copy of a version with this warm-up file."""

    def refused(warm_up):
        base = tmp_path / NAME
        shutil.copytree(exported.base / "1", base / "1")
        (base / "1" / exported.warm_up(1).relative_to(exported.base / "1")).write_bytes(warm_up)
        with start_test_server(base) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert out == ""
        return err

    return refused
