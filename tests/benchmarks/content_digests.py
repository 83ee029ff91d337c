"""What it costs that stages know the content of what they were made from.

Runs `bin/reproduce` in this process and adds up the time in which files are hashed and records of
stages are looked at: of a whole run, and of the same command on the finished run. See README.md
beside this file.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import measure

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PRESETS = ("smoke", "quick")
SHARE = 0.02


def main() -> None:
    """Runs the benchmark."""
    options = _parse()
    sys.path.insert(0, str(REPOSITORY))
    report = measure.begin("content_digests", measure.KERAS, {"presets": options.presets})
    report["runs"] = [run for preset in options.presets for run in _runs(preset)]
    report["targets"] = [
        measure.target(
            f"{run['what']}: time in digests / time of the run", run["share"], "<", SHARE, []
        )
        for run in report["runs"]
        if run["whole"]
    ]
    measure.finish(report, [_table(report["runs"])], options.output)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--presets", nargs="+", choices=PRESETS, default=list(PRESETS), help="of the digits run")
    add("--output", type=pathlib.Path, help="JSON file for everything that was measured")
    return parser.parse_args()


def _runs(preset: str) -> list[dict[str, Any]]:
    """One run, and the same command once more."""
    from ddefense import config as config_lib
    from ddefense.experiments import reproduce

    config = config_lib.preset(preset, "digits")
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        job = reproduce.Job(folder / "exported")
        for what in ("whole", "finished"):
            clock = Clock()
            with clock:
                figures = measure.round_figures(lambda: reproduce.run(config, folder / "run", job))
            found.append(
                {
                    "what": f"{preset}, {what} run",
                    "whole": what == "whole",
                    **figures,
                    "digest_seconds": clock.seconds,
                    "calls": clock.calls,
                    "share": clock.seconds / figures["wall_seconds"],
                }
            )
        stages = folder / "run" / "stages"
        size = sum(path.stat().st_size for path in stages.rglob("*") if path.is_file())
        found[0] |= {"stages": len(list(stages.iterdir())), "bytes": size}
    return found


class Clock:
    """Adds up the seconds in everything that hashes stages or looks at their records."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0
        self._inside = False

    def __enter__(self) -> None:
        from ddefense import files
        from ddefense.pipeline import units

        owners = [
            (files, "folder_sha256"),
            (units, "_check_content"),
            (units.Place, "content"),
            (units.Unit, "record"),
            (units.Unit, "earlier"),
            (units.Unit, "made_from"),
        ]
        self._before = [(owner, name, getattr(owner, name)) for owner, name in owners]
        for owner, name, function in self._before:
            setattr(owner, name, self._timed(function))

    def __exit__(self, *_: object) -> None:
        for owner, name, function in self._before:
            setattr(owner, name, function)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:  # it is counted already
                return function(*args, **kwargs)
            self._inside, start = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start
                self.calls += 1
                self._inside = False

        return call


def _table(runs: list[dict[str, Any]]) -> str:
    return measure.markdown_table(
        ["run", "stages", "MB", "wall s", "digests s", "share %"],
        [
            [
                run["what"],
                str(run.get("stages", "-")),
                measure.number(run["bytes"] / 1e6, 1) if "bytes" in run else "-",
                measure.number(run["wall_seconds"], 1),
                measure.number(run["digest_seconds"], 3),
                measure.number(100 * run["share"], 2),
            ]
            for run in runs
        ],
    )


if __name__ == "__main__":
    main()
