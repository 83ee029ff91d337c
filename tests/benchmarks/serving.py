"""Latency, throughput, load time and size of exported networks, distilled beside undistilled.

SavedModels are run by TensorFlow's C++ runtime, as TF Serving runs them. What is compared takes
turns call by call in one process; a round is made of fresh processes; the figures are medians of
the rounds. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
from peer_environments import PeerUnavailableError, last_error

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
NETWORKS = REPOSITORY / "docs" / "results" / "mnist" / "networks"
PARTS = ("latency", "signatures", "variants", "throughput", "load")
UNDISTILLED, AGAIN, DISTILLED = "undistilled", "undistilled, loaded twice", "distilled"
SHIPPED, FROZEN, XLA, FROZEN_XLA = "shipped", "frozen", "XLA", "frozen, XLA"
KERAS, SAVED_MODEL = ".keras", "SavedModel"
DEFAULT = "serving_default"
# Signature and what its images are stored as.
SIGNATURES = {
    DEFAULT: "float",
    "serving_uint8": "uint8",
    "serving_encoded": "png",
    "serving_labels": "png",
}
SLOW_KINDS = ("only 0 and 1", "subnormal")
POOL = 512
THROUGHPUT_BATCH = 32
SAME_LATENCY, AT_LEAST_AS_FAST = 0.03, 1.0
# Without the first, XLA leaves the CPU out; the session's own settings turn it on.
XLA_FLAGS = "--tf_xla_cpu_global_jit"
XLA_DUMP = "before_optimizations.txt"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")

Contest = dict[str, Any]


def main() -> None:
    """Runs the benchmark."""
    options = _parse()
    environment = measure.machine()
    environment["thread_variables"] = {
        n: os.environ[n] for n in THREAD_VARIABLES if n in os.environ
    }
    with tempfile.TemporaryDirectory() as scratch:
        try:
            runner = Runner(options, Path(scratch))
            rounds = [runner.round(index) for index in range(options.rounds)]
        except PeerUnavailableError as error:
            raise SystemExit(f"A process of the benchmark failed: {error}") from error
    report: dict[str, Any] = {
        "benchmark": "serving",
        "environment": environment | {"load_average_at_the_end": measure.load_average()},
        "versions": measure.versions(
            ("ddefense", "tensorflow", "tensorflow-cpu", "keras", "numpy", "protobuf")
        ),
        "options": {k: _plain(v) for k, v in vars(options).items() if k in _REPORTED},
        "images": runner.kind,
        "sizes": {name: model["bytes"] for name, model in runner.models.items()},
        "checks": [found["checks"] for found in rounds],
        "skipped": runner.skipped,
        "results": _results(rounds),
        "load": _load_results(rounds),
    }
    report["ratios"] = _ratios(runner.plan(), report["results"])
    report["targets"] = _targets(report["ratios"])
    print(_markdown(report, options))
    if options.output:
        measure.write_json(options.output, report)


_REPORTED = ("undistilled", "distilled", "dataset", "parts", "batches", "calls", "rounds")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--undistilled", type=Path, default=NETWORKS / "baseline.keras", help="a .keras file")
    add("--distilled", type=Path, default=NETWORKS / "distilled_t100.keras", help="a .keras file")
    add("--dataset", default="mnist", help="test images to send; random ones where there are none")
    add("--data-dir", "--data_dir", type=Path, help="TFDS data (default: TFDS_DATA_DIR)")
    add("--parts", default=",".join(PARTS), help="comma-separated")
    add("--batches", default="1,32,256", help="images of a call, comma-separated")
    add("--calls", default="600,200,40", help="timed calls of each in a round, for each batch")
    add("--rounds", type=int, default=5)
    add("--timeout", type=float, default=600, help="seconds one process may take")
    add("--output", type=Path, help="JSON file for everything that was measured")
    options = parser.parse_args()
    options.parts = [part.strip() for part in options.parts.split(",") if part.strip()]
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown or not options.parts:
        parser.error(f"--parts: unknown {', '.join(unknown)}; known: {', '.join(PARTS)}")
    for name in ("batches", "calls"):
        try:
            values = [int(text) for text in getattr(options, name).split(",")]
        except ValueError:
            values = [0]
        if min(values) < 1 or (name == "batches" and len(set(values)) != len(values)):
            parser.error(f"--{name}: expected different integers >= 1, separated by commas")
        setattr(options, name, values)
    if len(options.batches) != len(options.calls):
        parser.error("--calls must have one number for each of --batches")
    if options.rounds < 1:
        parser.error("--rounds must be >= 1")
    for name in ("undistilled", "distilled"):
        path = getattr(options, name)
        if path.suffix != ".keras" or not path.is_file():
            parser.error(f"--{name}: expected a .keras file; there is none at {path}")
    return options


def _plain(value: Any) -> Any:
    """An option as it goes into the report: paths in the checkout start there."""
    if not isinstance(value, Path):
        return value
    root = Path(__file__).resolve().parents[2]
    return str(value.relative_to(root) if value.is_relative_to(root) else value.name)


class Runner:
    """What the rounds share: the exported models, the images, and what is left out and why.

    Args:
        options: of the command line.
        folder: for everything that is written.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options, self._folder = options, folder
        print("exporting", file=sys.stderr, flush=True)
        spec = {
            "networks": {name: str(getattr(options, name)) for name in (UNDISTILLED, DISTILLED)},
            "folder": str(folder / "models"),
            "dataset": options.dataset,
            "data_dir": options.data_dir and str(options.data_dir),
            "pool": max(POOL, *options.batches),
        }
        (folder / "models").mkdir()
        prepared = self._run("prepare", spec)
        self.models: dict[str, Any] = prepared["models"]
        self.kinds: list[str] = prepared["kinds"]
        self.skipped: dict[str, str] = prepared["skipped"]
        self.encoded = prepared["shape"][-1] in (1, 3)
        if not self.encoded:
            self.skipped["serving_encoded, serving_labels"] = "the images are neither grey nor RGB"

    @property
    def kind(self) -> str:
        """The kind of images that is sent where only one is."""
        return self.kinds[0]

    def round(self, index: int) -> dict[str, Any]:
        """Runs every part once; `index` changes the order of loading and of the calls."""
        print(f"round {index + 1}", file=sys.stderr, flush=True)
        found: dict[str, Any] = {"contests": {}, "checks": {}, "load": {}}
        plan, parts = self.plan(), self._options.parts
        plain = [contest for contest in plan if contest["part"] in ("latency", "signatures")]
        if plain:
            self._add(found, plain, index, None)
        variants = [contest for contest in plan if contest["part"] == "variants"]
        if variants:
            try:
                self._add(found, variants, index, SHIPPED)
            except PeerUnavailableError as error:
                if XLA in self.skipped:
                    raise
                self.skipped[XLA] = f"cannot be run: {error}"
                print(f"Skipping {XLA}: {error}", file=sys.stderr, flush=True)
                variants = [c for c in self.plan() if c["part"] == "variants"]
                self._add(found, variants, index, SHIPPED)
        if "throughput" in parts:
            (contest,) = (c for c in plan if c["part"] == "throughput")
            spec = {
                "network": str(self._options.distilled),
                "model": self.models[DISTILLED]["path"],
                **self._images(),
                **{name: contest[name] for name in ("batch", "calls")},
                "shift": index,
            }
            throughput = self._run("throughput", spec)
            found["contests"][contest["name"]] = throughput["contestants"]
            found["checks"][SAVED_MODEL] = {"max_difference": throughput["max_difference"]}
        if "load" in parts:
            found["load"] = self._load(index)
        return found

    def plan(self) -> list[Contest]:
        """The contests: what is called in turn, and which ratios are of interest.

        A ratio is (label, label, whether the aim is 1, more than 1 or nothing).
        """
        options = self._options
        sizes = list(zip(options.batches, options.calls, strict=True))
        contests = []
        if "latency" in options.parts:
            contests += [
                self._latency(kind, batch, calls) for kind in self.kinds for batch, calls in sizes
            ]
            contests.append(self._slow_values(*sizes[len(sizes) // 2]))
        if "signatures" in options.parts:
            contests += [self._signatures(batch, calls) for batch, calls in sizes]
        if "variants" in options.parts:
            contests += [self._variants(batch, calls) for batch, calls in sizes]
        if "throughput" in options.parts:
            calls = dict(sizes).get(THROUGHPUT_BATCH, statistics.median_high(options.calls))
            contests.append(
                {
                    "part": "throughput",
                    "name": f"throughput, batch {THROUGHPUT_BATCH}",
                    "batch": THROUGHPUT_BATCH,
                    "calls": calls,
                    "contestants": [],
                    "ratios": [(SAVED_MODEL, KERAS, "more")],
                }
            )
        return contests

    def _latency(self, kind: str, batch: int, calls: int) -> Contest:
        """Distilled beside undistilled, which is there twice to see what chance does."""
        return {
            "part": "latency",
            "name": f"{kind} images, batch {batch}",
            "batch": batch,
            "calls": calls,
            "contestants": [
                _contestant(name, name, DEFAULT, f"float/{kind}")
                for name in (UNDISTILLED, AGAIN, DISTILLED)
            ],
            "ratios": [(DISTILLED, UNDISTILLED, "same"), (AGAIN, UNDISTILLED, None)],
        }

    def _slow_values(self, batch: int, calls: int) -> Contest:
        """Both networks on images that may be slow to compute with."""
        kinds = [*self.kinds, *SLOW_KINDS]
        return {
            "part": "latency",
            "name": f"kinds of images, batch {batch}",
            "batch": batch,
            "calls": calls,
            "contestants": [
                _contestant(f"{name}, {kind}", name, DEFAULT, f"float/{kind}")
                for kind in kinds
                for name in (UNDISTILLED, DISTILLED)
            ],
            "ratios": [
                *(
                    (f"{name}, {kind}", f"{name}, random", None)
                    for name in (UNDISTILLED, DISTILLED)
                    for kind in kinds
                    if kind != "random"
                ),
                *((f"{DISTILLED}, {kind}", f"{UNDISTILLED}, {kind}", None) for kind in SLOW_KINDS),
            ],
        }

    def _signatures(self, batch: int, calls: int) -> Contest:
        stored = {k: v for k, v in SIGNATURES.items() if v != "png" or self.encoded}
        return {
            "part": "signatures",
            "name": f"signatures, batch {batch}",
            "batch": batch,
            "calls": calls,
            "contestants": [
                _contestant(signature, DISTILLED, signature, f"{how}/{self.kind}")
                for signature, how in stored.items()
            ],
            "ratios": [(name, DEFAULT, None) for name in stored if name != DEFAULT],
        }

    def _variants(self, batch: int, calls: int) -> Contest:
        present = [SHIPPED, FROZEN, XLA, FROZEN_XLA]
        for missing in (FROZEN, XLA):
            if missing in self.skipped:
                present = [name for name in present if missing not in name]
        return {
            "part": "variants",
            "name": f"variants, batch {batch}",
            "batch": batch,
            "calls": calls,
            "contestants": [
                _contestant(name, name, DEFAULT, f"float/{self.kind}") for name in present
            ],
            "ratios": [(name, SHIPPED, None) for name in present if name != SHIPPED],
        }

    def _add(
        self, found: dict[str, Any], contests: list[Contest], index: int, reference: str | None
    ) -> None:
        """Runs contests of SavedModels in one process and adds what it found."""
        names = list(dict.fromkeys(c["model"] for x in contests for c in x["contestants"]))
        # Which model is loaded first could matter.
        names = names[index % len(names) :] + names[: index % len(names)]
        if index % 2:
            names.reverse()
        spec = {
            "models": [
                {"name": n, "path": self.models[_stored(n)]["path"], "xla": XLA in n} for n in names
            ],
            **self._images(),
            "contests": contests,
            "reference": reference,
            "shift": index,
        }
        if not any(XLA in name for name in names):
            answer = self._run("latency", spec)
        else:
            with tempfile.TemporaryDirectory() as dump:
                answer = self._run("latency", spec, _xla_environment(dump))
                compiled = len(list(Path(dump).glob(f"*.{XLA_DUMP}")))
            if not compiled:
                raise PeerUnavailableError("this TensorFlow compiled nothing with XLA")
            answer["checks"][XLA]["clusters_compiled"] = compiled  # of both variants
        found["contests"] |= answer["contests"]
        found["checks"] |= answer["checks"]

    def _load(self, index: int) -> dict[str, Any]:
        runs = [(name, warm_up) for name in self.models for warm_up in (False, True)]
        # A frozen variant is written without warm-up requests.
        runs.remove((FROZEN, True)) if FROZEN in self.models else None
        found = {}
        for name, warm_up in runs[:: -1 if index % 2 else 1]:
            spec = {"model": self.models[name]["path"], "warm_up": warm_up, **self._images()}
            label = f"{name}, warm-up replayed" if warm_up else name
            found[label] = self._run("load", spec)
        return found

    def _images(self) -> dict[str, str]:
        return {"images": str(self._folder / "models" / "images.npz"), "kind": self.kind}

    def _run(
        self, task: str, spec: dict[str, Any], more: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Runs a task in a process of its own.

        Raises:
            PeerUnavailableError: it failed; the message says how.
        """
        source, result = self._folder / "spec.json", self._folder / "result.json"
        source.write_text(json.dumps(spec))
        command = [sys.executable, str(HERE / "serving_worker.py"), task, str(source), str(result)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        environment.setdefault("CUDA_VISIBLE_DEVICES", "-1")
        try:
            done = subprocess.run(
                command,
                env=environment | (more or {}),
                capture_output=True,
                text=True,
                timeout=self._options.timeout,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PeerUnavailableError(str(error)) from error
        if done.returncode < 0:
            raise PeerUnavailableError(f"it was killed by signal {-done.returncode}")
        if done.returncode:
            raise PeerUnavailableError(last_error(done.stderr))
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def _contestant(label: str, model: str, signature: str, images: str) -> dict[str, str]:
    return {"label": label, "model": model, "signature": signature, "images": images}


def _stored(name: str) -> str:
    """The name of the version directory of a contestant's model."""
    if name in (UNDISTILLED, AGAIN):
        return UNDISTILLED
    return FROZEN if FROZEN in name else DISTILLED


def _xla_environment(dump: str) -> dict[str, str]:
    """What makes XLA available to sessions on the CPU, and leaves a trace of what it compiled."""
    wanted = {
        "TF_XLA_FLAGS": XLA_FLAGS,
        "XLA_FLAGS": f"--xla_dump_to={dump} --xla_dump_hlo_as_text",
    }
    return {name: f"{os.environ.get(name, '')} {flags}".strip() for name, flags in wanted.items()}


def _results(rounds: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every contestant's medians over the rounds, and its figures in each."""
    results: dict[str, dict[str, Any]] = {}
    for found in rounds:
        for contest, contestants in found["contests"].items():
            for label, figures in contestants.items():
                row = results.setdefault(contest, {}).setdefault(label, {"rounds": []})
                row["rounds"].append(figures)
    for contestants in results.values():
        for row in contestants.values():
            figures = row["rounds"]
            for part in ("call_ms", "session_ms"):
                if figures[0][part] is not None:
                    row[part] = {
                        name: measure.median(f[part][name] for f in figures)
                        for name in ("median", "p90", "p99")
                    }
            for name in ("cpu_ms", "first_call_ms"):
                row[name] = measure.median(f[name] for f in figures)
    return results


def _load_results(rounds: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {}
    for label in rounds[0]["load"]:
        figures = [one["load"][label] for one in rounds]
        medians = {name: measure.median(f[name] for f in figures) for name in figures[0]}
        found[label] = medians | {"rounds": figures}
    return found


def _ratios(plan: list[Contest], results: dict[str, Any]) -> list[dict[str, Any]]:
    """The ratios of the plan: of medians of `Session::Run`, or of images a second."""
    ratios = []
    for contest in plan:
        rows = results[contest["name"]]
        for one, other, aim in contest["ratios"]:
            if one not in rows:  # left out in a later round
                continue
            pairs = list(zip(rows[one]["rounds"], rows[other]["rounds"], strict=True))
            if contest["part"] == "throughput":
                by_round = [b["wall_seconds"] / a["wall_seconds"] for a, b in pairs]
                whole = by_round
            else:
                by_round = [_middle(a, "session_ms") / _middle(b, "session_ms") for a, b in pairs]
                whole = [_middle(a, "call_ms") / _middle(b, "call_ms") for a, b in pairs]
            ratios.append(
                {
                    "part": contest["part"],
                    "contest": contest["name"],
                    "what": f"{one} / {other}",
                    "ratio": statistics.median(by_round),
                    "whole_call_ratio": statistics.median(whole),
                    "aim": aim,
                    "rounds": by_round,
                }
            )
    return ratios


def _middle(figures: dict[str, Any], part: str) -> float:
    return float(figures[part]["median"])


def _targets(ratios: list[dict[str, Any]]) -> list[dict[str, Any]]:
    targets = []
    for found in ratios:
        if found["aim"] == "same":
            what = f"latency of {found['what']}, {found['contest']}: distance from 1"
            distances = [abs(ratio - 1) for ratio in found["rounds"]]
            distance = abs(found["ratio"] - 1)
            targets.append(measure.target(what, distance, "<=", SAME_LATENCY, distances))
        elif found["aim"] == "more":
            what = f"images/s of {found['what']}, {found['contest']}"
            args = (what, found["ratio"], ">=", AT_LEAST_AS_FAST, found["rounds"])
            targets.append(measure.target(*args))
    return targets


def _markdown(report: dict[str, Any], options: argparse.Namespace) -> str:
    environment = report["environment"]
    calls = ", ".join(
        f"{calls} at batch {batch}"
        for batch, calls in zip(options.batches, options.calls, strict=True)
    )
    lines = [
        "# Serving",
        "",
        measure.machine_line(environment, environment["cores"]) + ". "
        f"TensorFlow's C++ runtime with its default threads, {report['images']} images where "
        f"nothing else is said, medians of {options.rounds} rounds of calls in turn: {calls}.",
        "",
    ]
    lines += _latency_tables(report)
    if "throughput" in options.parts:
        lines += _throughput_table(report)
    if "load" in options.parts:
        lines += _load_tables(report)
    lines += _checks(report)
    if report["targets"]:
        lines += ["## Targets", "", measure.targets_table(report["targets"])]
    lines += [f"\nSkipped: {name}, {reason}" for name, reason in report["skipped"].items()]
    return "\n".join(lines)


_TITLES = {
    "latency": "Latency: distilled beside undistilled",
    "signatures": "Latency: signatures",
    "variants": "Latency: variants of the distilled model",
}


def _latency_tables(report: dict[str, Any]) -> list[str]:
    parts: dict[str, list[str]] = {}
    for found in report["ratios"]:
        contests = parts.setdefault(found["part"], [])
        if found["contest"] not in contests:
            contests.append(found["contest"])
    lines = []
    for part, title in _TITLES.items():
        rows, ratios = [], []
        for contest in parts.get(part, []):
            for label, row in report["results"][contest].items():
                session, call = row["session_ms"], row["call_ms"]
                cells = [f"{session[name]:.3f}" for name in ("median", "p90", "p99")]
                cells += [f"{call['median']:.3f}", f"{row['cpu_ms']:.3f}"]
                # Elsewhere what a first call prepares depends on the calls before.
                cells += [f"{row['first_call_ms']:.0f}"] if part == "variants" else []
                rows.append([contest, label, *cells])
            ratios += [_ratio_row(f) for f in report["ratios"] if f["contest"] == contest]
        if rows:
            headings = ["images", "model", "run ms", "p90", "p99", "call ms", "CPU ms"]
            headings += ["first call ms"] if part == "variants" else []
            lines += [f"## {title}", "", measure.markdown_table(headings, rows), ""]
            headings = ["images", "ratio of run ms", "median", "range of rounds", "of call ms"]
            lines += [measure.markdown_table(headings, ratios), ""]
    return lines


def _ratio_row(found: dict[str, Any]) -> list[str]:
    rounds = found["rounds"]
    spread = f"{min(rounds):.3f}-{max(rounds):.3f}"
    whole = f"{found['whole_call_ratio']:.3f}"
    return [found["contest"], found["what"], f"{found['ratio']:.3f}", spread, whole]


def _throughput_table(report: dict[str, Any]) -> list[str]:
    (contest,) = (name for name in report["results"] if name.startswith("throughput"))
    rows = []
    for label, row in report["results"][contest].items():
        speeds = [THROUGHPUT_BATCH * f["calls"] / f["wall_seconds"] for f in row["rounds"]]
        spread = f"{min(speeds):.0f}-{max(speeds):.0f}"
        cells = [f"{statistics.median(speeds):.0f}", spread, f"{row['call_ms']['median']:.3f}"]
        rows.append([label, *cells, f"{row['cpu_ms']:.3f}"])
    headings = ["distilled network", "images/s", "range", "call ms", "CPU ms"]
    table = measure.markdown_table(headings, rows)
    return [f"## T{contest[1:]}, NumPy to NumPy", "", table, ""]


def _load_tables(report: dict[str, Any]) -> list[str]:
    rows = [
        [
            label,
            f"{row['load_seconds']:.3f}",
            f"{row['warm_up_seconds']:.3f} ({row['warm_up_requests']:.0f})",
            f"{row['first_answer_ms']:.1f}",
            f"{row['second_answer_ms']:.2f}",
            f"{row['ready_seconds']:.3f}",
            measure.number(row["rss_mib"], 0),
        ]
        for label, row in report["load"].items()
    ]
    headings = ["fresh process", "load s", "warm-up s (requests)", "first answer ms"]
    headings += ["second ms", "to the first answer s", "more MiB"]
    parts = ("saved_model.pb", "variables", "total")
    sizes = [
        [name, *(f"{size[part] / 1024:.0f}" for part in parts)]
        for name, size in report["sizes"].items()
    ]
    size_headings = ["on disk", *(f"{part} KiB" for part in parts)]
    return [
        "## Load time and size",
        "",
        measure.markdown_table(headings, rows),
        "",
        measure.markdown_table(size_headings, sizes),
        "",
    ]


def _checks(report: dict[str, Any]) -> list[str]:
    rows: dict[str, list[str]] = {}
    for checks in report["checks"]:
        for name, found in checks.items():
            refuses = {True: "yes", False: "**no**", None: "-"}[found.get("refuses_nan")]
            compiled = str(found.get("clusters_compiled", "-"))
            rows[name] = [name, f"{found['max_difference']:.1e}", refuses, compiled]
    if not rows:
        return []
    headings = ["model", "probabilities differ by", "refuses NaN", "clusters that XLA compiled"]
    return ["## Same answers", "", measure.markdown_table(headings, rows.values()), ""]


if __name__ == "__main__":
    main()
