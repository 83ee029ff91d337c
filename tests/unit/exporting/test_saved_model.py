"""SavedModels: versions, what they answer in a process that knows nothing of us, and failures."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from ddefense import distillation, exporting, networks, training
from ddefense.exporting import ExportError, export_for_serving, saved_model, signatures
from ddefense.layers import TemperatureSoftmax
from ddefense.serving import checksums, fresh_process, runtime

READER = """
import importlib.util
import sys
for name in ("keras", "ddefense"):
    sys.modules[name] = None
import numpy as np
runtime_path, directory, source, answers = sys.argv[1:]
spec = importlib.util.spec_from_file_location("runtime", runtime_path)
runtime = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runtime)
model = runtime.SavedModel(directory)
with np.load(source, allow_pickle=True) as arrays:
    inputs = dict(arrays)
found = {}
for signature in model.signatures:
    name = "image_bytes" if signature in ("serving_encoded", "serving_labels") else "images"
    for size in (1, 3, 128):
        for key, value in model.run(signature, {name: inputs[signature][:size]}).items():
            found[f"{signature}/{key}/{size}"] = value.astype("S") if value.dtype == "O" else value
np.savez(answers, **found)
# Not even TensorFlow: its folder serves for message classes, its own code never ran.
assert not [name for name in sys.modules if name.startswith("tensorflow.python")]
assert not hasattr(sys.modules["tensorflow"], "constant")
assert sys.modules["keras"] is None and sys.modules["ddefense"] is None
"""


# What a person finds beside a network; servers ignore it.
NOTES = {"remarks.json": '{"sentence": "für nichts gut"}\n', "read.me": ""}


def contents(directory):
    return {p.relative_to(directory): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(scope="module")
def trained(make_tiny_network):
    """A network trained at T = 20 until its deployed probabilities are far from those at 20."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    images = rng.uniform(size=(300, 4, 4, 1)).astype(np.float32)
    images[np.arange(300), labels] += 1.0  # a bright row tells the class
    network = make_tiny_network(20.0)
    settings = training.TrainingSettings(
        temperature=20.0, epochs=20, batch_size=30, learning_rate=2.0, momentum=0.5, seed=0
    )
    training.fit(network, images, distillation.hard_labels(labels, 3), settings)
    return network


class Watcher(threading.Thread):
    """Lists a directory over and over, as a server does, and notes what it sees first."""

    def __init__(self, directory):
        super().__init__(daemon=True)
        self.directory, self.stop, self.seen = directory, threading.Event(), {}

    def run(self):
        while not self.stop.is_set():
            for child in self.directory.glob("*"):
                if child.name not in self.seen:
                    complete = (
                        (child / "saved_model.pb").exists()
                        and any((child / "variables").glob("*.index"))
                        and all((child / "assets.extra" / name).exists() for name in NOTES)
                    )
                    self.seen[child.name] = complete
            self.stop.wait(0.005)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    base = tmp_path_factory.mktemp("exported") / "models" / "digits_tiny"
    watcher = Watcher(base)
    watcher.start()
    made = export_for_serving(
        networks.with_temperature(trained, 1.0),
        base,
        class_names=("a", "b", "ü"),
        expose_logits=True,
        notes=NOTES,
    )
    watcher.stop.wait(0.05)
    watcher.stop.set()
    watcher.join()
    return made, base, watcher.seen


@pytest.fixture(scope="module")
def served(exported, run_python, tmp_path_factory):
    """What is sent to each signature, and its answers in a fresh process by batch size."""
    directory = tmp_path_factory.mktemp("reader")
    images = np.random.default_rng(7).uniform(size=(128, 4, 4, 1)).astype(np.float32)
    pixels = np.rint(images * 255).astype(np.uint8)
    files = np.empty(len(pixels), object)
    files[:] = [tf.io.encode_png(image).numpy() for image in pixels]
    np.savez(
        directory / "inputs.npz",
        serving_default=images,
        logits=images,
        serving_uint8=pixels,
        serving_encoded=files,
        serving_labels=files,
    )
    arguments = (runtime.__file__, exported[0].path, "inputs.npz", "answers.npz")
    found = run_python("-c", READER, *arguments, cwd=directory, PYTHONPATH="")
    assert found.returncode == 0, found.stderr
    with np.load(directory / "answers.npz") as answers:
        return images, dict(answers)


