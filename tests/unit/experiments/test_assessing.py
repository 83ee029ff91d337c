"""What a run measures on its networks, in which order, and the controls that compare them."""

import dataclasses
import pathlib
import types

import pytest

from ddefense import attack_catalog
from ddefense import config as config_lib
from ddefense.experiments import assessing, attacking, controlling, planning
from ddefense.pipeline.stages import Stages
from ddefense.records import ControlRecord, RunError

T = 1024.0
# The toy's test image that has another label than it looks like.
MISLABELLED = 2
CONFIG = config_lib.Config(
    temperatures=(T, 1.0),
    samples=4,
    gradient_samples=5,
    # An image whose gap is below 0.3 is within reach.
    epsilon=0.15,
    pgd_steps=10,
    pgd_restarts=3,
    attacks=("pgd_linf", "jsma_f", "transfer_cw_l2", "fgsm", "jsma_f_exact"),
    max_features=2,
    cw_samples=2,
    cw_all_targets_at=(),
    cw_steps=20,
    cw_search_steps=2,
    kappas=(0.0, 5.0),
)


@dataclasses.dataclass
class Stand:
    """An assessor with everything around it."""

    directory: pathlib.Path
    assessor: assessing.Assessor
    stages: Stages
    networks: list
    asked: list

    @property
    def done(self):
        return [record.name for record in self.stages.done]


@pytest.fixture(scope="module")
def make_stand(toy, make_trained):
    def make(directory, config=CONFIG):
        stages = Stages(directory)
        networks = [
            make_trained(stages, "baseline"),
            make_trained(
                stages, "distilled_t1024", scale=8 * T, temperature=T, defense="distillation"
            ),
            make_trained(stages, "distilled_t1", defense="distillation"),
        ]
        samples = attacking.choose_samples(stages, config, toy, networks[0])
        asked = []

        def substitute():
            asked.append("substitute")
            return make_trained(stages, "substitute", scale=4.0)

        assessor = assessing.Assessor(stages, config, toy, networks[0], samples, substitute)
        return Stand(directory, assessor, stages, networks, asked)

    return make


@pytest.fixture(scope="module")
def assessed(make_stand, tmp_path_factory):
    """A stand after its three networks, with their records and the controls."""
    stand = make_stand(tmp_path_factory.mktemp("assessed"))
    records = [stand.assessor.assess(trained) for trained in stand.networks]
    return types.SimpleNamespace(
        stand=stand, records=records, controls=stand.assessor.controls(records)
    )


def test_stages_run_in_the_order_of_the_plan(assessed, toy):
    """JSMA first; the substitute and what is made on it just before it is first needed."""
    rates = planning.Rates(train=1.0, forward=1.0, backward=1.0)
    planned = [stage.name for stage in planning.plan(CONFIG, toy, rates)]
    of_making = ("initial_", "soft_labels_", "export_", "distilled_")
    expected = [name for name in planned if not name.startswith(of_making)]
    # The stand makes its networks beforehand.
    made = ["baseline", "distilled_t1024", "distilled_t1", "samples"]
    assert assessed.stand.done == made + expected[2:]
    assert "substitute" in expected
    assert f"jsma_f_on_baseline_times_{T:g}" in expected
    assert "jsma_f_on_baseline_times_1" not in expected


def test_the_substitute_is_asked_for_once(assessed):
    assert assessed.stand.asked == ["substitute"]


@pytest.mark.slow
def test_every_attack_takes_misclassified_images_too(make_stand, tmp_path, toy):
    names = tuple(name for name in attack_catalog.ATTACKS if name != "labels_only")
    everything = {"samples": len(toy.test), "cw_samples": len(toy.test), "misclassified": True}
    costly = {"costly_samples": len(toy.test), "attacks": names}
    stand = make_stand(tmp_path, dataclasses.replace(CONFIG, **everything, **costly))
    record = stand.assessor.assess(stand.networks[0])
    assert {*record.attacks} == set(names)
    for found in record.attacks.values():
        assert found.samples == len(toy.test)
    # What is wrong already is no success of an attack away from the label, and no attempt either.
    assert (record.attacks["fgsm"].started, record.attacks["fgsm"].attempts) == (
        1,
        len(toy.test) - 1,
    )
    attempts = stand.assessor.attempts["baseline", "fgsm"]
    assert attempts.sample[attempts.started].tolist() == [MISLABELLED]
    assert not attempts.success[attempts.started].any()
    outcome = stand.assessor.outcomes["baseline", "jsma_f"]
    assert outcome.sample[outcome.started].tolist() == [MISLABELLED]
    assert not outcome.success[outcome.started].any()
    assert record.attacks["jsma_f"].started == 1
    assert record.transfer[0].started == 1


