"""How each claim of the paper is held against a run: pure functions of the results."""

from ddefense.reporting.verdicts.verdict import Check, Holds, Verdict, joined, unless

__all__ = ["Check", "Holds", "Verdict", "joined", "unless"]
