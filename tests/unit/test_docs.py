"""Numbers and commands in README and docs come from committed results and real flags."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable

import keras
import numpy as np
import pytest

from ddefense import networks, records
from ddefense.reporting import claims, distillation, evaluation

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).parents[2]
_README = (_ROOT / "README.md").read_text()
_RUNS = ("digits", "mnist", "cifar10")
_PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("run", _RUNS)
def test_readme_shows_the_committed_success_rates(run: str) -> None:
    table = (_ROOT / "docs/results" / run / "tables/success_rate.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert "\n".join(rows) in _README
    results = records.load(records.Results, _ROOT / "docs/results" / run / "results.json")
    for network, row in zip(results.networks, rows[2:], strict=True):
        assert row.split(" | ")[1] == f"{100 * network.test_accuracy:.2f}"


def test_readme_shows_the_warm_run() -> None:
    table = (_ROOT / "docs/results/cifar10_warm/tables/success_rate.md").read_text()
    (row,) = re.findall(r"^\| T = 100 (\|.*)$", table, re.M)
    assert f"| after an epoch at T = 1 {row}\n" in _README


def test_readme_shows_the_committed_verdict() -> None:
    results = records.load(records.Results, _ROOT / "docs/results/digits/results.json")
    assert results.verdict is not None
    assert results.verdict.sentence in " ".join(_README.replace("\n> ", " ").split())


def test_readme_answers_the_claims_about_cifar10_as_the_run_does() -> None:
    results = records.load(records.Results, _ROOT / "docs/results/cifar10/results.json")
    (listed,) = re.findall(
        r"report\.md\): (C[^:]*?) hold; (C\d+) (holds, [^;]*); (C[^:]*?) do not hold; (C8) needs",
        " ".join(_README.split()),
    )
    said = {
        claim: words
        for claims_of, words in (
            (listed[0], "holds"),
            (listed[1], listed[2]),
            (listed[3], "does not hold"),
            (listed[4], "inconclusive"),
        )
        for claim in re.findall(r"C\d+", claims_of)
    }
    assert said == {
        answer.claim.id: claims.answer_in_words(answer.answer)
        for answer in claims.answers(results)
        if not answer.orientation
    }


def test_the_page_on_the_verdict_shows_the_committed_numbers() -> None:
    results = records.load(records.Results, _ROOT / "docs/results/mnist/results.json")
    page = (_ROOT / "docs/verdict.md").read_text()
    assert results.verdict is not None
    assert results.verdict.sentence in " ".join(page.replace("\n> ", " ").split())
    yardstick = results.yardstick()
    assert yardstick is not None
    networks = [results.baseline(), results.distilled()[-1], yardstick]
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert {"jsma_f", "cw_l2", "cw_l0", "cw_linf", "labels_only"} <= {
        row[0].strip("| `") for row in rows
    }
    for name, _, *cells in rows:
        expected = [_reached(network, name.strip("| `")) for network in networks]
        assert [cell.rstrip(" |") for cell in cells] == expected, name
    for network in networks:
        case = network.attacks["cw_l2"].average
        assert case is not None
        assert case.distance_interval is not None
        low, high = case.distance_interval
        assert f"{case.mean_distance:.2f} [{low:.2f}, {high:.2f}]" in page
    accuracies = [f"{100 * network.test_accuracy:.2f} %" for network in networks]
    assert f"| accuracy | | {' | '.join(accuracies)} |" in page


def test_the_smaller_learning_rate_does_what_its_decision_says() -> None:
    folder = _ROOT / "docs/results/mnist"
    smaller = json.loads((folder / "learning_rate.json").read_text())["cw_l2"]
    usual = {
        network.name: network.attacks["cw_l2"]
        for network in records.load(records.Results, folder / "results.json").networks
    }
    failures = sum(record["attempts"] - record["successes"] for record in smaller.values())
    assert failures == 3
    assert sum(record.attempts - record.successes for record in usual.values()) == 1
    assert sum(record.attempts for record in usual.values()) == 600
    decision = (_ROOT / "docs/decisions/0009-verdict.md").read_text()
    for name in ("baseline", "distilled_t100"):
        average = usual[name].average
        assert average is not None
        before = smaller[name]["average"]["mean_distance"]
        assert f"{average.mean_distance:.2f} instead of {before:.2f}" in decision


def _reached(network: records.NetworkRecord, attack: str) -> str:
    """Success rate; of attacks that seek a small distance with its mean, one target an image."""
    record = network.attacks[attack]
    case = record.average or record
    rate = f"{100 * case.success_rate:.1f} %"
    seeks = attack.startswith("cw_") or attack == "labels_only"
    return f"{rate} at {case.mean_distance:#.3g}" if seeks else rate


@pytest.mark.parametrize("run", _RUNS)
def test_committed_results_are_what_a_run_leaves(run: str) -> None:
    folder = _ROOT / "docs/results" / run
    results = records.load(records.Results, folder / "results.json")
    samples = records.Samples.load(folder / "samples.npz")
    assert {n.name for n in results.networks} >= {"baseline", "distilled_t100"}
    # CIFAR-10's networks are large: the two that people look at are enough.
    left_out = {"distilled_t1", "distilled_t10"} if run == "cifar10" else set()
    for network in results.networks:
        kept = (folder / "networks" / f"{network.name}.keras").exists()
        assert kept is (network.name not in left_out)
        for attack, record in network.readings.items():
            outcome = samples.outcomes[network.name, attack]
            assert outcome.success.sum() == record.successes
            assert (~outcome.started).sum() == record.attempts
            assert outcome.started.sum() == record.started


@pytest.mark.parametrize(
    "report",
    [
        *("jsma", "jsma_cifar10", "floor_avx2", "norm_attacks"),
        *("training", "training_cifar10", "scaling"),
    ],
)
def test_readme_shows_the_committed_benchmarks(report: str) -> None:
    path = _ROOT / "docs/results/benchmarks" / f"{report}.json"
    for target in json.loads(path.read_text())["targets"]:
        if "MiB" not in target["what"] and target["met"] is not None:
            assert f"{target['value']:.2f}" in _README, target["what"]


def test_readme_says_what_distilling_through_the_library_takes() -> None:
    report = json.loads((_ROOT / "docs/results/benchmarks/distilling.json").read_text())
    found = [target["value"] for target in report["targets"] if target["met"] is not None]
    assert all(target["met"] in (True, None) for target in report["targets"])
    cpu_seconds, rate, memory = found
    text = " ".join(_README.split())
    assert f"{cpu_seconds:.3f} of the CPU seconds" in text
    assert f"{rate:.2f} of the rate of inference, in {memory:,.0f} MiB" in text


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


_COMMANDS = ("reproduce", "distill", "evaluate", "export", "query", "compare")
# Flags belong to a process, and the next command has others.
_FLAGS = """
import json
from absl import flags
from ddefense.cli import attack_flags, compare, distill_flags, query_flags
from ddefense.cli import flags as cli_flags

