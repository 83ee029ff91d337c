"""The library as its users call it: on data and networks of their own, of any shape."""

import json
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import ddefense
from ddefense import networks, records
from ddefense.config import preset
from ddefense.experiments.pair import NetworkStages, load_network
from ddefense.pipeline.stages import Stages
from ddefense.records import RunError
from ddefense.settings import ConfigError

pytestmark = pytest.mark.slow

CLASSES, SHAPE = 4, (9, 8, 3)


@pytest.fixture(scope="module")
def data():
    """Bright stripes on noise: each class has its own row."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 240)
    images = rng.uniform(0, 0.3, size=(240, *SHAPE)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 0.6
    return images, labels


def build(last="softmax", classes=CLASSES, units=16, dropout=0.2):
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(classes, activation=last),
        ]
    )


QUICK = {"epochs": 6, "batch_size": 32, "optimizer": "adam", "learning_rate": 0.01}


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return build()


@pytest.fixture(scope="module")
def pair(network, data):
    return ddefense.distill(network, data, temperature=5, seed=0, **QUICK)


def answers(network, data):
    return networks.predict(network, data[0])


@pytest.fixture
def repository_python(run_python, tmp_path):
    def run(program):
        found = run_python("-c", program, cwd=tmp_path)
        assert found.returncode == 0, found.stderr

    return run


def test_importing_the_package_loads_no_tensorflow_and_knows_its_names(repository_python):
    program = """
