"""Stages of JSMA: resumable shards, and the network with its logits multiplied."""

import dataclasses
import shutil

import numpy as np
import pytest

from ddefense import config as config_lib
from ddefense.experiments import attacking
from ddefense.experiments.stages import Stages
from ddefense.progress import Progress
from ddefense.records import RunError

CONFIG = config_lib.Config(
    samples=5, max_features=2, theta=0.5, shard_samples=2, attack_batch_size=3
)


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal that kills."""


@pytest.fixture(scope="module")
def make_attack(toy, make_trained):
    """Attacks a network in a directory, after the stages that it needs."""

    def make(directory, name="jsma_f", *, scale=8.0, config=CONFIG, **settings):
        stages = Stages(directory)
        baseline = make_trained(stages, "baseline", scale=scale)
        samples = attacking.choose_samples(stages, config, toy, baseline)
        return attacking.attack(stages, config, toy, baseline, samples, name, **settings)

    return make


@pytest.fixture(scope="module")
def attacked(make_attack, tmp_path_factory):
    return make_attack(tmp_path_factory.mktemp("attacked"))


def outcome(artefact):
    """The records and the adversarial samples of a stage."""
    return attacking.load_attack(artefact)


def assert_same(one, other):
    first, second = outcome(one), outcome(other)
    assert first[:2] == second[:2]
    for field in dataclasses.fields(first[2]):
        np.testing.assert_array_equal(getattr(first[2], field.name), getattr(second[2], field.name))


def test_a_pair_of_pixels_is_raised_where_that_is_enough(attacked, by_hand):
    """The target's pixel by 0.5, and one that does not matter: enough for every gap below 0.5."""
    record, robustness, _ = outcome(attacked)
    assert (record.theta, record.max_features, record.samples, record.attempts) == (0.5, 2, 5, 10)
    # The largest gap of the five is 0.44, and 0.54 to the other class.
    assert by_hand.gaps[4] == 0.44
    assert record.successes == 9
    assert (record.mean_features, record.mean_distortion) == (2.0, 0.5)
    assert (robustness.unreached, robustness.cap) == (0.0, 0.5)


def test_a_second_unit_of_theta_stands_beside_the_configured_one(make_attack, tmp_path):
    record, _, _ = outcome(make_attack(tmp_path, "jsma_f_theta_1"))
    assert (record.theta, record.successes) == (1.0, 10)


@pytest.mark.parametrize("factor", [2.0, 1024.0])
def test_multiplied_logits_are_those_of_a_network_with_multiplied_weights(
    make_attack, tmp_path, attacked, factor
):
    scaled = make_attack(tmp_path / "one", logit_scale=factor)
    assert scaled.directory.name == f"jsma_f_on_baseline_times_{factor:g}"
    by_weights = make_attack(tmp_path / "other", scale=8.0 * factor)
    assert_same(scaled, by_weights)
    record, _, _ = outcome(scaled)
    if factor == 1024.0:
        # Float32 gradients are 0, though no boundary has moved.
        assert (record.successes, record.zero_maps) == (0, 10)
    else:
        assert record.successes == outcome(attacked)[0].successes


def test_multiplied_logits_leave_the_attack_on_the_network_alone(make_attack, tmp_path, attacked):
    make_attack(tmp_path, logit_scale=2.0)
    assert_same(make_attack(tmp_path), attacked)


@pytest.fixture
def killed(make_attack, tmp_path, monkeypatch):
    """The scratch of an attack that was killed when its first shard was done."""

    def kill(self, amount, **metrics):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", kill)
        with pytest.raises(Killed):
            make_attack(tmp_path)
    return tmp_path / "stages" / ".partial-jsma_f_on_baseline" / "scratch"


def test_a_killed_attack_goes_on_after_its_last_shard_to_the_same_bits(
    killed, make_attack, tmp_path, attacked
):
    assert [path.name for path in killed.iterdir()] == ["shard_00000"]
    assert_same(make_attack(tmp_path), attacked)
    assert not list(tmp_path.rglob("shard_*"))


def test_a_finished_shard_is_not_attacked_again(killed, make_attack, tmp_path, finish_again):
    shard = killed / "shard_00000" / "shard.npz"
    with np.load(shard) as arrays:
        made = dict(arrays)
    np.savez_compressed(shard, **(made | {"success": ~made["success"]}))
    finish_again(shard.parent)
    record, _, found = outcome(make_attack(tmp_path))
    assert found.success[:4].tolist() == (~made["success"]).tolist()
    assert record.successes == 5 + (~made["success"]).sum()


def test_a_damaged_outcome_is_named(make_attack, tmp_path):
    artefact = make_attack(tmp_path)
    directory = artefact.directory
    file = directory / "outcome.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(RunError) as caught:
        outcome(artefact)
    message = str(caught.value)
    assert message.startswith(f"The finished stage in {directory} is damaged: ")
    assert "Move that directory away to run the stage again." in message


def test_a_damaged_shard_is_named(killed, make_attack, tmp_path, attacked):
    shard = killed / "shard_00000" / "shard.npz"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(RunError) as caught:
        make_attack(tmp_path)
    for part in (f"The finished stage in {shard.parent} is damaged", "Move that directory away"):
        assert part in str(caught.value)
    shutil.rmtree(shard.parent)
    assert_same(make_attack(tmp_path), attacked)
