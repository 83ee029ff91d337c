"""Attacks as stages: what they record of networks whose boundaries are known by hand."""

import dataclasses
import shutil

import numpy as np
import pytest

from ddefense import attack_catalog, attacks, records
from ddefense import config as config_lib
from ddefense.experiments import adversarial, attacking, transferring
from ddefense.pipeline.stages import Stages
from ddefense.progress import Progress
from ddefense.records import RunError

pytestmark = pytest.mark.slow

T = 1024.0  # a power of two, so that logits times T / T are the same bits
SEED = 3
CONFIG = config_lib.Config(
    temperatures=(T,),
    samples=5,
    theta=0.5,
    max_features=2,
    # An image whose gap is below 0.3 is within reach.
    epsilon=0.15,
    pgd_steps=10,
    cw_samples=4,
    cw_all_targets_at=(),
    cw_steps=200,
    cw_search_steps=6,
    kappas=(0.0, 1.0, 100.0),
    costly_samples=3,
    labels_only_queries=300,
    shard_samples=2,
    attack_batch_size=3,
    seed=SEED,
)
CLASSES = 3


@dataclasses.dataclass(frozen=True)
class Stand:
    """Stages in one directory, with the networks and samples that attacks start from."""

    stages: Stages
    samples: object
    networks: dict

    def submit(self, toy, name, network="baseline", config=CONFIG, **settings):
        """The stage of an attack."""
        trained = self.networks[network]
        given = self.stages, config, toy, trained, self.samples, name
        return attacking.attack(*given, **settings)

    def attack(self, toy, name, network="baseline", config=CONFIG, **settings):
        """The record that an attack leaves, and what it made."""
        artefact = self.submit(toy, name, network, config, **settings)
        made = attacking.load_attempts(artefact)
        return attacking.load_attack(artefact), made


def assert_same(one, other):
    """That two attacks made the same bits."""
    for field in dataclasses.fields(one):
        if field.name != "details":
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
    assert one.details.keys() == other.details.keys()
    for name, of_each in one.details.items():
        np.testing.assert_array_equal(of_each, other.details[name])


@pytest.fixture(scope="module")
def make_stand(toy, make_trained):
    def make(directory):
        stages = Stages(directory)
        networks = {
            "baseline": make_trained(stages, "baseline"),
            # The same boundaries; float32 probabilities are 0 and 1.
            "distilled": make_trained(
                stages, "distilled", scale=8 * T, temperature=T, defense="distillation"
            ),
            "hardened": make_trained(stages, "hardened", defense="adversarial_training"),
        }
        samples = attacking.choose_samples(stages, CONFIG, toy, networks["baseline"])
        return Stand(stages, samples, networks)

    return make


@pytest.fixture(scope="module")
def stand(make_stand, tmp_path_factory):
    """Finished attacks are skipped, so each one runs once for all tests."""
    return make_stand(tmp_path_factory.mktemp("stand"))


def test_samples_leave_out_what_the_network_gets_wrong(stand, by_hand):
    assert attacking.load_samples(stand.samples).tolist() == by_hand.test_indices[:5]


# --- records --------------------------------------------------------------------------------------


def test_one_random_target_by_hand(by_hand):
    """What the expected numbers below start from: both kinds of targets are among them."""
    chosen = attacks.one_wrong_class(by_hand.labels[:5], CLASSES, SEED)
    assert set((chosen - by_hand.labels[:5]) % CLASSES) == {1, 2}


def test_a_pair_of_pixels_is_raised_where_that_is_enough(toy, stand, by_hand):
    """The target's pixel by 0.5, and one that does not matter: enough for every gap below 0.5."""
    artefact = stand.submit(toy, "jsma_f")
    record = attacking.load_attack(artefact)
    assert record.settings == {
        **{"reading": "jsma_f", "theta": 0.5, "max_features": 2, "temperature": 1.0}
    }
    assert (record.norm, record.targets, record.samples, record.attempts) == ("l0", "all", 5, 10)
    # The largest gap of the five is 0.44, and 0.54 to the other class.
    assert by_hand.gaps[4] == 0.44
    assert record.successes == 9
    assert record.mean_distance == 2.0
    assert (record.robustness.unreached, record.robustness.cap) == (0.0, 0.5)
    assert record.details == {"steps": 10, "no_admissible_pair": 0, "zero_maps": 0}