def test_the_first_version_is_1(exported):
    made, base, _ = exported
    assert made.path == base / "1"
    assert names(base) == ["1"]
    assert 0 <= made.max_difference <= 1e-6


def test_a_server_that_watches_never_sees_half_a_version(exported):
    _, _, seen = exported
    hidden = [name for name in seen if not name.isdecimal()]
    assert hidden, "the watcher saw nothing being written"
    assert all(name.startswith(".") for name in hidden)
    assert seen["1"]


@pytest.mark.parametrize("size", [1, 3, 128])
def test_a_fresh_process_without_tensorflow_gives_the_networks_answers(trained, served, size):
    images, answers = served
    network = networks.with_temperature(trained, 1.0)
    floats = images[:size]
    whole = np.rint(floats * 255).astype(np.float32) / np.float32(255)
    names = np.array([b"a", b"b", "ü".encode()])
    logits = networks.predict(networks.logits_of(trained), floats)
    np.testing.assert_allclose(answers[f"logits/logits/{size}"], logits, rtol=1e-6, atol=1e-6)
    for signature, seen in [
        ("serving_default", floats),
        ("serving_uint8", whole),
        ("serving_encoded", whole),
        ("serving_labels", whole),
    ]:
        expected = networks.predict(network, seen)
        probabilities = answers[f"{signature}/probabilities/{size}"]
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-6)
        classes = expected.argmax(axis=1)
        if signature == "serving_labels":
            np.testing.assert_array_equal(answers[f"{signature}/labels/{size}"], names[classes])
        else:
            assert answers[f"{signature}/classes/{size}"].dtype == np.int64
            np.testing.assert_array_equal(answers[f"{signature}/classes/{size}"], classes)


