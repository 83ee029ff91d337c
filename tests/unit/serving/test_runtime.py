"""The ctypes wrapper of TensorFlow's C++ runtime: loading, running, errors, memory."""

import shutil
import threading

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

from ddefense import exporting
from ddefense.serving import runtime
from ddefense.serving.runtime import StatusError

NOT_FOUND, INVALID_ARGUMENT = 5, 3


@pytest.fixture(scope="module")
def version(make_tiny_network, tmp_path_factory):
    base = tmp_path_factory.mktemp("runtime") / "model"
    return exporting.export_for_serving(make_tiny_network(), base).path


@pytest.fixture(scope="module")
def model(version):
    loaded = runtime.SavedModel(version)
    yield loaded
    loaded.close()


def log(signature="serving_default", **inputs):
    request = predict_pb2.PredictRequest(
        model_spec=model_pb2.ModelSpec(signature_name=signature),
        inputs={name: tf.make_tensor_proto(value) for name, value in inputs.items()},
    )
    predict_log = prediction_log_pb2.PredictLog(request=request)
    return prediction_log_pb2.PredictionLog(predict_log=predict_log).SerializeToString()


def test_the_internal_signature_is_hidden(version, model):
    from tensorflow.core.protobuf import saved_model_pb2

    graph = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    assert "__saved_model_init_op" in graph.meta_graphs[0].signature_def
    assert "__saved_model_init_op" not in model.signatures


def test_some_of_the_outputs(model, tiny_images):
    whole = model.run("serving_default", {"images": tiny_images})
    assert set(whole) == {"probabilities", "classes"}
    part = model.run("serving_default", {"images": tiny_images}, ["classes"])
    assert set(part) == {"classes"}
    np.testing.assert_array_equal(part["classes"], whole["classes"])


def test_messages_however_they_hold_their_values(model):
    values = [i / 16 for i in range(16)]
    message = tf.make_tensor_proto(np.float32(values).reshape(1, 4, 4, 1))
    spelled = type(message)(dtype=1, tensor_shape=message.tensor_shape, float_val=values)
    assert message.tensor_content
    assert not spelled.tensor_content
    answers = [
        model.run_protos("serving_default", {"images": proto})["probabilities"]
        for proto in (message, spelled)
    ]
    np.testing.assert_array_equal(*answers)


def test_arrays_that_are_not_contiguous(model, tiny_images):
    turned = tiny_images.transpose(0, 2, 1, 3)
    assert not turned.flags.c_contiguous
    answer = model.run("serving_default", {"images": turned})["probabilities"]
    expected = model.run("serving_default", {"images": turned.copy()})["probabilities"]
    np.testing.assert_array_equal(answer, expected)


@pytest.mark.parametrize(
    ("signature", "inputs", "outputs"),
    [
        ("nonsense", {"images": np.zeros((1, 4, 4, 1), np.float32)}, None),
        ("serving_default", {"nonsense": np.zeros((1, 4, 4, 1), np.float32)}, None),
        ("serving_default", {"images": np.zeros((1, 4, 4, 1), np.float32)}, ["nonsense"]),
    ],
)
def test_unknown_names(model, signature, inputs, outputs):
    with pytest.raises(KeyError, match="nonsense"):
        model.run(signature, inputs, outputs)


def test_a_missing_input_is_the_runtimes_to_refuse(model):
    with pytest.raises(StatusError) as caught:
        model.run("serving_default", {})
    assert caught.value.code == INVALID_ARGUMENT


def test_a_message_that_is_no_tensor(model):
    message = tf.make_tensor_proto(np.zeros((1, 4, 4, 1), np.float32))
    message.tensor_content = message.tensor_content[:-1]
    with pytest.raises(StatusError) as caught:
        model.run_protos("serving_default", {"images": message})
    assert caught.value.code == INVALID_ARGUMENT


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(StatusError, match=r"status 5: .*Could not find SavedModel") as caught:
        runtime.SavedModel(tmp_path)
    assert caught.value.code == NOT_FOUND


