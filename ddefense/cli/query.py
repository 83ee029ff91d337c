"""Sends images to a served model and prints what it answers.

Usage: bin/query --model=<name> --images=<file>,... [flags]
"""

import dataclasses
import json
import math
import pathlib
import signal
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import flags

from ddefense import datasets, interruption
from ddefense.cli import program, query_flags
from ddefense.escaping import escape, escape_lines, write_safely
from ddefense.files import odd_kind
from ddefense.maths import ranges
from ddefense.serving import client
from ddefense.settings import ConfigError

_PORTS = {"grpc": 8500, "rest": 8501}


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the flags ask for.

    Attributes:
        images: files; empty where a dataset is asked for.
        dataset: a dataset whose first test images are sent, or None.
        server: host:port; None where a SavedModel answers.
        saved_model: directory of a model that answers without a server, or None.
        model: its name on the server.
        signature: that is asked.
    """

    images: tuple[pathlib.Path, ...]
    dataset: str | None
    server: str | None
    saved_model: pathlib.Path | None
    model: str
    signature: str


@dataclasses.dataclass(frozen=True)
class Sent:
    """What is sent.

    Attributes:
        names: one per image.
        images: as the signature takes them.
        truths: the true classes, where they are known.
        class_names: of the classes, where they are known.
    """

    names: tuple[str, ...]
    images: npt.NDArray[Any]
    truths: tuple[int, ...] | None = None
    class_names: tuple[str, ...] | None = None


_SHOWN = (
    *("images", "dataset", "samples", "model", "version", "server", "protocol", "json"),
    *("saved_model", "signature", "timeout", "top", "data_dir"),
)
"""Flags that most people need."""


def run() -> None:
    """Entry point of `bin/query` and `ddefense-query`."""
    program.run_once("bin/query", query_flags.define, _configure, _query, shown=_SHOWN)


def _configure() -> Asked:
    asked = flags.FLAGS
    if bool(asked.images) == bool(asked.dataset):
        received = "both" if asked.images else "neither"
        raise ConfigError(
            "images",
            f"expected either --images=<PNG or JPEG files> or --dataset; received {received}.",
        )
    for path in asked.images or ():
        if not pathlib.Path(path).is_file():
            kind = odd_kind(pathlib.Path(path)) or "no file"
            raise ConfigError("images", f"expected PNG or JPEG files; received {path!r}, {kind}.")
    if not (math.isfinite(asked.timeout) and asked.timeout > 0):
        raise ConfigError(
            "timeout", f"expected a finite number of seconds > 0; received {asked.timeout!r}."
        )
    server, saved_model = _place()
    signature = asked.signature or ("serving_labels" if asked.images else "serving_default")
    if (client.SIGNATURES[signature].dtype == "object") != bool(asked.images):
        fitting = [
            name
            for name, known in client.SIGNATURES.items()
            if (known.dtype == "object") == bool(asked.images)
        ]
        source = "--images" if asked.images else "--dataset"
        raise ConfigError(
            "signature",
            f"expected one that takes what {source} gives, {' or '.join(fitting)}; "
            f"received {signature!r}.",
        )
    images = tuple(map(pathlib.Path, asked.images or ()))
    return Asked(images, asked.dataset, server, saved_model, asked.model or "", signature)


def _place() -> tuple[str | None, pathlib.Path | None]:
    """The server, or the SavedModel that answers instead."""
    asked = flags.FLAGS
    if asked.saved_model:
        for name in ("server", "model"):
            if asked[name].value is not None:
                raise ConfigError(
                    "saved_model",
                    f"expected without --{name}, which is about a server; received both.",
                )
        directory = pathlib.Path(asked.saved_model)
        if not directory.is_dir():
            raise ConfigError(
                "saved_model",
                f"expected the directory of an exported model; received "
                f"{asked.saved_model!r}, which is none.",
            )
        return None, directory
    if not asked.model:
        raise ConfigError(
            "model",
            "expected the name of a model on the server, such as digits_distilled_t100, or "
            "--saved_model=<directory>; received none.",
        )
    server = asked.server or f"localhost:{_PORTS[asked.protocol]}"
    host, _, port = server.rpartition(":")
    if not host or "/" in server or not (port.isdecimal() and 0 < int(port) < 2**16):
        raise ConfigError(
            "server",
            f"expected host:port, such as localhost:{_PORTS[asked.protocol]}; received {server!r}.",
        )
    return server, None


def _query(asked: Asked) -> None:
    interruption.leave_at_once(signal.SIGINT, signal.SIGTERM)
    # First: messages are imported without TensorFlow, which a dataset may import.
    sent = _dataset(asked.dataset, asked.signature) if asked.dataset else _files(asked.images)
    answer = _ask_all(asked, sent)
    text = _as_json(asked, sent, answer) if flags.FLAGS.json else _as_table(asked, sent, answer)
    write_safely(escape_lines(text) + "\n", sys.stdout)


def _files(paths: tuple[pathlib.Path, ...]) -> Sent:
    contents = np.empty(len(paths), object)
    contents[:] = [path.read_bytes() for path in paths]
    return Sent(tuple(map(str, paths)), contents)


def _dataset(name: str, signature: str) -> Sent:
    if name != "digits":
        program.start_tensorflow()
    folder = flags.FLAGS.data_dir
    dataset = datasets.load(name, data_dir=pathlib.Path(folder) if folder else None)
    test = dataset.test
    count = min(flags.FLAGS.samples, len(test))
    images = ranges.to_unit(test.images[:count], dataset.value_range)
    if client.SIGNATURES[signature].dtype == "uint8":
        images = np.rint(images * 255)
    return Sent(
        names=tuple(f"{name} {i}" for i in range(count)),
        images=images.astype(client.SIGNATURES[signature].dtype),
        truths=tuple(test.labels[:count].tolist()),
        class_names=dataset.class_names,
    )


def _ask_all(asked: Asked, sent: Sent) -> client.Answer:
    try:
        return _ask(asked, sent.images)
    except client.RefusedError:
        refused = _refused(asked, sent)
        if len(refused) in (0, len(sent.names)):  # then it may not be about the images
            raise
        message = f"{', '.join(refused)}: {next(iter(refused.values()))}"
        raise client.RefusedError(message) from None


def _refused(asked: Asked, sent: Sent) -> dict[str, str]:
    """Messages by image, of those that are refused: one bad image has its whole batch refused."""
    refused = {}
    ends = math.inf if asked.server is None else time.monotonic() + flags.FLAGS.timeout
    for i, name in enumerate(sent.names):
        if time.monotonic() > ends:
            break
        try:
            _ask(asked, sent.images[i : i + 1])
        except client.RefusedError as error:
            refused[name] = str(error)
    return refused


def _ask(asked: Asked, images: npt.NDArray[Any]) -> client.Answer:
    given = flags.FLAGS
    question = client.Question(asked.model, asked.signature, images, given.version)
    if asked.saved_model is not None:
        directory = asked.saved_model
        with program.quiet_stderr():
            return interruption.within(None, lambda: client.ask_saved_model(directory, question))
    ask = {"grpc": client.ask_grpc, "rest": client.ask_rest}[given.protocol]
    return ask(asked.server or "", question, timeout=given.timeout)


def _scores(asked: Asked, answer: client.Answer) -> tuple[str, npt.NDArray[np.float32]]:
    """What the classes are ranked by, in the singular, and its values."""
    name = client.SIGNATURES[asked.signature].outputs[0]
    return {"probabilities": "probability", "logits": "logit"}[name], answer.outputs[name]


def _classes(asked: Asked, answer: client.Answer) -> npt.NDArray[np.int64]:
    """The class of every image: the model's own word, where its signature has it.

    It knows the logits, of which different ones may have equal probabilities.
    """
    if "classes" in answer.outputs:
        return answer.outputs["classes"]
    return _scores(asked, answer)[1].argmax(axis=1)


def _class_names(sent: Sent, scores: npt.NDArray[np.float32]) -> tuple[str, ...]:
    """The names of a dataset's classes, if the model has as many; else their indices."""
    if sent.class_names is not None and len(sent.class_names) == scores.shape[1]:
        return sent.class_names
    return tuple(map(str, range(scores.shape[1])))


