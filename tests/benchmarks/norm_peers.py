"""Compares the package's C&W L2, PGD and FGSM with named peers: time, distance, success, pixels.

Every run is a process of its own, in its own environment, with the same network, attacks, settings
and number of threads. A round runs everything once, one after the other; the figures are medians of
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

import attack_runs
import measure
from norm_worker import Settings
from peer_environments import PeerUnavailableError, last_error, python_of

SAME_PIXEL = 1e-6
# Images and iterations of the runs that choose ART's batch size.
ART_BATCH_SIZES = (1, 100)
ART_TRIAL = {"steps": 20, "search_steps": 1, "art_initial_c": 1.0}


@dataclasses.dataclass(frozen=True)
class Peer:
    """One attack of a peer as the benchmark runs it.

    Attributes:
        name: its name in `norm_worker.py`.
        title: its name in the report.
        peer: whose environment it needs.
        reference: our attack of the same meaning.
        samples: name of the option with the number of attacks.
        speed: times as fast as it we want to be, at least.
        distance: our mean L2 over its, at most; None where the bound epsilon is the distance.
        same: whether it should find the same images.
    """

    name: str
    title: str
    peer: str
    reference: str
    samples: str
    speed: float
    distance: float | None = None
    same: bool = False


OURS = {
    "ddefense-cw": "**ddefense** `cw_l2`",
    "ddefense-cw-fixed": "**ddefense** `cw_l2`, one c",
    "ddefense-pgd": "**ddefense** `pgd_linf` from the image",
    "ddefense-pgd-random": "**ddefense** `pgd_linf`, random start",
    "ddefense-fgsm": "**ddefense** `fgsm`",
}
PEERS = (
    Peer("foolbox-cw", "Foolbox, C&W L2", "foolbox", "ddefense-cw", "samples", 1.5, 1.0),
    Peer("art-cw", "ART, C&W L2", "art", "ddefense-cw", "art_samples", 5.0, 1.0),
    Peer(
        "torchattacks-cw-fixed",
        "torchattacks, C&W L2, one c",
        "torchattacks",
        "ddefense-cw-fixed",
        "samples",
        1.5,
        1.0,
    ),
    *(
        Peer(
            f"foolbox-{name}", title, "foolbox", f"ddefense-{name}", "sign_samples", 1.0, None, True
        )
        for name, title in (
            ("pgd", "Foolbox, PGD from the image"),
            ("pgd-random", "Foolbox, PGD, the same random start"),
            ("fgsm", "Foolbox, FGSM"),
        )
    ),
)
BY_NAME = {peer.name: peer for peer in PEERS}
PEER_NAMES = tuple(dict.fromkeys(peer.peer for peer in PEERS))
TARGETED = ("ddefense-cw", "ddefense-cw-fixed")

Key = tuple[str, int]


def main() -> None:
    """Runs the benchmark."""
    options = _parse()
    measure.limit_threads(options.threads)
    sys.path.insert(0, str(attack_runs.REPOSITORY))
    environment = measure.machine()
    pythons, skipped = _environments(options)
    settings = _settings(options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepared = attack_runs.prepare(
            options, max(options.samples, options.sign_samples, options.art_samples), folder
        )
        attacks = _attack_list(prepared, settings, folder)
        trial = _art_trial(options, pythons, settings, skipped, folder)
        if trial:
            fastest = min(trial, key=lambda size: trial[size])
            settings = dataclasses.replace(settings, art_batch_size=fastest)
        rounds, made = _run_rounds(options, pythons, settings, skipped, folder)
    results = _judge(rounds, made, attacks)
    comparisons = _compare(results, made, attacks)
    report: dict[str, Any] = {
        "benchmark": "norm_peers",
        "environment": environment | {"load_average_at_the_end": measure.load_average()},
        "options": {name: str(getattr(options, name)) for name in _REPORTED},
        "settings": dataclasses.asdict(settings),
        "network_test_accuracy": attacks["accuracy"],
        "skipped": skipped,
        "art_cpu_seconds_per_image_iteration_by_batch_size": trial,
        "results": results,
        "comparisons": comparisons,
        "targets": _targets(comparisons),
    }
    print(_markdown(report, options))
    if options.output:
        measure.write_json(options.output, report)


_SAMPLES = ("samples", "sign_samples", "art_samples")
_COUNTS = (*_SAMPLES, "rounds", "art_rounds", "threads", "steps", "search_steps", "pgd_steps")
_REPORTED = ("dataset", *_COUNTS, "batch_size", "peers")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add, usual = parser.add_argument, Settings()
    attack_runs.add_options(add)
    add("--samples", type=int, default=100, help="images of C&W, one target each")
    add("--sign-samples", type=int, default=2000, help="images of PGD and FGSM")
    add("--art-samples", type=int, default=6, help="images of ART's C&W, minutes each")
    add("--rounds", type=int, default=3, help="alternating rounds")
    add("--art-rounds", type=int, default=1, help="the first so many of them with ART")
    add("--steps", type=int, default=usual.steps, help="most iterations of C&W at one c")
    add("--search-steps", type=int, default=usual.search_steps, help="values of c in C&W")
    add("--fixed-c", type=float, default=usual.fixed_c, help="c where there is no search")
    add("--epsilon", type=float, default=usual.epsilon, help="of PGD and FGSM")
    add("--step-size", type=float, default=usual.step_size, help="of PGD")
    add("--pgd-steps", type=int, default=usual.pgd_steps, help="of PGD")
    add("--peers", default=",".join(PEER_NAMES), help="comma-separated; empty: ours alone")
    options = parser.parse_args()
    options.peers = [name.strip() for name in options.peers.split(",") if name.strip()]
    unknown = sorted(set(options.peers) - set(PEER_NAMES))
    if unknown:
        parser.error(f"--peers: unknown {', '.join(unknown)}; known: {', '.join(PEER_NAMES)}")
    for name in _COUNTS:
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be >= 1")
    return options


def _settings(options: argparse.Namespace) -> Settings:
    names = ("steps", "search_steps", "fixed_c", "epsilon", "step_size", "pgd_steps")
    return Settings(**{name: getattr(options, name) for name in names})


def _environments(options: argparse.Namespace) -> tuple[dict[str, Path], dict[str, str]]:
    pythons: dict[str, Path] = {}
    skipped: dict[str, str] = {}
    for peer in options.peers:
        try:
            pythons[peer] = python_of(peer, options.environments)
        except PeerUnavailableError as error:
            skipped[peer] = f"cannot be installed: {error}"
            print(f"Skipping {peer}: {skipped[peer]}", file=sys.stderr, flush=True)
    return pythons, skipped


def _attack_list(prepared: dict[str, Any], settings: Settings, folder: Path) -> dict[str, Any]:
    """Writes what every run reads: the network up to its logits and the attack list.

    `prepared` has each image with its nine wrong classes, shuffled; the class that comes first is a
    random one. The network is right on all images, so that its prediction is the label.
    """
    import numpy as np

    from ddefense import networks

    prepared["logits"].save(folder / "logits.keras")
    flat = prepared["images"].reshape(len(prepared["images"]), -1)
    rows = np.sort(np.unique(flat, axis=0, return_index=True)[1])
    images, targets = prepared["images"][rows], prepared["targets"][rows]
    noise = np.random.default_rng(0).uniform(-1, 1, images.shape).astype(np.float32)
    attacks = {
        "images": images,
        "labels": networks.predict(prepared["logits"], images).argmax(1),
        "targets": targets,
        "start": np.clip(images + settings.epsilon * noise, 0, 1).astype(np.float32),
    }
    np.savez(folder / "norm_attacks.npz", allow_pickle=False, **attacks)
    return attacks | {"logits": prepared["logits"], "accuracy": prepared["accuracy"]}


def _art_trial(
    options: argparse.Namespace,
    pythons: dict[str, Path],
    settings: Settings,
    skipped: dict[str, str],
    folder: Path,
) -> dict[int, float]:
    """Returns ART's CPU seconds for one iteration of one image by batch size."""
    trial: dict[int, float] = {}
    if "art" not in pythons:
        return trial
    for size in ART_BATCH_SIZES:
        short = dataclasses.replace(settings, **ART_TRIAL, art_batch_size=size)
        count = max(size, options.art_samples)
        if count > options.samples:
            continue
        try:
            figures, _ = _run(options, ("art-cw", count), short, folder, pythons["art"])
        except PeerUnavailableError as error:
            skipped["art"] = f"cannot be run: {error}"
            return {}
        trial[size] = figures["cpu_seconds"] / (count * short.steps)
    return trial


