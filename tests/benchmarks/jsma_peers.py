"""Compares the package's JSMA with named peers on MNIST: time, memory, success, same features.

Every run is a process of its own, in its own environment, with the same weights, attacks and
number of threads. A round runs everything once, one after the other; the figures are medians of
the rounds. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
from pair_check import check_pairs
from peer_environments import FOLDERS, PeerUnavailableError, last_error, python_of

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
MAX_FEATURES = 112
NUM_CLASSES = 10
MEMORY_LIMIT_MIB = 2048
FULL_ATTACKS = 900


@dataclasses.dataclass(frozen=True)
class Attack:
    """One attack as the benchmark runs it.

    Attributes:
        name: its name in `jsma_worker.py`.
        title: its name in the report.
        peer: whose environment it needs; None for ours.
        reference: our attack of the same meaning.
        cap: name of the option that caps its attacks; None: all of them.
    """

    name: str
    title: str
    peer: str | None
    reference: str
    cap: str | None = None


OURS = {
    "ddefense-f": Attack("ddefense-f", "**ddefense** `jsma_f`", None, "ddefense-f"),
    "ddefense-z": Attack("ddefense-z", "**ddefense** `jsma_z`", None, "ddefense-z"),
}
PEERS = (
    Attack("art-grouped", "ART, batch 100, by target", "art", "ddefense-f"),
    Attack("art-default", "ART, batch 1 (default)", "art", "ddefense-f", "medium_cap"),
    Attack("cleverhans", "CleverHans, batch 1", "cleverhans", "ddefense-z", "medium_cap"),
    Attack("torchattacks", "torchattacks", "torchattacks", "ddefense-z", "slow_cap"),
    Attack("advertorch", "advertorch, batch 1", "advertorch", "ddefense-z", "slow_cap"),
)
ATTACKS = {attack.name: attack for attack in (*OURS.values(), *PEERS)}
SPEED_TARGETS = {
    "art-grouped": 2.5,
    "art-default": 15.0,
    "cleverhans": 4.0,
    "torchattacks": 15.0,
    "advertorch": 15.0,
}
# Passes through the network that one step needs, and the largest multiple of the floor allowed.
FLOOR_TARGETS = {"ddefense-f": (2, 1.5), "ddefense-z": (3, 2.0)}

Key = tuple[str, int]


def main() -> None:
    """Runs the benchmark."""
    options = _parse()
    measure.limit_threads(options.threads)
    sys.path.insert(0, str(REPOSITORY))
    environment = measure.machine()
    pythons, skipped = _environments(options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        attacks = _prepare(options, folder)
        plan = _plan(options, list(pythons), len(attacks["targets"]))
        rounds = _run_rounds(options, plan, pythons, skipped, folder)
        results = _judge(options, plan, rounds, folder, attacks)
        pairs = check_pairs(
            attacks["logits"],
            attacks["images"],
            attacks["targets"],
            options.pair_cases,
            MAX_FEATURES,
        )
    report = {
        "benchmark": "jsma_peers",
        "environment": environment | {"load_average_at_the_end": measure.load_average()},
        "options": {k: str(v) for k, v in vars(options).items() if k in _REPORTED},
        "network_test_accuracy": attacks["accuracy"],
        "skipped": skipped,
        "results": results,
        "pairs": pairs,
    }
    report["floors"] = _floors(results, attacks["flops"])
    report["targets"] = _targets(report)
    print(_markdown(report, options))
    if options.output:
        measure.write_json(options.output, report)


_REPORTED = ("samples", "rounds", "threads", "medium_cap", "slow_cap", "batch_size", "pair_cases")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--samples", type=int, default=100, help="images; nine attacks each")
    add("--rounds", type=int, default=3, help="alternating rounds")
    add("--threads", type=int, default=1, help="threads of every run")
    add("--medium-cap", type=int, default=90, help="attacks of CleverHans and of ART's default")
    add("--slow-cap", type=int, default=36, help="attacks of torchattacks and advertorch")
    add("--batch-size", type=int, default=0, help="of our attack; 0: its own default")
    add("--pair-cases", type=int, default=300, help="pair choices compared with brute force")
    add("--peers", default=",".join(FOLDERS), help="comma-separated; empty: ours alone")
    add("--environments", type=Path, default=Path(".benchmarks"), help="of the peers; made here")
    add("--data-dir", "--data_dir", type=Path, help="TFDS data (default: TFDS_DATA_DIR)")
    add("--network", type=Path, help="a .keras file; default: one is trained and kept")
    add("--epochs", type=int, default=3, help="of that training")
    add("--timeout", type=float, default=3600, help="seconds one run may take")
    add("--output", type=Path, help="JSON file for everything that was measured")
    options = parser.parse_args()
    unknown = sorted(set(_names(options.peers)) - set(FOLDERS))
    if unknown:
        parser.error(f"--peers: unknown {', '.join(unknown)}; known: {', '.join(FOLDERS)}")
    for name in ("samples", "rounds", "threads", "medium_cap", "slow_cap"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be >= 1")
    return options


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _environments(options: argparse.Namespace) -> tuple[dict[str, Path], dict[str, str]]:
    pythons: dict[str, Path] = {}
    skipped: dict[str, str] = {}
    for peer in _names(options.peers):
        try:
            pythons[peer] = python_of(peer, options.environments)
        except PeerUnavailableError as error:
            skipped[peer] = f"cannot be installed: {error}"
            print(f"Skipping {peer}: {skipped[peer]}", file=sys.stderr, flush=True)
    return pythons, skipped


def _prepare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Writes the network, its weights and the attack list for every run to read."""
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    from ddefense import attacks, datasets, networks

    data = datasets.load("mnist", data_dir=options.data_dir)
    network = _network(options, data)
    network.save(folder / "network.keras")
    logits = networks.logits_of(network)
    predicted = logits.predict(data.test.images, batch_size=256, verbose=0).argmax(1)
    right = np.flatnonzero(predicted == data.test.labels)
    if len(right) < options.samples:
        raise SystemExit(f"The network is right on {len(right)} images only.")
    chosen = right[: options.samples]
    sample, targets = attacks.every_wrong_class(data.test.labels[chosen], NUM_CLASSES)
    images = data.test.images[chosen][sample]
    np.savez(folder / "attacks.npz", images=images, targets=targets)
    weights = [np.asarray(w) for w in logits.trainable_weights]
    np.savez(folder / "weights.npz", **{f"w{i:03d}": w for i, w in enumerate(weights)})
    return {
        "images": images,
        "targets": targets,
        "logits": logits,
        "flops": _forward_flops(logits),
        "accuracy": len(right) / len(predicted),
    }


