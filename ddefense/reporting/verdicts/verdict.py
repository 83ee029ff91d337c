"""What a run says about a claim, and the words that all verdicts share."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from ddefense import records
from ddefense.reporting import lookup

Holds = Literal["yes", "no", "not measured"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a run says about one claim.

    Attributes:
        holds: whether the acceptance is met; `not measured` if the run cannot tell.
        ours: our value as text; `-` without one.
        difference: by how much it differs from the paper or the bound, as text; `-` if unknown.
        note: what a reader must know beside it; may be empty.
        value: the number that was judged, in percent, points or the claim's own unit.
    """

    holds: Holds
    ours: str = "-"
    difference: str = "-"
    note: str = ""
    value: float | None = None


Check = Callable[[records.Results], Verdict]


def yes_or_no(holds: bool) -> Holds:
    """The verdict of a measured claim."""
    return "yes" if holds else "no"


def not_measured(note: str) -> Verdict:
    """A verdict for a run that cannot answer; `note` says why."""
    return Verdict(holds="not measured", note=note)


def unusable(results: records.Results, *networks: records.NetworkRecord) -> str:
    """Names those of the networks that did not learn, as a note; empty if all did."""
    names = [lookup.network_label(n) for n in networks if not lookup.usable(results, n)]
    return f"did not learn, so nothing can be said: {', '.join(names)}" if names else ""


def unless(problem: str, verdict: Verdict) -> Verdict:
    """The verdict, or its numbers without a judgement where `problem` names one."""
    if not problem:
        return verdict
    note = "; ".join(part for part in (problem, verdict.note) if part)
    return dataclasses.replace(verdict, holds="not measured", note=note)
