#!/usr/bin/env python3
"""Loads an exported network in the C++ runtimes of older TensorFlow releases.

TF Serving 2.x runs the same code as TensorFlow 2.x. This script installs older TensorFlow wheels in
environments of their own, answers the same images with each in every signature, sends each a few
bad images, and compares with the TensorFlow at hand.

    python tests/benchmarks/serving_compatibility.py --saved-model exported_models/NAME/1
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import peer_environments

HERE = Path(__file__).resolve().parent
RUNTIME = HERE.parents[1] / "ddefense" / "serving" / "runtime.py"
RELEASES = ("2.16.2", "2.18.1")

# Runs in the old environment, which has TensorFlow and NumPy, and nothing of ours.
READER = """
import importlib.util, json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
path, directory, source, answers = sys.argv[1:]
spec = importlib.util.spec_from_file_location("runtime", path)
runtime = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runtime)
model = runtime.SavedModel(directory)
found, refusals = {}, {}
with np.load(source) as arrays:
    for key in arrays.files:
        signature, name, kind = key.split("/")
        array = arrays[key]
        array = array.astype(object) if array.dtype.kind == "S" else array
        try:
            answer = model.run(signature, {name: array})
        except runtime.StatusError as error:
            refusals[key] = [error.code, error.message.splitlines()[0]]
            continue
        for output, values in answer.items():
            found[f"{signature}/{output}/{kind}"] = (
                values.astype("S") if values.dtype == object else values
            )
np.savez(answers, **found)
print(json.dumps(refusals))
"""


def inputs(model: Path) -> dict[str, np.ndarray]:
    """Good and bad images for every signature, by `<signature>/<input>/<kind>`."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(model))
    shape = loaded.signatures["serving_default"].structured_input_signature[1]["images"].shape[1:]
    pixels = np.random.default_rng(0).integers(256, size=(8, *shape)).astype(np.uint8)
    floats = pixels.astype(np.float32) / np.float32(255)
    found = {
        "serving_default/images/good": floats,
        "serving_default/images/out_of_range": floats * 2,
        "serving_default/images/nan": floats * np.nan,
        "serving_default/images/shape": floats[:, 1:],
        "serving_default/images/none": floats[:0],
        "serving_uint8/images/good": pixels,
        "serving_uint8/images/shape": pixels[:, :, 1:],
    }
    for signature in {"serving_encoded", "serving_labels"} & set(loaded.signatures):
        large = np.kron(pixels, np.ones((1, 3, 2, 1))).astype(np.uint8)
        for kind, images, encode in (
            ("png", pixels, tf.io.encode_png),
            ("resized", large, tf.io.encode_png),
            ("jpeg", pixels, tf.io.encode_jpeg),
        ):
            files = np.array([encode(image).numpy() for image in images])
            found[f"{signature}/image_bytes/{kind}"] = files
        found[f"{signature}/image_bytes/no_image"] = np.array([b"no image"])
    return found


def ask(python: str | Path, model: Path, source: Path) -> tuple[dict[str, np.ndarray], dict]:
    """What the runtime beside a Python answers and refuses."""
    with tempfile.TemporaryDirectory() as scratch:
        answers = Path(scratch, "answers.npz")
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        command = [str(python), "-P", "-c", READER, *map(str, (RUNTIME, model, source, answers))]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise peer_environments.PeerUnavailableError(peer_environments.last_error(done.stderr))
        with np.load(answers) as arrays:
            return dict(arrays), json.loads(done.stdout)


def compare(ours: tuple, theirs: tuple) -> dict:
    """Largest difference of a number, and whether all else is the same."""
    numbers = [key for key, array in ours[0].items() if array.dtype == np.float32]
    return {
        "signatures": sorted({key.split("/")[0] for key in theirs[0]}),
        "largest_difference": max(
            float(np.abs(ours[0][key] - theirs[0][key]).max()) for key in numbers
        ),
        "same_classes_and_labels": all(
            np.array_equal(ours[0][key], theirs[0][key]) for key in ours[0] if key not in numbers
        ),
        "refused": len(theirs[1]),
        "same_refusals": ours[1] == theirs[1],
    }


def main() -> None:
    """Compares and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saved-model", type=Path, required=True, help="a version directory")
    parser.add_argument("--releases", default=",".join(RELEASES), help="of TensorFlow")
    parser.add_argument("--environments", type=Path, default=HERE.parents[1] / ".benchmarks")
    parser.add_argument("--output", type=Path, help="write everything measured to this JSON file")
    arguments = parser.parse_args()
    if not (arguments.saved_model / "saved_model.pb").is_file():
        parser.error(f"--saved-model: expected a version directory, got {arguments.saved_model}")
    if sys.version_info[:2] > (3, 12):
        parser.error("TensorFlow 2.16 has wheels up to Python 3.12; use one of those")
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "inputs.npz")
        np.savez(source, **inputs(arguments.saved_model))
        ours = ask(sys.executable, arguments.saved_model, source)
        rows = {}
        for release in arguments.releases.split(","):
            try:
                python = peer_environments.python_with_tensorflow(release, arguments.environments)
                rows[release] = compare(ours, ask(python, arguments.saved_model, source))
            except peer_environments.PeerUnavailableError as error:
                rows[release] = {"skipped": str(error)}
    print("| TensorFlow | signatures | largest difference | same classes, labels | same refusals |")
    print("|---|--:|--:|---|---|")
    for release, row in rows.items():
        if "skipped" in row:
            print(f"| {release} | skipped: {row['skipped']} | | | |")
            continue
        print(
            f"| {release} | {len(row['signatures'])} | {row['largest_difference']:.1e} | "
            f"{row['same_classes_and_labels']} | {row['same_refusals']} of {row['refused']} |"
        )
    if arguments.output:
        found = {"python": platform.python_version(), "releases": rows}
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