def test_a_second_unit_of_theta_stands_beside_the_configured_one(toy, stand):
    record, _ = stand.attack(toy, "jsma_f_theta_1")
    assert (record.settings["theta"], record.successes) == (1.0, 10)


@pytest.mark.parametrize("factor", [2.0, 1024.0])
def test_multiplied_logits_are_those_of_a_network_with_multiplied_weights(
    toy, make_trained, stand, tmp_path, factor
):
    record, scaled = stand.attack(toy, "jsma_f", logit_scale=factor)
    assert stand.stages.done[-1].name == f"jsma_f_on_baseline_times_{factor:g}"
    stages = Stages(tmp_path)
    baseline = make_trained(stages, "baseline", scale=8.0 * factor)
    samples = attacking.choose_samples(stages, CONFIG, toy, baseline)
    _, by_weights = Stand(stages, samples, {"baseline": baseline}).attack(toy, "jsma_f")
    assert_same(scaled, by_weights)
    if factor == 1024.0:
        # Float32 gradients are 0, though no boundary has moved.
        assert (record.successes, record.details["zero_maps"]) == (0, 10)
    else:
        assert record.successes == 9


@pytest.mark.parametrize("name", attack_catalog.SIGN_ATTACKS)
def test_attacks_by_sign_reach_what_lies_within_epsilon(toy, stand, by_hand, name):
    record, made = stand.attack(toy, name)
    assert record.norm == "linf"
    of_pgd = {"steps": 10, "step_size": 2.5 * 0.15 / 10, "restarts": 1, "random_start": True}
    assert record.settings == {
        "epsilon": 0.15,
        "loss": "logits" if "temperature" in name else "softmax",
        "temperature": 1.0,
        **({} if name.startswith("fgsm") else {**of_pgd, "seed": SEED}),
    }
    assert record.samples == 5
    # Gaps of 0.12, 0.22, 0.27; to the third class 0.22, 0.32, 0.37.
    if name.endswith("_targeted"):
        assert (record.targets, record.attempts, record.successes) == ("all", 10, 4)
        chosen = attacks.one_wrong_class(by_hand.labels[:5], CLASSES, SEED)
        random = (by_hand.gap_to(chosen) < 0.3).mean()
        rates = [case.success_rate for case in (record.best, record.average, record.worst)]
        assert rates == [3 / 5, pytest.approx(random), 1 / 5]
    else:
        assert (record.targets, record.attempts, record.successes) == ("untargeted", 5, 3)
        assert record.best is record.average is record.worst is None
        assert made.success.tolist() == [True, True, True, False, False]
    assert record.success_rate == pytest.approx(record.successes / record.attempts)
    low, high = record.success_interval
    assert low <= record.success_rate <= high
    assert record.started == 0
    assert record.mean_distance == pytest.approx(0.15, abs=1e-6)


@pytest.mark.parametrize("name", attack_catalog.SIGN_ATTACKS)
def test_a_saturated_softmax_stops_them_unless_logits_are_divided_by_t(toy, stand, name):
    undistilled, expected = stand.attack(toy, name)
    record, made = stand.attack(toy, name, "distilled")
    if "temperature" in name:
        assert record.settings == undistilled.settings | {"temperature": T}
        assert record == dataclasses.replace(undistilled, settings=record.settings)
        np.testing.assert_array_equal(made.images, expected.images)
    elif name.startswith("fgsm"):
        # No feature moves, so every image stays where the network is right.
        assert (record.successes, record.mean_distance, record.distance_interval) == (0, None, None)
    else:
        # PGD goes no further than its random start, elsewhere to the corners of its box.
        originals = attacking.originals(toy, stand.samples)[made.original]
        for found, in_corner in ((expected, True), (made, False)):
            change = np.abs(found.images - originals)[:, 0, :CLASSES]
            assert ((change > 0.1499) == in_corner).all()
        assert record.successes < undistilled.successes


