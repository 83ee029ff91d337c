"""What `bin/distill` prints when it is done."""

import pytest

from ddefense import records
from ddefense.reporting import distillation


@pytest.fixture
def record_of(results):
    """(accuracy of the initial network, of the distilled one) -> a record on 10,000 images."""
    training = results.networks[0].training

    def make(initial, distilled, **fields):
        cost = records.CostRecord(parameters=10, weight_bytes=40, latency_seconds={1: 0.001})
        networks = [
            records.TrainedRecord(
                training=training,
                validation_loss=[],
                validation_accuracy=[],
                test_accuracy=accuracy,
                cost=cost,
                weights_sha256="0" * 64,
            )
            for accuracy in (initial, distilled)
        ]
        return records.DistillationRecord(
            method="defensive",
            network="my.keras",
            dataset=results.dataset,
            data_sha256="0" * 64,
            settings={"temperature": 20.0, "seed": 0},
            initial=networks[0],
            distilled=networks[1],
            agreement=None,
            soft_labels=records.SoftLabelRecord(
                mean_entropy=0.1, mean_largest=0.9, agreement_with_hard=0.9
            ),
            **({"student": None} | fields),
        )

    return make


def test_a_loss_of_accuracy_is_the_first_note(record_of):
    table = distillation.table(record_of(0.8, 0.676))
    assert table.notes[0] == "A loss of 12.4 points of accuracy against the initial network."
    assert [row[0] for row in table.rows] == ["initial", "distilled"]
    student = distillation.table(record_of(0.8, 0.676, student="small.keras"))
    assert student.notes[0].endswith(" against the teacher.")
    assert not distillation.table(record_of(0.8, 0.81)).notes[0].startswith("A loss")


def test_a_network_that_guesses_did_not_learn(record_of):
    table = distillation.table(record_of(0.8, 0.1))
    assert [row[0] for row in table.rows] == ["initial", "distilled (did not learn)"]
    untested = distillation.table(record_of(None, None))
    assert [row[0] for row in untested.rows] == ["initial", "distilled"]


def test_the_network_as_given_stands_beside_both_and_is_named_if_it_is_the_best(record_of):
    best = "The network as given has the highest test accuracy."
    table = distillation.table(record_of(0.8, 0.81, given_accuracy=0.82))
    assert [row[:2] for row in table.text()] == [
        ["as given", "82.00"],
        ["initial", "80.00"],
        ["distilled", "81.00"],
    ]
    assert best in table.notes
    for accuracy in (0.81, None):
        assert best not in distillation.table(record_of(0.8, 0.81, given_accuracy=accuracy)).notes
    assert best not in distillation.table(record_of(None, None, given_accuracy=0.8)).notes