found = {}
for command, define in {
    "reproduce": cli_flags.define_for_reproduce,
    "distill": distill_flags.define,
    "evaluate": attack_flags.define,
    "export": cli_flags.define_for_export,
    "query": query_flags.define,
    "compare": compare.define,
}.items():
    before = set(flags.FLAGS)
    define()
    found[command] = sorted(set(flags.FLAGS) - before)
    flags.FLAGS.remove_flag_values(found[command])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def known_flags(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, set[str]]:
    """Names of the flags of each command."""
    answer = run_python("-c", _FLAGS, cwd=tmp_path_factory.mktemp("flags"))
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    return {command: {*found[command], "flagfile", "help"} for command in _COMMANDS}


def _commands(text: str) -> list[tuple[str, str]]:
    """Every command of a text and what follows it on its line, which a backslash continues."""
    joined = re.sub(r" *\\\n *", " ", text)
    return re.findall(rf"bin/({'|'.join(_COMMANDS)})\b([^`\n]*)", joined)


def test_a_command_is_found_with_the_lines_that_continue_it() -> None:
    text = "```sh\nbin/distill --data=a \\\n  --network=b\nbin/query --help\n``` `bin/export` --not"
    assert _commands(text) == [
        ("distill", " --data=a --network=b"),
        ("query", " --help"),
        ("export", ""),
    ]


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_flags_in_commands_exist(page: pathlib.Path, known_flags: dict[str, set[str]]) -> None:
    for command, arguments in _commands(page.read_text()):
        given = set(re.findall(r"--(\w+)", arguments))
        # A flag that is on or off is turned off by no before its name.
        unknown = {
            name for name in given if not known_flags[command] & {name, name.removeprefix("no")}
        }
        assert not unknown, f"bin/{command}{arguments}"


