"""What one attack did to one network, whichever of the records it stands in, as one cell."""

import dataclasses
import math
from collections.abc import Iterable
from typing import ClassVar

from ddefense import records
from ddefense.attack_catalog import ATTACKS, TRANSFER, by_role
from ddefense.reporting import lookup

THROUGH_SOFTMAX = tuple(name for name, spec in ATTACKS.items() if spec.gradient == "softmax")
"""Attacks that see float32 gradients of the softmax output at T = 1, which distillation masks."""

_TELLING = by_role("paper", "adaptive", "decisive")
"""The paper's attack, and those that show what the defence is worth."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Success of an attack with its distance; nine fields in CSV, one cell in Markdown.

    Attributes:
        percent: success rate in percent.
        low: lower end of its 95 % interval.
        high: upper end.
        distance: mean distance of the successes, in the attack's norm; None without a success.
        distance_low: lower end of its 95 % interval; None where it has none.
        distance_high: upper end.
        attempts: (sample, target) pairs, or samples, that do not start where they aim at.
        started: those that do, which the other numbers leave out.
        over_all: success rate in percent with them.
    """

    ENDINGS: ClassVar[tuple[str, ...]] = (
        "_percent",
        "_percent_low",
        "_percent_high",
        "_distance",
        "_distance_low",
        "_distance_high",
        "_attempts",
        "_started",
        "_over_all_percent",
    )

    percent: float
    low: float
    high: float
    distance: float | None
    distance_low: float | None
    distance_high: float | None
    attempts: int
    started: int
    over_all: float

    def show(self, digits: int) -> str:
        """`88.4 [86.0, 90.8]`, `at 1.76 [1.60, 1.93]` and `n = 900`, below each other.

        Where attempts started there, the last is `n = 856, 44 started`.
        """
        text = f"{self.percent:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        if self.distance is not None:
            text += f"\nat {significant(self.distance)}"
        if self.distance_low is not None and self.distance_high is not None:
            text += f" [{significant(self.distance_low)}, {significant(self.distance_high)}]"
        started = f", {self.started} started" if self.started else ""
        return f"{text}\nn = {self.attempts}{started}"


def telling(measured: list[str]) -> list[str]:
    """The attacks that say most, of those that were measured; else the first three of them."""
    return [attack for attack in measured if attack in _TELLING] or measured[:3]


def outcome(network: records.NetworkRecord, attack: str) -> Outcome | None:
    """What an attack did to a network.

    Args:
        network: the network.
        attack: its name.

    Returns:
        The outcome; None if the attack was not run on the network, or every attempt starts where
        it aims at.
    """
    record = network.attacks.get(attack)
    if record is None or record.success_rate is None or record.success_interval is None:
        return None
    low, high = record.success_interval
    distance_low, distance_high = record.distance_interval or (None, None)
    return Outcome(
        percent=100 * record.success_rate,
        low=100 * low,
        high=100 * high,
        distance=record.mean_distance,
        distance_low=distance_low,
        distance_high=distance_high,
        attempts=record.attempts,
        started=record.started,
        over_all=100 * record.success_rate_over_all,
    )


def attacks_in(networks: Iterable[records.NetworkRecord]) -> list[str]:
    """Every attack measured on any of the networks, in the order of the catalogue."""
    found = {attack for n in networks for attack in n.attacks}
    known = [attack for attack in ATTACKS if attack in found]
    return known + sorted(found - set(known))


def norm(networks: Iterable[records.NetworkRecord], attack: str) -> str:
    """The norm that an attack is measured by, as `L2`; JSMA counts features."""
    found = _record(networks, attack)
    return NORMS["l0" if found is None else found.norm]


NORMS = {"l0": "L0", "l2": "L2", "linf": "Linf"}
"""How tables call the norms."""


def any_wrong_class(networks: Iterable[records.NetworkRecord], attack: str) -> bool:
    """Whether any wrong class is a success of an attack, rather than its target alone."""
    found = _record(networks, attack)
    return found is not None and found.targets == "untargeted"


def label(networks: Iterable[records.NetworkRecord], attack: str) -> str:
    """The readable name of an attack; of transferred samples with their kappa."""
    text = lookup.attack_label(attack)
    found = _record(networks, attack) if attack == TRANSFER else None
    if found is None or "kappa" not in found.settings:
        return text
    return f"{text}, kappa = {setting(found.settings['kappa'])}"


def setting(value: float | str) -> str:
    """A setting of an attack as text."""
    return f"{value:.6g}" if isinstance(value, float) else f"{value}"


def _record(networks: Iterable[records.NetworkRecord], attack: str) -> records.AttackRecord | None:
    """The first network's record of an attack, for what all of them share."""
    return next((n.attacks[attack] for n in networks if attack in n.attacks), None)


def significant(value: float) -> str:
    """A distance with three significant digits and no exponent, as `1.76`, `0.0920` or `112`."""
    if value == 0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