def _as_table(asked: Asked, sent: Sent, answer: client.Answer) -> str:
    kind, scores = _scores(asked, answer)
    names = _class_names(sent, scores)
    labels = answer.outputs.get("labels")
    head = ["image", *([] if sent.truths is None else ["true class"])]
    # A server tells the label of the most probable class only.
    head += ["class", kind, "next"] if labels is None else ["label", kind, "next, by index"]
    rows = [head]
    for i, (row, leading) in enumerate(zip(scores, _classes(asked, answer), strict=True)):
        ranked = np.argsort(-row, kind="stable")
        order = [leading, *ranked[ranked != leading]][: flags.FLAGS.top]
        truth = [] if sent.truths is None else [_name(sent.truths[i], sent.class_names)]
        first = names[order[0]] if labels is None else str(labels[i])
        following = ", ".join(f"{names[k]} {row[k]:.4f}" for k in order[1:])
        rows.append([sent.names[i], *truth, first, f"{row[order[0]]:.4f}", following])
    rows = [[escape(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _name(index: int, names: tuple[str, ...] | None) -> str:
    return str(index) if names is None else names[index]


def _as_json(asked: Asked, sent: Sent, answer: client.Answer) -> str:
    kind, scores = _scores(asked, answer)
    plural = client.SIGNATURES[asked.signature].outputs[0]
    labels = answer.outputs.get("labels")
    found = []
    for i, (row, leading) in enumerate(zip(scores, _classes(asked, answer), strict=True)):
        known: dict[str, Any] = {"image": sent.names[i]}
        if sent.truths is not None:
            known["true_class"] = sent.truths[i]
        known["class"] = int(leading)
        if labels is not None:
            known["label"] = str(labels[i])
        # The shortest decimals that are these float32 values.
        values = [float(str(value)) for value in row]
        found.append(known | {kind: values[leading], plural: values})
    place = {"saved_model": str(asked.saved_model)} if asked.saved_model else {"model": asked.model}
    about = {**place, "version": answer.version, "signature": asked.signature}
    return json.dumps(about | {"answers": found}, ensure_ascii=False, indent=1)


if __name__ == "__main__":
    run()
