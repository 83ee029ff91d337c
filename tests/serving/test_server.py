"""What clients get from a server of an exported model, ours for tests and TF Serving itself.

Requests and responses are TF Serving's own messages. The same tests run against the test server
(`server.py`) and, where it is installed, against `tensorflow_model_server`.
"""

import base64
import re

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
)

pytestmark = pytest.mark.slow

NAME = "digits_distilled_t100"
SIGNATURES = ("serving_default", "serving_uint8", "serving_encoded", "serving_labels", "logits")
FILES = ("serving_encoded", "serving_labels")
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
TOLERANCE = 1e-6

IMAGES = np.full((2, 28, 28, 1), 0.5, np.float32)
PIXELS = np.full((2, 28, 28, 1), 7, np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
PNG = tf.io.encode_png(NOISE).numpy()
JPEG = tf.io.encode_jpeg(NOISE).numpy()


def changed(images, value):
    images = images.copy()
    images[1, 3, 4] = value
    return images


def arrays(response):
    return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


def assert_close(found, expected, output="probabilities"):
    assert found.dtype == np.float32
    # Relative to logits larger than 1, which probabilities never are.
    scale = max(1.0, float(np.abs(expected).max())) if output == "logits" else 1.0
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * scale)


def assert_refused(code, message, ask, *arguments, **settings):
    with pytest.raises(grpc.RpcError) as caught:
        ask(*arguments, **settings)
    assert caught.value.code() == code, caught.value.details()
    assert re.search(message, caught.value.details()), caught.value.details()


@pytest.mark.parametrize("size", [1, 3, 128])
@pytest.mark.parametrize("signature", SIGNATURES)
def test_every_signature_answers_as_the_network(server, questions, class_names, signature, size):
    asked = questions[signature]
    response = server.predict(signature, {asked.input: asked.values[:size]})
    assert response.model_spec.name == NAME
    assert response.model_spec.version.value == 2
    assert response.model_spec.signature_name == signature
    found = arrays(response)
    expected = asked.expected(slice(size))
    assert_close(found.pop(asked.output), expected, asked.output)
    # On a boundary rounding decides: among these images there is none.
    classes = expected.argmax(axis=1)
    if signature == "serving_labels":
        assert [label.decode() for label in found.pop("labels")] == [
            class_names[i] for i in classes
        ]
    elif signature != "logits":
        answered = found.pop("classes")
        assert answered.dtype == np.int64
        np.testing.assert_array_equal(answered, classes)
    assert not found


def test_an_empty_signature_name_is_serving_default(server, questions):
    asked = questions["serving_default"]
    response = server.predict("", {"images": asked.values[:2]})
    assert response.model_spec.signature_name == "serving_default"
    assert_close(arrays(response)["probabilities"], asked.expected(slice(2)))


def test_every_version_has_its_own_answers(server, questions, ask_network):
    images = questions["serving_default"].values[:8]
    for version in (1, 2):
        response = server.predict("", {"images": images}, version=version)
        assert response.model_spec.version.value == version
        assert_close(arrays(response)["probabilities"], ask_network(images, version=version))
    assert np.abs(ask_network(images, version=1) - ask_network(images, version=2)).max() > 1e-3


def test_other_images_are_brought_to_the_network_s_size_and_channels(server, ask_network):
    grey = tf.image.rgb_to_grayscale(NOISE).numpy()
    for files in ([PNG], [JPEG], [PNG, JPEG, PNG]):
        found = arrays(server.predict("serving_encoded", {"image_bytes": files}))
        assert found["probabilities"].shape == (len(files), 10)
        np.testing.assert_allclose(found["probabilities"].sum(axis=1), 1, atol=1e-5)
    # A grey image of the network's own size is not resized: what is decoded is what is seen.
    small = np.ascontiguousarray(grey[:28, :28])
    file = tf.io.encode_jpeg(small, quality=95).numpy()
    decoded = tf.io.decode_jpeg(file).numpy()
    assert (decoded != small).any()
    found = arrays(server.predict("serving_encoded", {"image_bytes": [file]}))
    assert_close(found["probabilities"], ask_network(decoded[None] / np.float32(255)))