# By the distance to the boundary between two pixels, as a share of their gap.
SMALLEST = {"cw_l2": 1 / np.sqrt(2), "cw_linf": 1 / 2, "labels_only": 1 / np.sqrt(2)}
ADAM = {"learning_rate": 0.05, "initial_c": 1e-3}
CW_SETTINGS = {"cw_l2": ADAM | {"search_steps": 6}, "cw_l0": ADAM, "cw_linf": {}}
# How much further they may stop: without gradients, 300 queries do not go far.
SLACK = {"cw_l2": 1.1, "cw_linf": 1.1, "labels_only": 1.5}


@pytest.mark.parametrize("network", ["baseline", "distilled"])
@pytest.mark.parametrize("name", ["cw_l2", "cw_l0", "cw_linf", "labels_only"])
def test_attacks_that_minimise_find_the_boundary(toy, stand, by_hand, name, network):
    record, made = stand.attack(toy, name, network)
    count = 4 if name == "cw_l2" else 3
    assert record.norm == {"cw_l0": "l0", "cw_linf": "linf"}.get(name, "l2")
    assert (record.samples, record.attempts, record.successes) == (count, count, count)
    if name == "labels_only":
        assert (record.targets, record.average) == ("untargeted", None)
        assert record.settings == {"queries": 300, "seed": SEED}
        targets = (by_hand.labels[:count] + 1) % CLASSES  # the second brightest
    else:
        assert record.targets == "random"
        assert record.average == records.CaseRecord(
            success_rate=1.0,
            mean_distance=record.mean_distance,
            distance_interval=record.distance_interval,
        )
        assert record.settings == {"kappa": 0.0, "steps": 200} | CW_SETTINGS[name]
        targets = attacks.one_wrong_class(by_hand.labels[:count], CLASSES, SEED)
        assert made.targets.tolist() == targets.tolist()
    assert record.best is record.worst is None
    if name == "cw_l0":
        # The pixel of the target alone, or of the label alone, is enough.
        assert (record.mean_distance, record.median_distance) == (1.0, 1.0)
    else:
        least = SMALLEST[name] * by_hand.gap_to(targets)
        assert least.mean() < record.mean_distance < SLACK[name] * least.mean()
        assert np.median(least) < record.median_distance < SLACK[name] * np.median(least)


@pytest.mark.parametrize(
    "name", [*attack_catalog.SIGN_ATTACKS, "cw_l2", "cw_l0", "cw_linf", "labels_only"]
)
def test_success_and_distance_are_seen_again_in_the_images(toy, stand, by_hand, name):
    record, made = stand.attack(toy, name)
    rows, images = made.original, made.images
    pixels = images.reshape(len(rows), 4)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    predicted = pixels[:, :CLASSES].argmax(axis=1)
    if record.targets == "untargeted":
        success = predicted != by_hand.labels[rows]
        assert made.targets is None
    else:
        success = predicted == made.targets
    np.testing.assert_array_equal(made.success, success)
    assert record.successes == success.sum()
    originals = toy.test.images[np.array(by_hand.test_indices)[rows]].reshape(len(rows), 4)
    change = np.abs(pixels.astype(np.float64) - originals)
    norms = {
        "l0": (change > 0).sum(axis=1),
        "l2": np.sqrt((change**2).sum(axis=1)),
        "linf": change.max(axis=1),
    }
    distance = norms[record.norm][success]
    assert record.mean_distance == pytest.approx(distance.mean())
    assert record.median_distance == pytest.approx(np.median(distance))


@pytest.mark.parametrize("name", ["pgd_linf", "labels_only"])
def test_no_shard_repeats_the_random_numbers_of_another(toy, make_stand, tmp_path, name):
    made = [
        make_stand(tmp_path / str(size))
        .attack(
            toy,
            name,
            config=dataclasses.replace(CONFIG, shard_samples=size, costly_samples=5),
        )[1]
        .images
        for size in (2, 5)
    ]
    np.testing.assert_allclose(*made, atol=1e-5)