def _network(options: argparse.Namespace, data: Any) -> Any:
    import keras

    import ddefense.layers  # noqa: F401  registers the layers of a stored network
    from ddefense import networks

    path = options.network
    if path is None:
        path = options.environments / f"network-{options.epochs}-epochs.keras"
        if not path.exists():
            print("Training the network ...", file=sys.stderr, flush=True)
            network = networks.build("mnist", temperature=1.0, seed=0)
            network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
            network.fit(
                data.train.images,
                data.train.labels,
                batch_size=128,
                epochs=options.epochs,
                verbose=2,
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            network.save(path)
    return keras.models.load_model(path, compile=False)


def _forward_flops(network: Any) -> float:
    """Returns the FLOPs of one image's forward pass: 2 a multiply-add, convolutions and dense."""
    import keras
    import numpy as np

    flops = 0.0
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D):
            flops += 2 * np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:3])
        elif isinstance(layer, keras.layers.Dense):
            flops += 2 * np.prod(layer.kernel.shape)
    return float(flops)


def _plan(options: argparse.Namespace, peers: list[str], total: int) -> list[Key]:
    """Returns the runs of one round in order: ours before the peers that have as many attacks."""
    plan: list[Key] = []
    for ours in OURS:
        needed = [Attack(ours, "", None, ours)]
        needed += [a for a in PEERS if a.peer in peers and a.reference == ours]
        for attack in needed:
            count = min(total, getattr(options, attack.cap) if attack.cap else total)
            for key in ((ours, count), (attack.name, count)):
                if key not in plan:
                    plan.append(key)
    return plan


def _run_rounds(
    options: argparse.Namespace,
    plan: list[Key],
    pythons: dict[str, Path],
    skipped: dict[str, str],
    folder: Path,
) -> dict[Key, list[dict[str, Any]]]:
    rounds: dict[Key, list[dict[str, Any]]] = {key: [] for key in plan}
    total = max(count for _, count in plan)
    for index in range(options.rounds):
        for name, count in plan:
            attack = ATTACKS[name]
            if attack.title in skipped or attack.peer in skipped:
                continue
            python = pythons[attack.peer] if attack.peer else Path(sys.executable)
            print(f"round {index + 1}: {name}, {count} attacks", file=sys.stderr, flush=True)
            try:
                figures = _run(options, attack, count, python, folder, index, count == total)
            except PeerUnavailableError as error:
                if attack.peer is None:
                    raise SystemExit(f"{name} failed: {error}") from error
                skipped[attack.title] = f"cannot be run: {error}"
                print(f"Skipping {name}: {error}", file=sys.stderr, flush=True)
                continue
            rounds[name, count].append(figures)
    return rounds


