"""The report of networks that the run did not train: no training, no claims of the paper."""

import dataclasses
import re

import pytest

from ddefense import records
from ddefense.measurements import controls
from ddefense.reporting import (
    evaluation,
    figures,
    lookup,
    outcomes,
    passages,
    rendering,
    report,
    tables,
)
from ddefense.reporting.page import content

CHECKS = [
    records.ControlRecord(
        name=name, network="n", passed=False, value=0.5, limit=0.01, samples=9, explanation="So."
    )
    for name in ("zero_gradients", "random_restarts")
]


@pytest.fixture
def brought(results, network):
    """Makes results of networks that were brought along; by default two, compared."""

    def make(*networks, **fields):
        if not networks:
            networks = (
                dataclasses.replace(network(None, {"jsma_f": 0.9, "jsma_z": 0.8}), name="plain"),
                dataclasses.replace(network(20.0, {"jsma_f": 0.1, "jsma_z": 0.7}), name="mine"),
            )
        untrained = [
            dataclasses.replace(each, training=None, initial=None, seed=None) for each in networks
        ]
        names = [each.name for each in untrained]
        controls = [control for control in results.controls if control.network in names]
        verdict = records.VerdictRecord(
            masks_gradients=None, stops_adaptive_attacker=None, sentence="There is no verdict."
        )
        dataset = dataclasses.replace(results.dataset, name="photos")
        changes = {"networks": untrained, "controls": controls, "verdict": verdict}
        return dataclasses.replace(
            results, **({"dataset": dataset, "exports": []} | changes | fields)
        )

    return make


@pytest.fixture
def alone(brought, network):
    """One network of which nothing is known but itself."""
    unknown = dataclasses.replace(network(None, {"jsma_f": 0.9}), name="my net", defense="unknown")
    return brought(unknown)


def test_what_is_an_evaluation(brought, alone, results):
    assert brought().is_evaluation
    assert alone.is_evaluation
    assert not results.is_evaluation


def test_networks_have_their_own_names(brought, alone):
    assert [lookup.network_label(n) for n in brought().networks] == ["plain", "mine (T = 20)"]
    assert [lookup.network_label(n) for n in alone.networks] == ["my net"]


def test_nothing_is_held_against_the_paper(brought, alone, full):
    everything_run = [full.networks[0], full.distilled()[-1]]
    for found in (brought(), alone, brought(*everything_run)):
        text = evaluation.write(found)
        made = {table.name: table for table in tables.of_run(found)}
        assert "claims" not in made
        assert not {"training", "training_parameters", "success_rate", "confidence"} & set(made)
        everything = text + "".join(table.markdown() + table.title for table in made.values())
        for word in ("Fig. ", "Table I", "paper (", "paper %", "orientation", "published"):
            assert word not in everything, word


def test_of_a_dataset_of_the_paper_neither(brought, results):
    found = brought(dataset=results.dataset)
    assert found.dataset.name == "mnist"
    assert "claims" not in {table.name for table in tables.of_run(found)}
    assert "## The paper's claims" not in evaluation.write(found)


def test_a_run_that_trained_has_the_report_it_had(results):
    assert "claims" in {table.name for table in tables.of_run(results)}
    assert "attack_rates" not in figures.names(results)
    assert "## The paper's claims, and ours" in report.write(results)


@pytest.mark.slow
def test_every_figure_and_table_that_is_shown_is_written(brought, alone, samples, tmp_path):
    for name, found in (("two", brought()), ("one", alone)):
        folder = tmp_path / name
        folder.mkdir()
        of_network = dataclasses.replace(
            samples,
            outcomes={
                (found.networks[-1].name, attack): outcome
                for (_, attack), outcome in samples.outcomes.items()
            },
        )
        records.dump(found, folder / "results.json")
        of_network.save(folder / "samples.npz")
        written = {path.relative_to(folder).as_posix() for path in rendering.render(folder)}
        text = (folder / "report.md").read_text()
        assert text == evaluation.write(found)
        linked = set(re.findall(r"\]\(((?:figures|tables)/[^)]+)\)", text))
        assert linked <= written
        drawn = {path for path in written if path.startswith("figures")}
        assert drawn == {
            f"figures/{figure}.{suffix}"
            for figure in ("attack_rates", "gradients", "sample_grid")
            for suffix in ("png", "svg")
        }


