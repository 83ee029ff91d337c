"""Which networks are made, from what, and in which order they share their starts."""

import dataclasses

import keras
import numpy as np
import pytest

from ddefense import config as config_lib
from ddefense import distillation, networks, records
from ddefense.experiments import attacking, pair
from ddefense.experiments.stages import Artefact, Stages
from ddefense.records import RunError

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


def test_soft_labels_are_the_initial_network_at_its_temperature(literal, tiny_dataset):
    _, _, trained = literal
    initial = pair.load_network(trained[20.0].initial)
    logits = networks.predict(networks.logits_of(initial), tiny_dataset.train.images)
    scaled = np.exp(logits.astype(np.float64) / 20)
    expected = scaled / scaled.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        pair.load_soft_labels(trained[20.0].soft_labels), expected, rtol=1e-5
    )


def test_the_distilled_network_learns_from_soft_labels_at_t(literal, tiny_dataset, tmp_path):
    """The whole of distillation again, with the loop alone."""
    from ddefense import training

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


@pytest.fixture
def untrained(tmp_path):
    """A baseline whose training was skipped: a network with the weights of its seed."""
    directory = tmp_path / "network"
    directory.mkdir()
    networks.build("mnist", temperature=1.0, seed=2).save(directory / pair.NETWORK)
    return pair.Trained("baseline", 1.0, Artefact(directory, "digest"))


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


def test_too_many_samples_are_refused_with_the_most_there_are(
    tmp_path, tiny_dataset, untrained, right
):
    config = dataclasses.replace(CONFIG, samples=len(right) + 1)
    with pytest.raises(RunError) as caught:
        attacking.choose_samples(Stages(tmp_path), config, tiny_dataset, untrained)
    message = str(caught.value)
    assert f"--samples: expected at most {len(right)}," in message
    assert f"received {len(right) + 1}." in message
    assert not (tmp_path / "stages" / "samples").exists()


def test_records_name_the_fields_of_training(literal):
    # The record survives a round trip through its file.
    _, baseline, _ = literal
    record = pair.load_training(baseline.network)
    assert isinstance(record, records.TrainingRecord)
    assert record.loss[0] == pytest.approx(np.log(10), rel=0.1)