def _run(
    options: argparse.Namespace,
    attack: Attack,
    count: int,
    python: Path,
    folder: Path,
    index: int,
    whole: bool,
) -> dict[str, Any]:
    result = _result(folder, attack.name, count, index)
    command = [str(python), str(HERE / "jsma_worker.py"), attack.name]
    command += ["--setup", str(folder), "--result", str(result), "--count", str(count)]
    command += ["--threads", str(options.threads)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if attack.peer is None:
        command += ["--network", str(folder / "network.keras")]
        command += ["--batch-size", str(options.batch_size)]
        command += ["--floor"] if whole else []
        environment["PYTHONPATH"] = str(REPOSITORY)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=options.timeout
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailableError(str(error)) from error
    if done.returncode:
        raise PeerUnavailableError(last_error(done.stderr))
    figures: dict[str, Any] = json.loads(result.with_suffix(".json").read_text())
    return figures


def _result(folder: Path, name: str, count: int, index: int) -> Path:
    return folder / f"{name}-{count}-{index}"


def _judge(
    options: argparse.Namespace,
    plan: list[Key],
    rounds: dict[Key, list[dict[str, Any]]],
    folder: Path,
    attacks: dict[str, Any],
) -> list[dict[str, Any]]:
    """Judges every run's images with our network and takes the medians of the rounds."""
    import numpy as np

    changed: dict[Key, Any] = {}
    results = []
    for name, count in plan:
        figures = rounds[name, count]
        if not figures:
            continue
        with np.load(_result(folder, name, count, 0).with_suffix(".npz")) as stored:
            adversarial = stored["images"]
        clean = attacks["images"][:count]
        mask = (np.abs(adversarial - clean) > 1e-6).reshape(count, -1)
        features = mask.sum(1)
        predicted = attacks["logits"].predict(adversarial, batch_size=256, verbose=0).argmax(1)
        in_bounds = (adversarial >= 0.0).all() and (adversarial <= 1.0).all()
        success = (predicted == attacks["targets"][:count]) & (features <= MAX_FEATURES)
        changed[name, count] = mask
        same = (mask == changed[ATTACKS[name].reference, count]).all(1)
        results.append(
            {
                "attack": name,
                "attacks": count,
                "cpu_seconds_per_attack": _per_attack(figures, "cpu_seconds"),
                "wall_seconds_per_attack": _per_attack(figures, "wall_seconds"),
                "rss_before_mib": measure.median(f["rss_before_mib"] for f in figures),
                "peak_rss_mib": measure.median(f["peak_rss_mib"] for f in figures),
                "extra_mib": measure.median(
                    f["attack_peak_rss_mib"] - f["rss_before_mib"]
                    for f in figures
                    if f["attack_peak_rss_mib"] is not None
                ),
                "success_rate": float(success.mean()),
                "mean_features": float(features.mean()),
                "features_changed": int(features.sum()),
                "largest_budget_used": int(features.max()),
                "in_bounds": bool(in_bounds),
                "same_features_as_ours": float(same.mean()),
                "rounds": figures,
            }
        )
    return results


def _per_attack(figures: list[dict[str, Any]], field: str) -> float | None:
    return measure.median(f[field] / f["attacks"] for f in figures)


def _floors(results: list[dict[str, Any]], forward: float) -> dict[str, dict[str, Any]]:
    """Compares our attacks with the time that their passes through the network need at least.

    A step needs one forward and one (F) or two (Z) input-gradient passes, an attack one last
    forward pass to see that it is done; all count as many FLOPs as a forward pass. The rate is
    that of a matrix product just before and after the attack, in the same process.
    """
    floors = {}
    for name, (passes, _) in FLOOR_TARGETS.items():
        row = max((r for r in results if r["attack"] == name), key=lambda r: r["attacks"])
        steps = row["features_changed"] / 2
        flops = forward * (passes * steps + row["attacks"])
        rates = [
            statistics.fmean(figures["matmul_flops_per_cpu_second"]) for figures in row["rounds"]
        ]
        ratios = [
            figures["cpu_seconds"] / (flops / rate)
            for figures, rate in zip(row["rounds"], rates, strict=True)
        ]
        floors[name] = {
            "attacks": row["attacks"],
            "steps": steps,
            "flops": flops,
            "forward_flops_per_image": forward,
            "matmul_flops_per_cpu_second": measure.median(rates),
            "attack_over_floor_rounds": ratios,
            "attack_over_floor": measure.median(ratios),
        }
    return floors


def _targets(report: dict[str, Any]) -> list[dict[str, Any]]:
    results = {(r["attack"], r["attacks"]): r for r in report["results"]}
    targets = []
    for (name, count), row in results.items():
        if name in OURS:
            continue
        ours = results[ATTACKS[name].reference, count]
        ratio = row["cpu_seconds_per_attack"] / ours["cpu_seconds_per_attack"]
        by_round = [
            peer["cpu_seconds"] / own["cpu_seconds"]
            for peer, own in zip(row["rounds"], ours["rounds"], strict=False)
        ]
        title = f"{ATTACKS[name].title} / ours, CPU time of the same {count} attacks"
        targets.append(measure.target(title, ratio, ">=", SPEED_TARGETS[name], by_round))
    for name, floor in report["floors"].items():
        title = f"{name}: CPU time / floor of its passes, {floor['attacks']} attacks"
        limit = FLOOR_TARGETS[name][1]
        by_round = floor["attack_over_floor_rounds"]
        target = measure.target(title, floor["attack_over_floor"], "<=", limit, by_round)
        target["met"] = target["met"] if floor["attacks"] >= FULL_ATTACKS else None
        targets.append(target)
    _, count = max(key for key in results if key[0] == "ddefense-z")
    peaks = [f["peak_rss_mib"] for f in results["ddefense-z", count]["rounds"]]
    known = [peak for peak in peaks if peak is not None]
    if known:
        title = f"ddefense-z: peak memory of the whole process, {count} attacks, MiB"
        target = measure.target(title, max(known), "<", MEMORY_LIMIT_MIB, known)
        target["met"] = target["met"] if count >= FULL_ATTACKS else None
        targets.append(target)
    for name in ("art-grouped", "art-default", "cleverhans"):
        for (other, count), row in results.items():
            if other == name:
                title = f"{ATTACKS[name].title}: same features as ours, share of {count}"
                targets.append(measure.target(title, row["same_features_as_ours"], ">=", 1.0, []))
    for name, pairs in report["pairs"].items():
        title = f"{name}: same pair as a search of all pairs, share of {pairs['cases']}"
        targets.append(measure.target(title, pairs["same"] / max(1, pairs["cases"]), ">=", 1.0, []))
    return targets


def _markdown(report: dict[str, Any], options: argparse.Namespace) -> str:
    rows = []
    for row in report["results"]:
        seconds = [f["cpu_seconds"] / f["attacks"] for f in row["rounds"]]
        rows.append(
            [
                ATTACKS[row["attack"]].title,
                str(row["attacks"]),
                f"{row['cpu_seconds_per_attack']:.4f} ({min(seconds):.4f}-{max(seconds):.4f})",
                f"{row['wall_seconds_per_attack']:.4f}",
                measure.number(row["rss_before_mib"], 0),
                measure.number(row["peak_rss_mib"], 0),
                f"{100 * row['success_rate']:.1f} %" + ("" if row["in_bounds"] else " (bounds!)"),
                f"{row['mean_features']:.1f}",
                f"{100 * row['same_features_as_ours']:.1f} %",
            ]
        )
    headings = ["run", "attacks", "CPU s / attack (range)", "wall s / attack", "MiB before"]
    headings += ["peak MiB", "success", "features", "same features as ours"]
    lines = [
        "# JSMA and its peers",
        "",
        measure.machine_line(report["environment"], options.threads) + ". "
        f"MNIST, test accuracy {100 * report['network_test_accuracy']:.1f} %, theta 1, at most "
        f"{MAX_FEATURES} features, medians of {options.rounds} rounds.",
        "",
        measure.markdown_table(headings, rows),
        "",
        measure.targets_table(report["targets"]),
    ]
    floor = report["floors"]["ddefense-f"]
    lines += [
        "",
        f"A forward pass is {floor['forward_flops_per_image'] / 1e6:.1f} MFLOP an image; the "
        f"matrix product made {floor['matmul_flops_per_cpu_second'] / 1e9:.0f} GFLOP a CPU second.",
    ]
    for name, reason in report["skipped"].items():
        lines += ["", f"Skipped: {name}, {reason}"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