def test_without_a_reading_of_jsma_there_is_no_sample_grid(brought, network):
    plain = dataclasses.replace(network(None, {}), name="plain", defense="unknown")
    found = brought(plain)
    assert figures.names(found) == {"attack_rates", "gradients"}
    nothing = records.Samples(*[None] * 3, outcomes={})
    assert set(figures.draw_all(found, nothing)) == {"attack_rates", "gradients"}
    assert "readings of JSMA" not in evaluation.write(found)


def test_the_bars_are_the_rates(brought):
    found = brought()
    drawn = figures.FIGURES_OF_EVALUATION["attack_rates"](found)
    (axes,) = drawn.axes
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    assert widths == [
        [pytest.approx(90), pytest.approx(80)],
        [pytest.approx(10), pytest.approx(70)],
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["JSMA-F", "JSMA-Z"]
    # The first attack stands above.
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["plain", "mine (T = 20)"]


def test_the_table_at_the_end_has_a_row_for_each_attack(brought):
    found = brought()
    table = evaluation.table(found)
    assert [row[0] for row in table.rows] == outcomes.attacks_in(found.networks)
    assert [row[2].value for row in table.rows] == [pytest.approx(90), pytest.approx(80)]
    assert [row[4].value for row in table.rows] == [pytest.approx(10), pytest.approx(70)]
    text = table.markdown()
    assert "Test accuracy: plain 99.00 %, mine (T = 20) 99.00 %." in text
    assert "There is no verdict." in text
    assert table.csv().splitlines()[0].startswith("attack,norm,plain,plain_low,plain_high,")


def test_a_failed_check_names_the_network_that_it_measured(brought):
    check = controls.scaled_logits("mine", 20.0, 0.9, 0.0, 10)
    notes = evaluation.table(brought(controls=[check])).notes
    assert any(note.startswith("FAIL scaled_logits of plain, logits times 20: ") for note in notes)


def test_an_attack_on_one_network_alone_leaves_a_gap(brought, network):
    found = brought(
        dataclasses.replace(network(None, {"jsma_f": 0.9}), name="plain"),
        dataclasses.replace(network(20.0, {"jsma_z": 0.7}), name="mine"),
    )
    assert [row[2] is None for row in evaluation.table(found).rows] == [False, True]


def test_doubts_come_first(alone):
    doubted = dataclasses.replace(
        alone, environment=alone.environment | {"warnings": ["It is mostly wrong."]}
    )
    text = evaluation.write(doubted)
    assert text.index("**WARNING**: It is mostly wrong.") < text.index("## Verdict")
    assert "WARNING: It is mostly wrong." in evaluation.table(doubted).markdown()


def test_the_defence_is_warned_of_where_there_is_one(brought, alone):
    assert "**Do not rely on this defence.**" in evaluation.write(brought())
    assert "Do not rely" not in evaluation.write(alone)


def test_an_outlier_class_has_its_table_its_warning_and_its_name(brought, network):
    rates = records.OutlierAttackRecord(
        targeted=True,
        samples=3,
        attempts=27,
        recovery=0.1,
        recovery_interval=(0.0, 0.2),
        detection=0.25,
        detection_interval=(0.1, 0.4),
        success=0.6,
        success_interval=(0.5, 0.7),
        other=0.05,
        other_interval=(0.0, 0.1),
    )
    outliers = records.OutlierRecord(
        images=200,
        accuracy=0.9,
        false_detections=0.08,
        errors=0.02,
        accuracy_of_accepted=0.978,
        attacks={"jsma_f": rates},
    )
    plain = dataclasses.replace(network(None, {"jsma_f": 0.9}), name="plain")
    mine = dataclasses.replace(
        network(1.0, {"jsma_f": 0.6, "jsma_z": 0.5}), name="mine", outliers=outliers
    )
    found = brought(plain, mine)
    first, second = evaluation.summary(found)
    assert (first.name, second.name) == ("evaluation", "outliers")
    assert second.markdown().splitlines()[2:5] == [
        "| mine (outlier class) | JSMA-F | targeted | 27 | 10.0 [0.0, 20.0] | 25.0 [10.0, 40.0] "
        "| 60.0 [50.0, 70.0] | 5.0 [0.0, 10.0] |",
        "",
        "Of 200 clean test images 90.00 % get their class, 8.00 % are refused as outliers, and "
        "2.00 % get a wrong class. Of those not refused 97.80 % are right.",
    ]
    text = evaluation.write(found)
    assert text.startswith("# Evaluation of mine (outlier class) against plain on photos")
    assert "An attacker who knows of the outlier class aims past it" in text
    assert "## The outlier class" in text
    assert "## The outlier class" not in evaluation.write(brought())
    assert [table.name for table in evaluation.summary(brought())] == ["evaluation"]


def test_the_range_of_the_network_is_told(alone):
    wide = dataclasses.replace(
        alone, dataset=dataclasses.replace(alone.dataset, value_range=(0.0, 255.0))
    )
    assert "brought from [0, 255], which the network takes, to [0, 1]" in evaluation.write(wide)
    assert "| images | in [0, 1] |" in evaluation.write(alone)


def test_many_classes_leave_the_grid_legible(alone, samples):
    """Only the first dozen classes are shown, as sources and as targets."""
    names = [f"class {i}" for i in range(100)]
    found = dataclasses.replace(
        alone, dataset=dataclasses.replace(alone.dataset, class_names=names)
    )
    (key, outcome), *_ = samples.outcomes.items()
    far = dataclasses.replace(outcome, target=outcome.target + 90)
    samples = dataclasses.replace(samples, outcomes={("my net", key[1]): far})
    (axes,) = figures.draw_all(found, samples)["sample_grid"].axes
    assert len(axes.get_xticks()) == 1 + 12
    rows = len({int(label) for label in samples.labels})
    assert len(axes.images) == rows  # the originals: every target is beyond the twelfth


def test_a_network_that_did_not_learn_is_named_wherever_it_stands(brought, network):
    plain = dataclasses.replace(network(None, {"jsma_f": 0.9}), name="plain")
    lost = dataclasses.replace(network(20.0, {"jsma_f": 0.1}, accuracy=0.12), name="mine")
    found = brought(plain, lost)
    name = "mine (T = 20) (did not learn)"
    table = evaluation.table(found)
    assert name in table.text()[0][2] or any(name in c.heading for c in table.columns)
    assert f"{name} 12.00 %, at a loss of 87.0 points of accuracy" in table.notes[0]
    assert table.title.startswith(f"{name}: a loss of 87.0 points of accuracy. Success")
    text = evaluation.write(found)
    assert text.startswith(f"# Evaluation of {name} against plain")
    assert "These networks **did not learn**: mine (T = 20) (test accuracy 12.00 %)" in text
    assert "did not learn" not in evaluation.write(brought())
    # Nobody knows how it was trained.
    assert "At high T" not in text


def test_a_network_alone_is_held_against_guessing_and_nothing_else(brought, network):
    lost = dataclasses.replace(network(None, {}, accuracy=0.1), name="mine", defense="unknown")
    text = passages.learnt(brought(lost))
    assert "not above that of guessing" in text
    assert "undistilled" not in text


def test_checks_that_all_passed_are_named(alone):
    passed = [dataclasses.replace(check, network="my net", passed=True) for check in CHECKS]
    notes = evaluation.table(dataclasses.replace(alone, controls=passed)).notes
    assert "Checks for masked gradients, all passed: zero_gradients, random_restarts." in notes
    assert not any("passed" in note for note in evaluation.table(alone).notes)


@pytest.mark.parametrize(
    ("reason", "said"), [("", "serve."), ("an op has none", "serve, without gradients: an op")]
)
def test_what_of_a_saved_model_was_attacked(alone, reason, said):
    (network,) = alone.networks
    model = records.SavedModelRecord(
        signature="serve",
        input="images",
        output="p",
        outputs="probabilities",
        image_shape=(28, 28, 1),
        num_classes=10,
        value_range=(0.0, 1.0),
        no_gradients=reason,
    )
    given = dataclasses.replace(network, model=model, logits=None, gradients=None)
    found = dataclasses.replace(alone, networks=[given], architecture=[])
    sentence = f"Attacked: probabilities, the output p of {said}"
    for text in (evaluation.write(found), *evaluation.table(found).notes[1:2]):
        assert sentence in text
    assert "Architecture" not in evaluation.write(found)
    assert figures.names(found) == {"attack_rates", "sample_grid"}
    assert content.plots(found)["amplitude"] == []
