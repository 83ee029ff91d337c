"""Image classification datasets as TFDS prepares them."""

import contextlib
import pathlib
from collections.abc import Iterator

import numpy as np
import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from google.protobuf import json_format

from ddefense import files
from ddefense.datasets.dataset import Dataset
from ddefense.datasets.examples import Split
from ddefense.datasets.streaming import ReadingError
from ddefense.records import RunError

_PROBE_SECONDS = 5.0


def load(name: str, *, network: str, data_dir: pathlib.Path | None) -> Dataset:
    """Loads the `train` and `test` splits of a TFDS dataset with `image` and `label` features.

    Args:
        name: TFDS name, also the dataset's.
        network: name of the network trained on it.
        data_dir: folder of prepared data; `TFDS_DATA_DIR` or TFDS's default if None.

    Returns:
        The dataset with pixels / 255 in [0, 1], in TFDS's own fixed order.

    Raises:
        RunError: if the data is not prepared and its host cannot be reached.
    """
    builder = prepare(name, data_dir)
    splits = {}
    for split in ("train", "test"):
        with reading(builder):
            arrays = tfds.as_numpy(
                builder.as_dataset(split=split, batch_size=-1, shuffle_files=False)
            )
        splits[split] = Split(
            arrays["image"].astype(np.float32) / np.float32(255.0),
            arrays["label"].astype(np.int64),
        )
    return Dataset(
        name=name,
        network=network,
        train=splits["train"],
        test=splits["test"],
        class_names=tuple(builder.info.features["label"].names),
    )


def prepare(name: str, data_dir: pathlib.Path | None) -> tfds.core.DatasetBuilder:
    """The builder of a TFDS dataset, downloaded and prepared if it was not.

    Args:
        name: TFDS name, with `/<configuration>` and `:<version>` where they matter.
        data_dir: folder of prepared data; `TFDS_DATA_DIR` or TFDS's default if None.

    Raises:
        RunError: if the data is not prepared and its host cannot be reached.
        ValueError: if TFDS has no such dataset.
    """
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except json_format.ParseError as error:
        where = data_dir or tfds.core.constants.DATA_DIR
        reason = f"dataset_info.json: {str(error).rpartition('JSON: ')[2]}"
        raise _damaged(name, pathlib.Path(where) / name.split(":")[0], reason) from error
    if not builder.is_prepared():
        _check_reachable(builder)
        logging.info("Downloading %s to %s", name, builder.data_dir)
        builder.download_and_prepare()
    return builder


@contextlib.contextmanager
def reading(builder: tfds.core.DatasetBuilder) -> Iterator[None]:
    """Tells of prepared data that cannot be read.

    Raises:
        RunError: naming the dataset, its folder and the remedy.
    """
    try:
        yield
    except (tf.errors.OpError, OSError, ReadingError) as error:
        raise _damaged(builder.name, pathlib.Path(builder.data_dir), error) from error


def _damaged(name: str, folder: pathlib.Path, reason: Exception | str) -> RunError:
    if isinstance(reason, ReadingError) and reason.__cause__ is not None:
        return _damaged(name, folder, str(reason.__cause__))
    told = reason if isinstance(reason, str) else files.reason(reason)
    return RunError(
        f"Dataset {name} in {folder} is damaged: {told.rstrip('. ')}. Remove that folder and "
        "prepare it again, or copy it again from a machine that has it."
    )


def _check_reachable(builder: tfds.core.DatasetBuilder) -> None:
    """Fails at once where TFDS would retry a dead network for minutes."""
    # TFDS knows the real addresses only for datasets with recorded checksums; others just try.
    for url in list(builder.url_infos)[:1]:
        try:
            answer = requests.head(url, timeout=_PROBE_SECONDS, allow_redirects=True)
            if answer.status_code != requests.codes.method_not_allowed:
                answer.raise_for_status()
        except requests.RequestException as error:
            raise RunError(
                f"Dataset {builder.name} is not prepared in {builder.data_dir} and "
                f"{url.split('/')[2]} cannot be reached. On a connected machine run "
                f"`python -m tensorflow_datasets.scripts.cli.main build {builder.name}`, copy its "
                "folder here, and pass --data_dir (or set TFDS_DATA_DIR) to the parent folder."
            ) from error
