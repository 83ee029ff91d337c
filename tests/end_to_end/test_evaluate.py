"""A network evaluated on a user's own data through the command line: every promise of a run."""

import dataclasses
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import sklearn.datasets

from ddefense import records

pytestmark = pytest.mark.slow

MODEL = Path(__file__).resolve().parents[2] / "exported_models" / "digits_distilled_t100"
# Two stages of attack on each of two networks.
ATTACKS = ("jsma_f", "jsma_f_temperature", "pgd_linf", "cw_l2")
T = 50.0


def draw(folder):
    """Four of the ten digits of scikit-learn, 8x8 pixels in 0-16, and a network for them."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    kept = labels < 4
    images, labels = images[kept].reshape(-1, 8, 8, 1).astype(np.float32), labels[kept]
    np.savez(folder / "few.npz", images=images, labels=labels, class_names=["o", "i", "z", "e"])
    # The mean image of each class as weights: enough to get most images right.
    flat = images.reshape(len(images), -1)
    means = np.stack([flat[labels == i].mean(axis=0) for i in range(4)], axis=1)
    for name, scale in (("plain", 0.02), ("distilled", 0.02 * T)):
        network = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(4, activation="softmax"),
            ]
        )
        network.set_weights([scale * means, -0.5 * scale * (means**2).sum(axis=0)])
        network.save(folder / f"{name}.keras")


COMMAND = (
    "--network=distilled.keras",
    "--undistilled=plain.keras",
    f"--temperature={T:g}",
    "--data=few.npz",
    "--value_range=0,16",
    "--preset=smoke",
    "--samples=3",
    "--gradient_samples=20",
    f"--attacks={','.join(ATTACKS)}",
)


@pytest.fixture(scope="module")
def start(start_run):
    def start(folder, *arguments):
        program = ("-m", "ddefense.cli.evaluate")
        return start_run(folder, *arguments, program=program, flags=("--workdir=run",))

    return start


@pytest.fixture(scope="module")
def run(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    draw(folder)
    return start(folder, *COMMAND).finish()


@pytest.fixture(scope="module")
def results(run):
    return records.load(records.Results, run.workdir / "results.json")


def test_it_first_says_what_it_will_do_and_ends_with_what_it_wrote(run, results):
    lines = run.process.stderr.splitlines()
    tested = results.dataset.num_test
    assert lines[:4] == [
        f"max_features: lowered to 64, for {tested} test images of shape (8, 8, 1).",
        f"distilled.keras: 3 samples of the {tested} test images of few (8 x 8 x 1, 4 classes, "
        "in [0, 16])",
        f"attacks: {', '.join(ATTACKS)}",
        "in run; killed, the same command resumes there",
    ]
    assert lines[-3:] == [
        "results: run/results.json",
        "page: run/report.html",
        "report: run/report.md",
    ]
    assert "Warning" not in run.process.stderr


def test_a_run_leaves_what_the_documentation_promises(run):
    assert sorted(path.name for path in run.folder.iterdir()) == [
        *("distilled.keras", "few.npz", "plain.keras"),
        "run",
    ]
    assert sorted(path.name for path in run.workdir.iterdir()) == [
        *("config.json", "figures", "report.html", "report.md", "results.json"),
        *("samples.npz", "stages", "tables"),
    ]
    assert not list(run.folder.rglob(".tmp-*"))
    assert not list(run.folder.rglob("shard_*"))


def test_results_are_those_of_any_run(results):
    assert results.is_evaluation
    assert results.dataset.class_names == ["o", "i", "z", "e"]
    assert results.dataset.value_range == (0.0, 16.0)
    assert [network.name for network in results.networks] == ["plain", "distilled"]
    for network in results.networks:
        assert network.test_accuracy > 0.9
        assert [*network.attacks] == list(ATTACKS)
        assert network.attacks["jsma_f"].attempts == 3 * 3
        assert network.attacks["jsma_f"].max_features == 64
    assert results.environment["command"].startswith("bin/evaluate --workdir=run --network=")


def test_logits_that_are_only_larger_protect_nobody(results):
    plain, distilled = results.networks
    assert distilled.attacks["cw_l2"].success_rate == 1
    assert distilled.attacks["jsma_f"].success_rate < plain.attacks["jsma_f"].success_rate
    assert (
        distilled.attacks["jsma_f_temperature"].successes == plain.attacks["jsma_f"].successes > 0
    )
    assert results.verdict.masks_gradients is True
    assert results.verdict.stops_adaptive_attacker is False


def test_the_table_has_a_row_for_each_attack(run, results):
    rows = [line for line in run.process.stderr.splitlines() if line.startswith("| ")]
    head, _, *rows = (line.strip("| ").split(" | ") for line in rows)
    assert head == ["attack", "norm", "plain, %", "at mean", "distilled (T = 50), %", "at mean"]
    assert [row[0] for row in rows] == list(ATTACKS)
    assert results.verdict.sentence in run.process.stderr


def test_the_report_shows_what_was_drawn(run):
    text = (run.workdir / "report.md").read_text()
    assert text.startswith("# Evaluation of distilled (T = 50) against plain on few\n")
    linked = re.findall(r"\]\(((?:figures|tables)/[^)]+)\)", text)
    assert linked
    assert all((run.workdir / path).is_file() for path in linked)


def test_a_second_run_skips_every_stage_and_finds_the_same(run, results, start):
    before = run.snapshot()
    second = start(run.folder, *COMMAND).finish()
    assert "running" not in second.process.stderr
    again = records.load(records.Results, run.workdir / "results.json")
    assert dataclasses.replace(again, environment={}, timings={}) == dataclasses.replace(
        results, environment={}, timings={}
    )
    after = run.snapshot()
    report = Path("report.md")  # it says how long this process took
    assert {path: data for path, data in after.items() if path != report} == {
        path: data for path, data in before.items() if path != report
    }


def test_other_data_need_a_directory_of_their_own(run, start):
    with np.load(run.folder / "few.npz") as arrays:
        changed = dict(arrays) | {"images": np.flip(arrays["images"], axis=2)}
    kept = shutil.copy(run.folder / "few.npz", run.folder / "kept.npz")
    try:
        np.savez(run.folder / "few.npz", **changed)
        ended = start(run.folder, *COMMAND).end()
    finally:
        Path(kept).replace(run.folder / "few.npz")
    assert ended.returncode == 1
    assert "made with other settings" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_saved_model_is_evaluated_as_far_as_it_allows(start, tmp_path):
    """It gives probabilities: what needs logits is left out, with a word."""
    asked = (f"--model={MODEL}", "--dataset=digits", "--preset=smoke", "--gradient_samples=20")
    run = start(tmp_path, *asked).finish()
    results = records.load(records.Results, run.workdir / "results.json")
    (network,) = results.networks
    assert (network.name, network.model.outputs) == ("digits_distilled_t100", "probabilities")
    assert {*network.attacks, *network.norm_attacks} >= {"jsma_f", "fgsm", "pgd_linf"}
    log = run.process.stderr
    assert re.search(r"^Left out .*jsma_z.*; --logits_output=<.*> brings them in\.$", log, re.M)
    assert "Attacked: probabilities, the output probabilities of serving_default." in log
    assert (results.verdict.masks_gradients, results.verdict.stops_adaptive_attacker) == (
        None,
        None,
    )
    assert results.verdict.sentence in log
    for page in ("report.md", "report.html"):
        assert "Attacked: probabilities" in (run.workdir / page).read_text()
