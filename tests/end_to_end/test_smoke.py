"""The smoke preset through the command line: every promise of a run, on one run."""

import csv
import re
import shutil
import xml.etree.ElementTree
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.special

from ddefense import measurements, networks, records
from ddefense.attack_catalog import JSMA_ATTACKS
from ddefense.experiments import planning
from ddefense.layers import TemperatureSoftmax

NAMES = ["baseline", "distilled_t20"]
COMMITTED = Path(__file__).resolve().parents[2] / "docs" / "results" / "digits"

SERVE = """
import sys
for name in ("keras", "ddefense"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf
images = np.load("images.npy")
found = {}
for directory in sys.argv[1:]:
    serve = tf.saved_model.load(directory).signatures["serving_default"]
    found[directory] = serve(images=tf.constant(images))["probabilities"].numpy()
np.savez("answers.npz", **found)
"""


@pytest.fixture(scope="module")
def results(smoke):
    return records.load(records.Results, smoke.workdir / "results.json")


@pytest.fixture(scope="module")
def jsma(results):
    """The readings of JSMA that were run."""
    return {name for name in results.config.attacks if name in JSMA_ATTACKS}


@pytest.fixture(scope="module")
def deployed(smoke):
    """The networks that the run left, by name."""
    return {
        path.stem: keras.models.load_model(path, compile=False)
        for path in sorted((smoke.workdir / "networks").iterdir())
    }


def test_the_log_names_every_stage_and_the_report(smoke):
    lines = smoke.process.stderr.splitlines()
    stages = sorted(path.name for path in (smoke.workdir / "stages").iterdir())
    assert sorted(re.findall(r"^running (\S+)$", smoke.process.stderr, re.M)) == stages
    assert lines[-1] == "report: run/report.md"
    assert "Traceback" not in smoke.process.stderr
    assert "Warning" not in smoke.process.stderr


def test_what_was_planned_is_what_ran(smoke, digits, results):
    """Every stage in the order planned, and after each one what is left of the whole."""
    log = smoke.process.stderr
    rates = planning.Rates(train=1.0, forward=1.0, backward=1.0)
    planned = [stage.name for stage in planning.plan(results.config, digits, rates)]
    assert re.findall(r"^running (\S+)$", log, re.M) == planned
    total = len(planned)
    assert log.startswith(f"plan: {total} stages, 0 finished already\n")
    kinds = re.findall(r"^  (\w+) +(\d+) stages, (?:about|at most) \d", log, re.M)
    assert [kind for kind, _ in kinds] == ["train", "measure", "attack", "export"]
    assert sum(int(count) for _, count in kinds) == total
    assert re.search(r"^  in all about .+; memory about [\d.]+ GiB of [\d.]+$", log, re.M)
    finished = re.findall(
        r"^finished (\S+) in .+; (\d+) of (\d+) stages, about .+ left$", log, re.M
    )
    assert finished == [(name, str(i), str(total)) for i, name in enumerate(planned, start=1)]
    assert f"; {total} of {total} stages, about 0 s left\nSuccess of attacks on digits" in log


def test_a_run_leaves_what_the_documentation_promises(smoke):
    assert sorted(path.name for path in smoke.workdir.iterdir()) == [
        "config.json",
        "figures",
        "networks",
        "report.html",
        "report.md",
        "results.json",
        "samples.npz",
        "stages",
        "tables",
    ]
    assert sorted(path.name for path in smoke.folder.iterdir()) == ["exported", "run"]
    assert not list(smoke.folder.rglob(".tmp-*"))
    assert not list(smoke.folder.rglob("checkpoint*"))
    assert not list(smoke.folder.rglob("shard_*"))


def test_results_are_complete(results, jsma):
    assert results.config.preset == "smoke"
    assert results.config.reduced
    assert results.dataset.name == "digits"
    assert [network.name for network in results.networks] == NAMES
    assert [network.temperature for network in results.networks] == [1.0, 20.0]
    for network in results.networks:
        assert set(network.readings) == set(network.robustness) == jsma
        assert {attack.attempts for attack in network.readings.values()} == {18}
        assert set(network.norm_attacks) == set(results.config.attacks) - jsma
        assert {attack.samples for attack in network.norm_attacks.values()} == {1, 2}
        assert [transfer.kappa for transfer in network.transfer] == list(results.config.kappas)
    assert results.baseline().initial is None
    assert results.distilled()[0].initial.temperature == 20.0
    assert sum(layer.parameters for layer in results.architecture) == 312_202
    assert results.environment["command"].startswith("bin/reproduce --workdir=run")
    assert results.environment["resumed_stages"] == 0
    assert results.environment["op_determinism"] is True
    assert set(results.timings) > {"baseline", "warm_start", "distilled_t20", "this_process"}
    checked = {(control.network, control.name) for control in results.controls}
    assert len(checked) == len(results.controls) == 9
    assert checked > {(name, "zero_gradients") for name in NAMES}
    assert ("distilled_t20", "scaled_logits") in checked


