"""Configuration files for `tensorflow_model_server`, to be written beside the exported models."""

import hashlib
import pathlib
import posixpath
import re
from collections.abc import Sequence
from typing import Any

from ddefense import files
from ddefense.records import RunError
from ddefense.serving import runtime
from ddefense.serving.versions import models

MODELS, BATCHING, MONITORING = "models.config", "batching.config", "monitoring.config"
"""File names."""

DEFAULT_BASE = "/models"
"""Where the documented docker command mounts the folder of the models."""

_URI = re.compile(r"[a-z][a-z0-9+.-]*://.")
# The first line, by which a file is known that nobody has edited: with the digest of the others.
_MARK = "# Written by bin/export --write_server_config. SHA-256 of the lines below: "

# Text, not messages: the Python package of TF Serving's API lacks the classes of the latter two.
_MODELS_COMMENT = """\
#
#   tensorflow_model_server --port=8500 --rest_api_port=8501 \\
#     --model_config_file={base}/models.config --model_config_file_poll_wait_seconds=60
#
# Every exported model, by the name under which clients ask for it. Of each the server serves the
# newest version, and a newer one as soon as it appears; for new models it reads this file again
# every 60 seconds. To stay at version 1 of a model, add to it:
#   model_version_policy {{ specific {{ versions: 1 }} }}

"""
_BATCHING_TEXT = """\
#
#   tensorflow_model_server --enable_batching --batching_parameters_file={base}/batching.config ...
#
# How the server merges requests into batches. It does so only with --enable_batching. Before you
# turn that on: a model refuses a batch as a whole, so one request with a bad image fails every
# request that was merged with it. Use it where you trust the clients, and if it measures faster.

# Most images in a batch, and in a request.
max_batch_size {{ value: 64 }}

# How long a request waits for others, in microseconds: the price in latency at low load. On CPUs
# try 0 to 2000, on GPUs 1000 to 10000.
batch_timeout_micros {{ value: 1000 }}

# Batches computed at once: the number of CPU cores.
num_batch_threads {{ value: 4 }}

# Batches that may wait. A server with more to do answers UNAVAILABLE, and clients try again later.
max_enqueued_batches {{ value: 100 }}
"""
_MONITORING_TEXT = """\
#
#   tensorflow_model_server --rest_api_port=8501 \\
#     --monitoring_config_file={base}/monitoring.config ...
#
# Metrics for Prometheus, on the REST port. Look at :tensorflow:serving:request_count, which counts
# requests by model_name and status, and at :tensorflow:serving:request_latency, in microseconds.
# The path is the server's own default.

prometheus_config {{
  enable: true
  path: "/monitoring/prometheus/metrics"
}}
"""


def check_base(base: str) -> None:
    """Refuses a base under which no server finds a model.

    Args:
        base: folder of the models as the server sees it.

    Raises:
        ValueError: if it is neither an absolute path nor a URI.
    """
    if "\n" in base or not (base.startswith("/") or _URI.match(base)):
        raise ValueError(
            "expected the absolute path (or the URI, such as gs://bucket/models) under which the "
            f"server sees the folder of the models; received {base!r}."
        )


def write(folder: pathlib.Path, base: str = DEFAULT_BASE) -> dict[str, bool]:
    """Writes `models.config`, `batching.config` and `monitoring.config` for a folder of models.

    Files are written anew as long as they are as they were written here. An edited one is kept: the
    values for batching are there to be changed. But `models.config` has to name every model.

    Args:
        folder: of the models, `<folder>/<name>/<version>/`.
        base: the same folder as the server sees it: an absolute path or a URI.

    Returns:
        By file name, whether it is as written here; false if it was edited, and kept.

    Raises:
        ValueError: if the base is a relative path.
        RunError: if there is no model in the folder, or an edited `models.config` lacks one.
    """
    check_base(base)
    names = [model.name for model in models(folder)]
    if not names:
        raise RunError(
            f"Expected exported models in {folder}, such as {folder / 'my_model' / '1'}; found "
            "none. Export one: bin/export --network=<file>.keras"
        )
    path = folder / MODELS
    named = _named_in(path) if _edited(path) else set(names)
    if lacking := [name for name in names if name not in named]:
        raise RunError(
            f"Expected {path}, which was edited and is kept, to name every model; it lacks "
            f"{', '.join(lacking)}. Add to its model_config_list what follows, or move it away to "
            f"have a new one written.\n{_list_text(lacking, base)}"
        )
    texts = {
        MODELS: _MODELS_COMMENT.format(base=base) + _models_text(names, base),
        BATCHING: _BATCHING_TEXT.format(base=base),
        MONITORING: _MONITORING_TEXT.format(base=base),
    }
    kept = [name for name in texts if _edited(folder / name)]
    for name, text in texts.items():
        if name not in kept:
            content = text.encode()
            with files.atomic_file(folder / name) as temporary:
                temporary.write_bytes(_first_line(content) + b"\n" + content)
    return {name: name not in kept for name in texts}


def _models_text(names: Sequence[str], base: str) -> str:
    """The text form of a `ModelServerConfig`, as the server reads it."""
    config, text_format = _messages()
    served = config.ModelServerConfig(model_config_list=_list(names, base))
    text: str = text_format.MessageToString(served, as_utf8=True)
    if text_format.Parse(text, config.ModelServerConfig()) != served:
        raise RunError(f"Expected {MODELS} to be read back as it was meant; it is:\n{text}")
    return text


def _list_text(names: Sequence[str], base: str) -> str:
    """What stands within `model_config_list`."""
    _, text_format = _messages()
    text: str = text_format.MessageToString(_list(names, base), as_utf8=True)
    return text


def _list(names: Sequence[str], base: str) -> Any:
    config, _ = _messages()
    found = config.ModelConfigList()
    for name in names:
        found.config.add(
            name=name, base_path=posixpath.join(base, name), model_platform="tensorflow"
        )
    return found


def _named_in(path: pathlib.Path) -> set[str]:
    config, text_format = _messages()
    try:
        found = text_format.Parse(path.read_text(), config.ModelServerConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise RunError(
            f"Expected {path} to hold a ModelServerConfig in text form, as the server wants it; "
            f"{error}. Correct it, or move it away to have a new one written."
        ) from error
    return {model.name for model in found.model_config_list.config}


def _messages() -> tuple[Any, Any]:
    """TF Serving's configuration messages, and what reads and writes their text form."""
    runtime.import_messages()
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    return model_server_config_pb2, text_format


def _edited(path: pathlib.Path) -> bool:
    """Whether there is a file that is not as it was written here."""
    if not path.exists():
        return False
    first, _, rest = path.read_bytes().partition(b"\n")
    return first != _first_line(rest)


def _first_line(rest: bytes) -> bytes:
    return f"{_MARK}{hashlib.sha256(rest).hexdigest()}".encode()
