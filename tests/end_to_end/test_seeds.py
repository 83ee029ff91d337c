"""Several seeds are several runs of one seed each, and a report over them."""

import re

import pytest

from ddefense import records

pytestmark = pytest.mark.slow

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def under_way(start_run, small_flags, tmp_path_factory):
    """A run of two seeds, and what a second one in its directory was told meanwhile."""
    folder = tmp_path_factory.mktemp("seeds")
    run = start_run(folder, *small_flags, "--seeds=0,1")
    run.wait_for("plan:")
    return run, start_run(folder, *small_flags, "--seeds=0,1").end()


@pytest.fixture(scope="module")
def seeds(under_way):
    run, _ = under_way
    return run.finish()


def results(run, seed):
    return records.load(records.Results, run.of_seed(seed).workdir / "results.json")


def stages(run):
    return {path.name for path in (run.workdir / "stages").iterdir()}


def test_a_directory_in_use_is_refused_at_once(under_way):
    _, refused = under_way
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith("workdir: another process is running in run. Wait for it")


def test_every_seed_has_a_complete_run(seeds, small):
    for seed in SEEDS:
        run = seeds.of_seed(seed)
        assert {path.name for path in run.workdir.iterdir()} == {
            path.name for path in small.workdir.iterdir()
        }
        assert stages(run) == stages(small)
        assert results(seeds, seed).config.seed == seed
        assert set(run.snapshot()) == set(small.snapshot())


def test_a_seed_gives_what_it_gives_alone_to_the_last_bit(seeds, small):
    seeds.of_seed(0).assert_same(small)
    assert seeds.of_seed(1).networks() != small.networks()


def test_exports_of_seeds_lie_beside_each_other(seeds):
    for seed in SEEDS:
        assert seeds.of_seed(seed).exported() == [
            f"exported/seed_{seed}/digits_{name}/1" for name in ("baseline", "distilled_t20")
        ]
        for path in seeds.of_seed(seed).exported():
            assert (seeds.folder / path / "saved_model.pb").exists()


def test_the_log_counts_all_stages_of_all_seeds(seeds, small):
    total = len(SEEDS) * len(stages(small))
    log = seeds.process.stderr  # after the plan
    assert re.findall(r"^seed (\d+)$", log, re.M) == ["0", "1"]
    counts = re.findall(r"^finished .+; (\d+) of (\d+) stages, ", log, re.M)
    assert counts == [(str(i), str(total)) for i in range(1, total + 1)]
    assert log.splitlines()[-6:] == [
        "results: run/seed_0/results.json",
        "models: exported/seed_0",
        "results: run/seed_1/results.json",
        "models: exported/seed_1",
        "page: run/report.html",
        "report: run/report.md",
    ]


def assert_report(run, seeds):
    report = (run.workdir / "report.md").read_text()
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", report)
    for link in links:
        assert (run.workdir / link).is_file(), link
    assert {f"seed_{seed}/report.md" for seed in seeds} <= set(links)
    assert str(run.folder) not in report


def test_a_report_over_the_seeds_links_to_that_of_each(seeds):
    assert {path.name for path in seeds.workdir.iterdir()} == {
        "report.html",
        "report.md",
        "figures",
        "tables",
        *(f"seed_{seed}" for seed in SEEDS),
    }
    assert_report(seeds, SEEDS)


def test_the_report_is_redrawn_byte_by_byte_without_tensorflow(seeds, start_run, blocked):
    before = seeds.snapshot(), seeds.of_seed(1).snapshot()
    start_run(seeds.folder, "--report_only", program=blocked).finish()
    assert (seeds.snapshot(), seeds.of_seed(1).snapshot()) == before


def test_a_seed_may_be_added_later_and_is_all_that_runs(seeds, start_run, small_flags):
    before = [seeds.of_seed(seed).networks() for seed in SEEDS]
    own_stages = stages(seeds.of_seed(0))

    again = start_run(seeds.folder, *small_flags, "--seeds=0,1", "--tensorboard").finish()
    log = again.process.stderr
    for seed in SEEDS:
        logs = seeds.of_seed(seed).workdir / "tensorboard"
        assert f"\nTensorBoard logs: run/seed_{seed}/tensorboard\n" in log
        assert {"baseline", "distilled_t20", "sweep"} <= {path.name for path in logs.iterdir()}
    assert sorted(re.findall(r"^skipped (\S+)$", log, re.M)) == sorted(2 * [*own_stages])
    assert "running" not in log

    more = start_run(seeds.folder, *small_flags, "--seeds=1,2,0").finish()
    log = more.process.stderr
    total = 3 * len(own_stages)
    assert log.startswith(f"plan: {total} stages, {total - len(own_stages)} finished already\n")
    assert re.findall(r"^seed (\d+)$", log, re.M) == ["1", "2", "0"]
    of_two = log[log.index("\nseed 2\n") : log.index("\nseed 0\n")]
    assert set(re.findall(r"^running (\S+)$", of_two, re.M)) == own_stages
    assert of_two.count("\nrunning ") == log.count("\nrunning ")
    assert f"; {total} of {total} stages, " in of_two
    assert [more.of_seed(seed).networks() for seed in SEEDS] == before
    assert_report(more, (0, 1, 2))
    # Nothing was exported twice.
    assert {path.name for path in more.exports.glob("*/*/*")} == {"1"}