def test_answers_are_those_at_t_1(trained, served):
    images, answers = served
    logits = networks.predict(networks.logits_of(trained), images).astype(np.float64)
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    found = answers["serving_default/probabilities/128"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    # The temperature it was trained at would give something else.
    assert np.abs(networks.predict(trained, images) - expected).max() > 0.3


def test_python_loads_it_too(exported, served):
    images, answers = served
    model = tf.saved_model.load(str(exported[0].path))
    answer = model.signatures["serving_default"](images=tf.constant(images))
    expected = answers["serving_default/probabilities/128"]
    np.testing.assert_allclose(answer["probabilities"].numpy(), expected, rtol=0, atol=1e-6)


def test_notes_lie_where_servers_ignore_them(exported):
    made, _, _ = exported
    ours = {"SHA256SUMS", "tf_serving_warmup_requests"}
    assert set(names(made.path / "assets.extra")) == ours | set(NOTES)
    for name, text in NOTES.items():
        assert (made.path / "assets.extra" / name).read_text() == text
    # They are no assets of the graph, which would be copied and served.
    assert not list((made.path / "assets").glob("*"))
    assert b"remarks" not in (made.path / "saved_model.pb").read_bytes()


def test_the_graph_needs_no_compiler_and_names_no_path(exported):
    made, base, _ = exported
    graph = (made.path / "saved_model.pb").read_bytes()
    # Servers compile nothing unless told to: such an op would fail at the first request.
    assert b"_XlaMustCompile" not in graph
    for private in (str(base.parent).encode(), b"ddefense", b"TemperatureSoftmax"):
        assert private not in graph


def test_the_weights_are_written_once(exported, trained):
    written = sum(file.stat().st_size for file in (exported[0].path / "variables").glob("*.data*"))
    weights = 4 * sum(int(np.prod(variable.shape)) for variable in trained.weights)
    # With them goes the graph of objects, a few kilobytes.
    assert weights < written < weights + 8000
    files = (path for path in exported[0].path.rglob("*") if path.is_file())
    assert sum(file.stat().st_size for file in files) < 200_000


def test_files_are_listed_with_their_digests(exported):
    assert checksums.check(exported[0].path) == len(contents(exported[0].path)) - 1


def test_others_may_read_a_version(exported, tmp_path):
    made, _, _ = exported
    (tmp_path / "usual").mkdir()
    assert made.path.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.slow
def test_the_next_version_leaves_the_others_alone(exported, trained):
    made, base, _ = exported
    before = contents(made.path)
    (base / "notes").mkdir(exist_ok=True)
    (base / "7").mkdir()
    (base / "7" / "theirs.txt").write_text("precious")
    again = export_for_serving(networks.with_temperature(trained, 1.0), base)
    assert again.path == base / "8"
    assert contents(made.path) == before
    assert contents(base / "7") == {made.path.__class__("theirs.txt"): b"precious"}
    assert names(base) == ["1", "7", "8", "notes"]
    assert names(again.path / "assets.extra") == ["SHA256SUMS", "tf_serving_warmup_requests"]


def test_a_network_that_gives_nan_is_not_published(make_tiny_network, tmp_path):
    network = make_tiny_network(1.0)
    network.get_layer("logits").bias.assign([np.nan, 0.0, 0.0])
    (tmp_path / "1").mkdir()
    with pytest.raises(
        ExportError, match=r"finite answers to any image; .* random images, the first"
    ):
        export_for_serving(network, tmp_path)
    assert names(tmp_path) == ["1"]
    assert not list((tmp_path / "1").iterdir())


@pytest.mark.slow
def test_a_model_that_does_not_answer_alike_is_not_published(
    make_tiny_network, tmp_path, monkeypatch
):
    def other(directory, inputs):
        found = fresh_process.ask(directory, inputs)
        found["serving_uint8/probabilities/1"] += np.float32(2e-6)
        return found

    monkeypatch.setattr(saved_model, "ask", other)
    with pytest.raises(ExportError, match=r"in serving_uint8 they differ by (2|1\.9)"):
        export_for_serving(make_tiny_network(), tmp_path)
    assert names(tmp_path) == []


def steep(make_tiny_network, largest):
    """A network whose logits are `largest`, 0 and 0 for any image."""
    network = make_tiny_network()
    logits = network.get_layer("logits")
    logits.set_weights([np.zeros((8, 3)), np.array([largest, 0, 0])])
    return network


@pytest.mark.parametrize(("largest", "expected"), [(-1, 1e-6), (2, 1e-6), (-240, 1.2e-4)])
def test_the_tolerance_grows_with_the_logits(make_tiny_network, tiny_images, largest, expected):
    network = steep(make_tiny_network, largest)
    assert saved_model.tolerance(network, tiny_images, (-1, 1)) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("largest", [240, -240])
def test_what_rounding_of_large_logits_explains_is_published(
    make_tiny_network, tmp_path, monkeypatch, largest
):
    def off(error):
        def asked(directory, inputs):
            found = fresh_process.ask(directory, inputs)
            found["serving_default/probabilities/0"] += np.float32(error)
            return found

        return asked

    network = steep(make_tiny_network, largest)
    monkeypatch.setattr(saved_model, "ask", off(1.1e-4))
    found = export_for_serving(network, tmp_path)
    assert found.max_difference == pytest.approx(1.1e-4, rel=1e-2)
    monkeypatch.setattr(saved_model, "ask", off(1.3e-4))
    with pytest.raises(ExportError, match=r"within 0\.00012, but in serving_default .* 0\.00013"):
        export_for_serving(network, tmp_path)
    assert names(tmp_path) == ["1"]


@pytest.mark.slow
def test_a_model_that_names_another_class_is_not_published(
    make_tiny_network, tmp_path, monkeypatch
):
    def other(directory, inputs):
        found = fresh_process.ask(directory, inputs)
        found["serving_default/classes/0"] = (found["serving_default/classes/0"] + 1) % 3
        return found

    monkeypatch.setattr(saved_model, "ask", other)
    with pytest.raises(ExportError, match=r"serving_default .* to name the most probable class"):
        export_for_serving(make_tiny_network(), tmp_path)
    assert names(tmp_path) == []


def test_a_version_taken_meanwhile_is_left_alone(make_tiny_network, tmp_path, monkeypatch):
    def while_another_is_faster(directory, inputs):
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "theirs").touch()
        return fresh_process.ask(directory, inputs)

    monkeypatch.setattr(saved_model, "ask", while_another_is_faster)
    with pytest.raises(ExportError, match="another one has taken it"):
        export_for_serving(make_tiny_network(), tmp_path)
    assert names(tmp_path) == ["1"]
    assert names(tmp_path / "1") == ["theirs"]


