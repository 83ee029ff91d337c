"""What it costs to have the stages of a run done on Ray.

Three questions. How fast is an attack stage on Ray, with one worker and with two of one thread
each, beside the same stage in one process? How does memory, of the driver and of the workers, grow
with the number of attacks? And does a run end the same when a worker is killed every 30 seconds?
Each is measured in processes of their own. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import measure

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PARTS = ("speed", "memory", "losses")
# CPUs that a task takes of two: with both of them only one runs at a time.
WAYS = {"here": None, "one_worker": 2, "two_workers": 1}
# Two workers over one; one worker over this process; growth over ten times the attacks.
SPEEDUP, OVERHEAD, GROWTH = 1.7, 1.05, 1.1
CLUSTER = REPOSITORY / "tests" / "end_to_end" / "cluster.py"
# 58 stages.
RUN = ("--preset=quick", "--temperatures=5,20", "--workdir=run", "--export_dir=exported")


def main() -> None:
    """Runs the benchmark, or one part of it in a process of its own."""
    options = _parse()
    if options.only:
        sys.path.insert(0, str(REPOSITORY))
        work = {"speed": _speed, "memory": _memory}[options.only]
        print(json.dumps(work(options)))
        return
    left_out = ("only", "way", "output", "network", "data_dir")
    asked = {k: v for k, v in vars(options).items() if k not in left_out}
    report = measure.begin("executors", (*measure.KERAS, "ray"), asked)
    with tempfile.TemporaryDirectory() as folder:
        if "speed" in options.parts:
            network = pathlib.Path(folder, "digits.keras")
            _in_a_process("speed", "train", network)
            report["speed"] = {
                "rounds": [
                    {way: _in_a_process("speed", way, network) for way in WAYS}
                    for _ in range(options.rounds)
                ]
            }
        if "losses" in options.parts:
            report["losses"] = _losses(options, pathlib.Path(folder, "losses"))
        if "memory" in options.parts:
            network = pathlib.Path(folder, "cifar10.keras")
            _in_a_process("memory", "train", network)
            report["memory"] = _in_a_process("memory", "two_workers", network)
    report["targets"] = _targets(report)
    measure.finish(report, [], options.output)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    add("--rounds", type=int, default=3, help="alternating rounds of the three ways")
    add("--samples", type=int, default=240, help="digits attacked in a round, each 9 times")
    add("--many", type=int, default=1000, help="CIFAR-10 images attacked, each 9 times")
    add("--kill-seconds", type=int, default=30, help="between two kills of a worker")
    add("--steps", type=int, default=150, help="training steps of the attacked networks")
    add("--data-dir", help="prepared TFDS data; default: TFDS_DATA_DIR, else TFDS's own")
    add("--output", type=pathlib.Path, help="JSON file for everything measured")
    add("--only", choices=PARTS, help=argparse.SUPPRESS)
    add("--way", default="", help=argparse.SUPPRESS)
    add("--network", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.rounds, options.samples, options.many, options.steps) < 1:
        parser.error("rounds, samples, many and steps must be >= 1")
    return options


def _in_a_process(part: str, way: str, network: pathlib.Path) -> Any:
    command = [sys.executable, __file__, *sys.argv[1:], "--only", part, "--way", way]
    command += ["--network", str(network)]
    found = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def _settings(dataset: str, samples: int) -> Any:
    from ddefense import config

    return config.preset(
        "paper", dataset, samples=samples, misclassified=True, threads=1, attacks=("jsma_f",)
    )


def _train(options: argparse.Namespace, dataset: Any) -> None:
    """Leaves a network that has learnt a little."""
    from ddefense import distillation, networks, training

    network = networks.build(
        dataset.network,
        temperature=1.0,
        seed=0,
        num_classes=dataset.num_classes,
        statistics=dataset.feature_statistics(),
    )
    learns = training.TrainingSettings(
        temperature=1.0,
        epochs=options.steps,
        batch_size=128,
        learning_rate=0.02,
        momentum=0.9,
        seed=0,
        max_steps=options.steps,
    )
    labels = distillation.hard_labels(dataset.train.labels, dataset.num_classes)
    training.fit(network, dataset.train.images, labels, learns)
    network.save(options.network)


@contextlib.contextmanager
def _executor(way: str, settings: Any, folder: pathlib.Path) -> Iterator[Any]:
    """What does the work, each task by one thread."""
    from ddefense.cli import program
    from ddefense.pipeline.executing import Here

    if WAYS[way] is None:
        program.start_tensorflow(settings)
        yield Here()
        return
    from ddefense.pipeline import on_ray

    cluster = on_ray.Cluster(num_cpus=WAYS[way] or 1)
    prepare = functools.partial(program.start_tensorflow, settings)
    with on_ray.connected(cluster, prepare, folder) as executor:
        program.start_tensorflow(settings)
        yield executor


def _attack_stages(options: argparse.Namespace, executor: Any, folder: pathlib.Path) -> Any:
    """A function that attacks the first images of a dataset, under a name of its own."""
    import shutil

    from ddefense.experiments import attacking
    from ddefense.experiments.pair import Trained
    from ddefense.pipeline.stages import Stages

    stages = Stages(folder, executor=executor)
    network = stages.run(
        "network",
        {},
        [],
        lambda directory: shutil.copy(options.network, directory / "network.keras"),
    )

    def attack(settings: Any, dataset: Any, name: str) -> Any:
        trained = Trained(name, 1.0, network)
        samples = attacking.choose_samples(Stages(folder / name), settings, dataset, trained)
        start = time.perf_counter()
        stage = attacking.attack(stages, settings, dataset, trained, samples, "jsma_f")
        record = attacking.load_attack(stage)
        return {
            "wall_seconds": time.perf_counter() - start,
            "attacks": record.attempts,
            "successes": record.successes,
            "steps": record.details["steps"],
            "load_average": measure.load_average(),
        }

    return attack


def _speed(options: argparse.Namespace) -> dict[str, Any]:
    """Times an attack stage when the workers have compiled the attack."""
    from ddefense import datasets

    digits = datasets.load("digits")
    if options.way == "train":
        _train(options, digits)
        return {}
    settings = _settings("digits", options.samples)
    warm = dataclasses.replace(settings, samples=4 * settings.shard_samples)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        with _executor(options.way, settings, folder) as executor:
            attack = _attack_stages(options, executor, folder)
            attack(warm, digits, "warm")
            found: dict[str, Any] = attack(settings, digits, "timed")
    return found


def _memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peaks of the driver and its workers with few attacks, and then with ten times as many."""
    from ddefense import datasets

    data_dir = pathlib.Path(options.data_dir) if options.data_dir else None
    load = functools.partial(datasets.load, "cifar10", data_dir=data_dir)
    if options.way == "train":
        _train(options, load())
        return {}
    rows = []
    few = _settings("cifar10", max(1, options.many // 10))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        with _executor(options.way, few, folder) as executor:
            attack, cifar10 = _attack_stages(options, executor, folder), load()
            for settings in (few, dataclasses.replace(few, samples=options.many)):
                found = attack(settings, cifar10, f"samples_{settings.samples}")
                stage = next(folder.glob(f"stages/*_samples_{settings.samples}"))
                rows.append(
                    found
                    | {
                        "samples": settings.samples,
                        "driver_peak_mib": measure.peak_resident_mib(),
                        "worker_peaks_mib": _worker_peaks(),
                        "stage_bytes": sum(file.stat().st_size for file in stage.iterdir()),
                    }
                )
    return {"rows": rows}


def _losses(options: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """A run of which workers are killed, beside the same run in one process."""
    for name in ("local", "cluster"):
        (folder / name).mkdir(parents=True)
    environ = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "KILL_SECONDS": str(options.kill_seconds),
    }
    python = [sys.executable, "-P"]
    local = [*python, "-m", "ddefense.cli", *RUN, "--threads=1"]
    subprocess.run(local, cwd=folder / "local", env=environ, check=True, capture_output=True)
    command = ["unshare", "-rnm", *python, str(CLUSTER), "often", str(folder / "cluster"), *RUN]
    ended = subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, text=True)
    happened = json.loads(ended.stdout.splitlines()[-1])
    if happened["status"]:
        raise SystemExit(happened["log"])
    one, other = (
        json.loads((folder / name / "run" / "results.json").read_text())
        for name in ("local", "cluster")
    )
    differs = sorted(key for key in one if one[key] != other[key])
    return {
        "flags": list(RUN),
        "stages": len(other["timings"]) - 1,
        "seconds": happened["seconds"],
        "killed": happened["killed"],
        # What is measured is in none of these.
        "same_but_for": differs,
        "same": set(differs) <= {"environment", "timings", "exports"},
    }


def _worker_peaks() -> list[float]:
    """Highest resident memory of every worker that this process's cluster has."""
    peaks = []
    for pid in _descendants(os.getpid()):
        with contextlib.suppress(OSError):
            title = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
            peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
            if title.startswith((b"ray::ddefense", b"ray::IDLE")):
                peaks.append(peak / 1024)
    return sorted(peaks, reverse=True)


def _descendants(pid: int) -> list[int]:
    found = []
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


def _targets(report: dict[str, Any]) -> list[dict[str, Any]]:
    targets = []

    def ratio(what: str, over: str, under: str, sense: str, limit: float) -> None:
        ratios = [
            one[over]["wall_seconds"] / one[under]["wall_seconds"]
            for one in report["speed"]["rounds"]
        ]
        median = measure.median(ratios) or 0.0
        targets.append(measure.target(what, median, sense, limit, ratios))

    if "speed" in report:
        what = "attack stage by one worker / in one process, wall seconds"
        ratio(what, "one_worker", "here", "<=", OVERHEAD)
        what = "attack stage by one worker / by two, wall seconds"
        ratio(what, "one_worker", "two_workers", ">=", SPEEDUP)
    if "losses" in report:
        found = report["losses"]
        what = f"results are the same, 1 or 0, with {len(found['killed'])} workers killed"
        targets.append(measure.target(what, float(found["same"]), ">=", 1.0, []))
    if "memory" in report:
        few, many = report["memory"]["rows"]
        for who in ("driver", "worker"):
            peaks = [
                row["driver_peak_mib"] if who == "driver" else max(row["worker_peaks_mib"])
                for row in (few, many)
            ]
            what = f"peak memory of the {who}, {many['attacks']} attacks / {few['attacks']}"
            targets.append(measure.target(what, peaks[1] / peaks[0], "<=", GROWTH, []))
    return targets


if __name__ == "__main__":
    main()
