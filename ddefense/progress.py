"""Live progress: a bar with rate and ETA on a terminal, plain lines in a log."""

import sys
import time
from types import TracebackType

import tqdm
from absl import logging

from ddefense.escaping import escape

_LOG_INTERVAL_SECONDS = 15.0
# Lines of a log, as tqdm fills them in.
_KNOWN = "{desc}: {n_fmt}/{total_fmt} in {elapsed}, {remaining} left, {rate_fmt}{postfix}"
_UNKNOWN = "{desc}: {n_fmt} in {elapsed}, {rate_fmt}{postfix}"


class Progress:
    """Counts units of work and shows rate and estimated time left.

    On a terminal this is a tqdm bar. Elsewhere (a batch job's log) one plain line is logged at
    most every 15 seconds, and one at the end.

    Args:
        label: what is being done, such as `baseline`.
        total: units in all; None if nobody knows yet.
        unit: name of one unit, such as `image`.
        done: units finished by an earlier, interrupted run.
    """

    def __init__(self, label: str, total: int | None, unit: str, done: int = 0) -> None:
        """Starts the clock."""
        self._label, self._total, self._unit = escape(label), total, unit
        self._initial = self._done = self._shown = done
        self._start = self._logged = time.monotonic()
        self._text = ""
        self._bar = tqdm.tqdm(
            desc=self._label,
            total=total,
            initial=done,
            unit=unit,
            disable=not sys.stderr.isatty(),
            leave=False,
            dynamic_ncols=True,
        )

    def update(self, amount: int, **metrics: float) -> None:
        """Adds finished units and shows the newest metrics."""
        self._done += amount
        self._text = " ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if not self._bar.disable:
            self._bar.set_postfix_str(self._text, refresh=False)
            self._bar.update(amount)
        elif time.monotonic() - self._logged >= _LOG_INTERVAL_SECONDS:
            self._log()

    def __enter__(self) -> "Progress":
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the bar and leaves one line that says what was done."""
        self._bar.close()
        if kind is None and self._done > self._shown:
            self._log()

    def _log(self) -> None:
        self._logged, self._shown = time.monotonic(), self._done
        meter = tqdm.tqdm.format_meter(
            self._done,
            self._total,
            self._logged - self._start,
            initial=self._initial,
            unit=self._unit,
            prefix=self._label,
            postfix=self._text,
            bar_format=_UNKNOWN if self._total is None else _KNOWN,
        )
        logging.info("%s", meter.rstrip(", "))