def test_a_layer_that_keeps_a_table_is_refused(tmp_path):
    images = keras.Input((4, 4, 1))
    x = keras.layers.IntegerLookup(vocabulary=[0, 1])(keras.ops.cast(images, "int32"))
    x = keras.layers.Flatten()(keras.ops.cast(x, "float32"))
    network = keras.Model(images, TemperatureSoftmax()(keras.layers.Dense(3, name="logits")(x)))
    with pytest.raises(ExportError, match="write the network as a SavedModel in"):
        export_for_serving(network, tmp_path / "model")
    assert not list((tmp_path / "model").iterdir())


@pytest.mark.parametrize("temperature", [20.0, 0.5])
def test_another_temperature_than_1_is_refused(make_tiny_network, tmp_path, temperature):
    with pytest.raises(ValueError, match=rf"received temperature {temperature:g}\. Use"):
        export_for_serving(make_tiny_network(temperature), tmp_path)
    assert names(tmp_path) == []


def test_a_network_without_our_softmax_is_refused(make_tiny_network, tmp_path):
    with pytest.raises(ValueError, match="ends in TemperatureSoftmax"):
        export_for_serving(networks.logits_of(make_tiny_network()), tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_names": ("a", "b")}, r"the network's 3 classes, .*; received 2: \['a', 'b'\]"),
        ({"class_names": ("a", "b", "a")}, r"none empty, all different; received 3: \['a', "),
        ({"class_names": ("a", "b", "")}, r"none empty, all different; received 3: \['a', "),
        ({"value_range": (1.0, 0.0)}, r"the lower first; received \(1\.0, 0\.0\)"),
        ({"value_range": (0.0, np.inf)}, r"two finite numbers, the lower first; received"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make_tiny_network, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        export_for_serving(make_tiny_network(), tmp_path, **settings)
    assert names(tmp_path) == []


@pytest.mark.parametrize("shape", [(4,), (None, None, 1), (2, 4, 4, 1)])
def test_a_network_of_something_else_than_images_is_refused(tmp_path, shape):
    inputs = keras.Input(shape)
    x = keras.layers.GlobalAveragePooling2D()(inputs) if None in shape else inputs
    x = keras.layers.Dense(3, name="logits")(keras.layers.Flatten()(x))
    network = keras.Model(inputs, TemperatureSoftmax()(x))
    with pytest.raises(ValueError, match=r"takes images .* of a fixed shape; received"):
        export_for_serving(network, tmp_path)


class TestWarmUp:
    def requests(self, path):
        records = tf.data.TFRecordDataset(str(path / "assets.extra/tf_serving_warmup_requests"))
        for record in records.as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record)
            assert log.WhichOneof("log_type") == "predict_log"
            yield log.predict_log.request

    def test_each_signature_gets_a_batch_and_one_image(self, exported):
        sizes = {}
        for request in self.requests(exported[0].path):
            (tensor,) = request.inputs.values()
            name = request.model_spec.signature_name
            sizes.setdefault(name, []).append(tensor.tensor_shape.dim[0].size)
        assert set(sizes) == {
            *("serving_default", "serving_uint8", "serving_encoded", "serving_labels", "logits")
        }
        for batches in sizes.values():
            assert len(batches) == 2
            assert batches[0] > 1
            assert batches[1] == 1

    def test_the_runtime_takes_every_request(self, exported):
        model = runtime.SavedModel(exported[0].path)
        counts = runtime.replay_warm_up(model, exported[0].path)
        model.close()
        assert counts == dict.fromkeys(model.signatures, 2)

    def test_it_names_no_model(self, exported):
        # TF Serving fills the name in: it is whatever the server calls the model.
        assert {r.model_spec.name for r in self.requests(exported[0].path)} == {""}


def test_errors_of_exporting_are_run_errors():
    from ddefense.records import RunError

    assert issubclass(exporting.ExportError, RunError)


def test_a_certain_network_is_compared_where_it_is_uncertain(trained):
    network = networks.with_temperature(trained, 0.01)  # logits a hundred times as large
    images = saved_model._reference_images(network, signatures.Contract((4, 4, 1), ("a", "b", "c")))
    largest = networks.predict(network, images).max(axis=1)
    assert largest[-1] < 0.9
    assert (largest[1:-1] > 0.999).any()