# --- which samples and targets --------------------------------------------------------------------


# Attacks of which only the targets matter, in one shard.
BRIEF = dataclasses.replace(
    CONFIG, cw_steps=1, cw_search_steps=1, labels_only_queries=10, shard_samples=5
)


def test_no_more_samples_are_attacked_than_a_run_has(toy, make_stand, tmp_path):
    config = dataclasses.replace(BRIEF, cw_samples=50, costly_samples=50)
    fresh = make_stand(tmp_path)
    for name in ("cw_l2", "labels_only"):
        record, _ = fresh.attack(toy, name, config=config)
        assert record.samples == record.attempts == 5


def test_random_targets_are_the_same_on_every_network_and_for_fewer_samples(
    toy, stand, make_stand, tmp_path
):
    config = dataclasses.replace(BRIEF, cw_samples=5)
    _, five = make_stand(tmp_path).attack(toy, "cw_l2", config=config)
    assert len(five.targets) == 5
    for network in ("baseline", "distilled"):
        _, four = stand.attack(toy, "cw_l2", network)
        assert four.targets.tolist() == five.targets[:4].tolist()


@pytest.mark.parametrize(
    ("temperature", "everywhere"),
    [
        (T, {"baseline", "distilled"}),
        # With those of any distilled network, those of the undistilled one.
        (5.0, {"baseline"}),
    ],
)
def test_all_targets_are_attacked_where_the_configuration_says(
    toy, make_stand, tmp_path, by_hand, temperature, everywhere
):
    config = dataclasses.replace(BRIEF, cw_all_targets_at=(temperature,))
    fresh = make_stand(tmp_path)
    for network in fresh.networks:
        record, made = fresh.attack(toy, "cw_l2", network, config)
        assert record.samples == 4
        if network in everywhere:
            assert (record.targets, record.attempts) == ("all", 8)
            sample, target = attacks.every_wrong_class(by_hand.labels[:4], CLASSES)
            assert made.original.tolist() == sample.tolist()
            assert made.targets.tolist() == target.tolist()
        else:
            assert (record.targets, record.attempts) == ("random", 4)


def test_the_average_case_is_that_of_the_random_targets(toy, stand, make_stand, tmp_path):
    """So that networks attacked towards all targets and towards one can be compared."""
    config = dataclasses.replace(CONFIG, cw_all_targets_at=(T,), shard_samples=5)
    everywhere, _ = make_stand(tmp_path).attack(toy, "cw_l2", config=config)
    one, _ = stand.attack(toy, "cw_l2")
    assert everywhere.average.success_rate == one.average.success_rate == 1.0
    # What else is in a batch matters for last bits alone.
    assert everywhere.average.mean_distance == pytest.approx(one.average.mean_distance, rel=1e-3)
    best, worst = everywhere.best.mean_distance, everywhere.worst.mean_distance
    assert worst - best == pytest.approx(0.1 / np.sqrt(2), rel=0.05)
    assert best < everywhere.average.mean_distance < worst


# --- resuming -------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal that kills."""


@pytest.fixture
def kill_after_a_shard(monkeypatch):
    """Runs something that is killed when its first shard is done."""

    def kill(self, amount, **metrics):
        raise Killed

    def run(work):
        with monkeypatch.context() as patch:
            patch.setattr(Progress, "update", kill)
            with pytest.raises(Killed):
                work()

    return run


@pytest.mark.parametrize("name", ["jsma_f", "pgd_linf", "fgsm_targeted", "cw_l2", "labels_only"])
def test_a_killed_attack_goes_on_after_its_last_shard_to_the_same_bits(
    toy, stand, make_stand, tmp_path, kill_after_a_shard, name
):
    expected_record, expected = stand.attack(toy, name)
    fresh = make_stand(tmp_path)
    kill_after_a_shard(lambda: fresh.attack(toy, name))
    partial = tmp_path / "stages" / f".partial-{name}_on_baseline"
    assert [path.name for path in (partial / "scratch").iterdir()] == ["shard_00000"]
    record, made = fresh.attack(toy, name)
    assert record == expected_record
    assert_same(made, expected)
    assert fresh.stages.done[-1].starts == 2
    assert not list(tmp_path.rglob("shard_*"))


