"""Logs of trainings: live, whole after an interruption, and never doubled."""

import dataclasses
import importlib.util

import pytest

from ddefense import config as config_lib
from ddefense.experiments import pair, tensorboard
from ddefense.pipeline.stages import Stages

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs the package tensorboard"
)

CONFIG = config_lib.Config(epochs=3, batch_size=32, seed=1)


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def logs_of(tmp_path):
    """Logs as a new process would make them."""
    return lambda **options: tensorboard.Logs(tmp_path / "logs", **options)


@pytest.fixture
def makers_of(tmp_path, tiny_dataset):
    """What trains, in a process of its own, told of by what is given."""
    return lambda watch: pair.NetworkStages(Stages(tmp_path), CONFIG, tiny_dataset, watch)


@pytest.fixture
def written(tmp_path):
    """What the logs of the baseline hold: tag -> [(epoch, value)], of all files together."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    def read():
        found = EventAccumulator(str(tmp_path / "logs" / "baseline"), {"tensors": 0})
        found.Reload()
        return {
            tag: [(e.step, make_ndarray(e.tensor_proto).item()) for e in found.Tensors(tag)]
            for tag in found.Tags()["tensors"]
        }

    return read


@pytest.fixture
def is_marked(tmp_path):
    return (tmp_path / "logs" / "baseline" / "unfinished").exists


def expected(artefact):
    record = pair.load_training(artefact)
    curves = {"epoch_loss": record.loss, "epoch_accuracy": record.accuracy}
    return {
        tag: [(epoch, pytest.approx(value, rel=1e-6)) for epoch, value in enumerate(values)]
        for tag, values in curves.items()
    }


def dying_after(epochs, watch):
    """Dies when so many epochs are logged."""

    def of(name):
        log = watch(name)

        def told(history):
            log(history)
            if len(history.epoch_loss) == epochs:
                raise KilledError

        return told

    return of


def test_epochs_are_logged_as_they_end(logs_of, makers_of, written, is_marked):
    logs, seen = logs_of(), []

    def watch(name):
        log = logs.watch(name)

        def told(history):
            log(history)
            seen.append([epoch for epoch, _ in written().get("epoch_loss", [])])

        return told

    artefact = makers_of(watch).baseline().network
    assert seen == [[], [0], [0, 1], [0, 1, 2]]
    assert is_marked()
    logs.training(artefact)
    assert not is_marked()
    assert written() == expected(artefact)


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 3])
def test_an_interrupted_training_is_logged_once(
    logs_of, makers_of, written, is_marked, tmp_path, epochs
):
    with pytest.raises(KilledError):
        makers_of(dying_after(epochs, logs_of().watch)).baseline()
    assert len(written()["epoch_loss"]) == epochs
    assert is_marked()

    logs = logs_of()
    artefact = makers_of(logs.watch).baseline().network
    logs.training(artefact)
    assert written() == expected(artefact)
    assert len(list((tmp_path / "logs" / "baseline").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("live", [True, False])
def test_a_training_that_ended_unseen_is_logged_from_its_record(
    logs_of, makers_of, written, is_marked, live
):
    with pytest.raises(KilledError):
        makers_of(dying_after(1, logs_of().watch)).baseline()
    artefact = makers_of(lambda name: None).baseline().network  # without logs
    assert is_marked()

    logs = logs_of(live=live)
    assert makers_of(logs.watch).baseline().network == artefact
    logs.training(artefact)
    assert written() == expected(artefact)
    assert not is_marked()


def test_whole_logs_are_left_as_they_are(logs_of, makers_of, tmp_path):
    logs = logs_of()
    artefact = makers_of(logs.watch).baseline().network
    logs.training(artefact)
    before = {path: path.read_bytes() for path in (tmp_path / "logs").rglob("*") if path.is_file()}
    again = logs_of()
    makers_of(again.watch).baseline()
    again.training(artefact)
    for path, data in before.items():
        assert path.read_bytes() == data
    assert len([path for path in (tmp_path / "logs").rglob("*") if path.is_file()]) == len(before)


def test_nothing_is_told_where_the_training_is_elsewhere_or_without_logs(logs_of):
    assert logs_of(live=False).watch("baseline") is None
    assert tensorboard.Logs(None).watch("baseline") is None


@pytest.mark.slow
def test_all_trainings_are_known_even_the_substitute(logs_of, tmp_path, tiny_dataset):
    config = dataclasses.replace(CONFIG, epochs=1, warm_start_steps=2, temperatures=(20.0,))
    makers = pair.NetworkStages(Stages(tmp_path), config, tiny_dataset)
    baseline = makers.baseline()
    makers.distilled(20.0, baseline, makers.warm_start())
    makers.substitute()
    names = ["baseline", "warm_start", "initial_t20", "distilled_t20", "substitute"]
    assert [artefact.name for artefact in makers.trainings] == names
