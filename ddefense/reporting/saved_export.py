"""What `bin/export` prints when it is done."""

import pathlib

from ddefense import records
from ddefense.reporting.tables.table import Cell, Column, Table

_MB = 1e6


def table(
    card: records.ModelCard,
    version: pathlib.Path,
    max_difference: float,
    test_accuracy: float | None,
    *,
    range_given: bool = True,
) -> Table:
    """One row per signature; below, size, exactness and accuracy.

    Args:
        card: of the exported network.
        version: its directory.
        max_difference: largest abs difference of an answer from the network's, reloaded.
        test_accuracy: a share; None if it is not known.
        range_given: whether the user, results or a dataset told the range of the features.
    """
    columns = (
        Column("signature", "signature", text=True),
        Column("input", "input", text=True),
        Column("outputs", "outputs", text=True),
    )
    rows: list[list[Cell]] = [
        [name, _described(signature.inputs), _described(signature.outputs)]
        for name, signature in card.signatures.items()
    ]
    files = [path for path in version.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    known = "not known" if test_accuracy is None else f"{100 * test_accuracy:.2f} %"
    low, high = card.value_range
    otherwise = "." if range_given else ": --value_range if it was trained on another."
    return Table(
        name="export",
        title=f"Signatures of {version}",
        columns=columns,
        rows=rows,
        notes=(
            f"{size / _MB:.2f} MB in {len(files)} files. Reloaded by TensorFlow's C++ runtime, its "
            f"answers differ from the network's by {max_difference:.1g} at most. Test accuracy: "
            f"{known}.",
            f"Clients send features in [0, 1], or bytes; the network gets [{low:g}, {high:g}]"
            f"{otherwise}",
            *(_extra(file) for file in card.extra_files),
        ),
    )


def _described(tensors: dict[str, records.TensorRecord]) -> str:
    return ", ".join(f"{name} {tensor.dtype} {_shape(tensor)}" for name, tensor in tensors.items())


def _shape(tensor: records.TensorRecord) -> str:
    sizes = ["N" if size is None else str(size) for size in tensor.shape]
    return f"[{', '.join(sizes)}]"


def _extra(file: records.ExtraFileRecord) -> str:
    measured = file.test_accuracy
    accuracy = "" if measured is None else f", test accuracy {100 * measured:.2f} %"
    return f"{file.name}: {file.size_bytes / _MB:.2f} MB{accuracy}. {file.content}."
