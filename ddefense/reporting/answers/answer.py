"""What a run says about a claim, and the words that all answers share."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from ddefense import records
from ddefense.attack_catalog import ATTACKS, JSMA_ATTACKS, PAPER
from ddefense.reporting import lookup

_HIGH_ENOUGH = 20.0
"""Masking is expected from about this temperature on; below it C15 to C17 and C19 say nothing."""
_THETA_1 = next(name for name in JSMA_ATTACKS if not ATTACKS[name].takes("theta"))

Holds = Literal["yes", "at a loss", "no", "inconclusive"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a run says about one claim.

    Attributes:
        holds: whether the acceptance is met; `at a loss` if it is where much accuracy was lost, so
            that it shows no protection; `inconclusive` if the run cannot tell.
        ours: our value as text; `-` without one.
        difference: by how much it differs from the paper or the bound, as text; `-` if unknown.
        note: what a reader must know beside it; may be empty.
        value: the number that was judged, in percent, points or the claim's own unit.
        lost: share of accuracy that was lost by the distilled network which the claim is about, the
            largest of several; None where it is about none.
    """

    holds: Holds
    ours: str = "-"
    difference: str = "-"
    note: str = ""
    value: float | None = None
    lost: float | None = None


Check = Callable[[records.Results], Answer]


def yes_or_no(holds: bool) -> Holds:
    """The answer of a measured claim."""
    return "yes" if holds else "no"


def inconclusive(note: str) -> Answer:
    """A answer for a run that cannot answer; `note` says why."""
    return Answer(holds="inconclusive", note=note)


def unusable(results: records.Results, *networks: records.NetworkRecord) -> str:
    """Names those of the networks that did not learn, as a note; empty if all did."""
    names = [lookup.network_label(n) for n in networks if not lookup.usable(results, n)]
    return f"did not learn, so nothing can be said: {', '.join(names)}" if names else ""


def left_out(results: records.Results) -> str:
    """Names the distilled networks that did not learn, for a claim that does without them."""
    names = [lookup.network_label(n) for n in results.distilled() if not lookup.usable(results, n)]
    return f"left out because they did not learn: {', '.join(names)}" if names else ""


def joined(*notes: str) -> str:
    """Those of the notes that are not empty, as one."""
    return "; ".join(note for note in notes if note)


def too_low(temperature: float) -> str:
    """That a run which ends at this temperature cannot show masking, as a note; else empty."""
    if temperature >= _HIGH_ENOUGH:
        return ""
    return f"nothing to see below T = {_HIGH_ENOUGH:g}: the run ends at T = {temperature:g}"


def theta(network: records.NetworkRecord) -> str:
    """The theta that `jsma_f` took, as a note; empty if it was not run on the network."""
    attack = network.attacks.get(PAPER)
    return "" if attack is None else f"theta = {attack.settings['theta']:g}"


def theta_1(network: records.NetworkRecord) -> str:
    """What the same attack reaches with theta = 1 where that was measured too, as a note."""
    rate = lookup.success_percent(network, _THETA_1)
    return "" if rate is None else f"{lookup.percent(rate)} with theta = 1"


def started(record: records.SuccessRecord) -> str:
    """What the rate leaves out, and what it is with that, as a note; empty if nothing."""
    if not record.started:
        return ""
    return (
        f"{record.started} attempts that start in their target are left out, with them "
        f"{lookup.percent(100 * record.success_rate_over_all)}"
    )


def same_attempts(compared: records.ComparisonRecord, record: records.SuccessRecord) -> str:
    """Over which of the attempts on a network it is compared, as a note; empty if over all."""
    if compared.attempts == record.attempts + record.started:
        return ""
    return f"over the {compared.attempts} attempts that start in their target on neither network"


def unless(problem: str, answer: Answer) -> Answer:
    """The answer, or its numbers without a judgement where `problem` names one."""
    if not problem:
        return answer
    return dataclasses.replace(answer, holds="inconclusive", note=joined(problem, answer.note))
