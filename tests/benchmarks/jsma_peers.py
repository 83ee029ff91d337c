"""Compares the package's JSMA with named peers: time, memory, success, same features.

Every run is a process of its own, in its own environment, with the same weights, attacks and
number of threads. A round runs everything once, one after the other; the figures are medians of
the rounds. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import attack_runs
import measure
from pair_check import check_pairs
from peer_environments import PeerUnavailableError, python_of

MAX_FEATURES = 112
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
    Attack("art-grouped", "ART, batch 100, by target", "art", "ddefense-f", "grouped_cap"),
    Attack("art-default", "ART, batch 1 (default)", "art", "ddefense-f", "art_cap"),
    Attack("cleverhans", "CleverHans, batch 1", "cleverhans", "ddefense-z", "cleverhans_cap"),
    Attack("torchattacks", "torchattacks", "torchattacks", "ddefense-z", "slow_cap"),
    Attack("advertorch", "advertorch, batch 1", "advertorch", "ddefense-z", "slow_cap"),
)
ATTACKS = {attack.name: attack for attack in (*OURS.values(), *PEERS)}
PEER_NAMES = tuple(dict.fromkeys(attack.peer for attack in PEERS if attack.peer))
# Passes through the network that one step needs.
PASSES = {"ddefense-f": 2, "ddefense-z": 3}


@dataclasses.dataclass(frozen=True)
class Goals:
    """What is asked on one dataset.

    Attributes:
        caps: attacks of the slower peers by option, unless the option says otherwise.
        speed: times as fast as a peer, at least; a peer without an entry is for information.
        floor: multiple of the floor allowed; likewise.
    """

    caps: dict[str, int | None]
    speed: dict[str, float]
    floor: dict[str, float]


GOALS = {
    "mnist": Goals(
        caps={"grouped_cap": None, "art_cap": 90, "cleverhans_cap": 90, "slow_cap": 36},
        speed={
            "art-grouped": 2.5,
            "art-default": 15.0,
            "cleverhans": 4.0,
            "torchattacks": 15.0,
            "advertorch": 15.0,
        },
        floor={"ddefense-f": 1.5, "ddefense-z": 2.0},
    ),
    "cifar10": Goals(
        caps={"grouped_cap": 180, "art_cap": 18, "cleverhans_cap": 36, "slow_cap": 3},
        speed={"art-default": 6.0, "cleverhans": 18.0},
        floor={},
    ),
}

Key = tuple[str, int]


def main() -> None:
    """Runs the benchmark."""
    options = _parse()
    measure.limit_threads(options.threads)
    sys.path.insert(0, str(attack_runs.REPOSITORY))
    environment = measure.machine()
    pythons, skipped = _environments(options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        attacks = attack_runs.prepare(options, options.samples, folder)
        plan = _plan(options, list(pythons), len(attacks["targets"]))
        rounds, adversarial = _run_rounds(options, plan, pythons, skipped, folder)
    results = _judge(plan, rounds, adversarial, attacks)
    pairs = check_pairs(
        attacks["logits"], attacks["images"], attacks["targets"], options.pair_cases, MAX_FEATURES
    )
    report: dict[str, Any] = {
        "benchmark": "jsma_peers",
        "environment": environment | {"load_average_at_the_end": measure.load_average()},
        "options": {k: str(v) for k, v in vars(options).items() if k in _REPORTED},
        "network_test_accuracy": attacks["accuracy"],
        "skipped": skipped,
        "results": results,
        "pairs": pairs,
    }
    report["floors"] = _floors(results, attacks["flops"])
    report["targets"] = _targets(report, GOALS[options.dataset])
    print(_markdown(report, options))
    if options.output:
        measure.write_json(options.output, report)


_CAPS = ("grouped_cap", "art_cap", "cleverhans_cap", "slow_cap")
_REPORTED = ("dataset", "samples", "rounds", "threads", *_CAPS, "batch_size", "pair_cases")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    attack_runs.add_options(add)
    add("--samples", type=int, default=100, help="images; nine attacks each")
    add("--rounds", type=int, default=3, help="alternating rounds")
    add("--grouped-cap", type=int, help="attacks of ART by target (default: by dataset)")
    add("--art-cap", type=int, help="attacks of ART's default (default: by dataset)")
    add("--cleverhans-cap", type=int, help="attacks of CleverHans (default: by dataset)")
    add("--slow-cap", type=int, help="of torchattacks and advertorch (default: by dataset)")
    add("--pair-cases", type=int, default=300, help="pair choices compared with brute force")
    add("--peers", default=",".join(PEER_NAMES), help="comma-separated; empty: ours alone")
    options = parser.parse_args()
    for name, cap in GOALS[options.dataset].caps.items():
        if getattr(options, name) is None:
            setattr(options, name, cap)
    unknown = sorted(set(_names(options.peers)) - set(PEER_NAMES))
    if unknown:
        parser.error(f"--peers: unknown {', '.join(unknown)}; known: {', '.join(PEER_NAMES)}")
    for name in ("samples", "rounds", "threads", *_CAPS):
        if (getattr(options, name) or 1) < 1:
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


def _plan(options: argparse.Namespace, peers: list[str], total: int) -> list[Key]:
    """Returns the runs of one round in order: ours before the peers that have as many attacks."""
    plan: list[Key] = []
    for ours in OURS:
        needed = [Attack(ours, "", None, ours)]
        needed += [a for a in PEERS if a.peer in peers and a.reference == ours]
        for attack in needed:
            cap = getattr(options, attack.cap) if attack.cap else None
            count = min(total, cap or total)
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
) -> tuple[dict[Key, list[dict[str, Any]]], dict[Key, Any]]:
    """Returns the figures of every round and the adversarial images of the first."""
    rounds: dict[Key, list[dict[str, Any]]] = {key: [] for key in plan}
    made: dict[Key, Any] = {}
    total = max(count for _, count in plan)
    for index in range(options.rounds):
        for name, count in plan:
            attack = ATTACKS[name]
            if attack.title in skipped or attack.peer in skipped:
                continue
            peer = pythons[attack.peer] if attack.peer else None
            extra = ("--floor",) if peer is None and count == total else ()
            print(f"round {index + 1}: {name}, {count} attacks", file=sys.stderr, flush=True)
            try:
                figures, adversarial = attack_runs.run(
                    options, name, count, folder, index, peer=peer, extra=extra
                )
            except PeerUnavailableError as error:
                if peer is None:
                    raise SystemExit(f"{name} failed: {error}") from error
                skipped[attack.title] = f"cannot be run: {error}"
                print(f"Skipping {name}: {error}", file=sys.stderr, flush=True)
                continue
            rounds[name, count].append(figures)
            made.setdefault((name, count), adversarial)
    return rounds, made


def _judge(
    plan: list[Key],
    rounds: dict[Key, list[dict[str, Any]]],
    made: dict[Key, Any],
    attacks: dict[str, Any],
) -> list[dict[str, Any]]:
    """Judges every run's images with our network and takes the medians of the rounds."""
    from ddefense import networks

    changed: dict[Key, Any] = {}
    results = []
    for name, count in plan:
        figures = rounds[name, count]
        if not figures:
            continue
        adversarial = made[name, count]
        mask = attack_runs.changed_features(adversarial, attacks["images"][:count])
        features = mask.sum(1)
        predicted = networks.predict(attacks["logits"], adversarial).argmax(1)
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
    for name, passes in PASSES.items():
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


def _targets(report: dict[str, Any], goals: Goals) -> list[dict[str, Any]]:
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
        targets.append(measure.target(title, ratio, ">=", goals.speed.get(name), by_round))
    for name, floor in report["floors"].items():
        title = f"{name}: CPU time / floor of its passes, {floor['attacks']} attacks"
        limit = goals.floor.get(name)
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
        f"{attack_runs.TITLES[options.dataset]}, "
        f"test accuracy {100 * report['network_test_accuracy']:.1f} %, theta 1, at most "
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
