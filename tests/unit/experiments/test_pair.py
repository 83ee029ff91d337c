"""Which networks are made, from what, and in which order they share their starts."""

import dataclasses
import threading
import weakref

import keras
import numpy as np
import pytest

from ddefense import attacks, datasets, distillation, interruption, networks, records, training
from ddefense import config as config_lib
from ddefense.experiments import attacking, pair
from ddefense.pipeline.stages import Stages
from ddefense.progress import Progress
from ddefense.records import RunError

pytestmark = pytest.mark.slow

CONFIG = config_lib.Config(
    temperatures=(1.0, 20.0), epochs=1, batch_size=32, samples=3, dropout=0.5, seed=1
)
# A rate at which no weight changes visibly: what a network ends as is what it started from.
STILL = dataclasses.replace(CONFIG, learning_rate=1e-30)


def stage_names(directory):
    return sorted(path.name for path in (directory / "stages").iterdir())


def weights(artefact):
    return pair.load_network(artefact).get_weights()


def assert_equal(one, other, tolerance=0.0):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def literal(tmp_path_factory, tiny_dataset):
    """The literal protocol: no warm start."""
    directory = tmp_path_factory.mktemp("literal")
    makers = pair.NetworkStages(Stages(directory), CONFIG, tiny_dataset)
    baseline = makers.baseline()
    assert makers.warm_start() is None
    trained = {t: makers.distilled(t, baseline, None) for t in CONFIG.temperatures}
    return directory, baseline, trained


def test_the_first_network_at_t_1_is_the_baseline(literal):
    directory, baseline, trained = literal
    assert trained[1.0].initial == baseline.network
    assert trained[20.0].initial != baseline.network
    assert stage_names(directory) == [
        "baseline",
        "distilled_t1",
        "distilled_t20",
        "initial_t20",
        "soft_labels_t1",
        "soft_labels_t20",
    ]


def test_networks_keep_the_temperature_they_were_trained_at(literal):
    _, baseline, trained = literal
    assert baseline.temperature == 1.0
    assert networks.temperature_of(pair.load_network(baseline.network)) == 1.0
    for artefact in (trained[20.0].initial, trained[20.0].network):
        assert networks.temperature_of(pair.load_network(artefact)) == 20.0
        assert pair.load_training(artefact).temperature == 20.0


