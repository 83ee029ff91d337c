"""The memory that a run plans, beside the most that its process then holds.

Runs `bin/reproduce --preset=smoke` on each dataset in a process of its own. See README.md beside
this file.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import measure

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DATASETS = ("digits", "mnist", "cifar10")
MOST = 1.5


def main() -> None:
    """Runs the benchmark."""
    options = _parse()
    sys.path.insert(0, str(REPOSITORY))
    report = measure.begin("plan_memory", measure.KERAS, {"datasets": options.datasets})
    report["runs"] = [_run(dataset) for dataset in options.datasets]
    report["targets"] = [
        measure.target(f"{run['dataset']}: planned / peak", run["ratio"], sense, limit, [])
        for run in report["runs"]
        for sense, limit in ((">=", 1.0), ("<=", MOST))
    ]
    measure.finish(report, [_table(report["runs"])], options.output)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS), help="to run on")
    add("--output", type=pathlib.Path, help="JSON file for everything that was measured")
    return parser.parse_args()


def _run(name: str) -> dict[str, Any]:
    from ddefense import datasets, records
    from ddefense.experiments import planning

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "ddefense.cli", f"--dataset={name}"]
        command += ["--preset=smoke", "--workdir=run", "--export_dir=exported"]
        environ = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        subprocess.run(command, cwd=folder, env=environ, check=True)
        results = records.load(records.Results, pathlib.Path(folder, "run", "results.json"))
    planned = planning.memory_bytes(results.config, datasets.load(name))
    peak = results.environment["peak_memory_bytes"]
    return {"dataset": name, "planned": planned, "peak": peak, "ratio": planned / peak}


def _table(runs: list[dict[str, Any]]) -> str:
    return measure.markdown_table(
        ["smoke run on", "planned MiB", "peak MiB", "ratio"],
        [
            [
                run["dataset"],
                *(measure.number(run[name] / 2**20, 0) for name in ("planned", "peak")),
                measure.number(run["ratio"], 2),
            ]
            for run in runs
        ],
    )


if __name__ == "__main__":
    main()
