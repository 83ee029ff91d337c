"""Time, memory and environment of a benchmark run, and the Markdown that reports it.

Only the standard library is imported here: the same file is used inside every peer's own
environment.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

MIB = 2**20
KERAS = ("ddefense", "numpy", "tensorflow", "tensorflow-cpu", "keras")
"""Packages of which most benchmarks name the versions."""


def limit_threads(threads: int) -> None:
    """Keeps every numerical library of this process at `threads` threads.

    Call it before NumPy, TensorFlow or PyTorch is imported.

    Args:
        threads: the number of threads.
    """
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
    ):
        os.environ[name] = str(threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


def resident_mib() -> float | None:
    """Returns the resident memory of this process in MiB, or None where /proc is missing."""
    return _status_mib("VmRSS")


def peak_resident_mib() -> float | None:
    """Returns the highest resident memory of this process so far in MiB.

    `getrusage` is the fall-back only: on Linux it starts at the peak of the process that
    started this one.
    """
    peak = _status_mib("VmHWM")
    if peak is not None:
        return peak
    try:
        import resource
    except ImportError:
        return None
    used = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return used / MIB if sys.platform == "darwin" else used / 1024


def reset_peak() -> bool:
    """Starts the peak of the resident memory afresh; returns False where that is impossible."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status_mib(field: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return None


def load_average() -> float | None:
    """Returns the load average of the last minute, or None where there is none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """Runs `work` once and measures it.

    Args:
        work: what to measure.

    Returns:
        what `work` returned, and its CPU seconds (all threads), wall seconds and memory.
    """
    peak_before = peak_resident_mib()
    before = resident_mib()
    reset = reset_peak()
    load = load_average()
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = peak_resident_mib()
    figures = {
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "rss_before_mib": before,
        "peak_rss_mib": max((p for p in (peak, peak_before) if p is not None), default=None),
        "attack_peak_rss_mib": peak if reset else None,
        "load_average": load,
    }
    return result, figures


def round_figures(work: Callable[[], Any]) -> dict[str, Any]:
    """Runs `work` once; returns its CPU seconds (all threads), wall seconds and load before."""
    load = load_average()
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu_seconds": cpu, "wall_seconds": wall, "load_average": load}


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the installed versions of those `packages` that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Returns what is worth knowing of the machine: CPU model, cores, memory, system, load."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / MIB
    return {
        "cpu": model,
        "cores": usable,
        "memory_mib": memory,
        "system": f"{platform.system()} {platform.release()}",
        # Which vector instructions oneDNN may use; both the passes and the matrix product obey it.
        "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA", "all"),
        "load_average": load_average(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def median(values: Iterable[float | None]) -> float | None:
    """Returns the median of the `values` that are not None, or None where all are."""
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def number(value: float | None, digits: int = 3) -> str:
    """Returns `value` with `digits` decimals, or "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def machine_line(environment: dict[str, Any], threads: int) -> str:
    """Returns one line of text on the machine of a report."""
    load = number(environment["load_average"], 1)
    return (
        f"{environment['cpu']}, {environment['cores']} usable cores, {threads} thread(s), "
        f"instructions {environment['onednn_max_cpu_isa']}, "
        f"load average {load} at the start, {environment['started']}"
    )


def begin(benchmark: str, packages: Iterable[str], options: dict[str, Any]) -> dict[str, Any]:
    """Returns the head of a report: what is measured, where, and how it was asked for."""
    return {
        "benchmark": benchmark,
        "environment": machine(),
        "versions": versions(packages),
        "options": options,
    }


def finish(report: dict[str, Any], tables: Iterable[str], output: Path | None) -> None:
    """Prints the machine, tables and targets of a report, and writes all of it to `output`."""
    environment = report["environment"]
    print(machine_line(environment, environment["cores"]) + "\n")
    for table in tables:
        print(table + "\n")
    print(targets_table(report["targets"]))
    if output:
        write_json(output, report)


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Writes `report` to `path`, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def target(
    what: str, value: float, comparison: str, limit: float | None, rounds: Sequence[float]
) -> dict[str, Any]:
    """Returns the verdict on one figure.

    Args:
        what: the figure in words.
        value: its median.
        comparison: ">=", "<=" or "<".
        limit: what it is compared with; None: the figure is for information.
        rounds: the same figure of every round; may be empty.
    """
    met = None
    if limit is not None:
        met = bool({">=": value >= limit, "<=": value <= limit, "<": value < limit}[comparison])
    return {
        "what": what,
        "value": value,
        "target": "-" if limit is None else f"{comparison} {limit:g}",
        "met": met,
        "rounds": list(rounds),
    }


def targets_table(targets: Iterable[dict[str, Any]]) -> str:
    """Returns the Markdown table of a report's targets."""
    verdicts = {True: "yes", False: "**no**", None: "not judged (too few attacks)"}
    rows = []
    for target in targets:
        rounds = target["rounds"]
        spread = f"{min(rounds):.2f}-{max(rounds):.2f}" if rounds else "-"
        value = f"{target['value']:.3f}"
        verdict = "-" if target["target"] == "-" else verdicts[target["met"]]
        rows.append([target["what"], value, spread, target["target"], verdict])
    return markdown_table(["what", "median", "range of rounds", "target", "met"], rows)
