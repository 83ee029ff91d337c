"""What `bin/attack` prints: attacks as rows, what makes them doubtful below."""

import dataclasses

import pytest

from ddefense import config, records
from ddefense.reporting import attack_run

FAILED, PASSED = "half of the gradients are 0.", "random starts add nothing."
MEANING = (
    "A FAIL is no strength of the network: it says that attacks by gradients through its softmax "
    "tell nothing (`random_restarts`: that one start of `pgd_linf` tells too little)."
)
ACCURACY = (
    "Test accuracy 97.53 %. Distances are means over successes. Attempts that start where they aim "
    "at, because the network errs on the unchanged image, are counted in the last column alone."
)


def make_control(name, passed, explanation):
    return records.ControlRecord(
        name=name,
        network="attacked",
        passed=passed,
        value=0.5,
        limit=0.01,
        samples=100,
        explanation=explanation,
    )


ZERO = make_control("zero_gradients", False, FAILED)
RESTARTS = make_control("random_restarts", True, PASSED)


@pytest.fixture
def run():
    attack = records.AttackRecord(
        norm="linf",
        targets="untargeted",
        settings={"epsilon": 0.3},
        samples=4,
        attempts=4,
        successes=3,
        success_rate=0.75,
        success_interval=(0.25, 1.0),
        started=0,
        success_rate_over_all=0.75,
        mean_distance=0.2,
        distance_interval=(0.1, 0.3),
        median_distance=0.2,
    )
    return records.AttackRun(
        network="mine.keras",
        sha256="0" * 64,
        substitute=None,
        temperature=None,
        dataset="digits",
        config=config.preset("smoke", "digits", attacks=("fgsm",)),
        environment={},
        timings={},
        test_accuracy=0.97531,
        sample_indices=[0, 1, 2, 3],
        attacks={"fgsm": attack},
        transfer=[],
    )


def test_a_row_says_what_an_attack_reached(run):
    table = attack_run.table(run)
    assert table.markdown().splitlines()[2:] == [
        "| fgsm | 75.0 [25.0, 100.0] | 0.200 | L-infinity | untargeted | 4 | 0 | 75.0 |",
        "",
        ACCURACY,
    ]


@pytest.mark.parametrize(
    ("temperature", "shown"),
    [(None, "(digits)"), (20.0, "(digits, T = 20)"), (0.5, "(digits, T = 0.5)")],
)
def test_the_title_shows_the_temperature_where_it_was_given(run, temperature, shown):
    table = attack_run.table(dataclasses.replace(run, temperature=temperature))
    assert table.title == f"Attacks on mine.keras {shown}, with 95 % intervals in brackets"


@pytest.mark.parametrize(
    ("controls", "said"),
    [
        ([], []),
        ([RESTARTS], ["Checks for masked gradients, all passed: random_restarts."]),
        ([ZERO], [f"FAIL zero_gradients: {FAILED}", MEANING]),
        ([ZERO, RESTARTS], [f"FAIL zero_gradients: {FAILED}", MEANING]),
    ],
    ids=["none", "passed", "failed", "both"],
)
def test_failed_checks_are_explained(run, controls, said):
    table = attack_run.table(dataclasses.replace(run, controls=controls))
    assert list(table.notes) == [ACCURACY, *said]


def test_warnings_stand_out(run):
    table = attack_run.table(dataclasses.replace(run, warnings=["it knows nothing."]))
    assert list(table.notes) == [ACCURACY, "WARNING: it knows nothing."]