def _run(
    options: argparse.Namespace,
    key: Key,
    settings: Settings,
    folder: Path,
    python: Path | None,
) -> tuple[dict[str, Any], Any]:
    """Runs one attack once, in a process of its own.

    Args:
        options: of the command line.
        key: name of the attack in `norm_worker.py` and number of attacks.
        settings: of the attack.
        folder: holds network and attack list.
        python: of the peer's environment; None: ours.

    Returns:
        Its figures and the adversarial images.

    Raises:
        PeerUnavailableError: it failed; the message says how.
    """
    import numpy as np

    name, count = key
    result = folder / f"{name}-result"
    command = [str(python or sys.executable), str(attack_runs.HERE / "norm_worker.py"), name]
    command += ["--setup", str(folder), "--result", str(result), "--count", str(count)]
    command += ["--settings", json.dumps(dataclasses.asdict(settings))]
    command += ["--threads", str(options.threads), "--batch-size", str(options.batch_size)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if python is None:
        environment["PYTHONPATH"] = str(attack_runs.REPOSITORY)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=options.timeout
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailableError(str(error)) from error
    if done.returncode < 0:
        raise PeerUnavailableError(f"it was killed by signal {-done.returncode}")
    if done.returncode:
        raise PeerUnavailableError(last_error(done.stderr))
    figures: dict[str, Any] = json.loads(result.with_suffix(".json").read_text())
    with np.load(result.with_suffix(".npz")) as stored:
        return figures, stored["images"]


def _run_rounds(
    options: argparse.Namespace,
    pythons: dict[str, Path],
    settings: Settings,
    skipped: dict[str, str],
    folder: Path,
) -> tuple[dict[Key, list[dict[str, Any]]], dict[Key, Any]]:
    """Returns the figures of every round and the adversarial images of the first."""
    rounds: dict[Key, list[dict[str, Any]]] = {}
    made: dict[Key, Any] = {}
    for index in range(options.rounds):
        for name, count in _plan(options, pythons, with_art=index < options.art_rounds):
            peer = BY_NAME.get(name)
            if peer and (peer.title in skipped or peer.peer in skipped):
                continue
            print(f"round {index + 1}: {name}, {count} attacks", file=sys.stderr, flush=True)
            try:
                python = pythons[peer.peer] if peer else None
                figures, adversarial = _run(options, (name, count), settings, folder, python)
            except PeerUnavailableError as error:
                if peer is None:
                    raise SystemExit(f"{name} failed: {error}") from error
                skipped[peer.title] = f"cannot be run: {error}"
                print(f"Skipping {name}: {error}", file=sys.stderr, flush=True)
                continue
            rounds.setdefault((name, count), []).append(figures)
            made.setdefault((name, count), adversarial)
    return rounds, made


def _plan(options: argparse.Namespace, pythons: dict[str, Path], *, with_art: bool) -> list[Key]:
    """Returns the runs of one round in order: ours before the peers that have as many attacks."""
    plan: dict[Key, None] = {}
    for peer in PEERS:
        if peer.peer == "art" and not (with_art and "art" in pythons):
            continue
        count = getattr(options, peer.samples)
        plan[peer.reference, count] = None
        if peer.peer in pythons:
            plan[peer.name, count] = None
    return list(plan)


def _judge(
    rounds: dict[Key, list[dict[str, Any]]], made: dict[Key, Any], attacks: dict[str, Any]
) -> list[dict[str, Any]]:
    """Judges every run's images with our network and takes the medians of the rounds."""
    import numpy as np

    results = []
    for (name, count), figures in rounds.items():
        adversarial = made[name, count]
        success, distance = _verdict(name, adversarial, attacks)
        change = np.abs(adversarial - attacks["images"][:count])
        results.append(
            {
                "attack": name,
                "attacks": count,
                "cpu_seconds_per_attack": _per_attack(figures, "cpu_seconds"),
                "wall_seconds_per_attack": _per_attack(figures, "wall_seconds"),
                "rss_before_mib": measure.median(f["rss_before_mib"] for f in figures),
                "peak_rss_mib": measure.median(f["peak_rss_mib"] for f in figures),
                "success_rate": float(success.mean()),
                "mean_l2_of_successes": _mean(distance[success]),
                "largest_change": float(change.max()),
                "in_bounds": bool((adversarial >= 0.0).all() and (adversarial <= 1.0).all()),
                "rounds": figures,
            }
        )
    return results


def _verdict(name: str, adversarial: Any, attacks: dict[str, Any]) -> tuple[Any, Any]:
    """Returns which images our network takes for what was wanted, and their L2 distances."""
    import numpy as np

    from ddefense import networks

    count = len(adversarial)
    predicted = networks.predict(attacks["logits"], adversarial).argmax(1)
    ours = BY_NAME[name].reference if name in BY_NAME else name
    if ours in TARGETED:
        success = predicted == attacks["targets"][:count]
    else:
        success = predicted != attacks["labels"][:count]
    change = adversarial.astype(np.float64) - attacks["images"][:count]
    return success, np.sqrt((change**2).reshape(count, -1).sum(1))


def _mean(values: Any) -> float | None:
    return float(values.mean()) if len(values) else None


def _per_attack(figures: list[dict[str, Any]], field: str) -> float | None:
    return measure.median(f[field] / f["attacks"] for f in figures)


def _compare(
    results: list[dict[str, Any]], made: dict[Key, Any], attacks: dict[str, Any]
) -> list[dict[str, Any]]:
    """Compares every peer with our attack on the same images."""
    import numpy as np

    rows = {(row["attack"], row["attacks"]): row for row in results}
    comparisons = []
    for (name, count), row in rows.items():
        if name in OURS:
            continue
        reference = BY_NAME[name].reference
        ours = rows[reference, count]
        success, distance = _verdict(name, made[name, count], attacks)
        our_success, our_distance = _verdict(reference, made[reference, count], attacks)
        both = success & our_success
        by_round = [
            theirs["cpu_seconds"] / mine["cpu_seconds"]
            for theirs, mine in zip(row["rounds"], ours["rounds"], strict=False)
        ]
        same = np.abs(made[name, count] - made[reference, count]) <= SAME_PIXEL
        comparisons.append(
            {
                "peer": name,
                "ours": reference,
                "attacks": count,
                "cpu_time_over_ours": statistics.median(by_round),
                "cpu_time_over_ours_rounds": by_round,
                "both_succeed": int(both.sum()),
                "mean_l2_where_both_succeed": {
                    "ours": _mean(our_distance[both]),
                    "peer": _mean(distance[both]),
                },
                "ours_nearer": float((our_distance < distance)[both].mean()) if any(both) else None,
                "success_rate": {"ours": ours["success_rate"], "peer": row["success_rate"]},
                "mean_l2_of_successes": {
                    "ours": ours["mean_l2_of_successes"],
                    "peer": row["mean_l2_of_successes"],
                },
                "same_success": float((success == our_success).mean()),
                "same_pixels": float(same.mean()),
                "images_with_all_pixels_same": float(same.reshape(count, -1).all(1).mean()),
            }
        )
    return comparisons


def _targets(comparisons: list[dict[str, Any]]) -> list[dict[str, Any]]:
    targets = []
    for compared in comparisons:
        peer, count = BY_NAME[compared["peer"]], compared["attacks"]

        def judge(what: str, value: float, comparison: str, limit: float, rounds: Any = ()) -> None:
            title = f"{peer.title}, {count} attacks: {what}"  # noqa: B023  used at once
            targets.append(measure.target(title, value, comparison, limit, rounds))

        ratios = compared["cpu_time_over_ours_rounds"]
        judge("CPU time / ours", compared["cpu_time_over_ours"], ">=", peer.speed, ratios)
        if peer.same:
            judge("same pixels, share", compared["same_pixels"], ">=", 0.999)
            judge("same success, share", compared["same_success"], ">=", 1.0)
            continue
        success = compared["success_rate"]
        judge("our success - its", success["ours"] - success["peer"], ">=", 0.0)
        means, both = compared["mean_l2_where_both_succeed"], compared["both_succeed"]
        if peer.distance is not None and both:
            what = f"our mean L2 / its, the {both} where both succeed"
            judge(what, means["ours"] / means["peer"], "<=", peer.distance)
    return targets


def _markdown(report: dict[str, Any], options: argparse.Namespace) -> str:
    titles = OURS | {peer.name: peer.title for peer in PEERS}
    rows = []
    for row in report["results"]:
        seconds = [f["cpu_seconds"] / f["attacks"] for f in row["rounds"]]
        rows.append(
            [
                titles[row["attack"]],
                str(row["attacks"]),
                f"{row['cpu_seconds_per_attack']:.4f} ({min(seconds):.4f}-{max(seconds):.4f})",
                f"{row['wall_seconds_per_attack']:.4f}",
                measure.number(row["rss_before_mib"], 0),
                measure.number(row["peak_rss_mib"], 0),
                f"{100 * row['success_rate']:.1f} %" + ("" if row["in_bounds"] else " (bounds!)"),
                measure.number(row["mean_l2_of_successes"]),
                f"{row['largest_change']:.3f}",
            ]
        )
    headings = ["run", "attacks", "CPU s / attack (range)", "wall s / attack", "MiB before"]
    headings += ["peak MiB", "success", "mean L2 of successes", "largest change"]
    settings = report["settings"]
    lines = [
        "# C&W L2, PGD and FGSM and their peers",
        "",
        measure.machine_line(report["environment"], options.threads) + ". "
        f"{attack_runs.TITLES[options.dataset]}, "
        f"test accuracy {100 * report['network_test_accuracy']:.1f} %, medians of "
        f"{options.rounds} rounds ({options.art_rounds} with ART). C&W: at most "
        f"{settings['steps']} iterations, {settings['search_steps']} values of c from "
        f"{settings['initial_c']:g}, or c = {settings['fixed_c']:g} alone. PGD: "
        f"{settings['pgd_steps']} steps of {settings['step_size']:g} within "
        f"{settings['epsilon']:g}.",
        "",
        measure.markdown_table(headings, rows),
        "",
        measure.targets_table(report["targets"]),
    ]
    for size, seconds in report["art_cpu_seconds_per_image_iteration_by_batch_size"].items():
        lines += ["", f"ART, batch {size}: {1000 * seconds:.1f} ms an image and iteration."]
    for name, reason in report["skipped"].items():
        lines += ["", f"Skipped: {name}, {reason}"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
