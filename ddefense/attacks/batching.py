"""Batches whose finished rows leave and whose waiting rows take their places."""

import numpy as np
import numpy.typing as npt


def padded_size(count: int) -> int:
    """The least size >= `count` with at most three significant bits, less than a quarter larger.

    Each new batch shape costs a compilation, so the shrinking last batches come in few sizes.
    """
    step = 1 << max(0, count.bit_length() - 3)
    return -(-count // step) * step


class Slots:
    """Which rows are being attacked.

    Args:
        count: rows in all.
        batch_size: most rows at a time.
    """

    def __init__(self, count: int, batch_size: int) -> None:
        """Fills the batch with the first rows."""
        self._count, self._batch_size = count, batch_size
        self.active: npt.NDArray[np.int64] = np.arange(min(batch_size, count))
        self._waiting = len(self.active)

    def padded(self) -> npt.NDArray[np.int64]:
        """The active rows, repeated up to one of few sizes; the first ones are `active`."""
        return np.resize(self.active, min(self._batch_size, padded_size(len(self.active))))

    def keep(self, stays: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Lets finished rows leave and waiting ones in.

        Args:
            stays: of the active rows, whether they go on, shape [active].

        Returns:
            The rows that have just come in; they are at the end of `active`.
        """
        staying = self.active[stays]
        room = min(self._batch_size - len(staying), self._count - self._waiting)
        new = np.arange(self._waiting, self._waiting + room)
        self._waiting += room
        self.active = np.concatenate([staying, new])
        return new
