"""A dataset as the record that results and model cards have of it."""

import numpy as np

from ddefense import records
from ddefense.datasets import Dataset


def dataset_record(dataset: Dataset) -> records.DatasetRecord:
    """The record of a dataset, with the range that its network's standardisation leads to."""
    return records.DatasetRecord(
        name=dataset.name,
        image_shape=dataset.image_shape,
        class_names=list(dataset.class_names),
        num_train=len(dataset.train),
        num_test=len(dataset.test),
        value_range=dataset.value_range,
        standardized_range=_standardized_range(dataset),
    )


def _standardized_range(dataset: Dataset) -> tuple[float, float] | None:
    statistics = dataset.feature_statistics()
    if statistics is None:
        return None
    mean, variance = statistics
    values = (dataset.test.images - mean) / np.sqrt(variance)
    return float(values.min()), float(values.max())
