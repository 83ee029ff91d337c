"""How our cost grows: with the number of attacks, and with the number of temperatures.

Every run is a process of its own at one thread. Cost is linear if the CPU time of a step, or of a
temperature, is the same however many there are. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import attack_runs
import measure
from peer_environments import PeerUnavailableError, last_error

ATTACKS = ("ddefense-f", "ddefense-z")
TARGETS_PER_SAMPLE = 9
# The largest cost of a step or of a temperature over the smallest.
FLATNESS = 1.15
PARTS = ("attacks", "temperatures")

Figures = list[dict[str, Any]]


def main() -> None:
    """Runs the benchmark."""
    options = _parse()
    measure.limit_threads(options.threads)
    sys.path.insert(0, str(attack_runs.REPOSITORY))
    report: dict[str, Any] = {
        "benchmark": "scaling",
        "environment": measure.machine(),
        "versions": measure.versions(("ddefense", "numpy", "tensorflow", "keras")),
        "options": {k: str(v) for k, v in vars(options).items() if k in _REPORTED},
        "attacks": [],
        "temperatures": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if "temperatures" in options.parts:
            report["temperatures"] = _temperatures(options, folder)
        if "attacks" in options.parts:
            report["attacks"] = _attacks(options, folder)
    report["environment"]["load_average_at_the_end"] = measure.load_average()
    report["targets"] = _targets(report, options)
    print(_markdown(report, options))
    if options.output:
        measure.write_json(options.output, report)


_REPORTED = ("dataset", "parts", "attacks", "counts", "temperatures", "rounds", "threads")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    attack_runs.add_options(add)
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    add("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS), help="which of ours")
    add("--counts", nargs="+", type=int, default=[90, 900, 2700], help="numbers of attacks")
    add("--temperatures", nargs="+", type=int, default=[1, 2, 4], help="numbers of temperatures")
    add("--rounds", type=int, default=2, help="alternating rounds")
    options = parser.parse_args()
    if min(*options.counts, *options.temperatures, options.rounds, options.threads) < 1:
        parser.error("counts, temperatures, rounds and threads must be >= 1")
    return options


def _attacks(options: argparse.Namespace, folder: Path) -> Figures:
    """Returns the cost of a step for every attack and count.

    The warm-up is the shortest list: it meets nearly every batch shape, so that compiling them
    does not count, as it weighs most where there are few attacks.
    """
    samples = -(-max(options.counts) // TARGETS_PER_SAMPLE)
    prepared = attack_runs.prepare(options, samples, folder)
    runs = [(name, count) for name in options.attacks for count in options.counts]
    results: dict[tuple[str, int], dict[str, Any]] = {}
    warm_up = ("--warm-up", str(min(options.counts)))
    for index in range(options.rounds):
        for name, count in runs:
            print(f"round {index + 1}: {name}, {count} attacks", file=sys.stderr, flush=True)
            try:
                figures, adversarial = attack_runs.run(
                    options, name, count, folder, index, extra=warm_up
                )
            except PeerUnavailableError as error:
                raise SystemExit(f"{name} failed: {error}") from error
            changed = attack_runs.changed_features(adversarial, prepared["images"][:count])
            # A pair a step, and a last evaluation for every attack.
            steps = int(changed.sum()) // 2 + count
            result = results.setdefault(
                (name, count), {"what": name, "count": count, "steps": steps, "rounds": []}
            )
            figures["cpu_seconds_each"] = figures["cpu_seconds"] / steps
            result["rounds"].append(figures)
    return list(results.values())


def _temperatures(options: argparse.Namespace, folder: Path) -> Figures:
    """Returns the cost of a temperature for every number of them."""
    results = {
        count: {"what": "temperatures", "count": count, "rounds": []}
        for count in options.temperatures
    }
    for index in range(options.rounds):
        for count, result in results.items():
            print(f"round {index + 1}: {count} temperatures", file=sys.stderr, flush=True)
            figures = _temperatures_run(options, count, folder / f"temperatures-{count}.json")
            figures["cpu_seconds_each"] = figures["cpu_seconds"] / count
            result["rounds"].append(figures)
    return list(results.values())


def _temperatures_run(options: argparse.Namespace, count: int, result: Path) -> dict[str, Any]:
    worker = attack_runs.HERE / "temperatures_worker.py"
    command = [sys.executable, str(worker), "--count", str(count), "--result", str(result)]
    done = subprocess.run(
        [*command, "--threads", str(options.threads)],
        env=os.environ | {"PYTHONPATH": str(attack_runs.REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=options.timeout,
    )
    if done.returncode:
        raise SystemExit(f"temperatures failed: {last_error(done.stderr)}")
    figures: dict[str, Any] = json.loads(result.read_text())
    return figures


def _targets(report: dict[str, Any], options: argparse.Namespace) -> Figures:
    groups = {
        f"{name}, {attack_runs.TITLES[options.dataset]}: CPU time of a step": [
            result for result in report["attacks"] if result["what"] == name
        ]
        for name in options.attacks
    }
    groups["digits: CPU time of a temperature"] = report["temperatures"]
    targets = []
    for title, results in groups.items():
        if results:
            counts = ", ".join(str(result["count"]) for result in results)
            medians = [_each(result) for result in results]
            by_round = [
                max(costs) / min(costs)
                for costs in zip(*(_costs(result) for result in results), strict=True)
            ]
            targets.append(
                measure.target(
                    f"{title}, largest / smallest of {counts}",
                    max(medians) / min(medians),
                    "<=",
                    FLATNESS,
                    by_round,
                )
            )
    return targets


def _costs(result: dict[str, Any]) -> list[float]:
    return [figures["cpu_seconds_each"] for figures in result["rounds"]]


def _each(result: dict[str, Any]) -> float:
    cost = measure.median(_costs(result))
    if cost is None:
        raise AssertionError("no rounds")
    return cost


def _markdown(report: dict[str, Any], options: argparse.Namespace) -> str:
    lines = [
        "# Scaling",
        "",
        measure.machine_line(report["environment"], options.threads) + ". "
        f"Medians of {options.rounds} rounds.",
    ]
    if report["attacks"]:
        headings = ["attack", "attacks", "steps", "CPU s", "CPU ms / step (range)", "peak MiB"]
        rows = [
            [
                result["what"],
                str(result["count"]),
                str(result["steps"]),
                f"{_each(result) * result['steps']:.2f}",
                _range(result, 1000, 3),
                measure.number(measure.median(f["peak_rss_mib"] for f in result["rounds"]), 0),
            ]
            for result in report["attacks"]
        ]
        title = attack_runs.TITLES[options.dataset]
        lines += ["", f"Attacks on {title}:", "", measure.markdown_table(headings, rows)]
    if report["temperatures"]:
        headings = ["temperatures", "CPU s", "CPU s / temperature (range)", "of it attacks"]
        rows = [
            [
                str(result["count"]),
                f"{_each(result) * result['count']:.2f}",
                _range(result, 1, 2),
                measure.number(
                    measure.median(
                        f["attack_cpu_seconds"] / result["count"] for f in result["rounds"]
                    ),
                    2,
                ),
            ]
            for result in report["temperatures"]
        ]
        lines += ["", "Training and attacks on digits:", ""]
        lines += [measure.markdown_table(headings, rows)]
    return "\n".join([*lines, "", measure.targets_table(report["targets"])])


def _range(result: dict[str, Any], factor: float, digits: int) -> str:
    costs = [factor * cost for cost in _costs(result)]
    middle = factor * _each(result)
    return f"{middle:.{digits}f} ({min(costs):.{digits}f}-{max(costs):.{digits}f})"


if __name__ == "__main__":
    main()
