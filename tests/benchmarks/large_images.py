"""What a small image file of many pixels takes of a server's memory.

Serves a model with the tests' own server, which runs TensorFlow's C++ runtime as TF Serving does,
sends flat PNG files to `serving_labels`, and reads the peak of the server's resident memory. Linux
only. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import measure

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SERVING = REPOSITORY / "tests" / "serving"
MODEL = REPOSITORY / "exported_models" / "digits_distilled_t100"
NAME = "digits_distilled_t100"
# Height and width, and how many in one request.
REQUESTS = ((28, 1), (2048, 1), (2048, 8), (2049, 1), (8192, 1), (8192, 4))
MOST_MIB = 200


def main() -> None:
    """Runs the benchmark."""
    options = _parse()
    report = measure.begin(
        "large_images", ("ddefense", "tensorflow", "tensorflow-cpu", "grpcio"), {}
    )
    report["requests"] = _served(options.model)
    report["targets"] = [
        measure.target(
            "MiB that the worst request adds to the server",
            max(each["added_mib"] for each in report["requests"]),
            "<",
            MOST_MIB,
            [],
        )
    ]
    measure.finish(report, [_table(report["requests"])], options.output)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=pathlib.Path, default=MODEL, help="folder of versions of a SavedModel")
    add("--output", type=pathlib.Path, help="JSON file for everything that was measured")
    return parser.parse_args()


def _served(model: pathlib.Path) -> list[dict[str, Any]]:
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-P", str(SERVING / "server.py"), NAME, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                said.seek(0)
                raise SystemExit(said.read())
            return [
                _sent(json.loads(line)["grpc"], process.pid, side, count)
                for side, count in REQUESTS
            ]
        finally:
            process.kill()
            process.wait()


def _sent(port: int, pid: int, side: int, count: int) -> dict[str, Any]:
    sys.path.insert(0, str(SERVING))
    import grpc
    import load
    import numpy as np

    picture = load.flat_png(side)
    request = load.request("serving_labels", image_bytes=np.array([picture] * count, object))
    before = load.memory(pid)
    pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak starts anew
    begun = time.perf_counter()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = load.prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            stub.Predict(request, timeout=load.TIMEOUT)
            outcome = "answered"
        except grpc.RpcError as error:
            outcome = error.code().name
    return {
        "side": side,
        "images": count,
        "file_bytes": len(picture),
        "outcome": outcome,
        "seconds": time.perf_counter() - begun,
        "added_mib": max(0.0, _peak_mib(pid) - before / 2**20),
    }


def _peak_mib(pid: int) -> float:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _table(requests: list[dict[str, Any]]) -> str:
    return measure.markdown_table(
        ("images", "pixels of each", "bytes of each", "outcome", "MiB added", "s"),
        [
            (
                str(each["images"]),
                f"{each['side']}x{each['side']}",
                str(each["file_bytes"]),
                each["outcome"],
                measure.number(each["added_mib"]),
                measure.number(each["seconds"]),
            )
            for each in requests
        ],
    )


if __name__ == "__main__":
    main()