def test_the_tutorial_shows_its_committed_run() -> None:
    page = (_ROOT / "docs/tutorial.md").read_text()
    folder = _ROOT / "docs/results/tutorial"
    distilled = records.load(records.DistillationRecord, folder / "distillation.json")
    measured = records.load(records.Results, folder / "results.json")
    tables = [distillation.table(distilled), evaluation.table(measured)]
    rows = [line for table in tables for line in _rows(table.markdown())]
    assert _rows(page) == rows
    notes = evaluation.table(measured).notes
    accuracies = notes[0]
    assert f"\n{accuracies}\n" in page
    fails = [line for line in page.splitlines() if line.startswith("FAIL")]
    assert fails
    assert set(fails) <= set(notes)
    plain = measured.networks[0]
    assert distilled.given_accuracy == plain.test_accuracy
    assert f"{100 * plain.test_accuracy:.2f} % of the test images" in page
    assert measured.networks[-1].weights_sha256 == distilled.distilled.weights_sha256
    commands = [f"bin/{name}{rest}" for name, rest in _commands(page)]
    assert distilled.environment["command"] in commands
    assert measured.environment["command"] in commands


def _rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


# What the blocks of docs/distilling.md take for granted: images that are learnt in seconds.
_SHAPE, _CLASSES = (9, 8, 3), 4