def test_weights_that_are_gone(version, tmp_path):
    shutil.copytree(version, tmp_path / "1")
    shutil.rmtree(tmp_path / "1" / "variables")
    with pytest.raises(StatusError):
        runtime.SavedModel(tmp_path / "1").run(
            "serving_default", {"images": np.zeros((1, 4, 4, 1), np.float32)}
        )


def test_threads_share_a_model(model, tiny_images):
    expected = model.run("serving_default", {"images": tiny_images})["probabilities"]
    wrong = []

    def ask():
        for _ in range(50):
            answer = model.run("serving_default", {"images": tiny_images})["probabilities"]
            wrong.append(np.abs(answer - expected).max() > 1e-6)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 200
    assert not any(wrong)


class TestWarmUp:
    def replay(self, model, directory, *records):
        path = directory / runtime.WARM_UP
        path.parent.mkdir()
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
        return runtime.replay_warm_up(model, directory)

    def test_records_are_those_that_tensorflow_wrote(self, version):
        path = version / runtime.WARM_UP
        expected = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        assert list(runtime.read_records(path)) == expected
        assert len(expected) == 8

    def test_requests_are_counted(self, model, tmp_path):
        images = np.zeros((2, 4, 4, 1), np.float32)
        first = log(images=images)
        second = log("serving_uint8", images=images.astype(np.uint8))
        counts = self.replay(model, tmp_path, first, second, first)
        assert counts == {"serving_default": 2, "serving_uint8": 1}

    def test_none(self, model, tmp_path):
        assert runtime.replay_warm_up(model, tmp_path) == {}

    def test_a_request_that_is_refused_is_an_error(self, model, tmp_path):
        good, bad = np.zeros((1, 4, 4, 1), np.float32), np.full((1, 4, 4, 1), np.nan, np.float32)
        with pytest.raises(StatusError, match=r"finite float32 values in \[0, 1\]"):
            self.replay(model, tmp_path, log(images=good), log(images=bad))


def test_the_script_fails_where_warm_up_would(version, tmp_path, run_python):
    shutil.copytree(version, tmp_path / "1")
    with tf.io.TFRecordWriter(str(tmp_path / "1" / runtime.WARM_UP)) as writer:
        writer.write(log(images=np.full((1, 4, 4, 1), 2.0, np.float32)))
    np.savez(tmp_path / "inputs.npz")
    found = run_python(
        *(runtime.__file__, tmp_path / "1", "inputs.npz", "answers.npz"),
        cwd=tmp_path,
        PYTHONPATH="",
    )
    assert found.returncode == 1
    assert "images: expected finite float32 values in [0, 1]; received values from 2 to 2" in (
        found.stderr
    )
    assert not (tmp_path / "answers.npz").exists()


@pytest.mark.slow
def test_memory_does_not_grow(version, run_python, tmp_path):
    script = """
import importlib.util, sys
import numpy as np
spec = importlib.util.spec_from_file_location("runtime", sys.argv[1])
runtime = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runtime)
model = runtime.SavedModel(sys.argv[2])
images = np.zeros((500, 4, 4, 1), np.float32)
images[0] = 0.5
strings = np.empty(200, object)
strings[:] = [bytes(10_000)] * 200
def ask(times):
    for _ in range(times):
        model.run("serving_default", {"images": images})
        for signature, name, bad in (
            ("serving_default", "images", images + 1), ("serving_labels", "image_bytes", strings)
        ):
            try:
                model.run(signature, {name: bad})
            except runtime.StatusError:
                continue
            raise AssertionError(signature)
def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
ask(50)
before = resident()
ask(400)
print(resident() - before)
"""
    found = run_python("-c", script, runtime.__file__, version, cwd=tmp_path, PYTHONPATH="")
    assert found.returncode == 0, found.stderr
    # 400 times 2 MB of strings, 32 kB of images and 6 kB of answers passed through.
    assert int(found.stdout) < 8_000