@pytest.mark.parametrize(
    ("signature", "outputs"),
    [
        ("serving_default", ["classes"]),
        ("serving_default", ["probabilities"]),
        ("serving_default", ["probabilities", "classes"]),
        ("serving_labels", ["labels"]),
    ],
)
def test_only_the_outputs_asked_for_are_sent(server, questions, signature, outputs):
    asked = questions[signature]
    inputs = {asked.input: asked.values[:2]}
    found = arrays(server.predict(signature, inputs, outputs=outputs))
    everything = arrays(server.predict(signature, inputs))
    assert sorted(found) == sorted(outputs)
    for name, values in found.items():
        np.testing.assert_array_equal(values, everything[name])


@pytest.mark.parametrize(
    ("request_of", "code", "message"),
    [
        ({"outputs": ["scores"]}, INVALID_ARGUMENT, "output tensor alias not found.*scores"),
        (
            {"outputs": ["classes", "classes"]},
            INVALID_ARGUMENT,
            "duplicate output tensor alias: classes",
        ),
        ({"inputs": {}}, INVALID_ARGUMENT, "input size does not match signature: 0!=1"),
        (
            {"inputs": {"images": IMAGES, "more": IMAGES}},
            INVALID_ARGUMENT,
            "input size does not match signature: 2!=1",
        ),
        (
            {"inputs": {"image": IMAGES}},
            INVALID_ARGUMENT,
            # Servers before 2.14 have the second wording.
            "Signature input alias: images.*not found in request|input tensor alias not found",
        ),
        ({"signature": "predict"}, FAILED_PRECONDITION, 'ignature .*"predict".* not found'),
        (
            {"name": "digits"},
            NOT_FOUND,
            re.escape("Servable not found for request: Latest(digits)"),
        ),
        (
            {"version": 3},
            NOT_FOUND,
            re.escape(f"Servable not found for request: Specific({NAME}, 3)"),
        ),
        ({"name": ""}, INVALID_ARGUMENT, "ModelSpec has no name specified"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_request_that_fits_no_signature_is_refused(server, request_of, code, message):
    asked = {"signature": "serving_default", "inputs": {"images": IMAGES}} | request_of
    assert_refused(code, message, server.predict, **asked)


def test_a_request_without_a_model_is_refused(server):
    assert_refused(
        INVALID_ARGUMENT, "Missing ModelSpec", server.stub.Predict, predict_pb2.PredictRequest()
    )


SHAPE = r"images: expected shape \[N, 28, 28, 1\] with N >= 1; received \["
RANGE = r"images: expected finite float32 values in \[0, 1\]; received values from "
NO_IMAGE = "image_bytes: expected the bytes of a PNG or JPEG file; received"

BAD_IMAGES = [
    ("serving_default", changed(IMAGES, 1.001), RANGE + "0.5 to 1.001, 0"),
    ("serving_default", changed(IMAGES, -0.001), RANGE + "-0.001"),
    ("serving_default", PIXELS.astype(np.float32), RANGE + "7 to 7, 0.*Divide 0-255 images by 255"),
    ("serving_default", changed(IMAGES, np.nan), RANGE + ".*, 1 of them NaN or infinite"),
    ("serving_default", changed(IMAGES, np.inf), RANGE + "0.5 to inf, 1 of them NaN or infinite"),
    ("serving_default", IMAGES[:0], SHAPE + "0, 28, 28, 1"),
    ("serving_default", IMAGES[0], SHAPE + "28, 28, 1"),
    ("serving_default", IMAGES[:, :27], SHAPE + "2, 27, 28, 1"),
    ("serving_default", np.zeros((2, 28, 28, 3), np.float32), SHAPE + "2, 28, 28, 3"),
    ("serving_default", np.full((), 0.5, np.float32), SHAPE),
    ("serving_default", IMAGES.astype(np.float64), "to be float but double is provided"),
    ("serving_default", PIXELS, "to be float but uint8 is provided"),
    ("serving_uint8", IMAGES, "to be uint8 but float is provided"),
    ("serving_uint8", PIXELS.astype(np.int32), "to be uint8 but int32 is provided"),
    ("serving_uint8", PIXELS[:0], SHAPE + "0, 28, 28, 1"),
    ("serving_uint8", PIXELS[:, :, :27], SHAPE + "2, 28, 27, 1"),
    ("logits", changed(IMAGES, 2.0), RANGE + "0.5 to 2, 0"),
    *((name, [b"no image"], NO_IMAGE + " 8 bytes that are neither") for name in FILES),
    *((name, [PNG, b"", JPEG], NO_IMAGE + " 0 bytes") for name in FILES),
    *(
        (name, [], r"image_bytes: expected shape \[N\] with N >= 1; received \[0\]")
        for name in FILES
    ),
    ("serving_encoded", [b"GIF89a" + PNG], NO_IMAGE),
    ("serving_encoded", [PNG[: len(PNG) // 2]], "PNG"),
    ("serving_encoded", [PNG[:20]], "PNG|pixels"),
    ("serving_encoded", [JPEG, JPEG[: len(JPEG) // 2]], "JPEG"),
    ("serving_encoded", [JPEG[:10]], "JPEG"),
    ("serving_encoded", [PNG[:16] + b"\x7f" * 8 + PNG[24:]], "expected an image of 1 to 4194304"),
    ("serving_encoded", IMAGES, "to be string but float is provided"),
]


def identity(value):
    return re.sub(r"\W+", "_", value)[:40] if isinstance(value, str) else ""


@pytest.mark.parametrize(("signature", "images", "message"), BAD_IMAGES, ids=identity)
def test_bad_images_are_refused_and_the_server_lives_on(
    server, questions, signature, images, message
):
    asked = questions[signature]
    assert_refused(INVALID_ARGUMENT, message, server.predict, signature, {asked.input: images})
    good = server.predict(signature, {asked.input: asked.values[:1]})
    assert_close(arrays(good)[asked.output], asked.expected(slice(1)), asked.output)


def out_of_range_pixels():
    """Integers beyond 0-255, as a client may send them, and what is left of them modulo 256."""
    pixels = np.random.default_rng(1).integers(-300, 600, (2, 28, 28, 1))
    pixels[0, 0, 0] = 300
    return pixels, pixels % 256


def test_grpc_pixels_out_of_0_to_255_are_taken_modulo_256_before_the_graph_sees_them(
    server, ask_network
):
    pixels, wrapped = out_of_range_pixels()
    assert wrapped[0, 0, 0] == 44
    sent = tf.make_tensor_proto(wrapped.astype(np.uint8))
    sent.ClearField("tensor_content")
    sent.int_val[:] = pixels.ravel().tolist()
    found = arrays(server.predict("serving_uint8", {"images": sent}))
    expected = ask_network(wrapped / np.float32(255))
    assert_close(found["probabilities"], expected)
    np.testing.assert_array_equal(found["classes"], expected.argmax(axis=1))


def test_rest_pixels_out_of_0_to_255_are_taken_modulo_256_before_the_graph_sees_them(
    server, ask_network
):
    pixels, wrapped = out_of_range_pixels()
    response = server.post({"signature_name": "serving_uint8", "inputs": pixels.tolist()})
    assert response.status_code == 200, response.text
    found = response.json()["outputs"]
    expected = ask_network(wrapped / np.float32(255))
    assert_close(np.array(found["probabilities"], np.float32), expected)
    assert found["classes"] == expected.argmax(axis=1).tolist()
    # The same numbers as floats in [0, 1] are refused: only integers can wrap.
    refused = server.post({"inputs": (pixels / 255).tolist()})
    assert re.search(RANGE, refused.json()["error"]), refused.text


def test_a_tensor_whose_content_does_not_fit_its_shape_is_refused(server):
    damaged = tf.make_tensor_proto(IMAGES)
    damaged.tensor_content = damaged.tensor_content[:-1]
    assert_refused(
        INVALID_ARGUMENT,
        "tensor parsing error: images",
        server.predict,
        "serving_default",
        {"images": damaged},
    )


@pytest.fixture(scope="module")
def warm_up_requests(exported):
    """The requests of version 2's warm-up file, as TensorFlow's own reader finds them."""
    found = []
    for record in tf.data.TFRecordDataset(str(exported.warm_up(2))).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        found.append(log.predict_log.request)
    return found


def test_warm_up_requests_are_there_for_every_signature(warm_up_requests):
    names = {request.model_spec.signature_name for request in warm_up_requests}
    assert names == set(SIGNATURES)
    assert len(warm_up_requests) <= 1000  # more are an error
    sizes = {
        next(iter(request.inputs.values())).tensor_shape.dim[0].size for request in warm_up_requests
    }
    assert 1 in sizes
    assert len(sizes) > 1


def test_every_warm_up_request_is_answered(server, warm_up_requests):
    for recorded in warm_up_requests:
        request = predict_pb2.PredictRequest.FromString(recorded.SerializeToString())
        request.model_spec.name = NAME
        found = arrays(server.stub.Predict(request, timeout=60))
        (sent,) = request.inputs.values()
        for values in found.values():
            assert len(values) == sent.tensor_shape.dim[0].size


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("bad_image", "INVALID_ARGUMENT: assertion failed: .*received values from 1.5 to 1.5"),
        ("unknown_signature", 'FAILED_PRECONDITION: Serving signature key "other" not found'),
        ("flipped_bit", "DATA_LOSS: corrupted record at 0"),
        ("cut_off", "DATA_LOSS: corrupted record"),
        ("text", "DATA_LOSS: corrupted record at 0"),
    ],
)
def test_a_version_with_a_spoiled_warm_up_file_is_not_served(
    exported, refuse_to_start, tmp_path, kind, message
):
    data = exported.warm_up(1).read_bytes()
    if kind in ("bad_image", "unknown_signature"):
        request = predict_pb2.PredictRequest()
        request.inputs["images"].CopyFrom(
            tf.make_tensor_proto(IMAGES * 3 if kind == "bad_image" else IMAGES)
        )
        if kind == "unknown_signature":
            request.model_spec.signature_name = "other"
        log = prediction_log_pb2.PredictionLog(predict_log={"request": request})
        with tf.io.TFRecordWriter(str(tmp_path / "record")) as writer:
            writer.write(log.SerializeToString())
        data += (tmp_path / "record").read_bytes()
    elif kind == "flipped_bit":
        data = data[:50] + bytes([data[50] ^ 1]) + data[51:]
    elif kind == "cut_off":
        data = data[:-100]
    else:
        data = b"no TFRecord file, but some text"
    assert re.search(message, refuse_to_start(data))


def test_the_test_server_has_neither_keras_nor_ddefense(server, questions):
    if server.kind != "test_server":
        pytest.skip("TF Serving has no Python")
    asked = questions["serving_labels"]
    server.predict("serving_labels", {asked.input: asked.values[:1]})
    modules = requests.get(f"http://127.0.0.1:{server.rest_port}/modules", timeout=60).json()
    assert "tensorflow_serving.apis.predict_pb2" in modules  # or the next lines would say nothing
    for name in ("keras", "ddefense", "tensorflow.python"):
        assert not [module for module in modules if f"{module}.".startswith(f"{name}.")]


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


def as_json(values):
    return values.tolist() if values.dtype != object else [b64(value) for value in values]


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("signature", SIGNATURES)
def test_rest_answers_as_the_network_in_both_formats(
    server, questions, class_names, signature, size
):
    asked = questions[signature]
    values = as_json(asked.values[:size])
    expected = asked.expected(slice(size))
    bodies = [
        {"instances": values},
        {"instances": [{asked.input: value} for value in values]},
        {"inputs": values},
        {"inputs": {asked.input: values}},
    ]
    for body in bodies:
        response = server.post({"signature_name": signature} | body)
        assert response.status_code == 200, response.text
        (key, found), *rest = response.json().items()
        assert not rest
        assert key == ("predictions" if "instances" in body else "outputs")
        if signature == "logits":  # a single output has no name in JSON
            columns = {"logits": found}
        elif key == "predictions":
            columns = {name: [row[name] for row in found] for name in found[0]}
        else:
            columns = found
        assert_close(np.array(columns.pop(asked.output), np.float32), expected, asked.output)
        classes = expected.argmax(axis=1)
        if signature == "serving_labels":
            assert columns == {"labels": [class_names[i] for i in classes]}
        elif signature != "logits":
            assert columns == {"classes": classes.tolist()}


def test_rest_serves_every_version(server, questions, ask_network):
    images = questions["serving_default"].values[:2]
    for version in (1, 2):
        found = server.post({"inputs": images.tolist()}, version=version).json()["outputs"]
        expected = ask_network(images, version=version)
        assert_close(np.array(found["probabilities"], np.float32), expected)


ONE = IMAGES[:1].tolist()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"instances": changed(IMAGES, 1.5).tolist()}, RANGE + "0.5 to 1.5"),
        ({"inputs": changed(IMAGES, np.nan).tolist()}, RANGE + ".*1 of them NaN"),
        ({"instances": IMAGES[:, :27].tolist()}, SHAPE + "2, 27, 28, 1"),
        ({"instances": [[0.5] * 784]}, SHAPE + "1, 784"),
        ({"inputs": []}, SHAPE + "0"),
        ({"inputs": [[[0.5], [0.5, 0.5]]]}, "list at unexpected size: 2 at level: 2"),
        ({"inputs": [["0.5"]]}, "String is not of expected type: float"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": 1}, "'instances' to be an list/array"),
        ({"instances": ONE, "inputs": ONE}, "only one of 'inputs' or 'instances'"),
        ({"images": ONE}, "Missing 'inputs' or 'instances' key"),
        ({"instances": [{"image": ONE[0]}]}, "does not have named input: image"),
        ({"inputs": {"image": ONE}}, "Missing named input: images"),
        ({"signature_name": "other", "instances": ONE}, '"other" not found'),
        ({"signature_name": 1, "instances": ONE}, "'signature_name' key must be a string value"),
        ({"signature_name": "serving_uint8", "instances": ONE}, "not of expected type: uint8"),
        ({"signature_name": "serving_labels", "instances": [b64(b"no image")]}, NO_IMAGE + " 8"),
        ({"signature_name": "serving_labels", "instances": ["text"]}, NO_IMAGE + " 4"),
        ({"signature_name": "serving_labels", "instances": [{"b64": "?"}]}, "base64 decode"),
        ({"signature_name": "serving_labels", "inputs": [b64(PNG[:99])]}, "PNG"),
        ([ONE], "Is not object"),
        ("", "The document is empty"),
        ("{", "JSON Parse error"),
    ],
    ids=lambda value: identity(value) if isinstance(value, str) else "",
)
def test_rest_refuses_a_bad_request_in_json(server, body, message):
    response = server.post(body)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert re.search(message, response.json()["error"]), response.text
    assert server.post({"instances": ONE}).status_code == 200


def test_rest_does_not_find_unknown_models_and_versions(server):
    for settings, message in (
        ({"name": "digits"}, "Servable not found for request: Latest(digits)"),
        ({"version": 3}, f"Servable not found for request: Specific({NAME}, 3)"),
    ):
        response = server.post({"instances": ONE}, **settings)
        assert (response.status_code, response.json()["error"]) == (404, message)
    for path, message in (
        ("digits", "Could not find any versions of model digits"),
        (f"{NAME}/versions/3", f"Could not find version 3 of model {NAME}"),
    ):
        response = server.get(path)
        assert (response.status_code, response.json()["error"]) == (404, message)
    assert server.get(f"{NAME}:predict").status_code == 400
    assert server.get("../../v2/models").status_code == 404


def test_the_status_of_versions_is_available(server):
    status = {"error_code": "OK", "error_message": ""}
    found = server.get().json()["model_version_status"]
    assert sorted(found, key=lambda version: version["version"]) == [
        {"version": version, "state": "AVAILABLE", "status": status} for version in ("1", "2")
    ]
    (found,) = server.get(f"{NAME}/versions/1").json()["model_version_status"]
    assert found["version"] == "1"
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = NAME
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        versions = stub.GetModelStatus(request, timeout=60).model_version_status
        assert {version.version: version.state for version in versions} == dict.fromkeys(
            (1, 2), get_model_status_pb2.ModelVersionStatus.AVAILABLE
        )
        request.model_spec.version.value = 3
        assert_refused(NOT_FOUND, "Could not find version 3", stub.GetModelStatus, request)


def test_metadata_describe_every_signature(server, questions):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = NAME
    response = server.stub.GetModelMetadata(request, timeout=60)
    assert response.model_spec.version.value == 2
    found = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(found)
    assert set(SIGNATURES) <= set(found.signature_def)
    rest = server.get(f"{NAME}/metadata").json()
    assert rest["model_spec"]["version"] == "2"
    signatures = rest["metadata"]["signature_def"]["signature_def"]
    for name, asked in questions.items():
        (tensor,) = found.signature_def[name].inputs.items()
        assert tensor[0] == asked.input
        sizes = [dim.size for dim in tensor[1].tensor_shape.dim]
        assert sizes == [-1, *asked.values.shape[1:]]
        assert list(signatures[name]["inputs"]) == [asked.input]
    request.metadata_field[:] = ["weights"]
    assert_refused(INVALID_ARGUMENT, "etadata", server.stub.GetModelMetadata, request)
