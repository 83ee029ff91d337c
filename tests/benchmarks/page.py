"""What the page of a full CIFAR-10 run takes: bytes, seconds to draw, seconds until it answers.

    python tests/benchmarks/page.py --output page.json

The run is made of the committed one: its networks stand in for nine temperatures, with 900 attacks
of every reading of JSMA on each. Needs chromium.
"""

import argparse
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import measure
import numpy as np
from playwright import sync_api

from ddefense import records

_RUN = pathlib.Path(__file__).parents[2] / "docs/results/cifar10"
TEMPERATURES = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 100.0)
_DRAW = """
import pathlib, sys, time
started = time.perf_counter()
from ddefense import reporting
reporting.render(pathlib.Path(sys.argv[1]))
print(time.perf_counter() - started, "tensorflow" in sys.modules or "keras" in sys.modules)
"""


def main() -> None:
    """Measures and writes what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for everything measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder)
        pairs = _make_run(directory)
        drawn = [_draw(directory) for _ in range(options.rounds)]
        path = directory / "report.html"
        ready = [_seconds_until_ready(path) for _ in range(options.rounds)]
        size = path.stat().st_size
    seconds, imported = zip(*drawn, strict=True)
    targets = [
        measure.target("size of report.html, MB", size / 1e6, "<", 6.0, []),
        measure.target(
            "seconds to draw a run, figures and tables too", _median(seconds), "<", 20.0, seconds
        ),
        measure.target(
            "seconds until the page answers, from its opening", _median(ready), "<", 1.0, ready
        ),
        measure.target(
            "TensorFlow or Keras imported to draw it, 1 or 0", float(any(imported)), "<", 1.0, []
        ),
    ]
    report = {
        "benchmark": "page",
        "environment": measure.machine(),
        "versions": measure.versions(["ddefense", "numpy", "matplotlib", "jinja2", "playwright"]),
        "options": {"rounds": options.rounds, "networks": 1 + len(TEMPERATURES), "attacks": pairs},
        "targets": targets,
    }
    print(measure.targets_table(targets))
    if options.output:
        measure.write_json(options.output, report)


def _median(values: Sequence[float]) -> float:
    return measure.median(values) or 0.0


def _make_run(directory: pathlib.Path) -> int:
    """Records of a run with every temperature; returns how many attacks it holds."""
    results = records.load(records.Results, _RUN / "results.json")
    samples = records.Samples.load(_RUN / "samples.npz")
    random = np.random.default_rng(0)
    templates = results.distilled()
    networks = [results.baseline()]
    sources = {"baseline": "baseline"}
    for place, temperature in enumerate(TEMPERATURES):
        template = templates[place % len(templates)]
        name = f"distilled_t{temperature:g}"
        sources[name] = template.name
        networks.append(dataclasses.replace(template, name=name, temperature=temperature))
    classes = len(results.dataset.class_names)

    def probabilities(rows: int) -> np.ndarray:
        # As little alike as they can be, so as hard to compress.
        return random.dirichlet(np.full(classes, 0.3), rows).astype(np.float32)

    outcomes = {
        (name, attack): dataclasses.replace(
            samples.outcomes[source, attack],
            probabilities=probabilities(len(samples.outcomes[source, attack].target)),
        )
        for name, source in sources.items()
        for network, attack in samples.outcomes
        if network == source
    }
    records.dump(dataclasses.replace(results, networks=networks), directory / "results.json")
    dataclasses.replace(
        samples,
        outcomes=outcomes,
        probabilities={name: probabilities(len(samples.labels)) for name in sources},
    ).save(directory / "samples.npz")
    return sum(len(outcome.target) for outcome in outcomes.values())


def _draw(directory: pathlib.Path) -> tuple[float, bool]:
    """Seconds in a fresh process, imports included, and whether TensorFlow was among them."""
    root = pathlib.Path(__file__).parents[2]
    output = subprocess.run(
        [sys.executable, "-c", _DRAW, str(directory)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    ).stdout
    seconds, imported = output.split()
    return float(seconds), imported == "True"


def _seconds_until_ready(path: pathlib.Path) -> float:
    """Until plots and samples are drawn and every control is connected."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        sys.exit("page.py expects chromium, which is not installed: apt-get install chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=found,
            args=["--disable-gpu", "--disable-background-networking", *sandbox],
        )
        page = browser.new_page()
        page.goto("about:blank")
        before = time.perf_counter()
        page.goto(path.resolve().as_uri(), wait_until="commit")
        page.wait_for_selector("html[data-ready]")
        seconds = time.perf_counter() - before
        browser.close()
    return seconds


if __name__ == "__main__":
    main()
