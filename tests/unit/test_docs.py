"""Numbers and commands in README and docs come from committed results and real flags."""

import json
import pathlib
import re

import pytest

from ddefense import records

_ROOT = pathlib.Path(__file__).parents[2]
_README = (_ROOT / "README.md").read_text()
_RUNS = ("digits", "mnist", "cifar10")
_PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("run", _RUNS)
def test_readme_shows_the_committed_success_rates(run: str) -> None:
    table = (_ROOT / "docs/results" / run / "tables/success_rate.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert "\n".join(rows) in _README


def test_readme_shows_the_committed_verdict() -> None:
    results = records.load(records.Results, _ROOT / "docs/results/digits/results.json")
    assert results.verdict is not None
    assert results.verdict.sentence in " ".join(_README.replace("\n> ", " ").split())


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
        case = network.norm_attacks["cw_l2"].average
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
        network.name: network.norm_attacks["cw_l2"]
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
    if attack in network.attacks:
        return f"{100 * network.attacks[attack].success_rate:.1f} %"
    record = network.norm_attacks[attack]
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
        for attack, record in network.attacks.items():
            outcome = samples.outcomes[network.name, attack]
            assert outcome.success.sum() == record.successes
            assert len(outcome.success) == record.attempts


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


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_flags_in_commands_exist(page: pathlib.Path) -> None:
    flags = "".join(path.read_text() for path in (_ROOT / "ddefense/cli").glob("*flags.py"))
    known = {*re.findall(r'DEFINE_\w+\(\s*"(\w+)"', flags), "flagfile", "help"}
    commands = re.findall(r"bin/(?:reproduce|attack|export|query)\b[^`\n]*", page.read_text())
    for command in commands:
        for flag in re.findall(r"--(?:no)?(\w+)", command):
            assert flag in known, command


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
