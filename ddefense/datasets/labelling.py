"""Labels as users have them: class indices, or a row of probabilities for every image."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ddefense.datasets.examples import Examples, Split
from ddefense.settings import ConfigError

_SUM_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Labels:
    """Labels that were checked.

    Attributes:
        classes: int64 class indices, shape [N]; of rows, their largest entry.
        rows: float32 probabilities, shape [N, classes]; None if the classes are all there is to
            know.
        num_classes: of one-hot or soft rows, their length; None for class indices.
    """

    classes: npt.NDArray[np.int64]
    rows: npt.NDArray[np.float32] | None = None
    num_classes: int | None = None

    def __len__(self) -> int:
        """Number of labels."""
        return len(self.classes)

    def count_classes(self) -> int:
        """How many classes they tell of: the length of the rows, or the largest index and one."""
        return self.num_classes or int(self.classes.max()) + 1


@dataclasses.dataclass(frozen=True)
class SoftSplit(Split):
    """Images in memory whose labels are probabilities.

    Attributes:
        label_rows: float32 probabilities, shape [N, classes]; `labels` is the largest of each.
    """

    label_rows: npt.NDArray[np.float32]


def label_rows(examples: Examples) -> npt.NDArray[np.float32] | None:
    """The probabilities that a user gave as labels, shape [N, classes]; None for hard labels."""
    return getattr(examples, "label_rows", None)


def read(
    labels: Any, *, num_classes: int | None = None, first: int = 0, name: str = "labels"
) -> Labels:
    """Checks labels and brings them to one form.

    Args:
        labels: class indices, shape [N] or [N, 1], as integers or whole floats; or rows of
            probabilities that sum to 1 within 0.001, shape [N, classes >= 2]. One-hot rows say no
            more than their classes, so they are not kept.
        num_classes: of the network, if it is known.
        first: number of the first image, for messages.
        name: of the argument, for messages.

    Returns:
        The labels.

    Raises:
        ConfigError: if they are no such labels, naming the first wrong one.
    """
    try:
        array = np.asarray(labels)
    except ValueError as error:  # lists of different lengths
        raise ConfigError(name, f"expected one label per image; received {error}.") from error
    if array.dtype.kind not in "biuf":
        raise ConfigError(
            name,
            f"expected class indices, or rows of probabilities; received {array.dtype} "
            "values. Number the classes 0, 1, 2... and pass their names as class_names.",
        )
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1:
        return Labels(_indices(array, num_classes, first, name))
    if array.ndim == 2:
        return _rows(array, num_classes, first, name)
    raise ConfigError(
        name,
        f"expected shape [N] or [N, 1] with class indices, or [N, classes] with "
        f"probabilities; received {list(array.shape)}.",
    )


def joined(parts: Sequence[Labels], name: str = "labels") -> Labels:
    """Labels that were read in parts, in one piece.

    Raises:
        ConfigError: if some are class indices and others rows, or rows of different lengths.
    """
    lengths = {part.num_classes for part in parts}
    if len(lengths) > 1:
        raise ConfigError(
            name,
            f"expected all of one form; received {_described(parts[0])} and later "
            f"{_described(next(p for p in parts if p.num_classes != parts[0].num_classes))}.",
        )
    classes = np.concatenate([part.classes for part in parts])
    num_classes = parts[0].num_classes
    if num_classes is None or all(part.rows is None for part in parts):
        return Labels(classes, None, num_classes)
    one_hot = np.eye(num_classes, dtype=np.float32)
    rows = [one_hot[part.classes] if part.rows is None else part.rows for part in parts]
    return Labels(classes, np.concatenate(rows), num_classes)


def check_classes(classes: npt.NDArray[np.int64], class_names: Sequence[str]) -> None:
    """Checks that there is something to learn about every class.

    Args:
        classes: of the training images, shape [N].
        class_names: of all classes.

    Raises:
        ConfigError: if all images are of one class, or some class has none.
    """
    found = np.unique(classes)
    if len(found) == 1:
        raise ConfigError(
            "labels",
            f"expected training images of at least two classes; received {len(classes)} of "
            f"class {found[0]} ({class_names[found[0]]}) alone.",
        )
    missing = np.setdiff1d(np.arange(len(class_names)), found)
    if not len(missing):
        return
    counted_from_1 = missing.tolist() == [0] and class_names[0] == "0"
    raise ConfigError(
        "labels",
        f"expected training images of each of the {len(class_names)} classes; received "
        f"none of {_enumerated(missing, class_names)}. "
        + (
            "Class indices begin at 0: subtract 1 if these begin at 1."
            if counted_from_1
            else "Add images of them, or take a network without these classes."
        ),
    )


def _indices(
    array: npt.NDArray[Any], num_classes: int | None, first: int, name: str
) -> npt.NDArray[np.int64]:
    wrong = array < 0
    if num_classes is not None:
        wrong |= array >= num_classes
    if array.dtype.kind == "f":
        wrong |= ~np.isfinite(array) | (array != np.floor(array))
    if wrong.any():
        at = int(np.argmax(wrong))
        span = "0, 1, 2..." if num_classes is None else f"0 to {num_classes - 1}"
        raise ConfigError(
            name, f"expected class indices, {span}; received {array[at]} for image {first + at}."
        )
    return array.astype(np.int64)


def _rows(array: npt.NDArray[Any], num_classes: int | None, first: int, name: str) -> Labels:
    if num_classes is not None and array.shape[1] != num_classes:
        raise ConfigError(
            name,
            f"expected rows of {num_classes} probabilities, one per class; received rows "
            f"of {array.shape[1]}.",
        )
    rows = array.astype(np.float32)
    sums = rows.sum(axis=1, dtype=np.float64)
    # Written so that NaN is wrong too.
    wrong = ~((rows >= 0).all(axis=1) & (np.abs(sums - 1) <= _SUM_TOLERANCE))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ConfigError(
            name,
            f"expected rows of probabilities, none negative, that sum to 1; received a row "
            f"with the sum {sums[at]:.6g} and the smallest value {rows[at].min():.6g} for image "
            f"{first + at}.",
        )
    classes = rows.argmax(axis=1).astype(np.int64)
    hard = bool(np.all((rows == 0) | (rows == 1)))
    return Labels(classes, None if hard else rows, rows.shape[1])


def _described(labels: Labels) -> str:
    return "class indices" if labels.num_classes is None else f"rows of {labels.num_classes}"


def _enumerated(indices: npt.NDArray[np.int64], class_names: Sequence[str], most: int = 10) -> str:
    names = [
        class_names[i] if class_names[i] == str(i) else f"{i} ({class_names[i]})" for i in indices
    ]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "class " * (len(names) == 1) + ", ".join(names[:most]) + more