def test_a_finished_shard_is_not_attacked_again(
    toy, make_stand, tmp_path, kill_after_a_shard, finish_again
):
    fresh = make_stand(tmp_path)
    kill_after_a_shard(lambda: fresh.attack(toy, "fgsm"))
    (shard,) = tmp_path.rglob("shard.npz")
    marked = adversarial.load(shard)
    marked = dataclasses.replace(marked, images=np.full_like(marked.images, 0.25))
    adversarial.save(marked, shard)
    finish_again(shard.parent)
    _, made = fresh.attack(toy, "fgsm")
    np.testing.assert_array_equal(made.images[:2], marked.images)
    assert (np.abs(made.images[2:] - 0.25) > 0.01).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("damage", [lambda path: b"", lambda path: path.read_bytes()[:100]])
def test_a_damaged_shard_is_named(toy, stand, make_stand, tmp_path, kill_after_a_shard, damage):
    fresh = make_stand(tmp_path)
    kill_after_a_shard(lambda: fresh.attack(toy, "fgsm"))
    (shard,) = tmp_path.rglob("shard.npz")
    shard.write_bytes(damage(shard))
    with pytest.raises(RunError) as caught:
        fresh.attack(toy, "fgsm")
    message = str(caught.value)
    for part in (f"The finished stage in {shard.parent} is damaged", "Move that directory away"):
        assert part in message
    shutil.rmtree(shard.parent)
    assert fresh.attack(toy, "fgsm")[0] == stand.attack(toy, "fgsm")[0]


def test_a_damaged_record_is_named(toy, make_stand, tmp_path):
    fresh = make_stand(tmp_path)
    artefact = fresh.submit(toy, "fgsm")
    for name, load in (
        ("attack.json", attacking.load_attack),
        ("adversarial.npz", attacking.load_attempts),
    ):
        file = artefact.directory / name
        whole = file.read_bytes()
        file.write_bytes(whole[:100])
        with pytest.raises(RunError, match=r"fgsm_on_baseline is damaged.*Move that directory"):
            load(artefact)
        file.write_bytes(whole)


# --- what an attack depends on --------------------------------------------------------------------

SIGN_FIELDS = {"epsilon", "samples", "seed", "shard_samples", "attack_batch_size"}
CW_FIELDS = {"cw_steps", "seed", "shard_samples", "attack_batch_size"}
ADAM_FIELDS = {"cw_learning_rate", "cw_initial_c"}
DEPENDS_ON = {
    "jsma_f": {"theta", "max_features", "samples", "seed", "shard_samples", "attack_batch_size"},
    "fgsm": SIGN_FIELDS,
    "pgd_linf": SIGN_FIELDS | {"pgd_steps"},
    "cw_l2": CW_FIELDS | ADAM_FIELDS | {"cw_samples", "cw_all_targets_at", "cw_search_steps"},
    "cw_linf": CW_FIELDS | {"costly_samples"},
    "labels_only": {"labels_only_queries", "costly_samples", "seed", "shard_samples"}
    | {"attack_batch_size"},
}
CHANGES = {
    "epsilon": 0.1,
    "samples": 4,
    "pgd_steps": 11,
    "pgd_restarts": 2,
    "cw_samples": 2,
    "cw_all_targets_at": (T,),
    "cw_steps": 5,
    "cw_search_steps": 5,
    "cw_learning_rate": 0.02,
    "cw_initial_c": 0.1,
    "kappas": (7.0,),
    "costly_samples": 2,
    "labels_only_queries": 100,
    "shard_samples": 5,
    "attack_batch_size": 2,
    "seed": 4,
    "theta": 1.0,
    "max_features": 4,
}


