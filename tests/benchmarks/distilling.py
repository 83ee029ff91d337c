"""What it costs to distill through the library, and on images that do not fit into memory.

Two questions. Does `ddefense.distill` on arrays take longer than the stages of the paper's command
for the same two trainings? And for a million streamed images: how much memory, and how fast are
their soft labels written beside the network's bare inference? Each is measured in a process of its
own. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import measure

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PARTS = ("library", "stream")
# The library's seconds over the command's; written soft labels over bare inference; MiB.
OVERHEAD, WRITTEN, MEMORY = 1.02, 0.8, 2048
TEMPERATURE = 20.0
INFERRED = 16_384


def main() -> None:
    """Runs the benchmark, or one part of it in a process of its own."""
    options = _parse()
    if options.only:
        sys.path.insert(0, str(REPOSITORY))
        print(json.dumps({"library": _library, "stream": _stream}[options.only](options)))
        return
    asked = {k: v for k, v in vars(options).items() if k not in ("only", "output")}
    report = measure.begin("distilling", measure.KERAS, asked)
    for part in options.parts:
        report[part] = _in_a_process(part)
    report["targets"] = _targets(report)
    measure.finish(report, [], options.output)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    add("--rounds", type=int, default=5, help="alternating rounds of the library and the command")
    add("--epochs", type=int, default=10, help="of each training in a round")
    add("--images", type=int, default=1_000_000, help="streamed images of 32x32x3 bytes")
    add("--network", default="cifar10", help="network that the streamed images go through")
    add("--output", type=pathlib.Path, help="JSON file for everything measured")
    add("--only", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.rounds, options.epochs, options.images) < 1:
        parser.error("rounds, epochs and images must be >= 1")
    return options


def _in_a_process(part: str) -> Any:
    command = [sys.executable, __file__, *sys.argv[1:], "--only", part]
    found = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def _library(options: argparse.Namespace) -> dict[str, Any]:
    """Alternates both ways to the same networks, which have to be the same bit for bit."""
    import numpy as np
    import tensorflow as tf

    import ddefense
    from ddefense import config, datasets, networks
    from ddefense.experiments.pair import NetworkStages, load_network
    from ddefense.pipeline.stages import Stages

    tf.config.experimental.enable_op_determinism()
    digits = datasets.load("digits")
    settings = config.preset("paper", "digits", temperatures=(TEMPERATURE,), epochs=options.epochs)

    def build() -> Any:
        return networks.build(digits.network, temperature=1.0, seed=settings.seed)

    def command(folder: str) -> list[Any]:
        makers = NetworkStages(Stages(pathlib.Path(folder)), settings, digits)
        # At another temperature than 1 the undistilled network has no part in it.
        trained = makers.distilled(TEMPERATURE, None, None)
        return load_network(trained.network).get_weights()

    def library(folder: str) -> list[Any]:
        pair = ddefense.distill(
            build,
            (digits.train.images, digits.train.labels),
            temperature=TEMPERATURE,
            epochs=options.epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            momentum=settings.momentum,
            seed=settings.seed,
            workdir=folder,
        )
        return pair.distilled.get_weights()

    def once(work: Any) -> tuple[list[Any], dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder:
            found: list[Any] = []
            figures = measure.round_figures(lambda: found.extend(work(folder)))
        return found, figures

    rounds = []
    for number in range(options.rounds + 1):
        one, of_command = once(command)
        other, of_library = once(library)
        same = all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
        if not same:
            raise SystemExit("The library and the command made different networks.")
        if number:  # the first one warms up
            rounds.append({"command": of_command, "library": of_library})
    return {"images": len(digits.train), "same_weights": True, "rounds": rounds}


def _stream(options: argparse.Namespace) -> dict[str, Any]:
    """Streams images that a few numbers determine: surveys them, and writes their soft labels."""
    import tensorflow as tf

    from ddefense import distillation, networks
    from ddefense.datasets.sources import open_data
    from ddefense.experiments import pair
    from ddefense.pipeline.stages import Stages

    tf.config.experimental.enable_op_determinism()
    batch = 1024

    def draw(start: Any) -> Any:
        shape = [tf.minimum(batch, options.images - start), 32, 32, 3]
        images = tf.random.stateless_uniform(shape, [0, start], 0, 256, tf.int32)
        return tf.cast(images, tf.uint8), tf.math.floormod(start + tf.range(shape[0]), 10)

    drawn = tf.data.Dataset.range(0, options.images, batch, output_type=tf.int32).map(
        draw, num_parallel_calls=tf.data.AUTOTUNE
    )
    network = networks.build(
        options.network, temperature=TEMPERATURE, seed=0, image_shape=(32, 32, 3)
    )
    inference = _inference(network)
    found: list[Any] = []
    survey = measure.round_figures(
        lambda: found.append(open_data(drawn, value_range=(0, 255), test_share=0).train)
    )
    (examples,) = found

    def soften(images: Any, first: int) -> Any:
        del first
        return distillation.soft_labels(network, images, TEMPERATURE)

    with tempfile.TemporaryDirectory() as folder:
        stages = Stages(pathlib.Path(folder))
        written = measure.round_figures(
            lambda: found.append(pair.of_images(stages, "soft_labels", {}, [], examples, soften))
        )
        size = sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*.npy"))
        rows, windows = pair.labels_of(found[1], examples, 10), -(-len(examples) // examples.window)
        read = measure.round_figures(lambda: [rows(number) for number in range(windows)])
    return {
        "images": len(examples),
        "window": examples.window,
        "inference": [figures | {"images": INFERRED} for figures in inference],
        "survey": survey,
        "written": written,
        "read": read,
        "soft_label_bytes": size,
        "peak_rss_mib": measure.peak_resident_mib(),
    }


def _inference(network: Any) -> list[dict[str, Any]]:
    """Times bare predictions of images in memory."""
    import numpy as np

    from ddefense import networks

    few = np.random.default_rng(0).integers(0, 256, (INFERRED, 32, 32, 3)).astype(np.float32)
    networks.predict(network, few[:512])
    return [measure.round_figures(lambda: networks.predict(network, few)) for _ in range(3)]


def _targets(report: dict[str, Any]) -> list[dict[str, Any]]:
    targets = []
    if "library" in report:
        for clock in ("cpu_seconds", "wall_seconds"):
            ratios = [
                r["library"][clock] / r["command"][clock] for r in report["library"]["rounds"]
            ]
            judged = OVERHEAD if clock == "cpu_seconds" else None
            what = f"ddefense.distill / the command's stages, {clock.replace('_', ' ')}"
            targets.append(
                measure.target(what, measure.median(ratios) or 0.0, "<=", judged, ratios)
            )
    if "stream" in report:
        found = report["stream"]
        images, written = found["images"], found["written"]
        rates = [
            (images / written["wall_seconds"]) / (one["images"] / one["wall_seconds"])
            for one in found["inference"]
        ]
        what = f"soft labels of {images} streamed images written / inference, images a second"
        targets.append(measure.target(what, measure.median(rates) or 0.0, ">=", WRITTEN, rates))
        what = f"peak memory of the whole process on {images} streamed images, MiB"
        targets.append(measure.target(what, found["peak_rss_mib"], "<", MEMORY, []))
    return targets


if __name__ == "__main__":
    main()
