"""What docs/distilling.md says of the successor of 2017 is what the committed runs found."""

import pathlib
import statistics

import pytest

from ddefense import records

_ROOT = pathlib.Path(__file__).parents[2]
_RUNS = _ROOT / "docs/results/extended"
_PAGE = (_ROOT / "docs/distilling.md").read_text()
KINDS, SEEDS = ("logits", "probabilities", "12_epochs"), (0, 1, 2)


@pytest.fixture(scope="module")
def results() -> dict[str, list[records.Results]]:
    return {
        kind: [
            records.load(records.Results, _RUNS / f"{kind}_{seed}" / "results.json")
            for seed in SEEDS
        ]
        for kind in KINDS
    }


def _outliers(run: records.Results) -> records.OutlierRecord:
    found = run.networks[1].outliers
    assert found is not None
    return found


def _success(run: records.Results, attack: str) -> float:
    """On the undistilled network."""
    network = run.networks[0]
    return network.attacks[attack].success_rate


def _percent(shares: list[float]) -> str:
    """Mean and range over the seeds."""
    mean, low, high = statistics.mean(shares), min(shares), max(shares)
    return f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def test_the_table_of_attacks(results: dict[str, list[records.Results]]) -> None:
    attacks = list(_outliers(results["logits"][0]).attacks)
    assert {"jsma_f", "pgd_linf_targeted", "cw_l2", "labels_only"} <= set(attacks)
    for attack in attacks:
        cells = [_percent([_success(run, attack) for run in results["logits"]])]
        for kind in KINDS:
            found = [_outliers(run).attacks[attack] for run in results[kind]]
            means = [
                f"{100 * statistics.mean(getattr(rates, rate) for rates in found):.1f}"
                for rate in ("recovery", "detection")
            ]
            cells.append(" / ".join([*means, _percent([rates.success for rates in found])]))
        assert f"| `{attack}` | {' | '.join(cells)} |" in _PAGE, cells


def test_the_table_of_clean_images(results: dict[str, list[records.Results]]) -> None:
    rows = {
        "right": lambda run: _outliers(run).accuracy,
        "refused": lambda run: _outliers(run).false_detections,
        "wrong": lambda run: _outliers(run).errors,
    }
    for name, share in rows.items():
        cells = [_percent([share(run) for run in results[kind]]) for kind in KINDS]
        undistilled = [run.networks[0].test_accuracy for run in results["logits"]]
        first = {"right": _percent(undistilled), "refused": "-"}.get(
            name, _percent([1 - share for share in undistilled])
        )
        assert f"| {name} | {first} | {' | '.join(cells)} |" in _PAGE, (first, cells)


def test_what_the_verdicts_say(results: dict[str, list[records.Results]]) -> None:
    for runs in results.values():
        for seed, run in zip(SEEDS, runs, strict=True):
            assert run.config.seed == seed
            assert run.verdict is not None
            assert run.verdict.stops_adaptive_attacker is False
    page = " ".join(_PAGE.split())
    assert "an adaptive attacker is not stopped in any of the nine runs" in page
    worst = max(_outliers(run).false_detections for run in results["12_epochs"])
    assert f"up to {100 * worst:.1f} % of them" in page


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_networks_are_those_that_the_page_names(kind: str, seed: int) -> None:
    folder = _RUNS / f"{kind}_{seed}"
    record = records.load(records.DistillationRecord, folder / "distillation.json")
    assert (record.method, record.network) == ("extended", "mnist")
    assert record.settings["seed"] == seed
    assert record.settings["epochs"] == (12 if kind == "12_epochs" else 50)
    assert record.settings["uncertainty_of"] == (kind if "_" not in kind else "logits")
    results = records.load(records.Results, folder / "results.json")
    for trained, network in zip((record.initial, record.distilled), results.networks, strict=True):
        assert network.weights_sha256 == trained.weights_sha256