def test_without_transfer_it_is_not_asked_for(make_stand, tmp_path):
    stand = make_stand(tmp_path, dataclasses.replace(CONFIG, attacks=("fgsm",)))
    record = stand.assessor.assess(stand.networks[0])
    assert stand.asked == record.transfer == []
    assert stand.done[-3:] == ["measure_baseline", "fgsm_on_baseline", "controls_on_baseline"]


def test_a_record_has_everything_that_was_asked_for(assessed):
    for trained, record in zip(assessed.stand.networks, assessed.records, strict=True):
        assert (record.name, record.defense) == (trained.name, trained.defense)
        assert (record.temperature, record.seed) == (trained.temperature, CONFIG.seed)
        assert record.test_accuracy == pytest.approx(6 / 7)
        assert set(record.readings) == set(record.robustness) == {"jsma_f", "jsma_f_exact"}
        assert set(record.norm_attacks) == {"pgd_linf", "transfer_cw_l2", "fgsm"}
        assert [transfer.kappa for transfer in record.transfer] == [0.0, 5.0]
        assert record.training.temperature == trained.temperature
        assert record.gradients.deployed.samples == 5
        assert record.gradients.training.temperature == trained.temperature
        assert record.initial is None


def test_the_samples_of_jsma_are_kept_for_every_network(assessed):
    outcomes = assessed.stand.assessor.outcomes
    names = [trained.name for trained in assessed.stand.networks]
    assert set(outcomes) == {(n, a) for n in names for a in ("jsma_f", "jsma_f_exact")}
    for (name, attack), outcome in outcomes.items():
        record = next(record for record in assessed.records if record.name == name)
        assert record.attacks[attack].successes == outcome.success.sum()


def test_a_second_assessment_runs_nothing_and_finds_the_same(assessed, make_stand):
    def files():
        return {p: p.stat().st_mtime_ns for p in assessed.stand.directory.rglob("*")}

    before = files()
    stand = make_stand(assessed.stand.directory)
    found = [stand.assessor.assess(trained) for trained in stand.networks]
    assert found == assessed.records
    assert stand.assessor.controls(found) == assessed.controls
    assert stand.done == assessed.stand.done
    assert files() == before


# --- controls -------------------------------------------------------------------------------------


def named(controls):
    return {(control.network, control.name): control for control in controls}


def test_controls_are_listed_network_by_network(assessed):
    of_any = [
        "zero_gradients",
        "iterative_beats_one_step",
        "unbounded_reaches_all",
        "random_restarts",
    ]
    with_scaled = ["zero_gradients", "scaled_logits", *of_any[1:]]
    assert [(control.network, control.name) for control in assessed.controls] == [
        *(("baseline", name) for name in of_any),
        *(("distilled_t1024", name) for name in with_scaled),
        # Its logits times 1 are the undistilled network's.
        *(("distilled_t1", name) for name in of_any),
    ]


def test_controls_pass_where_gradients_can_be_had(assessed):
    found = named(assessed.controls)
    for network in ("baseline", "distilled_t1"):
        values = {
            "zero_gradients": (0.0, 0.01),
            # Gaps of 0.12, 0.22 and 0.27 of four.
            "iterative_beats_one_step": (0.75, 0.75),
            "unbounded_reaches_all": (1.0, 1.0),
            "random_restarts": (0.0, 0.05),
        }
        for name, (value, limit) in values.items():
            control = found[network, name]
            assert (control.passed, control.value, control.limit) == (True, value, limit)
            assert control.samples == (5 if name == "zero_gradients" else 4)