def a_bit_flipped(content):
    content[len(content) // 2] ^= 1


def cut_short(content):
    del content[len(content) // 2 :]


DAMAGE = {"Bad CRC-32 for file 'model.weights.h5'": a_bit_flipped, "not a zip file": cut_short}


@pytest.mark.parametrize("cause", DAMAGE)
def test_a_damaged_network_is_named_with_the_cause(literal, tmp_path, cause):
    _, baseline, _ = literal
    whole = (baseline.network.directory / pair.NETWORK).read_bytes()
    content = bytearray(whole)
    DAMAGE[cause](content)
    artefact = Stages(tmp_path).run(
        "baseline", {}, [], lambda folder: (folder / pair.NETWORK).write_bytes(whole)
    )
    stage = artefact.directory
    (stage / pair.NETWORK).write_bytes(content)
    with pytest.raises(RunError) as caught:
        pair.load_network(artefact)
    message = str(caught.value)
    assert message.startswith(f"The finished stage in {stage} is damaged: network.keras: ")
    assert cause in message
    assert "Example error message" not in message
    assert "\n" not in message


def test_soft_labels_are_the_initial_network_at_its_temperature(literal, tiny_dataset):
    _, _, trained = literal
    initial = pair.load_network(trained[20.0].initial)
    logits = networks.predict(networks.logits_of(initial), tiny_dataset.train.images)
    scaled = np.exp(logits.astype(np.float64) / 20)
    expected = scaled / scaled.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        pair.load_soft_labels(trained[20.0].soft_labels, tiny_dataset), expected, rtol=1e-5
    )


def test_soft_labels_of_several_parts_are_in_the_order_of_the_images(
    literal, tiny_dataset, tmp_path, monkeypatch
):
    _, _, trained = literal
    monkeypatch.setattr(pair, "_PART_IMAGES", 32)
    makers = pair.NetworkStages(Stages(tmp_path), CONFIG, tiny_dataset)
    parts = makers._soft_labels("soft_labels_t20", 20.0, trained[20.0].initial)
    np.testing.assert_allclose(
        pair.load_soft_labels(parts, tiny_dataset),
        pair.load_soft_labels(trained[20.0].soft_labels, tiny_dataset),
        rtol=1e-5,
    )


class Windowed:
    """Images in memory that are read in windows, as a stream of them is."""

    def __init__(self, images, window):
        self.images, self.window, self.read, self.held = images, window, [], []
        self.labels = np.arange(len(images)) % 10

    def __len__(self):
        return len(self.images)

    def windows(self, first=0):
        for number in range(first, -(-len(self) // self.window)):
            self.read.append(number)
            window = self.images[number * self.window : (number + 1) * self.window].copy()
            self.held.append(weakref.ref(window))
            yield window
            del window
        self.read.append("end")


@pytest.fixture
def soften(literal):
    """What computes soft labels of images at T = 20."""
    network = pair.load_network(literal[2][20.0].initial)
    return lambda images, first: distillation.soft_labels(network, images, 20.0)


def rows_by_window(artefact, examples):
    read = pair.labels_of(artefact, examples, 10)
    return [read(number) for number in range(-(-len(examples) // examples.window))]


@pytest.mark.parametrize("window", [1, 9, 64, 70, 100])
def test_every_window_of_a_stream_has_the_rows_of_its_images(
    soften, literal, tiny_dataset, tmp_path, window, monkeypatch
):
    """They are read once, up to the end, and no more than one window is held."""
    monkeypatch.setattr(pair, "_PART_IMAGES", 32)
    stream = Windowed(tiny_dataset.train.images, window)

    def compute(images, first):
        assert sum(held() is not None for held in stream.held) == 1
        np.testing.assert_array_equal(images, stream.images[first : first + len(images)])
        return soften(images, first)

    artefact = pair.of_images(Stages(tmp_path), "soft", {}, [], stream, compute)
    assert stream.read == [*range(-(-70 // window)), "end"]
    found = rows_by_window(artefact, stream)
    assert [len(rows) for rows in found[:-1]] == [window] * (len(found) - 1)
    expected = pair.load_soft_labels(literal[2][20.0].soft_labels, tiny_dataset)
    # Rounding depends on what shares a batch.
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-5)


def test_windows_that_were_labelled_before_an_interruption_are_not_read_again(
    soften, tiny_dataset, tmp_path
):
    stream, stages = Windowed(tiny_dataset.train.images, 16), Stages(tmp_path)

    def stop(images, first):
        if first == 32:
            raise interruption.StoppedError
        return soften(images, first)

    with pytest.raises(interruption.StoppedError):
        pair.of_images(stages, "soft", {}, [], stream, stop)
    assert stream.read == [0, 1, 2]
    stream.read.clear()
    found = pair.of_images(stages, "soft", {}, [], stream, soften)
    assert stream.read == [2, 3, 4, "end"]
    whole = pair.of_images(stages, "whole", {}, [], stream, soften)
    assert found.content == whole.content


def test_soft_labels_of_other_images_or_classes_are_refused(soften, tiny_dataset, tmp_path):
    stream = Windowed(tiny_dataset.train.images, 16)
    artefact = pair.of_images(Stages(tmp_path), "soft", {}, [], stream, soften)
    fewer = Windowed(stream.images[:-1], 16)
    for examples, classes in ((fewer, 10), (stream, 9)):
        with pytest.raises(RunError, match=r"soft_labels.npy: expected float32 soft labels of"):
            pair.labels_of(artefact, examples, classes)(0)


def test_the_distilled_network_learns_from_soft_labels_at_t(literal, tiny_dataset, tmp_path):
    """The whole of distillation again, with the loop alone."""
    _, _, trained = literal
    network = networks.build("mnist", temperature=20.0, seed=1, dropout=0.5)
    settings = training.TrainingSettings(
        temperature=20.0, epochs=1, batch_size=32, learning_rate=0.1, momentum=0.5, seed=1
    )
    initial = pair.load_network(trained[20.0].initial)
    labels = distillation.soft_labels(initial, tiny_dataset.train.images, 20.0)
    training.fit(network, tiny_dataset.train.images, labels, settings)
    assert_equal(network.get_weights(), weights(trained[20.0].network))


def test_training_leaves_a_record_and_no_checkpoint(literal):
    directory, baseline, _ = literal
    record = pair.load_training(baseline.network)
    assert (record.epochs, record.steps, record.warm_start_steps) == (1, 3, 0)
    assert len(record.loss) == len(record.accuracy) == 1
    assert record.stalled
    assert not list(directory.rglob("checkpoint*"))


def test_a_second_run_trains_nothing(literal, tiny_dataset):
    directory, baseline, trained = literal
    stages = Stages(directory)
    makers = pair.NetworkStages(stages, CONFIG, tiny_dataset)
    assert makers.baseline() == baseline
    assert makers.distilled(20.0, baseline, None) == trained[20.0]
    assert [record.starts for record in stages.done] == [1, 1, 1, 1]


def test_both_networks_start_from_the_warm_weights(tmp_path, tiny_dataset):
    config = dataclasses.replace(CONFIG, warm_start_steps=2)
    warm = pair.NetworkStages(Stages(tmp_path / "a"), config, tiny_dataset).warm_start()
    assert pair.load_training(warm).steps == 2
    still = dataclasses.replace(STILL, warm_start_steps=2)
    makers = pair.NetworkStages(Stages(tmp_path / "b"), still, tiny_dataset)
    baseline = makers.baseline()
    # T = 1 with a warm start does not share the baseline, which has none.
    trained = makers.distilled(1.0, baseline, warm)
    fresh = networks.build("mnist", temperature=1.0, seed=1).get_weights()
    assert any((a != b).any() for a, b in zip(weights(warm), fresh, strict=True))
    assert_equal(weights(baseline.network), fresh, 1e-20)
    assert trained.initial != baseline.network
    assert_equal(weights(trained.initial), weights(warm), 1e-20)
    assert_equal(weights(trained.network), weights(warm), 1e-20)
    assert pair.load_training(trained.network).warm_start_steps == 2
    assert pair.load_training(baseline.network).warm_start_steps == 0


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal that kills."""


def test_an_interrupted_training_resumes_from_its_epoch(
    literal, tmp_path, tiny_dataset, monkeypatch
):
    def kill(*_, **__):
        raise Killed

    _, baseline, _ = literal
    stages = Stages(tmp_path)
    makers = pair.NetworkStages(stages, CONFIG, tiny_dataset)
    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save", kill)
        with pytest.raises(Killed):
            makers.baseline()
    partial = tmp_path / "stages" / ".partial-baseline"
    assert (partial / "scratch" / "checkpoint.npz").exists()
    resumed = makers.baseline()
    assert_equal(weights(resumed.network), weights(baseline.network))
    assert stages.done[0].starts == 2
    assert not list(tmp_path.rglob("checkpoint*"))


def test_a_training_asked_to_stop_resumes_within_its_epoch(tmp_path, tiny_dataset, monkeypatch):
    config = dataclasses.replace(CONFIG, batch_size=2)  # 35 steps, and a pause after 25
    expected = pair.NetworkStages(Stages(tmp_path / "a"), config, tiny_dataset).baseline()

    note, update, sizes = threading.Event(), Progress.update, []

    def asking(self, amount, **metrics):
        update(self, amount, **metrics)
        sizes.append(amount)
        note.set()

    makers = pair.NetworkStages(Stages(tmp_path / "b"), config, tiny_dataset)
    with monkeypatch.context() as patch:
        patch.setattr(interruption, "_asked", note)
        patch.setattr(Progress, "update", asking)
        with pytest.raises(interruption.StoppedError):
            makers.baseline()
    assert sizes == [50]
    assert stage_names(tmp_path / "b") == [".partial-baseline"]
    resumed = makers.baseline()
    assert_equal(weights(resumed.network), weights(expected.network))
    assert pair.load_training(resumed.network) == pair.load_training(expected.network)
    assert not list(tmp_path.rglob("checkpoint*"))


# --- the substitute and the yardstick -------------------------------------------------------------


def test_the_substitute_is_a_baseline_of_another_seed(literal, tiny_dataset, tmp_path):
    _, baseline, _ = literal
    substitute = pair.NetworkStages(Stages(tmp_path), CONFIG, tiny_dataset).substitute()
    assert (substitute.name, substitute.defense, substitute.temperature) == (
        *("substitute", "none", 1.0),
    )
    assert substitute.initial is substitute.soft_labels is None
    of_seed = dataclasses.replace(CONFIG, seed=CONFIG.seed + 1_000_000)
    expected = pair.NetworkStages(Stages(tmp_path), of_seed, tiny_dataset).baseline()
    assert_equal(weights(substitute.network), weights(expected.network))
    assert (weights(substitute.network)[0] != weights(baseline.network)[0]).any()
    record = pair.load_training(substitute.network)
    assert (record.epochs, record.steps) == (1, 3)


HARDENED = dataclasses.replace(
    CONFIG,
    defense="adversarial_training",
    epsilon=0.2,
    adversarial_epochs=2,
    adversarial_steps=2,
)


@pytest.fixture(scope="module")
def hardened(literal, tiny_dataset, tmp_path_factory):
    """A network adversarially trained from the baseline of the literal protocol."""
    _, baseline, _ = literal
    stages = Stages(tmp_path_factory.mktemp("hardened"))
    return pair.NetworkStages(stages, HARDENED, tiny_dataset).adversarially_trained(baseline)


def test_it_says_what_it_is(hardened):
    assert (hardened.name, hardened.defense) == ("adversarially_trained", "adversarial_training")
    assert hardened.temperature == 1.0
    assert hardened.initial is hardened.soft_labels is None
    assert networks.temperature_of(pair.load_network(hardened.network)) == 1.0
    record = pair.load_training(hardened.network)
    assert (record.epochs, record.steps, record.warm_start_steps) == (2, 6, 0)


def test_it_learns_perturbed_images_from_the_weights_of_the_baseline(
    hardened, literal, tiny_dataset
):
    """The whole of adversarial training again, with the loop alone."""
    _, baseline, _ = literal
    settings = training.TrainingSettings(
        temperature=1.0, epochs=2, batch_size=32, learning_rate=0.3 * 0.1, momentum=0.5, seed=1
    )
    found = []
    for perturbed in (True, False):
        network = networks.build("mnist", temperature=1.0, seed=1, dropout=0.5)
        network.set_weights(weights(baseline.network))
        # Over the first half of the six steps epsilon rises.
        perturb = attacks.pgd_perturbation(
            networks.logits_of(network), epsilon=0.2, steps=2, seed=1, ramp_steps=3
        )
        labels = distillation.hard_labels(tiny_dataset.train.labels, 10)
        images = tiny_dataset.train.images
        training.fit(network, images, labels, settings, perturb=perturb if perturbed else None)
        found.append(network.get_weights())
    assert_equal(weights(hardened.network), found[0])
    assert any((a != b).any() for a, b in zip(*found, strict=True))


def test_the_other_networks_are_what_they_are_without_it(literal, tiny_dataset):
    directory, baseline, trained = literal
    makers = pair.NetworkStages(Stages(directory), HARDENED, tiny_dataset)
    assert makers.baseline() == baseline
    assert makers.distilled(20.0, baseline, None) == trained[20.0]


@pytest.mark.parametrize(
    "changes", [{"epsilon": 0.1}, {"adversarial_steps": 3}, {"adversarial_epochs": 1}, {"seed": 2}]
)
def test_with_other_settings_it_is_another_network(hardened, literal, tiny_dataset, changes):
    _, baseline, _ = literal
    stages = Stages(hardened.network.directory.parents[1])
    other = pair.NetworkStages(stages, dataclasses.replace(HARDENED, **changes), tiny_dataset)
    with pytest.raises(RunError, match="made with other settings"):
        other.adversarially_trained(baseline)


def test_it_has_no_warm_start_of_its_own(literal, tiny_dataset, tmp_path):
    """It starts from the baseline, whatever the distilled networks start from."""
    _, baseline, _ = literal
    config = dataclasses.replace(
        STILL,
        defense="adversarial_training",
        adversarial_epochs=1,
        adversarial_steps=1,
        warm_start_steps=2,
    )
    makers = pair.NetworkStages(Stages(tmp_path), config, tiny_dataset)
    found = makers.adversarially_trained(baseline)
    assert_equal(weights(found.network), weights(baseline.network), 1e-20)
    assert pair.load_training(found.network).warm_start_steps == 0


def test_interrupted_it_resumes_from_its_epoch(
    hardened, literal, tiny_dataset, tmp_path, monkeypatch
):
    _, baseline, _ = literal
    stages = Stages(tmp_path)
    makers = pair.NetworkStages(stages, HARDENED, tiny_dataset)
    epochs, note, update = [], threading.Event(), Progress.update

    def asking(self, amount, **metrics):
        update(self, amount, **metrics)
        epochs.append(amount)
        note.set()

    with monkeypatch.context() as patch:
        patch.setattr(interruption, "_asked", note)
        patch.setattr(Progress, "update", asking)
        with pytest.raises(interruption.StoppedError):
            makers.adversarially_trained(baseline)
    assert epochs == [70]
    resumed = makers.adversarially_trained(baseline)
    assert stages.done[-1].starts == 2
    assert_equal(weights(resumed.network), weights(hardened.network))
    assert pair.load_training(resumed.network) == pair.load_training(hardened.network)


# --- half precision -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colourful():
    """A standardised dataset of noise that the paper's CIFAR-10 network takes."""
    generator = np.random.default_rng(0)
    splits = [
        datasets.Split(generator.uniform(size=(n, 32, 32, 3)).astype(np.float32), np.arange(n) % 10)
        for n in (12, 4)
    ]
    names = tuple("0123456789")
    return datasets.Dataset("noise", "cifar10", *splits, names, standardized=True)


@pytest.fixture(scope="module")
def half(tmp_path_factory, colourful):
    """Networks trained in half precision on a standardised dataset."""
    config = dataclasses.replace(
        CONFIG, temperatures=(20.0,), batch_size=6, precision="mixed_bfloat16"
    )
    makers = pair.NetworkStages(Stages(tmp_path_factory.mktemp("half")), config, colourful)
    baseline = makers.baseline()
    return config, baseline, makers.distilled(20.0, baseline, None)


def test_what_was_trained_in_half_precision_is_stored_in_float32(half):
    _, baseline, trained = half
    for artefact in (baseline.network, trained.initial, trained.network):
        network = pair.load_network(artefact)
        assert {layer.compute_dtype for layer in network.layers} == {"float32"}
        assert {w.dtype for w in network.weights} == {"float32"}
    assert networks.temperature_of(network) == 20.0


def test_its_weights_are_those_that_training_gave(half, colourful):
    config, baseline, _ = half
    settings = training.TrainingSettings(
        temperature=1.0, epochs=1, batch_size=6, learning_rate=0.1, momentum=0.5, seed=1
    )
    by_hand = {}
    for precision in config_lib.PRECISIONS:
        network = networks.build(
            "cifar10",
            temperature=1.0,
            seed=1,
            dropout=config.dropout,
            statistics=colourful.feature_statistics(),
            precision=precision,
        )
        labels = distillation.hard_labels(colourful.train.labels, 10)
        training.fit(network, colourful.train.images, labels, settings)
        by_hand[precision] = network.get_weights()
    assert_equal(weights(baseline.network), by_hand["mixed_bfloat16"])
    # It was not trained in float32.
    assert any(
        (a != b).any() for a, b in zip(by_hand["float32"], by_hand["mixed_bfloat16"], strict=True)
    )


def test_soft_labels_are_computed_in_float32(half, colourful):
    _, _, trained = half
    initial = networks.build(
        "cifar10", temperature=20.0, seed=0, statistics=colourful.feature_statistics()
    )
    initial.set_weights(weights(trained.initial))
    np.testing.assert_allclose(
        pair.load_soft_labels(trained.soft_labels, colourful),
        networks.predict(initial, colourful.train.images),
        rtol=1e-6,
    )


def test_a_stored_network_standardises_as_its_dataset_says(half, colourful):
    _, baseline, trained = half
    mean = colourful.train.images.mean(axis=0, dtype=np.float64)
    deviation = colourful.train.images.std(axis=0, dtype=np.float64)
    expected = (colourful.test.images - mean) / deviation
    for artefact in (baseline.network, trained.network):
        network = pair.load_network(artefact)
        inside = keras.Model(network.input, network.get_layer("standardize").output)
        found = networks.predict(inside, colourful.test.images)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_dataset_that_is_not_standardised_has_no_such_layer(literal):
    _, baseline, _ = literal
    names = [layer.name for layer in pair.load_network(baseline.network).layers]
    assert names[:2] == ["images", "conv_1_1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "mixed_bfloat16"},
        {"learning_rate_decay": 0.95},
        {"momentum_decay": 0.5},
        {"decay_epochs": 5},
        {"jit_compile": True},
    ],
)
def test_a_network_of_other_settings_is_another_one(
    literal, tmp_path, tiny_dataset, monkeypatch, changes
):
    directory, baseline, _ = literal
    other = dataclasses.replace(CONFIG, **changes)
    # In the same directory it is refused,
    with pytest.raises(RunError, match="made with other settings"):
        pair.NetworkStages(Stages(directory), other, tiny_dataset).baseline()
    # and elsewhere what is made from it differs as well; training itself does not matter here.
    history = training.History(np.ones(1, np.float32), np.ones(1), np.ones(1))
    received = []
    monkeypatch.setattr(training, "fit", lambda *args, **_: received.append(args[3]) or history)
    found = pair.NetworkStages(Stages(tmp_path), other, tiny_dataset).baseline()
    assert found.network.digest != baseline.network.digest
    for name, value in changes.items():
        assert name == "precision" or getattr(received[0], name) == value


def test_what_does_not_determine_a_network_leaves_it_alone(literal, tiny_dataset):
    directory, baseline, _ = literal
    other = dataclasses.replace(CONFIG, samples=7, theta=-1.0, attack_batch_size=3)
    assert pair.NetworkStages(Stages(directory), other, tiny_dataset).baseline() == baseline


@pytest.fixture
def untrained(tmp_path):
    """A baseline whose training was skipped: a network with the weights of its seed."""
    network = networks.build("mnist", temperature=1.0, seed=2)
    artefact = Stages(tmp_path).run(
        "network", {}, [], lambda directory: network.save(directory / pair.NETWORK)
    )
    return pair.Trained("baseline", 1.0, artefact)


@pytest.fixture
def right(untrained, tiny_dataset):
    """Positions of the test images that it gets right, by Keras's own prediction."""
    network = pair.load_network(untrained.network)
    probabilities = network(tiny_dataset.test.images, training=False)
    found = np.flatnonzero(np.argmax(probabilities, axis=1) == tiny_dataset.test.labels)
    assert 3 < len(found) < len(tiny_dataset.test)  # or the tests would say nothing
    return found


def test_samples_are_the_first_ones_the_baseline_gets_right(
    tmp_path, tiny_dataset, untrained, right
):
    artefact = attacking.choose_samples(Stages(tmp_path), CONFIG, tiny_dataset, untrained)
    np.testing.assert_array_equal(attacking.load_samples(artefact), right[:3])


def test_as_many_samples_as_there_are(tmp_path, tiny_dataset, untrained, right):
    config = dataclasses.replace(CONFIG, samples=len(right))
    artefact = attacking.choose_samples(Stages(tmp_path), config, tiny_dataset, untrained)
    np.testing.assert_array_equal(attacking.load_samples(artefact), right)


def test_misclassified_images_are_samples_where_asked_for(tmp_path, tiny_dataset, untrained, right):
    config = dataclasses.replace(CONFIG, samples=len(tiny_dataset.test), misclassified=True)
    artefact = attacking.choose_samples(Stages(tmp_path), config, tiny_dataset, untrained)
    assert len(right) < len(tiny_dataset.test)
    np.testing.assert_array_equal(
        attacking.load_samples(artefact), np.arange(len(tiny_dataset.test))
    )


def test_too_many_samples_are_refused_with_the_most_there_are(
    tmp_path, tiny_dataset, untrained, right
):
    config = dataclasses.replace(CONFIG, samples=len(right) + 1)
    with pytest.raises(RunError) as caught:
        attacking.choose_samples(Stages(tmp_path), config, tiny_dataset, untrained)
    message = str(caught.value)
    assert f"samples: expected at most {len(right)}," in message
    assert f"received {len(right) + 1}." in message
    assert "misclassified" in message
    assert not (tmp_path / "stages" / "samples").exists()


def test_records_name_the_fields_of_training(literal):
    # The record survives a round trip through its file.
    _, baseline, _ = literal
    record = pair.load_training(baseline.network)
    assert isinstance(record, records.TrainingRecord)
    assert record.loss[0] == pytest.approx(np.log(10), rel=0.1)