@pytest.mark.parametrize("name", DEPENDS_ON)
def test_an_attack_of_other_settings_is_another_one(toy, stand, name):
    stand.attack(toy, name)
    for field, value in CHANGES.items():
        changed = dataclasses.replace(CONFIG, **{field: value})
        if field in DEPENDS_ON[name]:
            with pytest.raises(RunError, match="made with other settings"):
                stand.attack(toy, name, config=changed)
        else:
            stand.attack(toy, name, config=changed)
            assert stand.stages.done[-1].name == f"{name}_on_baseline"


# --- transfer -------------------------------------------------------------------------------------


def craft(stand, toy, substitute, config=CONFIG):
    trained = stand.networks[substitute]
    return transferring.craft_on_substitute(stand.stages, config, toy, trained, stand.samples)


def replay(stand, toy, crafted, network="baseline", config=CONFIG):
    trained = stand.networks[network]
    artefact = transferring.transfer(stand.stages, config, toy, trained, crafted, stand.samples)
    return transferring.load_transfer(artefact)


@pytest.fixture(scope="module")
def substituted(stand, make_trained):
    """A stand with a substitute whose logits are half as large."""
    substitute = make_trained(stand.stages, "substitute", scale=4.0)
    return dataclasses.replace(stand, networks=stand.networks | {"substitute": substitute})


@pytest.mark.parametrize("network", ["baseline", "distilled"])
def test_what_is_made_on_a_substitute_is_replayed_by_rising_kappa(
    toy, substituted, by_hand, network
):
    found = replay(substituted, toy, craft(substituted, toy, "substitute"), network)
    assert [record.kappa for record in found.by_kappa] == [0.0, 1.0, 100.0]
    first, second, last = found.by_kappa
    targets = attacks.one_wrong_class(by_hand.labels[:4], CLASSES, SEED)
    gaps = by_hand.gap_to(targets)
    # The same boundaries, so what fools the one fools the other. A margin of 1 in logits of 4 times
    # the pixels is 0.25 beyond the boundary.
    for record, least in ((first, gaps), (second, gaps + 0.25)):
        assert record.samples == 4
        assert record.crafted == record.misclassified == record.reached == 1.0
        assert record.misclassified_interval == (1.0, 1.0)
        assert record.mean_distance == pytest.approx(least.mean() / np.sqrt(2), rel=0.05)
    # No image within bounds has a margin of 100: originals are replayed.
    assert (last.crafted, last.misclassified, last.reached) == (0.0, 0.0, 0.0)
    assert last.mean_distance is None


def test_the_attack_of_transfer_is_that_of_the_largest_kappa(
    toy, substituted, make_stand, make_trained, tmp_path
):
    found = replay(substituted, toy, craft(substituted, toy, "substitute")).attack
    assert (found.norm, found.targets, found.samples, found.successes) == (
        *("l2", "untargeted", 4, 0),
    )
    assert found.settings == {
        "kappa": 100.0,
        "steps": 200,
        **CW_SETTINGS["cw_l2"],
        "crafted_on": "substitute",
    }
    fresh = make_stand(tmp_path)
    fresh.networks["substitute"] = make_trained(fresh.stages, "substitute", scale=4.0)
    config = dataclasses.replace(CONFIG, kappas=(0.0, 1.0))
    crafted = craft(fresh, toy, "substitute", config)
    again = replay(fresh, toy, crafted, config=config)
    assert (again.attack.successes, again.attack.settings["kappa"]) == (4, 1.0)
    assert again.attack.mean_distance == pytest.approx(again.by_kappa[-1].mean_distance)


def test_killed_between_shards_crafting_goes_on(
    toy, substituted, make_stand, make_trained, tmp_path, kill_after_a_shard
):
    expected = craft(substituted, toy, "substitute").artefact.directory
    fresh = make_stand(tmp_path)
    fresh.networks["substitute"] = make_trained(fresh.stages, "substitute", scale=4.0)
    kill_after_a_shard(lambda: craft(fresh, toy, "substitute"))
    (shard,) = tmp_path.rglob("kappa_*")
    assert shard.name == "kappa_0_shard_00000"
    made = craft(fresh, toy, "substitute").artefact.directory
    for kappa in ("0", "1", "100"):
        name = f"kappa_{kappa}.npz"
        assert (made / name).read_bytes() == (expected / name).read_bytes()