import sys, ddefense
assert {"distill", "evaluate", "attack", "export", "report"} <= set(dir(ddefense))
heavy = {"tensorflow", "keras", "numpy", "sklearn", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
try:
    ddefense.destill
except AttributeError as error:
    assert "destill" in str(error)
else:
    raise SystemExit("an unknown name was found")
"""
    repository_python(program)


def test_importing_the_package_asks_for_one_softmax_unless_told(repository_python):
    program = """
import importlib, os
for given, expected in ((None, "1"), ("0", "0")):
    os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)
    if given is not None:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = given
    import ddefense
    importlib.reload(ddefense)
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == expected
"""
    repository_python(program)


def test_both_networks_are_deployed_at_temperature_1_and_have_learnt(pair, data):
    for name in ("initial", "distilled"):
        network, history = getattr(pair, name), getattr(pair.history, name)
        assert networks.temperature_of(network) == 1.0
        assert len(history.epoch_loss) == QUICK["epochs"]
        assert (answers(network, data).argmax(axis=1) == data[1]).mean() > 0.9
    assert pair.temperature == 5


def test_the_given_network_is_left_as_it_is(data):
    network = build()
    before = [weight.copy() for weight in network.get_weights()]
    ddefense.distill(network, data, temperature=5, **QUICK)
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_one_seed_gives_the_same_networks_twice(network, data, pair):
    again = ddefense.distill(network, data, temperature=5, seed=0, **QUICK)
    np.testing.assert_array_equal(answers(again.distilled, data), answers(pair.distilled, data))
    other = ddefense.distill(network, data, temperature=5, seed=1, **QUICK)
    assert (answers(other.distilled, data) != answers(pair.distilled, data)).any()


def test_the_seed_determines_a_network_that_is_built(data):
    one, two, other = (
        ddefense.distill(build, data, temperature=5, seed=seed, **QUICK) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(answers(one.distilled, data), answers(two.distilled, data))
    assert (answers(one.distilled, data) != answers(other.distilled, data)).any()


def test_the_distilled_network_learns_from_the_initial_one(network, data):
    """With labels that the initial network has wrong, its opinion counts and theirs does not."""
    images, labels = data
    wrong = (labels + 1) % CLASSES
    pair = ddefense.distill(network, (images, wrong), temperature=5, **QUICK)
    assert (answers(pair.distilled, data).argmax(axis=1) == wrong).mean() > 0.9
    hard = ddefense.distill(network, (images, wrong), temperature=5, alpha=1.0, seed=0, **QUICK)
    # With alpha = 1 the soft labels have no say, so the temperature has none either.
    also_hard = ddefense.distill(
        network, (images, wrong), temperature=50, alpha=1.0, seed=0, **QUICK
    )
    np.testing.assert_array_equal(answers(hard.distilled, data), answers(also_hard.distilled, data))
    assert (answers(hard.initial, data) != answers(also_hard.initial, data)).any()


def test_a_smaller_student(network, data):
    student = build(units=4)
    pair = ddefense.distill(network, data, temperature=3, student=student, **QUICK)
    assert pair.initial.count_params() == network.count_params()
    assert pair.distilled.count_params() == student.count_params() < network.count_params()


@pytest.mark.parametrize("form", ["batches", "images"])
def test_a_stream_gives_what_arrays_give(network, data, pair, form):
    stream = tf.data.Dataset.from_tensor_slices(data)
    stream = stream.batch(50) if form == "batches" else stream
    found = ddefense.distill(network, stream, temperature=5, seed=0, **QUICK)
    np.testing.assert_array_equal(answers(found.distilled, data), answers(pair.distilled, data))


def test_images_in_another_range(data):
    images, labels = data
    network = build()
    bytes_network = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Rescaling(1 / 255.0), *network.layers]
    )
    bright = (images * 255, labels)
    pair = ddefense.distill(bytes_network, bright, temperature=5, value_range=(0, 255), **QUICK)
    results = ddefense.evaluate(
        pair.distilled, bright, attacks=("fgsm",), samples=5, value_range=(0, 255), epsilon=0.2
    )
    assert results.networks[0].test_accuracy > 0.9
    assert results.networks[0].attacks["fgsm"].settings["epsilon"] == 0.2
    with pytest.raises(ConfigError, match=r"images: expected values in \[0, 1\].*value_range"):
        ddefense.distill(bytes_network, bright, temperature=5, **QUICK)


def test_keras_callbacks_and_metrics(network, data, tmp_path):
    class Names(keras.callbacks.Callback):
        def __init__(self, seen):
            super().__init__()
            self.seen = seen

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append(sorted(logs))

    seen = {"initial": [], "distilled": []}
    pair = ddefense.distill(
        network,
        data,
        temperature=5,
        validation_share=0.25,
        callbacks=lambda name: [Names(seen[name]), keras.callbacks.TensorBoard(tmp_path / name)],
        metrics=[keras.metrics.TopKCategoricalAccuracy(k=2, name="top_2")],
        **QUICK,
    )
    for name in seen:
        assert len(seen[name]) == QUICK["epochs"]
        assert {"loss", "accuracy", "val_loss", "val_accuracy", "val_top_2"} <= set(seen[name][0])
        assert list((tmp_path / name).rglob("events*"))
    assert len(pair.history.distilled.val_accuracy) == QUICK["epochs"]


def test_early_stopping_ends_a_training(network, data):
    settings = QUICK | {"epochs": 40, "learning_rate": 0.2}
    images, labels = data
    for watched in (
        {"validation_share": 0.25},
        {"validation_data": (images[:60], labels[:60])},
    ):
        pair = ddefense.distill(
            network, data, temperature=1, early_stopping=2, **watched, **settings
        )
        assert len(pair.history.initial.epoch_loss) < 40


def test_callbacks_and_metrics_may_be_none_or_one(network, data):
    class Count(keras.callbacks.Callback):
        epochs = 0

        def on_epoch_end(self, epoch, logs=None):
            self.epochs += 1

    count = Count()
    settings = QUICK | {"epochs": 2}
    ddefense.distill(network, data, temperature=5, callbacks=count, metrics=None, **settings)
    assert count.epochs == 2 * 2
    ddefense.distill(network, data, temperature=5, callbacks=None, **settings)


def test_a_class_that_is_held_out_altogether_is_missed(network, data):
    images, labels = data
    order = np.argsort(labels, kind="stable")
    stream = tf.data.Dataset.from_tensor_slices((images[order], labels[order])).batch(30)
    with pytest.raises(ConfigError, match=r"^validation_share: expected images of every class"):
        ddefense.distill(network, stream, temperature=5, validation_share=0.4, **QUICK)
    with pytest.raises(ConfigError, match=r"^validation_share: .*received 0.999, which leaves 1\."):
        ddefense.distill(network, data, temperature=5, validation_share=0.999, **QUICK)


def test_validation_data_have_the_classes_of_the_data(network, data, tmp_path):
    images, labels = data
    for name, classes in (("train", "bcde"), ("other", "abcd"), ("same", "bcde")):
        np.savez(tmp_path / name, images=images, labels=labels, class_names=list(classes))
    settings = QUICK | {"temperature": 5, "epochs": 1}
    path = str(tmp_path / "train.npz")
    pair = ddefense.distill(network, path, validation_data=str(tmp_path / "same.npz"), **settings)
    assert len(pair.history.initial.val_loss) == 1
    with pytest.raises(ConfigError, match=r"^validation_data: class_names: .*a, b, c, d.*b, c, d"):
        ddefense.distill(network, path, validation_data=str(tmp_path / "other.npz"), **settings)


def test_the_factor_t_squared_keeps_the_gradient(network, data):
    settings = QUICK | {"temperature": 20, "seed": 0, "optimizer": "sgd", "learning_rate": 0.01}
    plain = ddefense.distill(network, data, **settings)
    scaled = ddefense.distill(network, data, scale_by_temperature_squared=True, **settings)
    np.testing.assert_array_equal(scaled.history.initial.step_loss, plain.history.initial.step_loss)
    first = [pair.history.distilled.step_loss[0] for pair in (plain, scaled)]
    np.testing.assert_allclose(first[1], 400 * first[0], rtol=1e-5)


def test_nothing_is_left_in_the_temporary_folder(network, data, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    images, labels = data
    source = tf.data.Dataset.from_tensor_slices((images, labels)).batch(50).repeat(75)
    settings = QUICK | {"epochs": 1, "batch_size": 512}
    ddefense.distill(network, source, method="extended", dropout_passes=2, **settings)
    # TensorFlow leaves the modules that it makes of functions, and what Python compiles of them.
    left = {path.name for path in tmp_path.iterdir() if "autograph" not in path.name}
    assert left <= {"__pycache__"}


def test_a_directory_resumes_and_refuses_another_job(network, data, pair, tmp_path):
    settings = {"seed": 0, **QUICK}
    first = ddefense.distill(network, data, temperature=5, workdir=tmp_path, **settings)
    np.testing.assert_array_equal(answers(first.distilled, data), answers(pair.distilled, data))
    assert sorted(path.name for path in (tmp_path / "stages").iterdir()) == [
        *("distilled", "initial", "soft_labels"),
    ]
    again = ddefense.distill(network, data, temperature=5, workdir=tmp_path, **settings)
    np.testing.assert_array_equal(answers(again.distilled, data), answers(pair.distilled, data))
    with pytest.raises(RunError, match=r"configuration: temperature \(5.0 there, 6.0 now\)\. "):
        ddefense.distill(network, data, temperature=6, workdir=tmp_path, **settings)
    images, labels = data
    for changed in (
        {"student": build(units=4)},
        {"optimizer": keras.optimizers.Adam(0.01)},
        {"validation_data": (images[:50], labels[:50])},
        {"callbacks": [keras.callbacks.TerminateOnNaN()]},
    ):
        other = {"temperature": 5} | settings | changed
        if not isinstance(other["optimizer"], str):
            del other["learning_rate"]
        with pytest.raises(RunError, match=r"^workdir: .* another configuration") as caught:
            ddefense.distill(network, data, workdir=tmp_path, **other)
        assert "--" not in str(caught.value)
    images, labels = data
    with pytest.raises(RunError, match="another configuration"):
        ddefense.distill(
            network, (images[::-1], labels[::-1]), temperature=5, workdir=tmp_path, **settings
        )


@pytest.mark.parametrize("classes", [2, CLASSES, 11])
def test_the_results_are_the_record_of_the_papers_runs(classes, data):
    images, labels = data
    labels = labels % classes
    if classes == 11:
        labels = np.arange(len(images)) % 11
    network = build(classes=classes)
    pair = ddefense.distill(network, (images, labels), temperature=5, **QUICK)
    results = ddefense.evaluate(
        pair.distilled, (images, labels), attacks=("jsma_f",), samples=3 if classes != 11 else 1
    )
    assert isinstance(results, records.Results)
    (measured,) = results.networks
    attack = measured.attacks["jsma_f"]
    assert attack.attempts == attack.samples * (classes - 1)


def test_an_evaluation_beside_the_undistilled_network_has_a_verdict_and_a_report(
    pair, network, data, tmp_path
):
    results = ddefense.evaluate(
        pair.distilled,
        data,
        attacks=("jsma_f", "fgsm"),
        samples=3,
        undistilled=pair.initial,
        temperature=5,
        workdir=tmp_path,
    )
    assert [n.defense for n in results.networks] == ["none", "distillation"]
    assert "T = 5" in results.verdict.sentence
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["verdict"]["sentence"] == results.verdict.sentence
    path = ddefense.report(tmp_path)
    assert path == tmp_path / "report.md"
    assert results.verdict.sentence in path.read_text()


def test_what_was_exported_answers_as_the_network_does(pair, data, tmp_path):
    results = ddefense.evaluate(pair.distilled, data, attacks=("fgsm",), samples=3)
    names = ("north", "east", "south", "west")
    path = ddefense.export(pair.distilled, tmp_path / "m", class_names=names, results=results)
    assert path == tmp_path / "m" / "1"
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    np.testing.assert_allclose(
        serve(images=tf.constant(data[0]))["probabilities"],
        answers(pair.distilled, data),
        atol=1e-6,
    )
    card = json.loads((path / "assets.extra" / "model_card.json").read_text())
    assert card["class_names"] == list(names)
    assert set(card["measured"]["attacks"]) == {"fgsm"}
    assert ddefense.export(pair.distilled, tmp_path / "m").name == "2"
    with pytest.raises(ConfigError, match="results: expected results about this network"):
        ddefense.export(pair.initial, tmp_path / "m", results=results)


def test_a_network_in_a_file(pair, data, tmp_path):
    path = tmp_path / "mine.keras"
    pair.distilled.save(path)
    results = ddefense.evaluate(path, data, attacks=("fgsm",), samples=3)
    assert results.networks[0].test_accuracy > 0.9


def subclassed():
    class Own(keras.Model):
        def call(self, images):
            return images

    return Own()


REFUSED = [
    ({"network": subclassed}, r"^network: Expected a functional or sequential network"),
    ({"network": 3}, r"^network: expected a Keras network, .*; received int"),
    ({"network": "missing.keras"}, r"^network: expected a .keras file, .*there is no such file"),
    ({"network": lambda: build("sigmoid")}, r"^network: .*ends in a softmax, or in logits"),
    ({"student": lambda: build(classes=3)}, r"^student: expected one of 4 classes"),
    ({"temperature": 0}, r"^temperature: expected a finite number > 0; received 0"),
    ({"temperature": None}, r"^temperature: expected T of both trainings, .*received none"),
    ({"threads": 1}, r"^threads: expected none, .*received 1"),
    (
        {"early_stopping": 3},
        r"^early_stopping: expected a validation_share > 0, or validation_data",
    ),
    ({"metrics": ["accuracy"]}, r"^metrics: expected objects, .*received 'accuracy'"),
    (
        {"callbacks": [keras.callbacks.CSVLogger("log.csv")]},
        r"^callbacks: expected a function .*CSV",
    ),
    (
        {"optimizer": keras.optimizers.SGD(0.1), "learning_rate": 0.5},
        r"^learning_rate: expected none beside an optimizer of your own, .*received 0.5",
    ),
    (
        {"validation_data": (np.zeros((4, *SHAPE)), [0, 1, 2, 3]), "validation_share": 0.5},
        r"^validation_share: expected 0 with validation_data; received 0.5",
    ),
    (
        {"network": lambda: build(dropout=0.0), "method": "extended", "temperature": None},
        r"^network: Expected a network with a dropout layer",
    ),
    ({"epochs": 0}, r"^epochs: expected an integer >= 1; received 0"),
    ({"data": 3}, r"^data: expected \(images, labels\)"),
    ({"network": lambda: build(classes=6)}, r"4, 5"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_bad_input_is_refused_before_any_training(changes, message, data):
    given = {"network": build, "data": data, "temperature": 5} | changes
    with pytest.raises(ConfigError, match=message):
        ddefense.distill(**given)


def test_two_softmaxes_are_detected(data):
    twice = keras.Sequential([keras.Input(SHAPE), *build().layers, keras.layers.Softmax()])
    with pytest.raises(ConfigError, match="Expected one softmax"):
        ddefense.distill(twice, data, temperature=5)


def test_a_misspelt_setting_is_refused_with_the_right_name(network, data):
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'epoch'.*'epochs'"):
        ddefense.distill(network, data, temperature=5, epoch=3)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'epsilom'.*'epsilon'"):
        ddefense.evaluate(network, data, epsilom=0.1)


def test_the_papers_command_makes_the_same_networks(digits, tmp_path):
    """The library is the same code: on the same work it gives the same bits."""
    config = preset("paper", "digits", temperatures=(20.0,), epochs=1)
    stages = NetworkStages(Stages(tmp_path), config, digits)
    commanded = stages.distilled(20.0, None, None)
    pair = ddefense.distill(
        lambda: networks.build("mnist", temperature=1.0, seed=0),
        (digits.train.images, digits.train.labels),
        temperature=20,
        epochs=1,
        seed=0,
    )
    for name, stage in (("initial", commanded.initial), ("distilled", commanded.network)):
        ours, theirs = getattr(pair, name).get_weights(), load_network(stage).get_weights()
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_successor_has_an_outlier_class(network, data, tmp_path):
    settings = {"method": "extended", "temperature": 1, "seed": 0, "dropout_passes": 5}
    pair = ddefense.distill(network, data, workdir=tmp_path, **settings, **QUICK)
    assert pair.initial.output_shape == (None, CLASSES)
    assert pair.distilled.output_shape == (None, CLASSES + 1)
    assert (answers(pair.distilled, data).argmax(axis=1) == data[1]).mean() > 0.9
    # Uncertain images taught it that there are outliers, without a hard label that says so.
    assert answers(pair.distilled, data)[:, CLASSES].mean() > 0.01
    again = ddefense.distill(network, data, **settings, **QUICK)
    np.testing.assert_array_equal(answers(again.distilled, data), answers(pair.distilled, data))
    with pytest.raises(ConfigError, match="student: expected one of 5 classes, one more than"):
        ddefense.distill(network, data, student=build(), **settings, **QUICK)


def test_the_successor_is_evaluated_with_its_outlier_class(network, data, tmp_path):
    settings = {"method": "extended", "temperature": 1, "seed": 0, "dropout_passes": 5}
    pair = ddefense.distill(network, data, **settings, **QUICK)
    images, labels = data[0][:40], data[1][:40]
    found = ddefense.evaluate(
        pair.distilled,
        (images, labels),
        attacks=("jsma_f", "pgd_linf"),
        samples=3,
        undistilled=pair.initial,
        outlier_class=True,
        gradient_samples=5,
    )
    outliers = found.networks[-1].outliers
    assert set(outliers.attacks) == {"jsma_f", "pgd_linf"}
    assert outliers.attacks["jsma_f"].attempts == 3 * (CLASSES - 1)
    assert outliers.accuracy == pytest.approx(
        (answers(pair.distilled, (images, None)).argmax(axis=1) == labels).mean()
    )
    made = ddefense.attack(
        pair.distilled, (images[:6], labels[:6]), "pgd_linf", epsilon=0.8, outlier_class=True
    )
    wrong = (made.predicted != made.labels) & (made.predicted != CLASSES)
    assert (made.success <= wrong).all()
    path = tmp_path / "named.npz"
    np.savez(path, images=images, labels=labels, class_names=list("abcd"))
    with pytest.raises(ConfigError, match=r"data: expected 5 classes; received 4 .*outlier_class"):
        ddefense.evaluate(pair.distilled, str(path), samples=3)
    results = ddefense.evaluate(
        pair.distilled, str(path), attacks=("fgsm",), samples=3, outlier_class=True
    )
    exported = ddefense.export(pair.distilled, tmp_path / "model", results=results)
    card = json.loads((exported / "assets.extra" / "model_card.json").read_text())
    assert card["class_names"] == ["a", "b", "c", "d", "outlier"]
    assert any("an image that gets it is refused" in caveat for caveat in card["caveats"])


ATTACK = {"max_features": 40, "cw_steps": 50, "cw_search_steps": 3, "cw_initial_c": 1.0}


@pytest.mark.parametrize(
    ("name", "attempts", "norm"),
    [
        ("jsma_f", 6 * 3, "l0"),
        ("jsma_z", 6 * 3, "l0"),
        ("fgsm", 6, "linf"),
        ("pgd_linf_targeted", 6 * 3, "linf"),
        ("cw_l2", 6, "l2"),
    ],
)
def test_an_attack_gives_images_and_says_which_succeed(pair, data, name, attempts, norm):
    images, labels = data[0][:6], data[1][:6]
    made = ddefense.attack(pair.initial, (images, labels), name, epsilon=0.8, **ATTACK)
    assert made.images.shape == (attempts, *SHAPE)
    assert made.norm == norm
    assert made.images.min() >= 0
    assert made.images.max() <= 1
    predicted = answers(pair.initial, (made.images, None)).argmax(axis=1)
    np.testing.assert_array_equal(made.predicted, predicted)
    np.testing.assert_array_equal(made.labels, labels[made.original])
    reached = predicted != made.labels if made.targets is None else predicted == made.targets
    assert (made.success <= reached).all()
    assert made.success.any()
    change = (made.images - images[made.original]).reshape(attempts, -1)
    expected = {
        "l0": (change != 0).sum(axis=1),
        "l2": np.linalg.norm(change, axis=1),
        "linf": np.abs(change).max(axis=1),
    }[norm]
    np.testing.assert_allclose(made.distance, expected, rtol=1e-4)


def test_an_attack_aims_where_it_is_told_in_the_range_of_the_network(data, pair):
    images, labels = data[0][:5], data[1][:5]
    targets = (labels + 1) % CLASSES
    wide = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Rescaling(1 / 255.0), *pair.initial.layers[1:]]
    )
    found = ddefense.attack(
        wide, (images * 255, labels), targets=targets, value_range=(0, 255), **ATTACK
    )
    np.testing.assert_array_equal(found.targets, targets)
    assert found.images.max() > 1
    same = ddefense.attack(pair.initial, (images, labels), targets=targets, **ATTACK)
    np.testing.assert_array_equal(found.predicted, same.predicted)


def test_an_attack_that_is_none_is_refused_with_those_there_are(pair, data):
    with pytest.raises(ConfigError, match=r"name: expected one of \['jsma_f'.*received 'jsma'"):
        ddefense.attack(pair.distilled, data, "jsma")
    with pytest.raises(TypeError, match=r"'thetta'.*'theta'"):
        ddefense.attack(pair.distilled, data, thetta=1)
