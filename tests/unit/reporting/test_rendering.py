import dataclasses
import pathlib
import re
import subprocess
import sys

import pytest

from ddefense import records, reporting
from ddefense.reporting import figures, report, tables

pytestmark = pytest.mark.slow


def save(workdir, results, samples):
    records.dump(results, workdir / "results.json")
    samples.save(workdir / "samples.npz")


def contents(workdir):
    return {p.relative_to(workdir): p.read_bytes() for p in workdir.rglob("*") if p.is_file()}


def test_it_writes_everything_and_the_same_bytes_again(tmp_path, results, samples):
    save(tmp_path, results, samples)
    written = reporting.render(tmp_path)
    first = contents(tmp_path)
    names = {"sample_grid", *figures.FIGURES}
    expected = {pathlib.Path(f"figures/{name}.{s}") for name in names for s in ("png", "svg")}
    expected |= {
        pathlib.Path(f"tables/{table.name}.{s}")
        for table in tables.of_run(results)
        for s in ("csv", "md")
    }
    expected |= {pathlib.Path("report.html"), pathlib.Path("report.md")}
    assert {path.relative_to(tmp_path) for path in written} == expected
    assert set(first) == expected | {pathlib.Path("results.json"), pathlib.Path("samples.npz")}
    assert reporting.render(tmp_path) == written
    assert contents(tmp_path) == first


@pytest.mark.parametrize("run", ["results", "full"])
def test_every_link_of_the_report_leads_to_a_file_and_every_file_is_linked(
    tmp_path, request, run, samples
):
    save(tmp_path, request.getfixturevalue(run), samples)
    written = reporting.render(tmp_path)
    links = set(re.findall(r"\]\(([^)]+)\)", (tmp_path / "report.md").read_text()))
    own = {"report.html", "report.md"}
    assert links == {str(path.relative_to(tmp_path)) for path in written} - own


def test_a_run_with_every_attack_has_their_figures_and_tables(tmp_path, full, samples):
    save(tmp_path, full, samples)
    written = {str(path.relative_to(tmp_path)) for path in reporting.render(tmp_path)}
    new = {"figures/adaptive.svg", "figures/distance.svg"}
    new |= {
        f"tables/{name}.csv"
        for name in ("verdict", "costs", "carlini_wagner", "transfer", "norm_attacks", "controls")
    }
    assert new <= written
    text = "".join(path.read_text() for path in tmp_path.rglob("*.md"))
    assert "hardened" not in text.lower()


@pytest.mark.parametrize("run", ["digits", "mnist", "cifar10", "cifar10_warm"])
def test_committed_reports_and_tables_are_what_their_results_give(run):
    folder = pathlib.Path(reporting.__file__).parents[2] / "docs/results" / run
    results = records.load(records.Results, folder / "results.json")
    assert report.write(results) == (folder / "report.md").read_text()
    made = {f"{table.name}.csv": table.csv() for table in tables.of_run(results)}
    assert made == {path.name: path.read_text() for path in folder.glob("tables/*.csv")}
    drawn = {f"{name}.svg" for name in figures.names(results)}
    assert drawn == {path.name for path in folder.glob("figures/*.svg")}


def test_figures_carry_no_date(tmp_path, results, samples):
    save(tmp_path, results, samples)
    reporting.render(tmp_path)
    assert b"<dc:date>" not in (tmp_path / "figures/accuracy.svg").read_bytes()


@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_one_temperature_and_one_attack(tmp_path, results_of, network, samples_of, dataset):
    shape = (8, 8, 1) if dataset == "digits" else (32, 32, 3)
    networks = [network(None, {"jsma_z": 0.9}), network(20.0, {"jsma_z": 0.0})]
    save(tmp_path, results_of(networks, dataset=dataset, shape=shape), samples_of(shape))
    assert (tmp_path / "report.md") in reporting.render(tmp_path)


def test_networks_that_did_not_learn(tmp_path, with_stalled, samples):
    save(tmp_path, with_stalled, samples)
    reporting.render(tmp_path)
    assert "did not learn" in (tmp_path / "report.md").read_text()


def test_missing_records_are_named(tmp_path, results):
    with pytest.raises(records.RunError, match=r"results\.json"):
        reporting.render(tmp_path)
    records.dump(results, tmp_path / "results.json")
    with pytest.raises(records.RunError, match=r"samples\.npz"):
        reporting.render(tmp_path)


def test_importing_it_imports_no_tensorflow_and_keeps_no_pyplot_state():
    code = (
        "import sys, ddefense.reporting;"
        "names = ('tensorflow', 'keras', 'sklearn', 'tensorflow_datasets', 'matplotlib.pyplot');"
        "sys.exit(', '.join(name for name in names if name in sys.modules) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=pathlib.Path(reporting.__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr


def test_samples_of_another_run_are_refused(tmp_path, results, samples):
    save(tmp_path, dataclasses.replace(results, sample_indices=[7]), samples)
    with pytest.raises(records.RunError, match=r"results\.json and samples\.npz in .* one run"):
        reporting.render(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "samples.npz"}


def test_the_page_of_several_seeds_names_those_that_are_not_finished(tmp_path, results):
    for seed in (0, 1):
        config = dataclasses.replace(results.config, seed=seed)
        (tmp_path / f"seed_{seed}").mkdir()
        made = dataclasses.replace(results, config=config)
        records.dump(made, tmp_path / f"seed_{seed}" / "results.json")
    (tmp_path / "seed_4").mkdir()
    reporting.render_seeds(tmp_path)
    assert "Not finished, and not counted: seed 4." in (tmp_path / "report.html").read_text()