def test_the_verdict_is_drawn_from_the_measurements(results):
    expected = measurements.verdict(
        results.networks, results.comparisons, results.controls, results.dataset
    )
    assert results.verdict == expected
    assert results.verdict.masks_gradients is True
    assert results.verdict.stops_adaptive_attacker is False
    assert results.verdict.sentence.startswith("At T = 20")
    assert " the paper's attack (jsma_f) reaches " in results.verdict.sentence


def test_the_verdict_stands_in_the_report_and_beside_every_export(smoke, results):
    sentence = results.verdict.sentence
    assert sentence in (smoke.workdir / "report.md").read_text()
    for export in results.exports:
        notes = smoke.folder / export.path / "assets.extra"
        assert sorted(path.name for path in notes.iterdir()) == [
            "MODEL_CARD.md",
            "SHA256SUMS",
            "model_card.json",
            "tf_serving_warmup_requests",
        ]
        card = records.load(records.ModelCard, notes / "model_card.json")
        measured = next(n for n in results.networks if n.name == export.network)
        assert card.name == export.network
        distilled = export.network == "distilled_t20"
        assert ("broken since 2016" in card.warning) == distilled
        assert card.weights_sha256 == measured.weights_sha256
        # The one distilled network is what the verdict of the run is about.
        of_others = "the distilled networks of its run, not this one"
        assert card.about == (export.network if distilled else of_others)
        assert card.verdict == results.verdict
        assert card.measured.attacks == measured.attacks
        assert card.measured.attacks == measured.attacks
        text = (notes / "MODEL_CARD.md").read_text()
        assert text.index(card.warning) < text.index(sentence)
        assert all(f"| `{attack}` | " in text for attack in results.config.attacks)
        assert str(smoke.folder) not in text + records.card_json(card)


def test_the_baseline_learnt(results):
    assert results.baseline().test_accuracy > 0.5
    assert not results.baseline().training.stalled


def test_networks_load_at_t_1_and_have_the_recorded_accuracy(results, deployed, digits):
    assert sorted(deployed) == NAMES
    for record in results.networks:
        network = deployed[record.name]
        assert isinstance(network.layers[-1], TemperatureSoftmax)
        assert networks.temperature_of(network) == 1.0
        predicted = np.argmax(networks.predict(network, digits.test.images), axis=1)
        assert (predicted == digits.test.labels).mean() == pytest.approx(record.test_accuracy)


def test_samples_are_the_first_that_the_baseline_gets_right(results, deployed, digits):
    predicted = networks.predict(deployed["baseline"], digits.test.images).argmax(axis=1)
    right = np.flatnonzero(predicted == digits.test.labels)
    assert results.sample_indices == right[:2].tolist()


def test_successes_are_seen_again_in_the_images(smoke, results, deployed, jsma):
    """Judges every adversarial image afresh, from the files alone."""
    samples = records.Samples.load(smoke.workdir / "samples.npz")
    assert samples.test_indices.tolist() == results.sample_indices
    assert set(samples.outcomes) == {(n, a) for n in NAMES for a in jsma}
    some = 0
    for (name, attack), outcome in samples.outcomes.items():
        images = np.stack([samples.adversarial(name, attack, pair) for pair in range(18)])
        originals = samples.images[outcome.sample]
        changed = (images != originals).reshape(18, -1).sum(axis=1)
        assert images.min() >= 0.0
        assert images.max() <= 1.0
        assert changed.max() <= results.config.max_features
        assert (outcome.target != samples.labels[outcome.sample]).all()
        logits = networks.predict(networks.logits_of(deployed[name]), images)
        success = logits.argmax(axis=1) == outcome.target
        np.testing.assert_array_equal(success, outcome.success)
        np.testing.assert_allclose(
            outcome.probabilities, scipy.special.softmax(logits, axis=1), atol=1e-5
        )
        clean = networks.predict(networks.logits_of(deployed[name]), samples.images)
        np.testing.assert_allclose(
            samples.probabilities[name], scipy.special.softmax(clean, axis=1), atol=1e-5
        )
        record = next(n for n in results.networks if n.name == name).attacks[attack]
        assert record.successes == success.sum()
        assert record.success_rate == pytest.approx(success.mean())
        some += success.sum()
    assert some > 0  # or the test would say little