def test_controls_fail_where_the_softmax_saturates(assessed):
    found = named(assessed.controls)
    failed = {name for (network, name), c in found.items() if not c.passed}
    assert {network for (network, name), c in found.items() if not c.passed} == {"distilled_t1024"}
    assert {"zero_gradients", "scaled_logits", "unbounded_reaches_all"} <= failed
    zero = found["distilled_t1024", "zero_gradients"]
    assert (zero.value, zero.samples) == (1.0, 5)
    # jsma_f reaches every target on the undistilled network, and none after the multiplication.
    scaled = found["distilled_t1024", "scaled_logits"]
    assert (scaled.value, scaled.limit, scaled.samples) == (0.0, pytest.approx(0.9), 4)
    assert "multiplied by 1024" in scaled.explanation


def test_attacks_that_go_round_the_softmax_reach_all_the_same(assessed):
    baseline, distilled, _ = assessed.records
    assert distilled.attacks["jsma_f"].successes == 0
    assert distilled.attacks["jsma_f"].details["zero_maps"] == 8
    assert distilled.attacks["jsma_f_exact"].successes >= 4
    assert distilled.attacks["jsma_f_exact"].details["zero_maps"] == 0
    assert [t.misclassified for t in distilled.transfer] == [
        t.misclassified for t in baseline.transfer
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attacks", "expected"),
    [
        (("jsma_z",), {"zero_gradients"}),
        (("jsma_f",), {"zero_gradients", "scaled_logits"}),
        (
            ("fgsm_temperature",),
            {"zero_gradients", "unbounded_reaches_all", "random_restarts"},
        ),
        (
            ("pgd_linf", "fgsm"),
            {
                *("zero_gradients", "iterative_beats_one_step"),
                *("unbounded_reaches_all", "random_restarts"),
            },
        ),
    ],
    ids=lambda names: "+".join(sorted(names)),
)
def test_controls_are_had_as_far_as_they_were_measured(make_stand, tmp_path, attacks, expected):
    stand = make_stand(tmp_path, dataclasses.replace(CONFIG, attacks=attacks))
    records = [stand.assessor.assess(trained) for trained in stand.networks[:2]]
    controls = stand.assessor.controls(records)
    assert {c.name for c in controls if c.network == "distilled_t1024"} == expected
    assert {c.name for c in controls if c.network == "baseline"} == expected - {"scaled_logits"}
    assert all(isinstance(control, ControlRecord) for control in controls)


def test_a_damaged_stage_of_controls_is_named(make_stand, tmp_path):
    config = dataclasses.replace(CONFIG, attacks=("fgsm",))
    stand = make_stand(tmp_path, config)
    stand.assessor.assess(stand.networks[0])
    (tmp_path / "stages" / "controls_on_baseline" / "rates.json").write_text('{"samples": 4}')
    again = make_stand(tmp_path, config)
    record = again.assessor.assess(again.networks[0])
    with pytest.raises(RunError, match="controls_on_baseline is damaged"):
        again.assessor.controls([record])


def test_controls_are_measured_again_for_other_settings(make_stand, tmp_path, toy):
    config = dataclasses.replace(CONFIG, attacks=("fgsm",))
    stand = make_stand(tmp_path, config)
    samples = attacking.choose_samples(stand.stages, config, toy, stand.networks[0])

    def attack(**changes):
        changed = dataclasses.replace(config, **changes)
        return controlling.attack(stand.stages, changed, toy, stand.networks[0], samples)

    first = attack()
    assert attack(cw_steps=7, theta=0.5) == first
    for changes in ({"epsilon": 0.1}, {"pgd_steps": 3}, {"pgd_restarts": 2}, {"seed": 5}):
        with pytest.raises(RunError, match="made with other settings"):
            attack(**changes)
    rates = controlling.load_rates(first)
    assert (rates.samples, rates.restarts) == (4, 3)
    assert (rates.one_start, rates.many_starts, rates.unbounded) == (0.75, 0.75, 1.0)
