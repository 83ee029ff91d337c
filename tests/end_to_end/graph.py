"""A few stages that make text of text, on the Ray cluster of `cluster.py`.

    python tests/end_to_end/graph.py <folder> [<URL of a storage>]

Appends the name of every stage and part that is made to `<folder>/made`, and prints what the last
stage holds.
"""

import dataclasses
import functools
import pathlib
import sys

from absl import logging

from ddefense.pipeline import on_ray
from ddefense.pipeline.stages import SCRATCH, Part, Stages, place_of
from ddefense.pipeline.storage import Storage


def make(log, name, inputs, directory):
    with log.open("a") as file:
        file.write(f"{name}\n")
    texts = [(artefact.directory / "text").read_text() for artefact in inputs]
    # What `count` leaves says nothing of its input.
    text = "one" if name == "count" else f"{name}({','.join(texts)})"
    (directory / "text").write_text(text)


def join(parts, directory):
    texts = [(directory / SCRATCH / part.name / "text").read_text() for part in parts]
    (directory / "text").write_text("+".join(texts))


def main():
    folder, storage = pathlib.Path(sys.argv[1]), (*map(Storage, sys.argv[2:]), None)[0]
    logging.set_verbosity(logging.INFO)
    logging.set_stderrthreshold(logging.INFO)
    work, log = folder / "run", folder / "made"
    with on_ray.connected(on_ray.Cluster(), int, work, storage) as executor:
        place = dataclasses.replace(place_of(work), storage=storage)
        stages = Stages(work, executor=executor, place=place)

        def run(name, *inputs):
            return stages.run(name, {}, list(inputs), functools.partial(make, log, name, inputs))

        train = run("train")
        label = run("label", train)
        distil, page = run("distil", label), run("page", run("count", train))
        parts = [
            Part(name, 1, "part", functools.partial(make, log, name, [distil]))
            for name in ("p0", "p1")
        ]
        attack = stages.run("attack", {}, [distil], functools.partial(join, parts), parts=parts)
        page.directory  # noqa: B018  # waits for it
        sys.stdout.write((attack.directory / "text").read_text() + "\n")


if __name__ == "__main__":
    main()
