"""SavedModels: versions, what they answer in a process that knows nothing of us, and failures."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from ddefense import distillation, exporting, networks, training
from ddefense.exporting import ExportError, export_for_serving, saved_model

READER = """
import sys
for name in ("keras", "ddefense"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf
directory, source, answers = sys.argv[1:]
images = np.load(source)
serve = tf.saved_model.load(directory).signatures["serving_default"]
found = {}
for size in (1, 3, 128):
    answer = serve(images=tf.constant(images[:size]))
    assert list(answer) == ["probabilities"], list(answer)
    found[str(size)] = answer["probabilities"].numpy()
np.savez(answers, **found)
"""


# What a person finds beside a network; servers ignore it.
NOTES = {"verdict.json": '{"sentence": "für nichts gut"}\n', "read.me": ""}


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
    made = export_for_serving(networks.with_temperature(trained, 1.0), base, notes=NOTES)
    watcher.stop.wait(0.05)
    watcher.stop.set()
    watcher.join()
    return made, base, watcher.seen


@pytest.fixture(scope="module")
def served(exported, run_python, tmp_path_factory):
    """Images and what the export answers to them in a fresh process, by batch size."""
    directory = tmp_path_factory.mktemp("reader")
    images = np.random.default_rng(7).uniform(size=(128, 4, 4, 1)).astype(np.float32)
    np.save(directory / "images.npy", images)
    found = run_python(
        "-c", READER, exported[0].path, "images.npy", "answers.npz", cwd=directory, PYTHONPATH=""
    )
    assert found.returncode == 0, found.stderr
    with np.load(directory / "answers.npz") as answers:
        return images, {int(size): answers[size] for size in answers.files}


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


def test_a_fresh_process_gives_the_softmax_of_the_logits_at_t_1(trained, served):
    images, answers = served
    logits = networks.predict(networks.logits_of(trained), images).astype(np.float64)
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    assert set(answers) == {1, 3, 128}
    for size, found in answers.items():
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[:size], rtol=0, atol=1e-6)
    # The temperature it was trained at would give something else.
    assert np.abs(networks.predict(trained, images) - expected).max() > 0.3


def test_the_signature(exported):
    model = tf.saved_model.load(str(exported[0].path))
    assert set(model.signatures) == {"serving_default"}
    signature = model.signatures["serving_default"]
    positional, named = signature.structured_input_signature
    assert positional == ()
    assert set(named) == {"images"}
    assert named["images"].dtype == tf.float32
    assert named["images"].shape.as_list() == [None, 4, 4, 1]
    # No logits: who has them needs no gradients of saturated probabilities.
    assert set(signature.structured_outputs) == {"probabilities"}
    output = signature.structured_outputs["probabilities"]
    assert output.dtype == tf.float32
    assert output.shape.as_list() == [None, 3]


def test_notes_lie_where_servers_ignore_them(exported):
    made, _, _ = exported
    assert names(made.path / "assets.extra") == sorted(NOTES)
    for name, text in NOTES.items():
        assert (made.path / "assets.extra" / name).read_text() == text
    # They are no assets of the graph, which would be copied and served.
    assert not list((made.path / "assets").glob("*"))
    assert b"verdict" not in (made.path / "saved_model.pb").read_bytes()


def test_the_graph_needs_no_compiler_and_names_no_path(exported):
    made, base, _ = exported
    graph = (made.path / "saved_model.pb").read_bytes()
    # Servers compile nothing unless told to: such an op would fail at the first request.
    assert b"_XlaMustCompile" not in graph
    assert str(base.parent).encode() not in graph


def test_others_may_read_a_version(exported, tmp_path):
    made, _, _ = exported
    (tmp_path / "usual").mkdir()
    assert made.path.stat().st_mode == (tmp_path / "usual").stat().st_mode


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
    # Without notes there is no folder for them.
    assert not (again.path / "assets.extra").exists()


def test_a_model_that_does_not_answer_alike_is_not_published(make_tiny_network, tmp_path):
    network = make_tiny_network(1.0)
    network.get_layer("logits").bias.assign([np.nan, 0.0, 0.0])
    (tmp_path / "1").mkdir()
    with pytest.raises(ExportError, match="differ by nan"):
        export_for_serving(network, tmp_path)
    assert names(tmp_path) == ["1"]
    assert not list((tmp_path / "1").iterdir())


@pytest.mark.parametrize("temperature", [20.0, 0.5])
def test_another_temperature_than_1_is_refused(make_tiny_network, tmp_path, temperature):
    with pytest.raises(ValueError, match=rf"received temperature {temperature:g}\. Use"):
        export_for_serving(make_tiny_network(temperature), tmp_path)
    assert names(tmp_path) == []


def test_a_network_without_our_softmax_is_refused(make_tiny_network, tmp_path):
    with pytest.raises(ValueError, match="ends in TemperatureSoftmax"):
        export_for_serving(networks.logits_of(make_tiny_network()), tmp_path)


def test_errors_of_exporting_are_run_errors():
    from ddefense.records import RunError

    assert issubclass(exporting.ExportError, RunError)


def test_a_certain_network_is_compared_where_it_is_uncertain(trained):
    network = networks.with_temperature(trained, 0.01)  # logits a hundred times as large
    images = saved_model._reference_images(network)
    largest = networks.predict(network, images).max(axis=1)
    assert largest[-1] < 0.9
    assert (largest[1:-1] > 0.999).any()