@pytest.fixture(scope="module")
def stripes() -> tuple[np.ndarray, np.ndarray]:
    """Few enough for one batch; each class has its own bright row."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, _CLASSES, 96)
    images = generator.uniform(0, 0.3, (96, *_SHAPE)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 0.6
    return images, labels


def _classifier(units: int) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(_SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dense(_CLASSES, activation="softmax"),
        ]
    )


def test_the_python_of_the_page_on_distilling_runs(
    stripes: tuple[np.ndarray, np.ndarray],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = stripes
    network, small = _classifier(16), _classifier(4)
    network.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    network.fit(images, labels, epochs=20, verbose=0)
    known = {"network": network, "images": images, "labels": labels, "data": stripes}
    known["small"] = small
    page = (_ROOT / "docs/distilling.md").read_text()
    first, second = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)

    exec(first, known)
    pair, results = known["pair"], known["results"]
    assert pair.temperature == 20
    assert len(pair.history.initial.epoch_loss) == len(pair.history.distilled.epoch_loss) == 3
    assert results.networks[-1].attacks["jsma_f"].samples == 10
    assert results.verdict is not None
    assert known["path"].relative_to("exported_models/mine").name == "1"

    exec(second, known)
    pair = known["pair"]
    assert pair.distilled.count_params() == small.count_params() < pair.initial.count_params()
    # The loss of the first step, on all images, as the page states it.
    teacher, student = (
        networks.predict(networks.without_softmax(n), images) for n in (pair.initial, small)
    )
    soft = np.exp(_log_softmax(teacher / 4))
    of_hard = -_log_softmax(student)[np.arange(len(labels)), labels].mean()
    of_soft = -(soft * _log_softmax(student / 4)).sum(axis=1).mean()
    expected = 0.1 * of_hard + 0.9 * 4**2 * of_soft
    assert pair.history.distilled.step_loss[0] == pytest.approx(expected, rel=1e-4)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_the_page_on_serving_shows_the_committed_latencies() -> None:
    page = (_ROOT / "docs/serving.md").read_text()
    report = json.loads((_ROOT / "docs/results/serving.json").read_text())
    ratios = {(r["contest"], r["what"]): r for r in report["ratios"]}
    for batch in (1, 32, 256):
        contest, cells = f"mnist images, batch {batch}", []
        for which in ("distilled", "undistilled, loaded twice"):
            found = ratios[contest, f"{which} / undistilled"]
            low, high = min(found["rounds"]), max(found["rounds"])
            cells.append(f"{found['ratio']:.3f} [{low:.3f}, {high:.3f}]")
        assert " | ".join(cells) in page
        for variant in ("frozen", "XLA"):
            assert (
                f"{ratios[f'variants, batch {batch}', f'{variant} / shipped']['ratio']:.2f}" in page
            )
    assert len(report["targets"]) == 7
    assert all(target["met"] for target in report["targets"])
    # The last target is the throughput beside the .keras network.
    assert f"{report['targets'][-1]['value']:.2f} times as many images" in page


def test_the_page_on_long_runs_shows_how_a_run_ends(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "runs" / "digits_quick"
    folder.mkdir(parents=True)
    for name in ("results.json", "samples.npz"):
        shutil.copy(_ROOT / "docs/results/digits" / name, folder)
    for export in records.load(records.Results, folder / "results.json").exports:
        (tmp_path / export.path).mkdir(parents=True)
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "ddefense.cli",
            "--report_only",
            "--workdir=runs/digits_quick",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"```\n{done.stderr}```\n" in (_ROOT / "docs/jobs.md").read_text()


def test_the_page_on_results_shows_what_its_page_takes() -> None:
    page = " ".join((_ROOT / "docs/results.md").read_text().split())
    report = json.loads((_ROOT / "docs/results/benchmarks/page.json").read_text())
    assert f"{report['options']['attacks']:,} attacks" in page
    for target in report["targets"]:
        rounds = target["rounds"]
        spread = f" [{min(rounds):.2f}, {max(rounds):.2f}]" if rounds else ""
        assert f"| {target['what']} | {target['value']:.2f}{spread} | {target['target']} |" in page
        assert target["met"]


def test_the_page_on_scaling_shows_what_was_measured() -> None:
    page = " ".join((_ROOT / "docs/scaling.md").read_text().split())
    trained = ("baseline", "initial_", "distilled_", "warm_start", "substitute", "adversarially")
    for name in ("digits", "mnist", "cifar10"):
        results = records.load(records.Results, _ROOT / "docs/results" / name / "results.json")
        seconds = {"train": 0.0, "attack": 0.0, "measure": 0.0}
        networks_trained = 0
        for stage, taken in results.timings.items():
            if stage.startswith(trained):
                networks_trained += 1
                seconds["train"] += taken
            elif "_on_" in stage or stage.startswith("transfer_"):
                seconds["attack"] += taken
            elif stage.startswith(("measure_", "samples", "soft_labels_")):
                seconds["measure"] += taken
        costs = " | ".join(f"{taken:,.0f} s" for taken in seconds.values())
        assert f"| {networks_trained} | {results.config.epochs} | {costs} |" in page, name


def test_the_page_on_scaling_shows_the_committed_benchmarks() -> None:
    page = " ".join((_ROOT / "docs/scaling.md").read_text().split())
    speed, memory, losses = (
        json.loads((_ROOT / f"docs/results/benchmarks/executors_{part}.json").read_text())
        for part in ("speed", "memory", "losses")
    )
    for target in (*speed["targets"], *memory["targets"]):
        rounds = target["rounds"]
        spread = f" [{min(rounds):.2f}, {max(rounds):.2f}]" if rounds else ""
        assert f"| {target['what']} | {target['value']:.2f}{spread} | {target['target']} |" in page
    for row in memory["memory"]["rows"]:
        # The largest are the two that work.
        workers = " and ".join(f"{peak:,.0f}" for peak in row["worker_peaks_mib"][:2])
        assert (
            f"| {row['attacks']:,} | {row['wall_seconds']:,.0f} s | {row['driver_peak_mib']:,.0f} "
            f"| {workers} | {row['stage_bytes'] / 1e6:.1f} MB |"
        ) in page
    found = losses["losses"]
    assert found["same"]
    assert found["stages"] >= 20
    assert (
        f"a run of {found['stages']} stages lost {len(found['killed'])} workers in "
        f"{found['seconds']:.0f} s"
    ) in page