def test_successes_by_norm_are_seen_again_in_the_images(smoke, results, deployed, digits):
    """The same for attacks by norm, from what their stages keep."""
    originals = digits.test.images[results.sample_indices]
    labels = digits.test.labels[results.sample_indices]
    stages = sorted((smoke.workdir / "stages").glob("*/adversarial.npz"))
    found = [path for path in stages if not path.parent.name.startswith("jsma")]
    some = 0
    for path in found:
        attack, name = path.parent.name.split("_on_")
        record = next(n for n in results.networks if n.name == name).attacks[attack]
        with np.load(path) as arrays:
            images, sample, target = (arrays.get(key) for key in ("images", "original", "targets"))
        assert images.min() >= 0.0
        assert images.max() <= 1.0
        predicted = networks.predict(networks.logits_of(deployed[name]), images).argmax(axis=1)
        untargeted = record.targets == "untargeted"
        success = predicted != labels[sample] if untargeted else predicted == target
        assert record.successes == success.sum()
        if record.norm == "linf":
            assert np.abs(images - originals[sample]).max() <= results.config.epsilon + 1e-6
        some += success.sum()
    # What is replayed on a network is kept by the stage that made it.
    assert len(found) == 2 * (len(results.networks[0].norm_attacks) - 1)
    assert some > 0


def test_figures_and_tables_are_readable(smoke):
    figures = smoke.workdir / "figures"
    names = {path.stem for path in figures.iterdir()}
    assert len(names) >= 5
    for name in names:
        assert (figures / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        root = xml.etree.ElementTree.parse(figures / f"{name}.svg").getroot()
        assert root.tag.endswith("svg")
    tables = sorted((smoke.workdir / "tables").glob("*.csv"))
    assert len(tables) >= 5
    for path in tables:
        rows = list(csv.reader(path.read_text().splitlines()))
        assert len(rows) >= 2
        assert len({len(row) for row in rows}) == 1
        assert path.with_suffix(".md").exists()


def test_links_of_the_report_lead_somewhere(smoke):
    report = (smoke.workdir / "report.md").read_text()
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", report)
    assert len(links) > 10
    for link in links:
        assert (smoke.workdir / link).is_file(), link
    assert "educed" in report
    assert str(smoke.folder) not in report


def test_exports_load_where_neither_keras_nor_this_package_can_be_imported(
    smoke, results, deployed, digits, run_python, tmp_path
):
    assert [export.network for export in results.exports] == NAMES
    assert [export.path for export in results.exports] == [
        f"exported/digits_{name}/1" for name in NAMES
    ]
    paths = [str(smoke.folder / export.path) for export in results.exports]
    images = digits.test.images[:37]
    np.save(tmp_path / "images.npy", images)
    found = run_python("-c", SERVE, *paths, cwd=tmp_path, PYTHONPATH="")
    assert found.returncode == 0, found.stderr
    with np.load(tmp_path / "answers.npz") as answers:
        for name, path in zip(NAMES, paths, strict=True):
            expected = networks.predict(deployed[name], images)
            np.testing.assert_allclose(answers[path], expected, rtol=0, atol=1e-6)


def test_a_second_run_skips_every_stage_and_changes_nothing(smoke, again):
    second, (files, networks_text) = again
    stages = sorted(path.name for path in (smoke.workdir / "stages").iterdir())
    log = second.process.stderr
    assert sorted(re.findall(r"^skipped (\S+)$", log, re.M)) == stages
    assert "running" not in log
    assert log.startswith(f"plan: {len(stages)} stages, {len(stages)} finished already\n")
    assert "finished " not in log.split("\n", 1)[1]
    assert second.networks() == networks_text
    after = second.snapshot()
    assert set(after) == set(files)
    for path in ("samples.npz", "networks/baseline.keras", "figures/success_rate.svg"):
        assert after[type(smoke.folder)(path)] == files[type(smoke.folder)(path)]
    # Nothing was exported twice.
    versions = [path.name for path in smoke.exports.glob("*/*")]
    assert versions == ["1", "1"]


def test_reports_are_redrawn_byte_by_byte_without_tensorflow(again, start_run, blocked):
    run, _ = again
    before = run.snapshot()
    for name in ("figures", "tables"):
        shutil.rmtree(run.workdir / name)
    (run.workdir / "report.md").unlink()
    start_run(run.folder, "--report_only", program=blocked).finish()
    after = run.snapshot()
    assert set(after) == set(before)
    for path, content in before.items():
        assert after[path] == content, path


@pytest.mark.slow
def test_bin_compare_puts_it_beside_a_committed_run(smoke, results, run_python, tmp_path):
    program = ("-m", "ddefense.cli.compare")
    answer = run_python(*program, smoke.workdir, COMMITTED, "--output=compared", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    # Both attacked the digits, the smoke run fewer of them and less hard.
    assert "WARNING: Other budgets" in answer.stdout
    assert "Other data" not in answer.stdout
    with (tmp_path / "compared" / "comparison.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == "run"]
    accuracies = {r["network"]: float(r["value"]) for r in rows if r["measure"] == "accuracy"}
    assert accuracies == pytest.approx(
        {
            "undistilled": 100 * results.baseline().test_accuracy,
            "T = 20": 100 * results.distilled()[0].test_accuracy,
        }
    )
